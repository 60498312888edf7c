//! The program's manners: usage, errors, files.

use std::path::Path;

use serde_json::json;

use crate::support::{Run, data, icd};

fn edit() -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("photo.png"))
        .with("--src-prompt", "a photo of a bird standing on a branch")
        .with(
            "--tgt-prompt",
            "a photo of a lego bird standing on a branch",
        )
}

#[test]
fn the_edit_lies_in_the_current_folder_under_the_pictures_name() {
    let done = edit().args("--size 64").succeeds();
    assert_eq!(done.stdout, "photo.edited.png\n");
    assert_eq!(done.files(), ["photo.edited.png"]);
}

#[test]
fn the_photos_aspect_is_kept_by_default() {
    let done = edit().args("--model-size").succeeds();
    let picture = icd::picture::Picture::read(&done.path("photo.edited.png")).expect("the edit");
    assert_eq!(
        picture.size(),
        icd::picture::fit::aspect(icd::picture::Size::new(128, 96), 64 * 64)
    );
}

#[test]
fn verbose_runs_count_their_evaluations() {
    let done = edit().args("--size 64 -v").succeeds();
    assert!(
        done.stderr
            .contains("network evaluations: 4 of 1 row, 4 of 2 rows"),
        "{}",
        done.stderr
    );
}

#[test]
fn quiet_runs_say_nothing() {
    let done = edit().args("--size 64 -q").succeeds();
    assert_eq!(done.stderr, "");
}

#[test]
fn words_that_are_not_there_are_named_before_anything_is_loaded() {
    edit().args("--amplify cat=2").fails(2, &["cat", "lego"]);
    edit().args("--blend cat:lego").fails(2, &["cat"]);
    edit().args("--blend bird:cat").fails(2, &["cat"]);
    edit().args("--cross-replace cat=0.5").fails(2, &["cat"]);
}

#[test]
fn values_without_sense_are_wrong_usage() {
    edit().args("--tau 1.5").fails(2, &["1.5"]);
    edit().args("--guidance -1").fails(2, &["-1"]);
    edit().args("--size 100").fails(2, &["multiples of 8"]);
    edit().args("--cross-replace 2").fails(2, &["from 0 to 1"]);
    edit().args("--device abacus").fails(2, &["abacus"]);
    edit()
        .args("--reverse-timesteps 0,999")
        .fails(2, &["descending order"]);
    edit().args("--variant 3").fails(2, &["--variant"]);
    edit().args("--control replace").fails(2, &["words"]);
    icd("edit").args("--tgt-prompt x").fails(2, &["--image"]);
}

#[test]
fn pictures_that_are_none_are_named() {
    let with = |file: &std::path::Path| {
        icd("invert")
            .path("--model", &data("sd"))
            .path("--image", file)
            .args("--prompt bird -o x.safetensors")
    };
    with(std::path::Path::new("nowhere.png")).fails(1, &["nowhere.png"]);
    with(std::path::Path::new("text.png"))
        .file("text.png", b"no picture")
        .fails(1, &["text.png"]);
    with(std::path::Path::new("empty.png"))
        .file("empty.png", b"")
        .fails(1, &["empty.png"]);
}

#[test]
fn a_model_that_is_none_is_named() {
    let edit = |model: &str| {
        icd("invert")
            .with("--model", model)
            .path("--image", &data("photo.png"))
            .args("--prompt bird -o x.safetensors")
    };
    let told = edit("nowhere").fails(1, &["nowhere", "preset"]).stderr;
    assert_eq!(told.matches("nowhere").count(), 1, "{told}");
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing() {
    let done = edit()
        .args("--size 64 -o no/such/folder/out.png")
        .fails(1, &["no/such/folder"]);
    assert!(done.files().is_empty(), "{:?}", done.files());
    let done = edit()
        .args("--size 64 -o out.xyz")
        .fails(2, &["xyz", "png"]);
    assert!(
        !done.stderr.contains("device"),
        "it is found before anything is loaded: {}",
        done.stderr
    );
}

#[test]
fn latents_of_another_model_are_refused() {
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 64 -o x.safetensors")
        .succeeds();
    icd("edit")
        .path("--model", &data("sdxl"))
        .path("--latents", &inverted.path("x.safetensors"))
        .args("--tgt-prompt dog")
        .fails(1, &["another model"]);
}

#[test]
fn shells_and_manual_readers_are_told_every_verb() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let done = icd("completions").args(shell).succeeds();
        assert!(done.stdout.contains("src-prompt"), "{shell}");
    }
    let page = icd("man").succeeds().stdout;
    assert!(page.contains(".TH icd"), "{page}");
    let pages = icd("man").args(".").succeeds().files();
    assert!(pages.contains(&"icd-edit.1".to_owned()), "{pages:?}");
    icd("man")
        .args("no/such/folder")
        .fails(1, &["no/such/folder"]);
}

#[test]
fn a_model_may_come_from_the_environment_and_stdin_give_the_picture() {
    let picture = std::fs::read(data("square.png")).expect("a picture");
    let folder = tempfile::tempdir().expect("a folder");
    let output = assert_cmd::Command::cargo_bin("icd")
        .expect("the program")
        .current_dir(folder.path())
        .env("ICD_MODEL", data("sd"))
        .args([
            "edit",
            "--image",
            "-",
            "--src-prompt",
            "a bird",
            "--tgt-prompt",
            "a dog",
            "--size",
            "64",
        ])
        .write_stdin(picture)
        .output()
        .expect("the program runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "stdin.edited.png\n"
    );
}

