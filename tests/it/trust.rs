//! Nothing lost, no stranger obeyed: files that are in the way, and what strangers write.

use std::{fs, path::Path};

use icd::picture::{Format, Picture};
use serde_json::{Value, json};

use crate::support::{Done, Run, data, icd};

fn edit() -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--src-prompt bird --tgt-prompt dog --size 32")
}

/// A PNG with these settings beside those of a plain edit.
fn with_settings(more: &Value) -> Vec<u8> {
    let mut settings = json!({
        "verb": "edit",
        "image": data("square.png"),
        "src_prompt": "bird",
        "tgt_prompt": ["dog"],
        "size": "32",
    });
    for (key, value) in more.as_object().expect("an object") {
        settings[key] = value.clone();
    }
    let picture = Picture::read(&data("square.png")).expect("a picture");
    picture
        .encode_noted(Format::Png, &settings.to_string())
        .expect("a PNG")
}

fn from(png: &[u8]) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .file("stranger.png", png)
        .file("precious.txt", b"precious")
        .args("--from stranger.png -o out.png")
}

#[test]
fn no_spelling_of_a_setting_names_a_file_to_write() {
    for more in [
        json!({ "dump=precious.txt": true }),
        json!({ "save-latents": "precious.txt" }),
        json!({ "dump": "precious.txt" }),
        json!({ "save_latents=precious.txt": "" }),
        json!({ "comparison=x.png": true }),
        json!({ "attention-maps": "maps" }),
        json!({ "cache=inversions": true }),
        json!({ "output": "precious.txt" }),
        json!({ "no-metadata": true }),
        json!({ "--force": true }),
    ] {
        for force in ["", "--force"] {
            let done = from(&with_settings(&more)).args(force).done();
            assert_eq!(done.bytes("precious.txt"), b"precious", "{more}");
            let mut files = done.files();
            files.retain(|file| !["out.png", "precious.txt", "stranger.png"].contains(&&file[..]));
            assert!(files.is_empty(), "{more}: {files:?}");
        }
    }
}

