//! Several pictures of one run are those of single runs, byte for byte.

use icd::picture::Picture;

use crate::support::{Run, data, device, icd};

/// A run of the tiny model that writes `out.png`.
fn run(verb: &str) -> Run {
    icd(verb)
        .path("--model", &data("sd"))
        .args("--size 64 --no-metadata -o out.png")
}

#[test]
fn pictures_of_one_prompt_are_drawn_as_each_alone() {
    let draw = |flags: &str| run("generate").args("--prompt bird").args(flags).succeeds();
    let four = draw("--seed 7 --count 4");
    for index in 1..=4 {
        let alone = draw(&format!("--seed {}", 6 + index));
        let found = four.bytes(&format!("out-{index}.png"));
        assert!(found == alone.bytes("out.png"), "picture {index}");
    }
}

/// With the bundled model, whose layers are wide enough for all ways to convolve a picture.
#[test]
fn targets_side_by_side_are_edited_as_each_alone() {
    if device() != "cpu" {
        return; // products of more rows may round otherwise there
    }
    let source = "at the left a large blue mug and at the right a small red ball";
    let targets = ["green", "grey", "pink", "teal"].map(|colour| source.replace("blue", colour));
    let edit = |targets: &[String]| {
        let run = icd("edit")
            .args("--model tabletop --size 128 --no-metadata -o out.png")
            .path("--image", &data("square.png"))
            .with("--src-prompt", source);
        let with = |run: Run, target| run.with("--tgt-prompt", target);
        targets.iter().fold(run, with).succeeds()
    };
    let all = edit(&targets);
    for (i, target) in targets.iter().enumerate() {
        let alone = edit(std::slice::from_ref(target));
        let found = all.bytes(&format!("out-{}.png", i + 1));
        assert!(found == alone.bytes("out.png"), "{target}");
    }
}

#[test]
fn many_targets_are_edited_in_groups_as_all_at_once() {
    if device() != "cpu" {
        return; // products of more rows may round otherwise there
    }
    let free = [
        "a photo of a dog",
        "a photo of a cat",
        "a lego bird",
        "dog",
        "a hat",
    ];
    let one_for_one = [
        "a photo of a dog",
        "a photo of a cat",
        "a drawing of a bird",
        "a photo of the dog",
        "the photo of a hat",
    ];
    let edit = |flags: &str| {
        let run = run("edit")
            .path("--image", &data("square.png"))
            .with("--src-prompt", "a photo of a bird")
            .args("--attention-maps maps --comparison all.png --save-latents all.safetensors")
            .args(flags);
        let targets = match flags.contains("--blend auto") {
            true => one_for_one,
            false => free,
        };
        let run = targets
            .iter()
            .fold(run, |run, target| run.with("--tgt-prompt", target));
        run.succeeds()
    };
    for flags in [
        "--blend bird:dog",
        "--blend auto --early-prompt source --tau 0.6",
        "--control none",
    ] {
        let whole = edit(&format!("{flags} --max-rows 100 --dump d.safetensors"));
        let mut groups = edit(&format!("{flags} --max-rows 3 --dump d.safetensors"));
        for file in whole.files() {
            if file != "maps" {
                assert!(groups.bytes(&file) == whole.bytes(&file), "{flags}: {file}");
            }
        }
        for sheet in ["maps/source.png", "maps/target-5.png"] {
            assert!(
                groups.bytes(sheet) == whole.bytes(sheet),
                "{flags}: {sheet}"
            );
        }
        // A group for each target.
        groups = edit(&format!("{flags} --max-rows 1 --dump d.safetensors"));
        assert!(
            groups.bytes("d.safetensors") == whole.bytes("d.safetensors"),
            "{flags}"
        );
    }
}

#[test]
fn edits_of_one_inversion_are_made_as_each_alone() {
    if device() != "cpu" {
        return; // products of more rows may round otherwise there
    }
    let targets = [
        "a photo of a dog",
        "a drawing of a lego bird on a branch",
        "a photo of a cat",
        "dog",
    ];
    let edit = |targets: &[&str]| {
        let run = run("edit")
            .path("--image", &data("square.png"))
            .with("--src-prompt", "a photo of a bird");
        let run = targets
            .iter()
            .fold(run, |run, target| run.with("--tgt-prompt", target));
        run.succeeds()
    };
    let four = edit(&targets);
    for (index, target) in targets.into_iter().enumerate() {
        let alone = edit(&[target]);
        let found = four.bytes(&format!("out-{}.png", index + 1));
        assert!(found == alone.bytes("out.png"), "{target}");
    }
}

#[test]
fn what_each_target_changes_most_is_as_it_is_alone() {
    if device() != "cpu" {
        return; // products of more rows may round otherwise there
    }
    let edit = |targets: &[&str]| {
        let run = icd("edit")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .with("--src-prompt", "a photo of a bird")
            .args("--size 64 --restore-size -o out.png --blend difference");
        let run = targets
            .iter()
            .fold(run, |run, target| run.with("--tgt-prompt", target));
        run.succeeds()
    };
    let pixels = |file: &std::path::Path| Picture::read(file).expect("a picture").pixels().to_vec();
    let targets = ["a photo of a dog", "a drawing of a lego bird on a branch"];
    let both = edit(&targets);
    for (index, target) in targets.into_iter().enumerate() {
        let found = both.path(&format!("out-{}.png", index + 1));
        let alone = edit(&[target]);
        assert_eq!(pixels(&found), pixels(&alone.path("out.png")), "{target}");
        let again = icd("edit")
            .path("--from", &found)
            .args("-o out.png")
            .succeeds();
        assert_eq!(pixels(&found), pixels(&again.path("out.png")), "{target}");
    }
}

#[test]
fn every_target_is_blended_by_its_own_words_and_repeats_alone() {
    const DOG: &str = "a photo of a dog";
    const DRAWING: &str = "a drawing of a bird";
    if device() != "cpu" {
        return; // products of more rows may round otherwise there
    }
    let edit = |targets: &[(&str, &str)], blend: &str| {
        let run = icd("edit")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .with("--src-prompt", "a photo of a bird")
            .args(&format!("--size 64 -o out.png {blend}"));
        let run = targets
            .iter()
            .fold(run, |run, (target, _)| run.with("--tgt-prompt", target));
        run.succeeds()
    };
    // The named pairs are each for one of the two.
    let targets = [
        (DOG, "--blend bird:dog"),
        (DRAWING, "--blend photo:drawing"),
    ];
    let named = targets.map(|(_, pair)| pair).join(" ");
    for blend in ["--blend auto", &named] {
        let both = edit(&targets, blend);
        for (index, (target, pair)) in targets.into_iter().enumerate() {
            let found = both.path(&format!("out-{}.png", index + 1));
            let pixels = |file: &std::path::Path| Picture::read(file).expect("a picture");
            let alone = edit(&[(target, pair)], pair);
            assert_eq!(
                pixels(&found).pixels(),
                pixels(&alone.path("out.png")).pixels(),
                "{target}"
            );
            let again = icd("edit")
                .path("--from", &found)
                .args("-o out.png")
                .succeeds();
            assert_eq!(
                pixels(&found).pixels(),
                pixels(&again.path("out.png")).pixels(),
                "{target}"
            );
        }
    }
    // What is refused alone is refused among others, before the work.
    let run = run("edit")
        .path("--image", &data("square.png"))
        .args("--blend auto");
    run.with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", DOG)
        .with("--tgt-prompt", "a photo of bird")
        .fails(2, &["--blend", "a photo of bird", "differ"]);
}
