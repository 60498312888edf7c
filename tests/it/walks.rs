//! Whole inversions, edits and generations of the program against the oracle,
//! on the tiny models.

use serde_json::Value;

use crate::support::{Done, Golden, Run, agree, data, icd};

/// A whole walk multiplies the rounding of single networks.
const WALK: f64 = 1e-4;

/// `0.8`, or `0.7..0.9`.
fn tau(guidance: &Value) -> String {
    match (guidance[1].as_f64(), guidance[2].as_f64()) {
        (Some(start), Some(end)) if start != end => format!("{start}..{end}"),
        _ => guidance[1].to_string(),
    }
}

fn span(value: &Value) -> String {
    match value.as_array() {
        Some(ends) => format!("{}..{}", ends[0], ends[1]),
        None => value.to_string(),
    }
}

/// The arguments of an edit as the oracle's settings describe its control.
pub(crate) fn controlled(run: Run, control: &Value) -> Run {
    if control.is_null() {
        return run.args("--control none --amplify none");
    }
    if let Some(start) = control["masactrl"].as_array() {
        let start = format!("{}:{}", start[0], start[1]);
        return run
            .args("--control masactrl")
            .with("--masactrl-start", start);
    }
    let mut run = run.with(
        "--control",
        if control["replace"] == true {
            "replace"
        } else {
            "refine"
        },
    );
    run = match control["cross"].as_object() {
        Some(words) => words
            .iter()
            .fold(run, |run, (word, bounds)| match word.as_str() {
                "default_" => run.with("--cross-replace", span(bounds)),
                word => run.with("--cross-replace", format!("{word}={}", span(bounds))),
            }),
        None => run.with("--cross-replace", span(&control["cross"])),
    };
    run = run.with("--self-replace", span(&control["self"]));
    run = blended(run, &control["blend"]);
    let eq = &control["eq"];
    if eq.is_null() {
        return run.args("--amplify none");
    }
    let words = eq["words"]
        .as_array()
        .expect("words")
        .iter()
        .zip(eq["values"].as_array().expect("values"));
    words.fold(run, |run, (word, factor)| {
        run.with(
            "--amplify",
            format!("{}={factor}", word.as_str().expect("a word")),
        )
    })
}

fn blended(run: Run, blend: &Value) -> Run {
    let words = |side: &Value| match side {
        Value::String(word) => vec![word.clone()],
        side => side
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|w| Some(w.as_str()?.to_string()))
            .collect(),
    };
    let (sources, targets) = (words(&blend[0]), words(&blend[1]));
    let pairs = sources.iter().zip(&targets);
    pairs.fold(run, |run, (source, target)| {
        run.with("--blend", format!("{source}:{target}"))
    })
}

fn edit(golden: &Golden, edit: &Value) -> Done {
    let prompts: Vec<&str> = edit["prompts"]
        .as_array()
        .expect("prompts")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let run = icd("edit")
        .path("--model", &golden.folder)
        .path("--image", &data("photo.png"))
        .args("--size 128x96 --seed 10500 --dump dump.safetensors -o out.png --json")
        .with("--src-prompt", prompts[0])
        .with("--tgt-prompt", prompts[1])
        .with("--guidance", &edit["guidance"][0])
        .with("--tau", tau(&edit["guidance"]));
    let run = controlled(run, &edit["control"]);
    let anchor = if edit["anchor"] == true { "on" } else { "off" };
    let run = run.with("--anchor", anchor);
    match edit["early"].as_str() {
        Some(prompt) => run.with("--early-prompt", prompt).succeeds(),
        None => run.with("--early-prompt", "target").succeeds(),
    }
}

