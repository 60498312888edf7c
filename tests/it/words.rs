//! Words of prompts: where they stand, and how they are written.

use icd::{
    control::{Blend, ControlPlan, WordPair},
    model::{Model, ModelChoice},
    nn::Placement,
    prompt::Prompt,
};
use serde_json::{Value, json};

use crate::support::{Run, data, icd};

/// An edit of the bundled model that is only told.
fn plan(source: &str, target: &str) -> Run {
    icd("edit")
        .path("--model", &data("shapes"))
        .args("--size 64 --dry-run --json")
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
fn words_that_come_or_go_are_blended_alone() {
    let run = plan("a blue star", "a star on a red square");
    let facts = told(run.args("--blend auto"));
    assert_eq!(facts["blended"], "blue, red, square");
    plan("a blue star", "the blue star and")
        .with("--blend", "auto")
        .fails(2, &["--blend", "differ"]);
}

#[test]
fn what_changes_most_is_blended_without_words() {
    for (flags, blended) in [
        ("--blend difference", "what changes most"),
        ("--blend none", "none"),
        ("--blend none --blend blue:red", "blue:red"),
        ("", "none"),
    ] {
        let facts = told(plan("a blue star", "a red star").args(flags));
        assert_eq!(facts["blended"], blended, "{flags}");
    }
    for (flags, threshold) in [
        ("--blend difference", json!(0.15)),
        ("--blend auto", json!(0.3)),
        ("--blend auto --blend-threshold 0.2", json!(0.2)),
        ("--blend-threshold 0.2", json!(null)),
    ] {
        let facts = told(plan("a blue star", "a red star").args(flags));
        assert_eq!(facts["blend_threshold"], threshold, "{flags}");
    }
    plan("a blue star", "a red star")
        .args("--blend difference --blend-threshold 1")
        .fails(2, &["--blend-threshold", "below 1"]);
    plan("a blue star", "a red star")
        .args("--blend difference --blend auto")
        .fails(2, &["--blend", "difference", "alone"]);
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

#[test]
fn automatic_words_are_the_places_that_changed() {
    let model = Model::open(
        &ModelChoice::named("tests/data/shapes"),
        Placement::cpu_f32(),
    )
    .unwrap();
    let tokenizers = model.tokenizers().unwrap();
    let [source, target] = [
        "a red star and a red circle on a star",
        "a red star and a green circle on a red star",
    ]
    .map(|text| tokenizers.tokenize(text).unwrap());
    let plan = |blend| ControlPlan {
        blend: vec![blend],
        ..ControlPlan::default()
    };
    let tokens = |prompt: &Prompt, places: &[usize]| -> Vec<usize> {
        let words = places.iter().map(|&place| &prompt.words()[place]);
        words.flat_map(|word| word.tokens.clone()).collect()
    };
    // The colour that replaces "red"; the other "red" has only moved.
    let amplified = plan(Blend::Auto).amplified(&source, &target);
    let amplified: Vec<_> = amplified.iter().map(|(word, _)| &word.tokens).collect();
    assert_eq!(amplified, [&tokens(&target, &[5])]);
    let target = tokenizers
        .tokenize("a red star and a red star on a star")
        .unwrap();
    let [(from, to)] = &plan(Blend::Auto).blended(&source, &target).unwrap()[..] else {
        panic!("one word differs");
    };
    assert_eq!(from.tokens, tokens(&source, &[6]));
    assert_eq!(to.tokens, tokens(&target, &[6]));
    // A word that is named is meant wherever it stands.
    let named = plan(Blend::Pair(WordPair::new("circle", "star")));
    let (_, to) = &named.blended(&source, &target).unwrap()[0];
    assert_eq!(to.tokens, tokens(&target, &[2, 6, 9]));
}

#[test]
fn a_change_that_is_not_read_is_told() {
    let long = "grey ".repeat(40);
    let run = |source: String, target: String| {
        icd("edit")
            .path("--model", &data("shapes"))
            .args("--size 64 --dry-run")
            .path("--image", &data("square.png"))
            .with("--src-prompt", source)
            .with("--tgt-prompt", target)
            .succeeds()
            .stderr
    };
    let word = "nothing";
    assert!(run(format!("{long}star"), format!("{long}heart")).contains(word));
    assert!(run("a Star".into(), "a  star".into()).contains(word));
    assert!(!run("a star".into(), "a heart".into()).contains(word));
}
