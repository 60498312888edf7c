//! The promises of the model that is part of the program.

use std::path::Path;

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

#[test]
fn a_toy_scene_is_edited_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let edited = folder.path().join("edited.png");
    let scene = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png");
    let words = |colour| {
        format!(
            "on the left a large {colour} star and on the right a large orange heart \
             on a grey striped background"
        )
    };
    icd()
        .args(["edit", "--model", "shapes", "--image"])
        .arg(&scene)
        .args(["--src-prompt", &words("blue")])
        .args(["--tgt-prompt", &words("red"), "-o"])
        .arg(&edited)
        .assert()
        .success();
    let star = (14, 29, 6);
    let [red, _, blue] = mean(&scene, star);
    assert!(blue > red + 100.0, "the star was blue");
    let [red, _, blue] = mean(&edited, star);
    assert!(red > blue + 50.0, "the star is red: {red} {blue}");
    for elsewhere in [
        (0, 0, 12),
        (52, 0, 12),
        (0, 52, 12),
        (52, 52, 12),
        (44, 29, 6),
    ] {
        let (before, after) = (mean(&scene, elsewhere), mean(&edited, elsewhere));
        for (before, after) in before.into_iter().zip(after) {
            assert!(
                (before - after).abs() < 20.0,
                "the rest stays: {before} {after}"
            );
        }
    }
}

#[test]
fn a_toy_picture_is_drawn_from_words() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = folder.path().join("drawn.png");
    icd()
        .args(["generate", "--model", "shapes", "-o"])
        .arg(&drawn)
        .args([
            "--prompt",
            "in the middle a large yellow square on a teal background",
        ])
        .assert()
        .success();
    let [red, green, blue] = mean(&drawn, (28, 28, 8));
    assert!(red.min(green) > blue + 50.0, "yellow: {red} {green} {blue}");
    let [red, green, blue] = mean(&drawn, (0, 0, 8));
    assert!(green.min(blue) > red + 20.0, "teal: {red} {green} {blue}");
}

#[test]
fn an_edit_in_strips_is_the_same_edit() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png");
    let edited = |flags: &[&str]| {
        let edited = folder.path().join(format!("{}.png", flags.concat()));
        let words = "in the middle a large red star on a grey background";
        let run = icd()
            .args(["edit", "--model", "shapes", "-v", "--image"])
            .arg(&scene)
            .args(["--src-prompt", "a star", "--tgt-prompt", words])
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
    let scene = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png");
    let edited = |simd: &str| {
        let edited = folder.path().join(format!("by{simd}.png"));
        icd()
            .env("ICD_SIMD", simd)
            .args(["edit", "--model", "shapes", "--image"])
            .arg(&scene)
            .args(["--src-prompt", "a blue star", "--tgt-prompt", "a red star"])
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