#[test]
fn inversions_are_the_oracles_step_by_step() {
    for family in ["sd", "sdxl"] {
        let golden = Golden::of(family);
        let done = icd("invert")
            .path("--model", &golden.folder)
            .path("--image", &data("photo.png"))
            .with(
                "--prompt",
                golden.settings["source"]
                    .as_str()
                    .expect("the source prompt"),
            )
            .args("--size 128x96 --seed 10500 --dump dump.safetensors -o x.safetensors --json")
            .succeeds();
        let dump = done.tensors("dump.safetensors");
        agree(
            "encoded",
            &dump["encoded_latent"],
            golden.tensor("inversion.clean"),
            1e-5,
        );
        agree(
            "start",
            &dump["start_latent"],
            golden.tensor("inversion.start"),
            1e-5,
        );
        for step in 0..4 {
            let found = &dump[&format!("invert.step{step}")];
            agree(
                "step",
                found,
                golden.tensor(&format!("inversion.step{step}")),
                WALK,
            );
        }
        let latent = &done.tensors("x.safetensors")["latent"];
        agree("file", latent, golden.tensor("inversion.step3"), WALK);
        assert!(
            done.stdout.contains("\"evaluations\":[1,1,1,1]"),
            "{}",
            done.stdout
        );
    }
}

#[test]
fn edits_are_the_oracles_with_every_control() {
    for family in ["sd", "sdxl"] {
        let golden = Golden::of(family);
        let edits = golden.settings["edits"].as_array().expect("edits").clone();
        assert!(edits.len() >= 3);
        for settings in &edits {
            let name = settings["name"].as_str().expect("a name");
            let done = edit(&golden, settings);
            let dump = done.tensors("dump.safetensors");
            let expected = golden.tensor(&format!("{name}.final"));
            let rows = expected.dim(0).expect("rows");
            let last = |x: &candle_core::Tensor| x.narrow(0, 2 - rows, rows).expect("rows");
            for step in 0..4 {
                let key = format!("{name}.step{step}");
                if golden.has(&key) {
                    agree(
                        &key,
                        &last(&dump[&format!("step{step}")]),
                        golden.tensor(&key),
                        WALK,
                    );
                }
            }
            agree(name, &last(&dump["latent"]), expected, WALK);
            assert!(
                done.stdout.contains("\"evaluations\":[1,1,1,1,2,2,2,2]"),
                "{}",
                done.stdout
            );
        }
    }
}

#[test]
fn generations_are_the_oracles() {
    for family in ["sd", "sdxl"] {
        let golden = Golden::of(family);
        let done = icd("generate")
            .path("--model", &golden.folder)
            .with(
                "--prompt",
                golden.settings["generate"]["prompt"]
                    .as_str()
                    .expect("a prompt"),
            )
            .args("--seed 150 --guidance 7 --tau 1 --size 64 --save-latents x.safetensors --json")
            .succeeds();
        agree(
            "latent",
            &done.tensors("x.safetensors")["latent"],
            golden.tensor("generate.final"),
            WALK,
        );
        assert!(
            done.stdout.contains("\"evaluations\":[1,1,1,1]"),
            "{}",
            done.stdout
        );
    }
}

/// An edit of the tiny SD model with these extra arguments.
fn small(args: &str) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("photo.png"))
        .with("--src-prompt", "a photo of a bird standing on a branch")
        .args("--size 128x96 --seed 3 -o out.png")
        .args(args)
}

#[test]
fn a_start_of_masactrl_is_told_where_it_has_no_effect() {
    let told = |flags: &str| {
        let run = small(&format!("--masactrl-start 1:2 {flags}"));
        let run = run.with("--tgt-prompt", "a photo of a dog standing on a branch");
        run.succeeds()
            .stderr
            .contains("--masactrl-start 1:2 has no effect")
    };
    assert!(told("--control refine") && !told("--control masactrl"));
}

#[test]
fn equal_prompts_and_guidance_give_equal_rows() {
    let done = small("--guidance 0 --dump dump.safetensors")
        .with("--tgt-prompt", "a photo of a bird standing on a branch")
        .succeeds();
    let latent = &done.tensors("dump.safetensors")["latent"];
    let row = |i| latent.narrow(0, i, 1).expect("a row");
    agree("rows", &row(1), &row(0), 1e-5);
}

