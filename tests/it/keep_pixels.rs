//! The photo's own pixels stay where a mask, a local blend or a crop keeps the edit out.

use std::path::Path;

use icd::{
    diffusion::Silent,
    picture::{Format, Picture, Size},
    pipeline::{Pipeline, Residency},
};

use crate::support::{Done, Run, data, icd, model};

const FITS: [&str; 4] = ["aspect", "stretch", "crop", "pad"];
/// An odd size, and what a square crop shows of it: 401 columns from the 49th on.
const PHOTO: Size = Size::new(500, 401);
const WINDOW: std::ops::Range<usize> = 49..450;

fn read(file: &Path) -> Picture {
    Picture::read(file).expect("a picture")
}

fn png(picture: &Picture) -> Vec<u8> {
    picture.encode(Format::Png).expect("bytes")
}

/// A grey picture by the level of each pixel.
fn grey(size: Size, level: impl Fn(usize, usize) -> u8) -> Picture {
    let rows = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
    let pixels = rows.flat_map(|(x, y)| [level(x, y); 3]).collect();
    Picture::new(size, pixels).expect("a picture")
}

/// White in the middle, black around it.
fn middle(size: Size) -> Picture {
    let is_middle = |place: usize, of: usize| (3 * of / 10..7 * of / 10).contains(&place);
    grey(size, |x, y| {
        match is_middle(x, size.width) && is_middle(y, size.height) {
            true => 255,
            false => 0,
        }
    })
}

fn photo() -> Picture {
    read(&data("photo.png")).resized(PHOTO)
}

/// An edit of a photo with the tiny model, to out.png.
fn edit(photo: &Picture) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .file("in.png", &png(photo))
        .args("--image in.png -o out.png")
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
}

fn out(run: Run) -> Picture {
    read(&run.succeeds().path("out.png"))
}

fn at(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    let (pixels, _) = picture.pixels().as_chunks::<3>();
    pixels[y * picture.size().width + x]
}

/// How far two pixels are apart, over all channels.
fn gap(a: [u8; 3], b: [u8; 3]) -> u64 {
    let gaps = a.into_iter().zip(b).map(|(a, b)| a.abs_diff(b));
    gaps.map(u64::from).sum()
}

/// Whether two pictures have the same bytes wherever `within` holds, and how many pixels
/// that are.
fn same(a: &Picture, b: &Picture, within: impl Fn(usize, usize) -> bool) -> (bool, usize) {
    assert_eq!(a.size(), b.size());
    let Size { width, height } = a.size();
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let places = places.filter(|(x, y)| within(*x, *y));
    places.fold((true, 0), |(all, count), (x, y)| {
        (all && at(a, x, y) == at(b, x, y), count + 1)
    })
}

#[test]
fn outside_of_a_mask_every_byte_is_the_photos_in_every_fit() {
    let photo = photo();
    for fit in FITS {
        let run = || {
            edit(&photo)
                .args("--size 64 --restore-size --mask mask.png --fit")
                .args(fit)
                .file("mask.png", &png(&middle(PHOTO)))
        };
        let (kept, decoded) = (out(run()), out(run().args("--keep-pixels off")));
        assert_eq!(kept.size(), PHOTO, "{fit}");
        let is_in = |x, y| (150..350).contains(&x) && (120..280).contains(&y);
        let (stays, count) = same(&kept, &photo, |x, y| !is_in(x, y));
        assert!(stays && count == 500 * 401 - 200 * 160, "{fit}: {count}");
        // Behind the feather it is the edit, which changes the rest of the photo, too.
        let deep = |x, y| (160..340).contains(&x) && (130..270).contains(&y);
        assert!(same(&kept, &decoded, deep).0, "{fit}");
        assert!(!same(&decoded, &photo, deep).0, "{fit}");
        assert!(!same(&decoded, &photo, |x, y| !is_in(x, y)).0, "{fit}");
        // The feather is 401 / 64 pixels wide: the first one inside is a sixth of the edit.
        for (x, y) in [(150, 200), (349, 200), (250, 120), (250, 279)] {
            let [kept, photo, decoded] = [&kept, &photo, &decoded].map(|of| at(of, x, y));
            let (step, seam) = (gap(kept, photo), gap(decoded, photo));
            assert!(step <= seam / 6 + 3, "{fit}: {step} of {seam}");
        }
    }
}

