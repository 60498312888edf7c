//! The program's manners: usage, errors, files.

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
    let done = edit().succeeds();
    let picture = icd::picture::Picture::read(&done.path("photo.edited.png")).expect("the edit");
    assert_eq!(
        picture.size(),
        icd::picture::fit::keep(icd::picture::Size::new(128, 96), 64 * 64)
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
    edit().args("--cross-replace 2").fails(2, &["0..1"]);
    edit().args("--device abacus").fails(2, &["abacus"]);
    edit().args("--reverse-path 0,999").fails(2, &["descend"]);
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
    edit("nowhere").fails(1, &["nowhere", "preset"]);
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
fn every_help_shows_examples() {
    for verb in ["edit", "invert", "generate"] {
        let done = icd(verb).args("--help").succeeds();
        assert!(done.stdout.contains("Examples:"), "{}", done.stdout);
    }
    icd("--help").succeeds();
    icd("--version").succeeds();
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
