//! A folder of inversions answers only for the very model that made them.

use std::{fs, path::Path};

use crate::support::{copy, data, icd};

/// How often the network is evaluated for an inversion that a folder may hold.
fn evaluations(model: &Path, cache: &Path) -> usize {
    let done = icd("invert")
        .path("--model", model)
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 64 --json -o x.safetensors")
        .path("--cache", cache)
        .succeeds();
    let told: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    told["evaluations"].as_array().expect("a list").len()
}

#[test]
fn a_changed_file_of_the_model_asks_for_a_new_inversion() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, cache) = (folder.path().join("model"), folder.path().join("cache"));
    fs::create_dir(&model).expect("a folder");
    copy(&data("sd"), &model, &|_| true);
    assert_eq!(evaluations(&model, &cache), 4);
    assert_eq!(evaluations(&model, &cache), 0);
    for (file, before, after) in [
        ("scheduler/scheduler_config.json", "0.012", "0.013"),
        ("vae/config.json", "0.18215", "0.13025"),
        (
            "tokenizer/vocab.json",
            r#""bird</w>":540,"lake</w>":541"#,
            r#""bird</w>":541,"lake</w>":540"#,
        ),
    ] {
        let text = fs::read_to_string(model.join(file)).expect(file);
        assert!(text.contains(before), "{file}: {before}");
        fs::write(model.join(file), text.replacen(before, after, 1)).expect(file);
        assert_eq!(evaluations(&model, &cache), 4, "{file}: {after}");
    }
    assert_eq!(evaluations(&model, &cache), 0);
}

/// The file with the shape of its latent replaced.
fn reshaped(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).expect("JSON");
    header["latent"]["shape"] = serde_json::json!(shape);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), values].concat()
}

#[test]
fn an_entry_of_another_shape_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, cache) = (data("sd"), folder.path().join("cache"));
    assert_eq!(evaluations(&model, &cache), 4);
    let mut entries = fs::read_dir(&cache).expect("the cache");
    let entry = entries.next().expect("an entry").expect("a file").path();
    let whole = fs::read(&entry).expect("an entry");
    let latents = icd::pipeline::Latents::read(&entry).expect("latents");
    let side = latents.inverted.latent.dims()[3];
    for shape in [[1, 4, side / 2, 2 * side], [1, 8, side / 2, side]] {
        fs::write(&entry, reshaped(&whole, &shape)).expect("an entry");
        assert_eq!(evaluations(&model, &cache), 4, "{shape:?}");
        assert_eq!(evaluations(&model, &cache), 0, "{shape:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_pipe_in_the_place_of_an_entry_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, cache) = (data("sd"), folder.path().join("cache"));
    assert_eq!(evaluations(&model, &cache), 4);
    let mut entries = fs::read_dir(&cache).expect("the cache");
    let entry = entries.next().expect("an entry").expect("a file").path();
    fs::remove_file(&entry).expect("an entry");
    let made = std::process::Command::new("mkfifo").arg(&entry).status();
    assert!(made.expect("mkfifo").success());
    let done = icd("invert")
        .path("--model", &model)
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 64 -o x.safetensors")
        .path("--cache", &cache)
        .succeeds();
    assert!(done.stderr.contains("no regular file"), "{}", done.stderr);
}
