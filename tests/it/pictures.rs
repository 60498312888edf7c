//! Pictures and their names as people have them.

use std::{fs, io::Cursor, path::Path};

use icd::picture::{Format, Picture, Size};
use image::{ImageFormat, Rgba, RgbaImage};
use serde_json::Value;

use crate::support::{Run, data, icd};

/// An edit with the tiny model, without the picture and the output.
fn edit() -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
        .args("--size 32")
}

/// The same of `in.png`, a small photo.
fn edit_of(photo: &[u8]) -> Run {
    edit().args("--image in.png").file("in.png", photo)
}

fn small() -> Picture {
    let photo = Picture::read(&data("square.png")).expect("a picture");
    photo.resized(Size::new(32, 32))
}

fn png(picture: &Picture) -> Vec<u8> {
    picture.encode(Format::Png).expect("a PNG")
}

fn read(file: &Path) -> Picture {
    Picture::read(file).expect("a picture")
}

#[test]
fn default_names_keep_the_stem() {
    for (photo, output) in [
        ("IMG.001.png", "IMG.001.edited.png"),
        ("2024.05.01 a.jpeg", "2024.05.01 a.edited.png"),
    ] {
        let done = edit()
            .with("--image", photo)
            .file(photo, &png(&small()))
            .succeeds();
        assert_eq!(done.stdout.trim(), output);
        assert!(done.files().contains(&output.to_owned()));
    }
}

#[test]
fn two_outputs_are_not_one_file_under_any_name() {
    let photo = png(&small());
    edit_of(&photo)
        .folder("looks")
        .args("--attention looks --comparison looks/target.png")
        .fails(2, &["target.png", "two outputs"]);
    edit_of(&photo)
        .args("--attention new --comparison x.png --save-latents x.safetensors")
        .args("--dump ./new/../x.safetensors")
        .folder("new")
        .fails(2, &["x.safetensors", "two outputs"]);
    edit_of(&photo)
        .folder("looks")
        .args("--force --comparison in.png")
        .fails(2, &["in.png", "an input"]);
}

#[cfg(unix)]
#[test]
fn outputs_are_compared_behind_links_and_links_stay() {
    let photo = png(&small());
    edit_of(&photo)
        .folder("real")
        .link("folder", Path::new("real"))
        .args("-o folder/o.png --comparison real/o.png")
        .fails(2, &["real/o.png", "two outputs"]);
    edit_of(&photo)
        .folder("looks")
        .link("looks/source.png", Path::new("../in.png"))
        .args("--force --attention looks")
        .fails(2, &["looks/source.png", "an input"]);
    let done = edit_of(&photo)
        .folder("big")
        .file("big/o.png", b"")
        .link("out.png", Path::new("big/o.png"))
        .args("-o out.png --force")
        .succeeds();
    let link = fs::symlink_metadata(done.path("out.png")).expect("the link");
    assert!(link.is_symlink());
    assert_eq!(read(&done.path("big/o.png")).size(), Size::new(32, 32));
}

#[test]
fn settings_mean_the_photo_that_was_edited() {
    let photo = png(&small());
    let first = edit_of(&photo).args("-o out.png").succeeds();
    let out = first.path("out.png");
    // The photo lies beside the PNG; the one of this name here is another.
    let other = png(&small().resized(Size::new(16, 16)));
    let again = icd("edit")
        .path("--from", &out)
        .args("-o again.png")
        .file("in.png", &other);
    let again = again.succeeds();
    assert_eq!(read(&again.path("again.png")), read(&out));

    let told = fs::read(&out).expect("the PNG");
    let from = || {
        icd("edit")
            .args("--from out.png -o x.png")
            .file("out.png", &told)
    };
    from()
        .file("in.png", &other)
        .fails(1, &["in.png", "its content differs"]);
    let explicit = from()
        .file("in.png", &other)
        .args("--image in.png")
        .succeeds();
    assert_eq!(read(&explicit.path("x.png")).size(), Size::new(32, 32));
    from().fails(1, &["in.png"]);
}

#[test]
fn settings_of_latents_mean_the_same_latents() {
    let invert = |seed: &str| {
        let run = icd("invert")
            .path("--model", &data("sd"))
            .with("--prompt", "a bird");
        let run = run.args("--image in.png --size 32 -o l.safetensors");
        run.file("in.png", &png(&small()))
            .with("--seed", seed)
            .succeeds()
    };
    let [first, other] = ["1", "2"].map(|seed| invert(seed).bytes("l.safetensors"));
    let run = || icd("edit").path("--model", &data("sd"));
    let edited = run().args("--latents l.safetensors --tgt-prompt dog -o out.png");
    let edited = edited.file("l.safetensors", &first).succeeds();
    let from = |latents: &[u8]| {
        let run = icd("edit")
            .path("--from", &edited.path("out.png"))
            .args("-o x.png");
        run.file("l.safetensors", latents)
    };
    assert_eq!(
        from(&first).succeeds().bytes("x.png"),
        edited.bytes("out.png")
    );
    // The right ones lie beside the PNG.
    fs::remove_file(edited.path("l.safetensors")).expect("the latents");
    from(&other).fails(1, &["l.safetensors", "its content differs"]);
}