/// A drawing run of the tiny model with other UNet weights.
fn drawing_with(unet: &[u8]) -> Run {
    icd("generate")
        .path("--model", &data("sd"))
        .file("unet.safetensors", unet)
        .args("--unet unet.safetensors --prompt bird --size 64")
}

#[test]
fn damaged_weights_are_told_from_useless_ones() {
    let whole =
        std::fs::read(data("sd/unet/diffusion_pytorch_model.safetensors")).expect("weights");
    for length in [0, 3, 8, 100, whole.len() / 2, whole.len() - 1] {
        let done = drawing_with(&whole[..length]).fails(1, &["unet.safetensors"]);
        assert_eq!(done.files(), ["unet.safetensors"], "cut at {length}");
    }
    let mut numberless = whole;
    let last = numberless.len() - 64;
    // Halves of all ones are no numbers, in f16 and in f32.
    numberless[last..].fill(0xff);
    drawing_with(&numberless).fails(1, &["not numbers"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let mut weights = crate::support::tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    let wrong = weights["conv_in.weight"]
        .narrow(0, 0, 2)
        .expect("a part")
        .contiguous()
        .expect("a copy");
    weights.insert("conv_in.weight".into(), wrong);
    let file = tempfile::NamedTempFile::new().expect("a file");
    candle_core::safetensors::save(&weights, file.path()).expect("weights");
    let bytes = std::fs::read(file.path()).expect("weights");
    drawing_with(&bytes).fails(
        1,
        &[
            "conv_in.weight",
            "expected [4, 4, 3, 3]",
            "found [2, 4, 3, 3]",
        ],
    );
}

/// An edit of the tiny model into `bird.png`.
fn bird_edit() -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
        .args("--amplify dog=2 --seed 5 --size 64 -o bird.png")
}

#[test]
fn a_picture_carries_the_settings_that_made_it() {
    let first = bird_edit().succeeds();
    let bird = first.path("bird.png");
    let facts = icd("inspect").path("--json", &bird).succeeds().stdout;
    let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON");
    assert_eq!(facts["src_prompt"], "a photo of a bird");
    assert_eq!(facts["tgt_prompt"][0], "a photo of a dog");
    assert_eq!(facts["amplify"][0], "dog=2");
    assert_eq!(
        [&facts["seed"], &facts["size"]],
        [&json!(5), &json!("64x64")]
    );
    let again = icd("edit").path("--from", &bird).args("-o again.png");
    assert_eq!(again.succeeds().bytes("again.png"), first.bytes("bird.png"));
    let other = icd("edit")
        .path("--from", &bird)
        .args("--seed 6 -o other.png");
    let other = other.succeeds();
    let read = |file: &Path| icd::picture::Picture::read(file).expect("a picture");
    assert!(read(&other.path("other.png")) != read(&bird));
    let facts = icd("inspect").args(&other.path("other.png").to_string_lossy());
    assert!(facts.succeeds().stdout.contains("seed: 6"));
}

#[test]
fn settings_are_left_out_where_nobody_wants_them() {
    let bare = bird_edit().args("--no-metadata").succeeds();
    let from = icd("edit").path("--from", &bare.path("bird.png"));
    from.fails(1, &["bird.png", "no icd settings"]);
    let drawn = icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --size 64")
        .succeeds();
    let from = icd("edit").path("--from", &drawn.path("generated.png"));
    from.fails(1, &["generated.png", "made by `icd generate`"]);
}

#[test]
fn inspecting_tells_what_files_are() {
    let told = |file: &Path| {
        let run = icd("inspect").args(&file.to_string_lossy());
        run.succeeds().stdout
    };
    let unet = told(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    assert!(unet.contains("kind: weights"), "{unet}");
    let adapter = told(&data("sd/forward-19-259-519-779.safetensors"));
    assert!(
        adapter.contains("timesteps: [19,259,519,779,999]"),
        "{adapter}"
    );
    for (file, kind) in [
        ("loha.safetensors", "adapter: LoHa"),
        ("lokr.safetensors", "adapter: LoKr"),
        ("dora_outputs.safetensors", "adapter: DoRA, LoRA"),
        ("locon.safetensors", "adapter: LoRA"),
    ] {
        let adapter = told(&data("adapters/sd").join(file));
        let is_told = adapter.contains("kind: adapter") && adapter.contains(kind);
        assert!(is_told, "{file}: {adapter}");
    }
    let model = told(&data("sd"));
    let family = "family: sd15 in structure, of other sizes\n";
    assert!(model.contains(family), "{model}");
    assert!(
        model.contains("forward timesteps: 19,259,519,779,999"),
        "{model}"
    );
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 64 -o x.safetensors")
        .succeeds();
    let latents = told(&inverted.path("x.safetensors"));
    for fact in ["kind: inverted picture", "prompt: bird", "seed: 0"] {
        assert!(latents.contains(fact), "{latents}");
    }
    for misspelt in ["no/such", "brid.png", "sd51"] {
        let told = icd("inspect").args(misspelt);
        told.fails(
            1,
            &[misspelt, "there is no such file or folder", "sd15, sdxl"],
        );
    }
}
