//! What a person asks of an edit beside the picture.

use std::{path::Path, process::Stdio, time::Duration};

use assert_cmd::cargo::CommandCargoExt;
use icd::picture::{Picture, Size};

use crate::support::{Run, agree, data, icd};

fn edit(photo: &str) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data(photo))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
        .args("-o out.png")
}

fn read(file: &Path) -> Picture {
    Picture::read(file).expect("a picture")
}

/// A picture whose left half is white and whose right half is black.
fn half() -> Vec<u8> {
    let row = [[255; 30], [0; 30]].concat();
    let picture = Picture::new(Size::new(20, 6), row.repeat(6)).expect("a mask");
    picture.encode(icd::picture::Format::Png).expect("bytes")
}

#[test]
fn outside_of_a_mask_the_source_stays() {
    let latents = |run: Run| {
        let done = run.args("--size 64 --dump d.safetensors").succeeds();
        done.tensors("d.safetensors")["latent"].clone()
    };
    let masked = latents(
        edit("square.png")
            .file("mask.png", &half())
            .args("--mask mask.png"),
    );
    let free = latents(edit("square.png"));
    let part = |x: &candle_core::Tensor, row, left| {
        x.narrow(0, row, 1).unwrap().narrow(3, left, 3).unwrap()
    };
    // Rows: source, target. The source is never changed.
    agree("the source", &part(&masked, 0, 0), &part(&free, 0, 0), 1e-6);
    agree("outside", &part(&masked, 1, 5), &part(&masked, 0, 5), 1e-6);
    let inside = crate::support::distance(&part(&masked, 1, 0), &part(&masked, 0, 0));
    assert!(inside > 1e-2, "nothing happens inside: {inside}");
}

#[test]
fn the_photos_size_comes_back_in_every_fit() {
    for fit in ["aspect", "stretch", "crop", "pad"] {
        let done = edit("photo.png")
            .args("--restore-size --fit")
            .args(fit)
            .succeeds();
        assert_eq!(
            read(&done.path("out.png")).size(),
            Size::new(128, 96),
            "{fit}"
        );
    }
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("photo.png"))
        .args("--prompt bird -o x.safetensors")
        .succeeds();
    let done = icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &inverted.path("x.safetensors"))
        .args("--tgt-prompt dog --restore-size -o out.png")
        .succeeds();
    assert_eq!(read(&done.path("out.png")).size(), Size::new(128, 96));
}

#[test]
fn a_comparison_shows_source_reconstruction_and_every_edit() {
    let done = edit("square.png")
        .args("--size 64 --comparison all.png --tgt-prompt cat")
        .succeeds();
    assert_eq!(done.files(), ["all.png", "out-1.png", "out-2.png"]);
    // Four panels of five times 64 pixels, with gaps.
    assert_eq!(read(&done.path("all.png")).size().width, 4 * 320 + 3 * 4);
}

#[test]
fn heat_maps_show_every_word_of_every_prompt() {
    for control in ["auto", "none"] {
        let done = edit("square.png")
            .args("--size 64 --attention-maps looks --control")
            .args(control)
            .succeeds();
        for sheet in ["looks/source.png", "looks/target.png"] {
            // Five words, four in a row.
            assert_eq!(
                read(&done.path(sheet)).size().width,
                4 * 320 + 3 * 4,
                "{sheet}"
            );
        }
    }
}

#[test]
fn a_look_at_the_maps_changes_no_pixel() {
    let plain = edit("square.png").args("--size 64").succeeds();
    let looked = edit("square.png")
        .args("--size 64 --attention-maps looks")
        .succeeds();
    let pixels = |done: &crate::support::Done| read(&done.path("out.png")).pixels().to_vec();
    let (plain, looked) = (pixels(&plain), pixels(&looked));
    // The maps are computed apart, which rounds otherwise.
    let most = plain.iter().zip(&looked).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most <= Some(1), "{most:?}");
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_nothing() {
    let run = || edit("square.png").args("--size 64 --blend bird:dog --dry-run");
    let told = run().succeeds();
    assert!(told.files().is_empty(), "{:?}", told.files());
    for fact in [
        "dog follows bird",
        "amplified: dog by 4",
        "blended: bird:dog",
        "network evaluations: 4 of 1 row, 4 of 2",
        "latent: 8x8",
        "weights in memory: UNet",
    ] {
        assert!(
            told.stdout.contains(fact),
            "{fact} is not in {}",
            told.stdout
        );
    }
    let json = run().args("--json").succeeds().stdout;
    let facts: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(facts["control"], "replace");
}