#[test]
fn several_targets_are_edited_as_each_alone() {
    let prompts = [
        "a photo of a lego bird standing on a branch",
        "a photo of a dog standing on a branch",
    ];
    let both = small("--save-latents x.safetensors")
        .with("--tgt-prompt", prompts[0])
        .with("--tgt-prompt", prompts[1])
        .succeeds();
    assert_eq!(both.stdout, "out-1.png\nout-2.png\n");
    let both_latents = &both.tensors("x.safetensors")["latent"];
    for (row, prompt) in prompts.iter().enumerate() {
        let alone = small("--save-latents x.safetensors")
            .with("--tgt-prompt", prompt)
            .succeeds();
        let found = both_latents.narrow(0, row, 1).expect("a row");
        agree(
            prompt,
            &found,
            &alone.tensors("x.safetensors")["latent"],
            1e-5,
        );
    }
}

#[test]
fn latents_are_edited_as_their_picture() {
    let target = "a photo of a lego bird standing on a branch";
    let whole = small("--no-metadata --save-latents x.safetensors")
        .with("--tgt-prompt", target)
        .succeeds();
    let inverted = icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("photo.png"))
        .with("--prompt", "a photo of a bird standing on a branch")
        .args("--size 128x96 --seed 3 -o inverted.safetensors")
        .succeeds();
    let edited = icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &inverted.path("inverted.safetensors"))
        .with("--tgt-prompt", target)
        .args("-o out.png --no-metadata --save-latents x.safetensors --json")
        .succeeds();
    assert_eq!(edited.bytes("x.safetensors"), whole.bytes("x.safetensors"));
    assert_eq!(edited.bytes("out.png"), whole.bytes("out.png"));
    assert!(
        edited.stdout.contains("\"evaluations\":[2,2,2,2]"),
        "{}",
        edited.stdout
    );
}

#[test]
fn one_seed_gives_one_result_on_any_number_of_threads() {
    let run = |threads: &str| {
        let args = format!("--dump dump.safetensors --threads {threads}");
        let run = small(&args).with("--blend", "bird:dog");
        run.with("--tgt-prompt", "a photo of a dog standing on a branch")
            .succeeds()
    };
    let first = run("2");
    for threads in ["2", "1", "3"] {
        let other = run(threads);
        for file in ["out.png", "dump.safetensors"] {
            let same = first.bytes(file) == other.bytes(file);
            assert!(same, "{file}, {threads} threads");
        }
    }
}

#[test]
fn without_a_control_only_the_target_is_evaluated() {
    let target = "a photo of a lego bird standing on a branch";
    let free = small("--control none --json")
        .with("--tgt-prompt", target)
        .succeeds();
    assert!(
        free.stdout.contains("\"evaluations\":[1,1,1,1,1,1,1,1]"),
        "{}",
        free.stdout
    );
    let held = small("--json").with("--tgt-prompt", target).succeeds();
    assert!(
        held.stdout.contains("\"evaluations\":[1,1,1,1,2,2,2,2]"),
        "{}",
        held.stdout
    );
}

#[test]
fn half_precision_weights_give_almost_the_same_picture() {
    let target = "a photo of a lego bird standing on a branch";
    let run = |flags: &str| {
        small(&format!("--save-latents x.safetensors {flags}"))
            .env("ICD_DTYPE", "auto")
            .env("ICD_SIMD", "avx2") // products in f32, whatever the weights
            .with("--tgt-prompt", target)
            .succeeds()
    };
    let exact = run("--dtype f32").tensors("x.safetensors")["latent"].clone();
    for (flags, tolerance) in [
        ("--dtype f16", 2e-2),
        ("--low-memory", 2e-2),
        ("--dtype bf16", 2e-1),
    ] {
        let done = run(flags);
        let told = done.stderr.contains("weights in f16");
        assert_eq!(told, tolerance < 0.1, "{flags}: {}", done.stderr);
        let latent = &done.tensors("x.safetensors")["latent"];
        agree(flags, latent, &exact, tolerance);
    }
}
