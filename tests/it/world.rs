//! The promises of the bundled world.

use icd::{
    eval::world::{Change, HELD_OUT, Pair, SIDE, Scene, Verdict, Wording, dice},
    picture::Picture,
};
use sha2::{Digest as _, Sha256};

fn scene(caption: &str) -> Scene {
    caption.parse().unwrap()
}

/// The mean of red, green and blue of a pixel.
fn brightness(picture: &Picture, (column, row): (usize, usize)) -> f64 {
    let at = 3 * (row * SIDE + column);
    let bytes = &picture.pixels()[at..at + 3];
    bytes.iter().map(|&byte| f64::from(byte)).sum::<f64>() / 3.0
}

#[test]
fn a_scene_has_the_same_bytes_on_every_machine() {
    let mut hash = Sha256::new();
    for index in 0..2 {
        let scene = Scene::any(&mut dice(HELD_OUT, index));
        hash.update(scene.render().pixels());
    }
    assert_eq!(
        format!("{:x}", hash.finalize()),
        "4e99c3fc03fa8678ecf44a8f543fb010945ecbe064c052cf2be999d081167da0"
    );
}

#[test]
fn captions_are_read_as_the_scenes_they_tell() {
    for index in 0..500 {
        let mut dice = dice(7, index);
        let scene = Scene::any(&mut dice);
        let caption = Wording::any(&mut dice).caption(&scene);
        assert_eq!(caption.parse(), Ok(scene.usual()), "{caption}");
    }
    let without = "at the front left a large red ball on a wooden table in soft light";
    assert!(without.parse::<Scene>().is_err(), "no wall is told");
    let nowhere = "a large red ball on a wooden table before a grey wall in soft light";
    assert!(nowhere.parse::<Scene>().is_err(), "no place is told");
}

#[test]
fn captions_of_an_edit_differ_in_the_words_for_it() {
    for index in 0..200 {
        let pair = Pair::numbered(Pair::SEED, index);
        let (before, after) = pair.captions();
        let [before, after] = [before, after].map(|caption| {
            let words = caption.split(' ').map(str::to_owned);
            words.collect::<Vec<_>>()
        });
        let differing = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        match pair.change {
            Change::Add => assert!(after.len() > before.len() + 5),
            Change::Remove => assert!(before.len() > after.len() + 5),
            // "front left" becomes "back right"; matte is not told; an olive wall has "an".
            Change::Place | Change::Wall => assert!((1..=2).contains(&differing)),
            Change::Material if before.len() != after.len() => {}
            _ => assert_eq!(differing, 1, "{before:?} {after:?}"),
        }
    }
}

#[test]
fn a_mask_has_the_thing_and_its_shadow_and_no_more() {
    let both = scene(
        "at the front left a large red cube and at the back left a small blue ball \
         on a slate table before a grey wall in warm light",
    );
    let pictures = Change::Remove.candidates(&both, 0);
    let cube = both.pixel_of(0);
    let (both, ball) = (pictures[0].render(), pictures[1].render());
    let mask = Pair::mask(&both, &ball);
    let is_in = |column: usize, row: usize| mask[row * SIDE + column];
    assert!(is_in(cube.0, cube.1), "the cube");
    // The lamp is on the left.
    let shadow = (cube.0 + 34, cube.1 + 10);
    assert!(is_in(shadow.0, shadow.1));
    assert!(brightness(&both, shadow) + 15.0 < brightness(&ball, shadow));
    assert!(
        !is_in(2, 120) && !is_in(64, 2),
        "the corner of the table, and the wall"
    );
}

#[test]
fn true_edits_are_judged_right_and_sources_wrong() {
    // Kinds with few candidates: each is rendered.
    let judged = [Change::Size, Change::Surface, Change::Remove];
    let pairs = (0..).map(|index| Pair::numbered(Pair::SEED, index));
    for pair in pairs.take(Change::ALL.len()) {
        if !judged.contains(&pair.change) {
            continue;
        }
        let truth = Verdict::of(&pair, &pair.target.render());
        assert!(truth.is_right && truth.whole > 60.0, "{truth:?}");
        assert!(truth.unchanged.is_none_or(|psnr| psnr > 60.0), "{truth:?}");
        let source = Verdict::of(&pair, &pair.source.render());
        assert!(!source.is_right && source.whole < 40.0, "{source:?}");
    }
}

#[test]
fn covered_pixels_are_those_that_things_hide() {
    let scene = scene(
        "at the front left a large red ball on a slate table before a grey wall in soft light",
    );
    let bare = Scene {
        things: Vec::new(),
        ..scene.clone()
    };
    let (covered, bare) = (scene.covered(), bare.render());
    let picture = scene.render();
    let red = |picture: &Picture, i: usize| {
        let pixel = &picture.pixels()[3 * i..][..3];
        i32::from(pixel[0]) - i32::from(pixel[2])
    };
    let inside: Vec<_> = (0..SIDE * SIDE).filter(|&i| covered[i]).collect();
    assert!(
        (600..3000).contains(&inside.len()),
        "{} pixels",
        inside.len()
    );
    let shown = inside
        .iter()
        .filter(|&&i| red(&picture, i) > red(&bare, i) + 20);
    assert!(shown.count() * 10 > 9 * inside.len(), "the ball is red");
    // Its middle lies in the middle of its pixels.
    let (column, row) = scene.pixel_of(0);
    let across = inside.iter().filter(|&i| i / SIDE == row).map(|i| i % SIDE);
    let up = inside
        .iter()
        .filter(|&i| i % SIDE == column)
        .map(|i| i / SIDE);
    for (line, middle) in [(across.collect::<Vec<_>>(), column), (up.collect(), row)] {
        assert!((line[0] + line[line.len() - 1]).abs_diff(2 * middle) <= 4);
    }
}