#[test]
fn a_mask_of_any_size_keeps_what_is_black() {
    let photo = photo();
    for size in [Size::new(10, 10), Size::new(77, 33), Size::new(1000, 802)] {
        let mask = middle(size);
        let run = edit(&photo).file("mask.png", &png(&mask));
        let kept = out(run.args("--mask mask.png"));
        // The mask's pixels that a pixel of the photo covers, or in whose midst it is.
        let cells = |place: usize, of: usize, cells: usize| {
            let at = |place: f64| ((place / of as f64 * cells as f64) as usize).min(cells - 1);
            match cells > of {
                true => at(place as f64)..=at(place as f64 + 0.999),
                false => at(place as f64 + 0.5)..=at(place as f64 + 0.5),
            }
        };
        let level = |x: usize, y: usize| mask.pixels()[3 * (y * size.width + x)];
        let is_black = |x: usize, y: usize| {
            let (columns, rows) = (cells(x, 500, size.width), cells(y, 401, size.height));
            rows.clone()
                .all(|y| columns.clone().all(|x| level(x, y) == 0))
        };
        let (stays, count) = same(&kept, &photo, is_black);
        assert!(stays && count > 150_000, "{size}: {count}");
        assert!(!same(&kept, &photo, |x, y| !is_black(x, y)).0, "{size}");
    }
}

#[test]
fn grey_mixes_in_proportion() {
    let photo = photo();
    let run = || edit(&photo).file("mask.png", &png(&grey(Size::new(50, 40), |_, _| 128)));
    let run = || run().args("--mask mask.png");
    let (kept, decoded) = (out(run()), out(run().args("--keep-pixels off")));
    let bytes = kept
        .pixels()
        .iter()
        .zip(decoded.pixels())
        .zip(photo.pixels());
    for ((kept, decoded), photo) in bytes {
        let (decoded, photo) = (f64::from(*decoded), f64::from(*photo));
        let expected = (photo + 128.0 / 255.0 * (decoded - photo)).round();
        assert_eq!(f64::from(*kept), expected, "{photo} and {decoded}");
    }
    assert_ne!(kept, photo);
}

#[test]
fn a_crop_ends_without_a_seam_and_the_photo_stays_around_it() {
    let photo = photo();
    let run = || edit(&photo).args("--fit crop");
    let (kept, decoded) = (out(run()), out(run().args("--keep-pixels=off")));
    let (stays, count) = same(&kept, &photo, |x, _| !WINDOW.contains(&x));
    assert!(stays && count == 99 * 401);
    assert!(same(&decoded, &photo, |x, _| !WINDOW.contains(&x)).0);
    // The feather is 401 / 32 pixels wide, at the sides where the photo goes on.
    let deep = |x, _| (WINDOW.start + 12..WINDOW.end - 12).contains(&x);
    let (is_edit, count) = same(&kept, &decoded, deep);
    assert!(
        is_edit && count == 377 * 401,
        "no feather at top and bottom"
    );
    let sum = |x: usize, of: &Picture| -> u64 {
        let rows = 0..PHOTO.height;
        rows.map(|y| gap(at(of, x, y), at(&photo, x, y))).sum()
    };
    for edge in [WINDOW.start, WINDOW.end - 1] {
        let (step, seam) = (sum(edge, &kept), sum(edge, &decoded));
        assert!(9 * step < seam, "a seam of {step} instead of {seam}");
    }
}