#[test]
fn settings_that_are_not_understood_are_named() {
    let fails = |more: Value, says: &[&str]| {
        let said = [&["stranger.png"], says].concat();
        from(&with_settings(&more)).fails(1, &said);
    };
    fails(json!({ "wings": 2 }), &["wings"]);
    fails(
        json!({ "restore_size": "yes" }),
        &["restore_size", "true or false"],
    );
    fails(json!({ "seed": [1, 2] }), &["seed", "a text or a number"]);
    fails(json!({ "tgt_prompt": [{}] }), &["tgt_prompt"]);
    // False is not true.
    let done = from(&with_settings(&json!({ "restore_size": false }))).succeeds();
    let picture = Picture::read(&done.path("out.png")).expect("a picture");
    assert_eq!(picture.size().to_string(), "32x32");
    let long = format!("{}\u{1b}[2J", "x".repeat(200_000));
    let picture = Picture::read(&data("square.png")).expect("a picture");
    let told = from(&picture.encode_noted(Format::Png, &long).expect("a PNG"))
        .fails(1, &["stranger.png"])
        .stderr;
    assert!(told.len() < 5000 && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn what_strangers_wrote_reaches_no_terminal_raw() {
    let prompt = "bird\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";
    let png = with_settings(&json!({ "src_prompt": prompt, "x\u{1b}[2J": 1 }));
    for flags in ["", "--json"] {
        let run = icd("inspect").file("x.png", &png).args("x.png").args(flags);
        let told = run.succeeds().stdout;
        let is_raw = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
        assert!(told.contains("bird") && !told.contains(is_raw), "{told:?}");
    }
    let told = from(&png).fails(1, &["its setting \"x"]).stderr;
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_keeps_its_place() {
    let run = || {
        edit()
            .args("-o out.png")
            .link("out.png", Path::new("away.png"))
    };
    run().fails(2, &["out.png", "--force"]);
    let done = run().args("--force").succeeds();
    assert!(fs::symlink_metadata(done.path("out.png")).is_ok_and(|found| found.is_symlink()));
    assert!(Picture::read(&done.path("away.png")).is_ok());
}

#[test]
fn a_file_that_appears_during_the_work_is_kept() {
    use assert_cmd::cargo::CommandCargoExt;
    let folder = tempfile::tempdir().expect("a folder");
    let start = |name: &str| {
        std::process::Command::cargo_bin("icd")
            .expect("the program")
            .current_dir(folder.path())
            .args([
                "generate",
                "--model",
                "tabletop",
                "--prompt",
                "a red star",
                "-o",
                name,
            ])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("the program starts")
    };
    // Two at once: one of them gets the name.
    let both = [start("one.png"), start("one.png")];
    let codes = both.map(|mut child| child.wait().expect("it ends").code());
    let written = codes.iter().filter(|code| **code == Some(0)).count();
    assert_eq!(written, 1, "{codes:?}");
    assert!(Picture::read(&folder.path().join("one.png")).is_ok());
}

#[test]
fn tensors_replace_no_picture_and_no_input() {
    let says = ["the name of a picture", ".safetensors"];
    for flag in ["--dump", "--save-latents"] {
        edit().with(flag, "x.png").args("--force").fails(2, &says);
    }
    icd("invert")
        .path("--model", &data("sd"))
        .file("a.png", b"")
        .args("--image a.png --prompt bird -o a.png --force")
        .fails(2, &says);
    let latents = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 32 -o x.safetensors")
        .succeeds()
        .bytes("x.safetensors");
    let done: Done = icd("edit")
        .path("--model", &data("sd"))
        .file("x.safetensors", &latents)
        .args("--latents x.safetensors --tgt-prompt dog -o out.png")
        .args("--save-latents ./x.safetensors --force")
        .fails(2, &["x.safetensors", "this is an input"]);
    assert_eq!(done.bytes("x.safetensors"), latents);
    // The weights that it works with are inputs, too.
    let adapter = fs::read(data("sd/forward-19-259-519-779.safetensors")).expect("an adapter");
    let done = edit()
        .file("a.safetensors", &adapter)
        .args("--forward-adapter a.safetensors --dump a.safetensors --force -o out.png")
        .fails(2, &["a.safetensors", "this is an input"]);
    assert_eq!(done.bytes("a.safetensors"), adapter);
    let model = tempfile::tempdir().expect("a folder");
    crate::support::copy(&data("sd"), model.path(), &|_| true);
    let weights = model.path().join("vae/diffusion_pytorch_model.safetensors");
    let before = fs::read(&weights).expect("weights");
    icd("generate")
        .path("--model", model.path())
        .path("--save-latents", &weights)
        .args("--prompt bird --size 32 --force -o out.png")
        .fails(2, &["the model's folder"]);
    assert_eq!(fs::read(&weights).expect("weights"), before);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_are_written_and_told() {
    use std::os::unix::ffi::OsStrExt;

    use assert_cmd::cargo::CommandCargoExt;
    let folder = tempfile::tempdir().expect("a folder");
    let name = std::ffi::OsStr::from_bytes(b"\xff.png");
    let done = std::process::Command::cargo_bin("icd")
        .expect("the program")
        .current_dir(folder.path())
        .args([
            "generate",
            "--model",
            "tabletop",
            "--prompt",
            "a red star",
            "--json",
            "-o",
        ])
        .arg(name)
        .output()
        .expect("it runs");
    assert!(done.status.success());
    let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(told["output"], "\u{fffd}.png");
    assert!(folder.path().join(name).exists());
}

#[test]
fn endless_pictures_are_refused() {
    if Path::new("/dev/zero").exists() {
        let run = icd("edit").path("--model", &data("sd"));
        let run = run.args("--image /dev/zero --src-prompt bird --tgt-prompt dog -o out.png");
        run.fails(1, &["/dev/zero", "1 GiB"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_no_picture() {
    let done = edit()
        .file("cache", b"a file where the folder should be")
        .args("--cache cache -o out.png")
        .succeeds();
    assert!(done.stderr.contains("warning") && done.stderr.contains("cache"));
    assert!(Picture::read(&done.path("out.png")).is_ok());
}

#[test]
fn latents_that_are_no_numbers_are_named_and_not_taken_from_a_cache() {
    let cache = tempfile::tempdir().expect("a folder");
    let run = || edit().path("--cache", cache.path()).args("-o out.png");
    let first = run().succeeds().bytes("out.png");
    let entries = fs::read_dir(cache.path()).expect("entries");
    let entry = entries.last().expect("an entry").expect("an entry").path();
    let mut bytes = fs::read(&entry).expect("bytes");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&entry, &bytes).expect("a damaged entry");
    icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &entry)
        .args("--tgt-prompt dog -o out.png")
        .fails(1, &["latents.safetensors", "not numbers"]);
    assert!(run().succeeds().bytes("out.png") == first);
}

#[test]
fn variables_that_are_set_to_nothing_are_not_set() {
    let run = edit().args("-o out.png");
    let run = run
        .env("ICD_DEVICE", "")
        .env("ICD_DTYPE", "")
        .env("ICD_YES", "");
    run.env("ICD_MODEL", "").succeeds();
}

#[test]
fn a_dry_run_tells_every_target() {
    let told = edit().args("--tgt-prompt cat --dry-run --json").succeeds();
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    let targets = told["targets"].as_array().expect("targets");
    let first = |target: &Value| target["target"][0].as_str().map(str::to_owned);
    let words: Vec<_> = targets.iter().filter_map(first).collect();
    assert!(
        words[0].starts_with("dog") && words[1].starts_with("cat"),
        "{words:?}"
    );
    assert_eq!(told["forward_timesteps"], "19,259,519,779,999");
}

#[test]
fn with_json_a_failure_is_one_object_on_the_last_line() {
    let fails = |run: Run, code: i32, says: &str| {
        let told = run.fails(code, &[says]).stderr;
        let last = told.lines().last().expect("a line");
        let error: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(error["error"]["code"], code, "{last}");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains(says), "{message}");
    };
    fails(edit().args("--json -o x.txt"), 2, "x.txt");
    fails(edit().args("--json --no-such-flag"), 2, "--no-such-flag");
    fails(
        edit().args("--json --mask none.png -o out.png"),
        1,
        "none.png",
    );
    fails(icd("inspect").args("none --json"), 1, "none");
    // All that clap says, beyond its first line.
    fails(icd("edit").args("--json"), 2, "--src-prompt");
    fails(edit().args("--json --fit none"), 2, "stretch");
    // A name without end is cut, in valid JSON.
    let name = "x".repeat(3000);
    let long = edit().args("--json -o out.png").with("--mask", &name);
    let told = long.fails(1, &["name too long"]).stderr;
    assert!(told.lines().all(|line| line.len() < 600), "{told}");
    let told = icd("edit").args("--help --json").succeeds();
    assert!(told.stdout.contains("Usage") && told.stderr.is_empty());
}

/// A safetensors file of no tensors with this metadata.
fn stating(metadata: &Value) -> Vec<u8> {
    let header = json!({ "__metadata__": metadata }).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes()].concat()
}

#[test]
fn what_a_file_states_replaces_nothing_that_was_found_out() {
    let lies = json!({ "kind": "adapter", "tensors": "9999", "values": "7", "author": "me" });
    let run = icd("inspect").file("x.safetensors", &stating(&lies));
    let told = run.args("x.safetensors --json").succeeds().stdout;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let found = json!({ "kind": "weights", "tensors": 0, "values": 0, "author": "me" });
    assert_eq!(told, found);
    let told = icd("inspect")
        .file(
            "x.png",
            &with_settings(&json!({ "kind": "model", "size": "9999" })),
        )
        .args("x.png --json")
        .succeeds();
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(
        (&told["kind"], &told["size"]),
        (&json!("picture"), &json!("64x64"))
    );
}

#[test]
fn a_text_without_end_is_cut_and_forges_no_line() {
    let mut long: serde_json::Map<_, _> =
        (0..1000).map(|i| (format!("k{i}"), json!("v"))).collect();
    long.insert("a".repeat(100_000), json!("b".repeat(100_000)));
    long.insert("c".into(), json!("d\nkind: model"));
    for flags in ["", "--json"] {
        let run = icd("inspect").file("x.safetensors", &stating(&json!(long)));
        let told = run.args("x.safetensors").args(flags).succeeds().stdout;
        assert!(told.len() < 20_000, "{}", told.len());
        for word in ["more bytes)", "more entries)"] {
            assert!(told.contains(word), "{told}");
        }
        assert!(!told.contains("\nkind: model"), "{told}");
    }
}

#[test]
fn a_usage_error_in_the_settings_of_a_picture_is_harmless() {
    let seed = format!("{}\u{1b}[2J", "9".repeat(100_000));
    for flags in ["", "--json"] {
        let run = from(&with_settings(&json!({ "seed": seed }))).args(flags);
        let told = run.fails(2, &["--seed"]).stderr;
        assert!(told.len() < 9000 && !told.contains('\u{1b}'), "{told:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_picture_for_a_closed_stdout_is_an_error_before_the_work() {
    use assert_cmd::cargo::CommandCargoExt;
    let program = std::process::Command::cargo_bin("icd").expect("the program");
    let run = |redirection: &str| {
        let script = format!(
            "exec \"$0\" generate --model tabletop --prompt star --size 8 -o - {redirection}"
        );
        let run = std::process::Command::new("sh")
            .args(["-c", &script])
            .arg(program.get_program())
            .output();
        run.expect("a run")
    };
    let closed = run(">&-");
    let told = String::from_utf8_lossy(&closed.stderr);
    assert_eq!(closed.status.code(), Some(2), "{told}");
    assert!(told.contains("stdout is closed"), "{told}");
    assert!(run(">/dev/null").status.success());
    assert!(run("").stdout.starts_with(b"\x89PNG"));
}

#[test]
fn an_unknown_limit_of_the_instructions_is_named() {
    edit()
        .env("ICD_SIMD", "foo")
        .fails(2, &["ICD_SIMD=foo", "plain"]);
    edit().env("ICD_SIMD", "").args("-o out.png").succeeds();
}

#[test]
fn a_thousand_threads_are_a_few() {
    let done = edit().args("-o out.png --threads 1024").succeeds();
    let line = done
        .stderr
        .lines()
        .find(|line| line.starts_with("--threads 1024: "));
    let told = line.and_then(|line| line["--threads 1024: ".len()..].split(' ').next());
    let count: usize = told.and_then(|count| count.parse().ok()).expect("a number");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(count, (4 * cores).min(1024));
}
