//! Several pictures of one run are those of single runs, byte for byte.

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