/// An edit of a toy scene of this size: the left star changes its colour.
fn toy(colours: &[&str]) -> Run {
    let scene = |colour: &str| {
        format!(
            "on the left a large {colour} star and on the right a large orange heart \
             on a grey striped background"
        )
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png");
    let run = icd("edit")
        .path("--model", &data("shapes"))
        .args("--image in.png -o out.png")
        .file("in.png", &png(&read(&file).resized(PHOTO)))
        .with("--src-prompt", scene("blue"));
    let targets = colours.iter();
    targets.fold(run, |run, colour| run.with("--tgt-prompt", scene(colour)))
}

#[test]
fn outside_of_a_blend_every_byte_is_the_photos_in_every_fit() {
    for fit in FITS {
        let run = || {
            toy(&["red"])
                .args("--size 64 --restore-size --blend star:star --dump d.safetensors --fit")
                .args(fit)
        };
        let done = run().succeeds();
        let (kept, photo) = (read(&done.path("out.png")), read(&done.path("in.png")));
        assert_eq!(kept.size(), PHOTO);
        let (closed, side) = closed(&done);
        // The photo's columns and rows on the canvas of 64x64.
        let (columns, rows) = match fit {
            "crop" => ((-49.0 * 64.0 / 401.0, 64.0 / 401.0), (0.0, 64.0 / 401.0)),
            "pad" => ((0.0, 64.0 / 500.0), (7.0, 51.0 / 401.0)),
            "aspect" => ((0.0, 72.0 / 500.0), (0.0, 56.0 / 401.0)),
            _ => ((0.0, 64.0 / 500.0), (0.0, 64.0 / 401.0)),
        };
        let cell = |place: usize, (start, scale): (f64, f64)| {
            (start + (place as f64 + 0.5) * scale) / 8.0 * side.factor
        };
        let is_outside = |x, y| {
            let (x, y) = (cell(x, columns), cell(y, rows));
            let is_on = x >= 0.0 && (x as usize) < side.width && (y as usize) < side.height;
            !is_on || closed[y as usize * side.width + x as usize]
        };
        let (stays, count) = same(&kept, &photo, is_outside);
        assert!(stays, "{fit}");
        assert!((20_000..190_000).contains(&count), "{fit}: {count}");
        assert!(!same(&kept, &photo, |x, y| !is_outside(x, y)).0, "{fit}");
        let decoded = out(run().args("--keep-pixels off"));
        assert!(!same(&decoded, &photo, is_outside).0, "{fit}");
    }
}

/// The latent's width and height, and how many of its pixels are 8 of the picture's.
struct Side {
    width: usize,
    height: usize,
    factor: f64,
}

/// The pixels of the latent in which the target's last step is the source's.
fn closed(done: &Done) -> (Vec<bool>, Side) {
    let blended = done.tensors("d.safetensors")["step3.blended"].clone();
    let (_, _, height, width) = blended.dims4().expect("rows");
    let row = |row| blended.narrow(0, row, 1).expect("a row");
    let gap = (row(1) - row(0)).expect("rows").abs().expect("values");
    let gap = gap
        .sum(1)
        .and_then(|gap| gap.flatten_all()?.to_vec1::<f32>());
    let gap: Vec<bool> = gap.expect("values").iter().map(|gap| *gap == 0.0).collect();
    assert!(gap.contains(&true) && gap.contains(&false));
    let factor = match width * height {
        64 | 63 => 1.0,
        256 | 252 => 2.0,
        other => panic!("a latent of {other} pixels"),
    };
    (
        gap,
        Side {
            width,
            height,
            factor,
        },
    )
}

#[test]
fn every_target_has_the_mask_of_its_own_blend() {
    let run = |colours: &[&str]| toy(colours).args("--blend auto --no-metadata").succeeds();
    let both = run(&["red", "green"]);
    for (colour, file) in [("red", "out-1.png"), ("green", "out-2.png")] {
        let alone = run(&[colour]);
        let (found, expected) = (read(&both.path(file)), read(&alone.path("out.png")));
        assert_eq!(found.size(), PHOTO);
        // Rounded otherwise in larger products, by a level of the decoded picture at most.
        let mut bytes = found.pixels().iter().zip(expected.pixels());
        assert!(bytes.all(|(a, b)| a.abs_diff(*b) <= 1), "{colour}");
    }
}

#[test]
fn a_mask_confines_a_blend() {
    let left = grey(PHOTO, |x, _| if x < 100 { 255 } else { 0 });
    let run = || {
        toy(&["red"])
            .args("--blend star:star")
            .file("mask.png", &png(&left))
    };
    let (free, both) = (run().succeeds(), run().args("--mask mask.png").succeeds());
    let photo = read(&free.path("in.png"));
    let [free, both] = [&free, &both].map(|done| read(&done.path("out.png")));
    assert!(same(&both, &photo, |x, _| x >= 100).0);
    assert!(!same(&both, &photo, |x, _| x < 100).0);
    assert!(!same(&free, &photo, |x, _| x >= 100).0);
    // Where the blend keeps the photo, so do both.
    let corner = |x, y| x < 100 && y < 30 && at(&free, x, y) == at(&photo, x, y);
    let (stays, count) = same(&both, &photo, corner);
    assert!(stays && count > 1000, "{count}");
}

#[test]
fn off_is_the_picture_as_decoded() {
    let run = edit(&photo()).file("mask.png", &png(&middle(PHOTO)));
    let done = run
        .args("--mask mask.png --keep-pixels off --model-size --save-latents x.safetensors")
        .succeeds();
    let pipeline = Pipeline::new(model(&data("sd")), Residency::All);
    let latent = &done.tensors("x.safetensors")["latent"];
    let decoded = pipeline.decode(latent, &mut Silent).expect("pictures");
    assert_eq!(read(&done.path("out.png")), decoded[0]);
}

#[test]
fn at_the_size_of_the_work_the_scaled_photo_stays() {
    let photo = photo();
    let run = edit(&photo).file("mask.png", &png(&middle(Size::new(64, 64))));
    let kept = out(run.args("--size 64 --mask mask.png"));
    let scaled = photo.resized(Size::new(64, 64));
    let is_in = |place| (19..44).contains(&place);
    assert!(same(&kept, &scaled, |x, y| !is_in(x) || !is_in(y)).0);
    assert!(!same(&kept, &scaled, |x, y| is_in(x) && is_in(y)).0);
}

#[test]
fn a_result_has_the_photos_size_unless_another_is_asked_for() {
    for (flags, expected) in [
        ("", PHOTO),
        ("--fit crop", PHOTO),
        ("--fit pad --restore-size", PHOTO),
        ("--size 64 --restore-size", PHOTO),
        ("--size 64", Size::new(64, 64)),
        ("--model-size", Size::new(72, 56)),
        ("--model-size --fit pad", Size::new(64, 64)),
    ] {
        let done = edit(&photo()).args(flags).succeeds();
        assert_eq!(read(&done.path("out.png")).size(), expected, "{flags}");
        let size = match flags.contains("size 64") || flags.contains("fit") {
            true => "64x64",
            false => "72x56",
        };
        let told = format!("edited at {size} (photo: 500x401)");
        assert!(done.stderr.contains(&told), "{flags}: {}", done.stderr);
    }
    let square = read(&data("square.png"));
    let told = edit(&square).succeeds().stderr;
    assert!(!told.contains("edited at"), "{told}");
    let both = edit(&square).args("--model-size --restore-size");
    both.fails(2, &["--model-size", "--restore-size"]);
}

#[test]
fn what_cannot_be_kept_is_noted() {
    let square = read(&data("square.png"));
    let nothing = "there is nothing to keep: no mask, no blend, and no crop";
    let told = |flags: &str| edit(&square).args(flags).succeeds().stderr;
    assert!(told("--keep-pixels").contains(nothing));
    assert!(told("--keep-pixels on --size 64 --fit crop").contains(nothing));
    for flags in ["", "--keep-pixels off", "--keep-pixels --fit crop"] {
        assert!(!told(flags).contains("keep"), "{flags}");
    }
    assert_eq!(told("--keep-pixels -q"), "");
}

#[test]
fn latents_have_no_photo_to_keep() {
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("photo.png"))
        .args("--prompt bird -o x.safetensors")
        .succeeds();
    let told = |flags: &str| {
        let run = icd("edit")
            .path("--model", &data("sd"))
            .path("--latents", &inverted.path("x.safetensors"))
            .file("mask.png", &png(&middle(PHOTO)));
        let done = run
            .args("--tgt-prompt dog -o out.png")
            .args(flags)
            .succeeds();
        assert_eq!(
            read(&done.path("out.png")).size(),
            Size::new(72, 56),
            "{flags}"
        );
        done.stderr
    };
    let line = "with --latents there is no photo whose pixels could be kept: mask and blend \
                confine the latent only";
    for flags in [
        "--mask mask.png",
        "--blend bird:dog",
        "--blend auto --keep-pixels",
    ] {
        assert_eq!(told(flags).matches(line).count(), 1, "{flags}");
    }
    for flags in ["", "--model-size", "--mask mask.png --keep-pixels off"] {
        assert!(!told(flags).contains("photo"), "{flags}");
    }
}