#[test]
fn a_second_edit_takes_its_inversion_from_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let run = |target: &str| {
        let done = edit("square.png")
            .args("--size 64 --json")
            .path("--cache", &cache)
            .with("--tgt-prompt", target)
            .succeeds();
        let told = done.stdout.lines().next().expect("a result").to_owned();
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let evaluations = told["evaluations"].as_array().map(Vec::len);
        (evaluations, done.bytes("out-1.png"))
    };
    let (first, picture) = run("a cat");
    let (second, again) = run("a cat");
    assert_eq!((first, second), (Some(8), Some(4)));
    assert!(picture == again, "the second edit differs");
    let kept: Vec<_> = std::fs::read_dir(&cache).expect("the cache").collect();
    assert_eq!(kept.len(), 1);
    // Whatever happens to the cache, the edit is made.
    let kept = kept[0].as_ref().expect("an entry").path();
    std::fs::write(kept, b"damaged").expect("damage");
    assert!(run("a cat") == (Some(8), picture));
}

#[test]
fn a_reconstruction_is_measured() {
    let done = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--prompt bird --size 64 --json --reconstruct back.png -o x.safetensors")
        .succeeds();
    let told: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let [found, photo] = [done.path("back.png"), data("square.png")].map(|file| read(&file));
    let photo = photo.resized(Size::new(64, 64));
    assert_eq!(told["psnr"].as_f64(), found.psnr(&photo).ok());
    assert_eq!(told["ssim"].as_f64(), found.ssim(&photo).ok());
}

#[test]
fn a_picture_may_go_to_stdout() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = assert_cmd::Command::cargo_bin("icd").expect("the program");
    let output = command
        .current_dir(folder.path())
        .args(["generate", "--model", "tabletop", "-q", "-o", "-"])
        .args(["--prompt", "a red star"])
        .output()
        .expect("the program runs");
    assert!(output.status.success() && output.stderr.is_empty());
    let drawn = Picture::decode(&output.stdout, Path::new("stdout")).expect("a picture");
    assert_eq!(drawn.size(), Size::new(128, 128));
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("a folder").count(),
        0
    );
}

#[test]
fn a_photo_keeps_its_colour_profile() {
    let profile = [&[7; 16][..], b"RGB ", &[9; 300]].concat();
    let mut photo = Vec::new();
    let mut info = png::Info::with_size(64, 64);
    info.color_type = png::ColorType::Rgb;
    info.icc_profile = Some(profile.clone().into());
    let encoder = png::Encoder::with_info(&mut photo, info).expect("an encoder");
    let mut writer = encoder.write_header().expect("a header");
    let pixels = read(&data("square.png")).resized(Size::new(64, 64));
    writer.write_image_data(pixels.pixels()).expect("pixels");
    writer.finish().expect("an end");
    for more in ["", "--restore-size", "--model-size", "--blend auto"] {
        let done = icd("edit")
            .path("--model", &data("sd"))
            .args("--image p3.png --src-prompt bird --tgt-prompt dog -o out.png")
            .args(more)
            .file("p3.png", &photo)
            .succeeds();
        assert_eq!(read(&done.path("out.png")).profile(), Some(&profile[..]));
    }
}

/// Pillow: `Image.open("photo.png").convert("CMYK").save("cmyk.jpg", quality=90)`.
#[test]
fn a_cmyk_photo_has_the_colours_it_had() {
    let (found, photo) = (read(&data("cmyk.jpg")), read(&data("photo.png")));
    let ratio = found.psnr(&photo).expect("equal sizes");
    assert!(ratio > 30.0, "{ratio}");
}

#[test]
fn an_empty_source_prompt_inverts_without_words() {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--src-prompt", "")
        .args("--tgt-prompt dog --size 64")
        .succeeds();
}

