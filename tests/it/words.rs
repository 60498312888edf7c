//! Words of prompts: where they stand, and how they are written.

use candle_core::IndexOp;
use serde_json::Value;

use crate::support::{Run, data, icd};

/// An edit of the bundled model that is only told.
fn plan(source: &str, target: &str) -> Run {
    icd("edit")
        .args("--model shapes --size 64 --dry-run --json")
        .path("--image", &data("square.png"))
        .with("--src-prompt", source)
        .with("--tgt-prompt", target)
}

fn told(run: Run) -> Value {
    serde_json::from_str(&run.succeeds().stdout).expect("JSON")
}

#[test]
fn named_words_are_added_to_those_that_are_found() {
    let run = plan("a blue star", "a red star");
    let facts = told(run.args("--amplify auto --amplify star=2 --blend auto --blend star:star"));
    assert_eq!(facts["amplified"], "red by 4, star by 2");
    assert_eq!(facts["blended"], "blue:red, star:star");
    let run = plan("a blue star", "a red star");
    let facts = told(run.args("--amplify none --amplify auto --amplify red=3"));
    assert_eq!(facts["amplified"], "red by 4, red by 3");
}

#[test]
fn a_pair_is_divided_where_both_halves_are_words() {
    for (pair, source, target, told_as) in [
        (
            "12:30:12:45",
            "at 12:30 a star",
            "at 12:45 a star",
            "12:30:12:45",
        ),
        ("a:b:c", "a:b x", "c x", "a:b:c"),
        ("a:b:c", "a x", "b:c x", "a:b:c"),
        ("::star", ": x", "star x", "::star"),
    ] {
        let facts = told(plan(source, target).with("--blend", pair));
        assert_eq!(facts["blended"], told_as);
    }
    plan("at 12:30 a star", "at 12:45 a star")
        .with("--blend", "12:30:12:46")
        .fails(2, &["at 12:45 a star", "12:46"]);
}

#[test]
fn characters_that_are_not_seen_make_no_words() {
    for source in [
        "\u{feff}a blue star",
        "\u{feff} a blue star",
        "a\u{200b} b\u{ad}lue star",
    ] {
        let facts = told(plan(source, "a red \u{2060} star").args("--blend auto"));
        let blended = facts["blended"].as_str().unwrap();
        assert!(
            blended.ends_with("lue:red") && !blended.contains(','),
            "{blended}"
        );
        assert_eq!(facts["amplified"], "red by 4", "{source:?}");
    }
}

#[test]
fn words_are_found_in_scripts_without_blanks() {
    let facts = told(plan("一只猫坐在沙发上", "一只狗坐在沙发上").with("--amplify", "狗=2"));
    assert_eq!(facts["amplified"], "狗 by 2");
    let thai = plan("แมวบนโซฟา", "หมาบนโซฟา").with("--blend", "แมว:หมา");
    assert_eq!(told(thai)["blended"], "แมว:หมา");
    plan("stars", "stars")
        .with("--amplify", "star=2")
        .fails(2, &["has no word"]);
}

/// Cells of a latent that differ from the source's after the blend of the first step.
fn opened(source: &str, target: &str, pair: &str) -> Vec<bool> {
    let done = icd("edit")
        .args("--model shapes --size 64 --control none --dump d.safetensors")
        .path("--image", &data("square.png"))
        .with("--src-prompt", source)
        .with("--tgt-prompt", target)
        .with("--blend", pair)
        .succeeds();
    let blended = done.tensors("d.safetensors")["step0.blended"].clone();
    let change = (blended.i(1).unwrap() - blended.i(0).unwrap()).unwrap();
    let change = change.abs().unwrap().max(0).unwrap().flatten_all().unwrap();
    let change = change.to_vec1::<f32>().unwrap();
    change.into_iter().map(|change| change > 0.0).collect()
}

#[test]
fn an_automatic_blend_knows_a_word_from_its_twin() {
    let [source, target] =
        ["red", "green"].map(|colour| format!("a red star and a {colour} circle"));
    // The place that changed, which no other word is called.
    let [alone, other] =
        ["pink", "green"].map(|colour| format!("a red star and a {colour} circle"));
    let auto = opened(&source, &target, "auto");
    assert!(auto != opened(&source, &target, "red:green"));
    assert_eq!(
        opened(&alone, &other, "auto"),
        opened(&alone, &other, "pink:green")
    );
}

#[test]
fn a_change_that_is_not_read_is_told() {
    let long = "grey ".repeat(40);
    let run = |source: String, target: String| {
        icd("edit")
            .args("--model shapes --size 64 --dry-run")
            .path("--image", &data("square.png"))
            .with("--src-prompt", source)
            .with("--tgt-prompt", target)
            .succeeds()
            .stderr
    };
    let word = "nothing changes";
    assert!(run(format!("{long}star"), format!("{long}heart")).contains(word));
    assert!(run("a Star".into(), "a  star".into()).contains(word));
    assert!(!run("a star".into(), "a heart".into()).contains(word));
}
