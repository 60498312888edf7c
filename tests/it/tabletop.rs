//! The promises of the model that is part of the program.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use icd::picture::Picture;

use crate::support::device;

fn icd() -> Command {
    let mut command = Command::cargo_bin("icd").unwrap();
    command.env("ICD_DTYPE", "f32");
    // Nobody listens there: whoever asks a hub fails.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.env("ICD_DEVICE", device());
    command
}

/// The mean red, green and blue of the square of this corner and side.
fn mean(file: &Path, (left, top, side): (usize, usize, usize)) -> [f64; 3] {
    let picture = Picture::read(file).unwrap();
    let width = picture.size().width;
    let mut sums = [0.0; 3];
    for row in picture.pixels().chunks(3 * width).skip(top).take(side) {
        for pixel in row.chunks(3).skip(left).take(side) {
            sums = [0, 1, 2].map(|i| sums[i] + f64::from(pixel[i]));
        }
    }
    sums.map(|sum| sum / (side * side) as f64)
}

/// The caption of `examples/still-life.png`, or of another mug there.
fn still_life(mug: &str) -> String {
    format!(
        "at the back left a large {mug} mug and at the front right a small red ball \
         on a wooden table before a cream wall in warm light"
    )
}

fn photo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/still-life.png")
}

/// The still life with a mug of another colour, under these flags.
fn edited(mug: &str, flags: &[&str], edited: &Path) {
    icd()
        .args(["edit", "--model", "tabletop", "--image"])
        .arg(photo())
        .args(["--src-prompt", &still_life("blue")])
        .args(["--tgt-prompt", &still_life(mug), "-o"])
        .arg(edited)
        .args(flags)
        .assert()
        .success();
}

#[test]
fn where_nothing_differs_the_photo_stays() {
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("result.png");
    let photo = Picture::read(&photo()).unwrap();
    // The same prompt, led by guidance; and another that no step is under.
    for (mug, flags) in [
        ("blue", &["--force"][..]),
        (
            "green",
            &["--force", "--early-prompt", "source", "--tau", "0.1"],
        ),
    ] {
        edited(mug, flags, &result);
        let result = Picture::read(&result).unwrap();
        assert!(result.pixels() == photo.pixels(), "{mug}");
    }
}

#[test]
fn a_still_life_is_edited_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("edited.png");
    edited("green", &[], &result);
    let mug = (16, 46, 16);
    let [_, green, blue] = mean(&photo(), mug);
    assert!(blue > green + 50.0, "the mug was blue");
    let [_, green, blue] = mean(&result, mug);
    assert!(green > blue + 30.0, "the mug is green: {green} {blue}");
    // By default what the edit hardly changes is the photo's.
    let ball = (92, 72, 16);
    for elsewhere in [(100, 4, 20), ball, (40, 104, 20), (4, 100, 20)] {
        assert_eq!(mean(&photo(), elsewhere), mean(&result, elsewhere));
    }
}

#[test]
fn without_a_blend_the_rest_is_what_the_model_makes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("edited.png");
    edited("green", &["--blend", "none"], &result);
    let ball = (92, 72, 16);
    for elsewhere in [(60, 4, 20), (100, 4, 20), ball, (40, 104, 20), (4, 100, 20)] {
        let (before, after) = (mean(&photo(), elsewhere), mean(&result, elsewhere));
        assert!(before != after, "{elsewhere:?} is decoded");
        for (before, after) in before.into_iter().zip(after) {
            assert!(
                (before - after).abs() < 20.0,
                "the rest stays: {elsewhere:?} {before} {after}"
            );
        }
    }
}

#[test]
fn a_picture_is_drawn_from_words() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.png");
    icd()
        .args(["generate", "--model", "tabletop", "-o"])
        .arg(&drawn)
        .args([
            "--prompt",
            "at the front left a large yellow ball on a slate table before a teal wall in soft light",
        ])
        .assert()
        .success();
    let ball = (40, 64, 16);
    let [red, green, blue] = mean(&drawn, ball);
    assert!(red.min(green) > blue + 50.0, "yellow: {red} {green} {blue}");
    let [red, green, blue] = mean(&drawn, (52, 4, 16));
    assert!(green.min(blue) > red + 20.0, "teal: {red} {green} {blue}");
}

/// `--model shapes` was the name of the model before this one: scripts and stored settings say it.
#[test]
fn the_former_name_is_taken_and_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = |model: &str| {
        let drawn = folder.path().join(format!("{model}.png"));
        let run = icd()
            .args([
                "generate",
                "--size",
                "32",
                "--no-metadata",
                "--prompt",
                "a ball",
            ])
            .args(["--model", model, "-o"])
            .arg(&drawn)
            .assert()
            .success();
        let told = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
        assert!(!told.contains("shapes") || model == "shapes", "{told}");
        std::fs::read(drawn).unwrap()
    };
    assert!(drawn("shapes") == drawn("tabletop"));
    let listed = icd().args(["model", "list"]).assert().success();
    let listed = String::from_utf8_lossy(&listed.get_output().stdout).into_owned();
    assert!(listed.contains("tabletop") && !listed.contains("shapes"));
}

#[test]
fn an_edit_in_strips_is_the_same_edit() {
    let folder = tempfile::tempdir().unwrap();
    let edited = |flags: &[&str]| {
        let edited = folder.path().join(format!("{}.png", flags.concat()));
        let words = still_life("green");
        let run = icd()
            .args(["edit", "--model", "tabletop", "-v", "--image"])
            .arg(photo())
            .args(["--src-prompt", &still_life("blue"), "--tgt-prompt", &words])
            .args(flags)
            .arg("-o")
            .arg(&edited)
            .assert()
            .success();
        let told = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        let in_strips = ["encoding the picture in strips", "decoding in strips"];
        let said = in_strips.map(|said| told.contains(said));
        (Picture::read(&edited).unwrap(), said)
    };
    let (whole, told) = edited(&["--vae-tiling", "off"]);
    assert_eq!(told, [false, false]);
    for (flags, cut) in [
        (&["--vae-tiling", "auto"][..], false),
        (&["--vae-tiling", "on"], true),
        (&["--low-memory", "--dtype", "f32"], true),
        (&["--low-memory", "--vae-tiling", "off"], false),
    ] {
        let (found, told) = edited(flags);
        assert_eq!(told, [cut, cut], "{flags:?}");
        let mut pixels = found.pixels().iter().zip(whole.pixels());
        assert!(pixels.all(|(a, b)| a.abs_diff(*b) <= 1), "{flags:?}");
    }
}

#[test]
fn every_instruction_set_makes_the_same_edit() {
    let folder = tempfile::tempdir().unwrap();
    let edited = |simd: &str| {
        let edited = folder.path().join(format!("by{simd}.png"));
        icd()
            .env("ICD_SIMD", simd)
            .args(["edit", "--model", "tabletop", "--image"])
            .arg(photo())
            .args(["--src-prompt", &still_life("blue")])
            .args(["--tgt-prompt", &still_life("green")])
            .arg("-o")
            .arg(&edited)
            .assert()
            .success();
        Picture::read(&edited).unwrap()
    };
    let widest = edited("");
    for simd in ["avx2", "plain"] {
        let found = edited(simd);
        let mut pixels = found.pixels().iter().zip(widest.pixels());
        assert!(pixels.all(|(a, b)| a.abs_diff(*b) <= 2), "{simd}");
    }
}