#[test]
fn the_profile_goes_into_latents_comparisons_and_sheets() {
    let profile = [&[7; 16][..], b"RGB ", &[9; 300]].concat();
    let photo = png(&small().with_profile(Some(profile.clone().into())));
    let done = edit_of(&photo)
        .args("-o o.png --model-size --comparison c.png --attention looks")
        .succeeds();
    for file in ["o.png", "c.png", "looks/source.png", "looks/target.png"] {
        assert_eq!(
            read(&done.path(file)).profile(),
            Some(&profile[..]),
            "{file}"
        );
    }
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .with("--prompt", "a photo of a bird")
        .args("--image in.png --size 32 -o l.safetensors")
        .file("in.png", &photo)
        .succeeds();
    let done = icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &inverted.path("l.safetensors"))
        .args("--tgt-prompt dog --comparison c.png -o o.png")
        .succeeds();
    for file in ["o.png", "c.png"] {
        assert_eq!(
            read(&done.path(file)).profile(),
            Some(&profile[..]),
            "{file}"
        );
    }
}

#[test]
fn inspecting_tells_a_pictures_own_size_and_its_settings() {
    let photo = png(&small().resized(Size::new(40, 24)));
    let done = edit_of(&photo).args("--restore-size -o o.png").succeeds();
    let told = icd("inspect")
        .path("--json", &done.path("o.png"))
        .succeeds()
        .stdout;
    let facts: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(facts["size"], "40x24");
    assert_eq!(facts["src_prompt"], "a photo of a bird");
}

/// A mask in whose left half a brush of this colour painted.
fn painted(brush: [u8; 3]) -> Vec<u8> {
    let [red, green, blue] = brush;
    let image = RgbaImage::from_fn(32, 32, |x, _| match x < 16 {
        true => Rgba([red, green, blue, 255]),
        false => Rgba([0, 0, 0, 0]),
    });
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, ImageFormat::Png).expect("a PNG");
    out.into_inner()
}

#[test]
fn a_mask_may_be_painted_in_alpha_and_one_of_nothing_is_told() {
    let photo = png(&small());
    let masked = |mask: &[u8]| {
        let run = edit_of(&photo).args("--mask mask.png --no-metadata -o o.png");
        run.file("mask.png", mask).succeeds()
    };
    let sides = (0..32 * 32).flat_map(|at| [if at % 32 < 16 { 255 } else { 0 }; 3]);
    let grey = Picture::new(Size::new(32, 32), sides.collect()).expect("a mask");
    let expected = masked(&png(&grey));
    assert!(
        !expected.stderr.contains("warning: mask"),
        "{}",
        expected.stderr
    );
    for brush in [[255; 3], [0; 3], [200, 30, 30]] {
        let found = masked(&painted(brush)).bytes("o.png");
        assert_eq!(found, expected.bytes("o.png"), "{brush:?}");
    }
    for (value, told) in [(255, "white everywhere"), (0, "black everywhere")] {
        let plain = Picture::new(Size::new(2, 2), vec![value; 12]).expect("a mask");
        let said = masked(&png(&plain)).stderr;
        assert!(said.contains("mask.png") && said.contains(told), "{said}");
    }
}

/// The same with other prompts.
fn prompted(photo: &[u8], source: &str, target: &str) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .with("--src-prompt", source)
        .with("--tgt-prompt", target)
        .args("--image in.png --size 32")
        .file("in.png", photo)
}

#[test]
fn every_format_repeats_its_edit_and_tells_its_settings() {
    let photo = png(&small());
    for name in ["o.png", "o.jpg", "o.webp"] {
        let edit = || {
            prompted(&photo, "ein Vögelchen 鳥", "dog")
                .args("--seed 7 -o")
                .args(name)
        };
        let done = edit().succeeds();
        let again = icd("edit")
            .path("--from", &done.path(name))
            .with("-o", name);
        let again = again.file("in.png", &photo).succeeds();
        assert!(again.bytes(name) == done.bytes(name), "{name}");
        let told = icd("inspect").path("--json", &done.path(name)).succeeds();
        let facts: Value = serde_json::from_str(&told.stdout).expect("JSON");
        assert_eq!(
            (&facts["seed"], &facts["verb"]),
            (&7.into(), &"edit".into())
        );
        assert_eq!(facts["src_prompt"], "ein Vögelchen 鳥");
        let without = edit().args("--no-metadata").succeeds();
        icd("edit")
            .path("--from", &without.path(name))
            .fails(1, &[name, "no icd settings"]);
        assert_eq!(read(&without.path(name)), read(&done.path(name)));
    }
    let owl = icd("generate").path("--model", &data("sd"));
    let owl = owl.args("--prompt owl --size 32 -o owl.jpg").succeeds();
    let again = icd("generate").path("--from", &owl.path("owl.jpg"));
    let again = again.args("-o owl.jpg").succeeds();
    assert!(again.bytes("owl.jpg") == owl.bytes("owl.jpg"));
}

#[test]
fn settings_that_no_jpeg_holds_are_refused_before_the_work() {
    let long = "bird ".repeat(14_000);
    let photo = png(&small());
    let edit = |name: &str| prompted(&photo, "bird", &long).with("-o", name);
    let done = edit("o.jpg").fails(2, &["o.jpg", "JPEG", ".png or .webp", "--no-metadata"]);
    assert!(!done.stderr.contains("inverting") && done.files() == ["in.png"]);
    edit("o.jpg").args("--no-metadata").succeeds();
    let done = edit("o.webp").succeeds();
    icd("edit")
        .path("--from", &done.path("o.webp"))
        .args("--dry-run")
        .succeeds();
}