#[test]
fn tiny_and_endless_pictures_are_edited() {
    for (width, height) in [(1, 1), (1, 64), (300, 2)] {
        let picture = Picture::new(Size::new(width, height), vec![90; 3 * width * height]);
        let bytes = picture
            .and_then(|p| p.encode(icd::picture::Format::Png))
            .expect("bytes");
        let done = icd("edit")
            .path("--model", &data("sd"))
            .args("--image in.png --src-prompt bird --tgt-prompt dog -o out.png --restore-size")
            .file("in.png", &bytes)
            .succeeds();
        assert_eq!(read(&done.path("out.png")).size(), Size::new(width, height));
    }
}

#[cfg(unix)]
#[test]
fn signals_end_the_program_and_leave_nothing() {
    use std::os::unix::process::ExitStatusExt;
    let signals = [("-INT", 2), ("-TERM", 15), ("-HUP", 1)];
    for (wait, (name, number)) in [5, 30, 80, 160, 320]
        .into_iter()
        .zip(signals.into_iter().cycle())
    {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = std::process::Command::cargo_bin("icd").expect("the program");
        let mut child = command
            .current_dir(folder.path())
            .args(["generate", "--model", "tabletop", "--count", "500"])
            .args(["--prompt", "a red star"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(100 + wait));
        let killed = std::process::Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        // Ended by the signal, so that a shell ends a loop, too.
        assert_eq!(child.wait().expect("it ends").signal(), Some(number));
        for entry in std::fs::read_dir(folder.path()).expect("a folder") {
            let file = entry.expect("an entry").path();
            assert_eq!(read(&file).size(), Size::new(64, 64), "{}", file.display());
        }
    }
}

#[test]
fn settings_of_a_stranger_write_no_files_and_replace_none() {
    let settings = format!(
        r#"{{"verb":"edit","image":"{}","src_prompt":"bird","tgt_prompt":"cat","size":"32",
            "force":true,"dump":"precious.txt","output":"precious.txt","yes":true}}"#,
        data("square.png").display()
    );
    let picture = icd::picture::Picture::read(&data("square.png")).unwrap();
    let evil = picture
        .encode_noted(icd::picture::Format::Png, &settings)
        .unwrap();
    let run = |output: &str| {
        icd("edit")
            .path("--model", &data("sd"))
            .file("evil.png", &evil)
            .file("precious.txt", b"precious")
            .file("precious.png", b"precious")
            .with("--from", "evil.png")
            .with("-o", output)
    };
    let done = run("fine.png").succeeds();
    assert_eq!(done.bytes("precious.txt"), b"precious");
    run("precious.png").fails(2, &["precious.png", "--force"]);
}

#[test]
fn words_that_are_not_read_are_named() {
    let long = format!("{}bird", "a ".repeat(90));
    for (verb, flag) in [
        ("edit", "--tgt-prompt"),
        ("generate", "--prompt"),
        ("invert", "--prompt"),
    ] {
        let run = icd(verb).path("--model", &data("sd")).args("--size 32");
        let run = match verb {
            "edit" => run.args("--src-prompt cat"),
            _ => run,
        };
        let run = match verb {
            "generate" => run,
            _ => run.path("--image", &data("square.png")),
        };
        let told = run.with(flag, &long).succeeds().stderr;
        assert!(told.contains("ignored: a a a"), "{verb}: {told}");
    }
}

#[test]
fn what_cannot_be_written_is_found_before_the_work() {
    let edit = || {
        icd("edit")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .args("--size 32 --src-prompt bird --tgt-prompt cat -v")
    };
    let before = |run: Run, says: &str| {
        let done = run.done();
        assert_ne!(done.code, 0);
        assert!(done.stderr.contains(says), "{}", done.stderr);
        assert!(!done.stderr.contains("inverting"), "{}", done.stderr);
    };
    before(edit().folder("d.png").args("-o d.png"), "this is a folder");
    let sheet = edit().folder("d.png").args("-o a.png --comparison d.png");
    before(sheet, "this is a folder");
    let ends = edit().args("-o a.png --reverse-timesteps 500,0").succeeds();
    assert!(ends.stderr.contains("end at 999"), "{}", ends.stderr);
}