#[test]
fn settings_repeat_what_was_kept() {
    let mask = png(&middle(PHOTO));
    let run = edit(&photo()).file("mask.png", &mask);
    let first = run
        .args("--mask mask.png --keep-pixels --model-size")
        .succeeds();
    let told = icd("inspect")
        .path("--json", &first.path("out.png"))
        .succeeds();
    let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    let settings = told.to_string();
    for setting in [r#""keep_pixels":"on""#, r#""model_size":true"#] {
        assert!(settings.contains(setting), "{settings}");
    }
    let again = |flags: &str| {
        let run = icd("edit")
            .path("--model", &data("sd"))
            .file("in.png", &first.bytes("in.png"))
            .file("mask.png", &mask)
            .path("--from", &first.path("out.png"));
        out(run.args("-o out.png").args(flags))
    };
    let picture = read(&first.path("out.png"));
    assert_eq!(again(""), picture);
    assert_ne!(again("--keep-pixels off"), picture);
    assert_eq!(again("--restore-size").size(), PHOTO);
}

#[test]
fn a_comparison_shows_what_was_kept() {
    let run = |flags: &str| {
        let run = edit(&photo()).file("mask.png", &png(&grey(PHOTO, |_, _| 0)));
        let done = run
            .args("--mask mask.png --comparison all.png")
            .args(flags)
            .succeeds();
        (read(&done.path("out.png")), done.bytes("all.png"))
    };
    let ((kept, shown), (decoded, shown_decoded)) = (run(""), run("--keep-pixels off"));
    assert_eq!(kept, photo());
    assert!(kept != decoded && shown != shown_decoded);
}
