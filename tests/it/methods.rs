//! Other ways into noise than consistency models, against the oracle (`tests/oracle/methods.py`),
//! and what their files state.

use std::{collections::HashMap, fs};

use candle_core::Tensor;
use serde_json::Value;

use crate::{
    support::{Done, Run, agree, copy, data, icd, tensors},
    walks::controlled,
};

/// Of final latents and of optimised embeddings.
const CLOSE: f64 = 1e-3;

const SOURCE: &str = "a photo of a bird standing on a branch";
const TARGET: &str = "a photo of a dog standing on a branch";

/// What the oracle gave.
struct Oracle {
    settings: Value,
    tensors: HashMap<String, Tensor>,
}

impl Oracle {
    fn new() -> Self {
        let settings = fs::read(data("sd/methods.json")).expect("methods.json");
        Self {
            settings: serde_json::from_slice(&settings).expect("JSON"),
            tensors: tensors(&data("sd/methods.safetensors")),
        }
    }

    /// The edits by a method.
    fn edits(&self, method: &str) -> Vec<Value> {
        let edits = self.settings["edits"].as_array().expect("edits").iter();
        edits
            .filter(|edit| edit["method"] == method)
            .cloned()
            .collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// A run on the tiny model and its picture.
fn on(verb: &str) -> Run {
    let run = icd(verb).path("--model", &data("sd"));
    run.path("--image", &data("photo.png")).args("--size 64")
}

fn inverted(flags: &str) -> Run {
    on("invert")
        .with("--prompt", SOURCE)
        .args("-o x.safetensors")
        .args(flags)
}

fn edited(flags: &str) -> Run {
    on("edit")
        .with("--src-prompt", SOURCE)
        .with("--tgt-prompt", TARGET)
        .args("-o out.png")
        .args(flags)
}

fn edit(settings: &Value) -> Done {
    let prompts = &settings["prompts"];
    let run = on("edit")
        .with("--src-prompt", text(&prompts[0]))
        .with("--tgt-prompt", text(&prompts[1]))
        .with("--method", text(&settings["method"]))
        .with("--steps", &settings["steps"])
        .args("--dump dump.safetensors -o out.png --json");
    let run = controlled(run, &settings["control"]);
    let run = match settings["anchor"] == true {
        true => run.args("--anchor on"),
        false => run,
    };
    match settings["negative"].as_str() {
        Some(prompt) => run.with("--negative-prompt", prompt).succeeds(),
        None => run.succeeds(),
    }
}

/// Compares the edits of a method, and how many evaluations they took.
fn compared(method: &str) {
    let oracle = Oracle::new();
    let edits = oracle.edits(method);
    assert!(edits.len() >= 2);
    for settings in &edits {
        let name = text(&settings["name"]);
        let dump = edit(settings).tensors("dump.safetensors");
        let expected = |what: &str| &oracle.tensors[&format!("{name}.{what}")];
        agree(
            "clean",
            &dump["encoded_latent"],
            &oracle.tensors["clean"],
            1e-5,
        );
        agree(name, &dump["inverted_latent"], expected("inverted"), CLOSE);
        if method == "nti" {
            let mut found: Vec<(u16, &Tensor)> = dump
                .iter()
                .filter_map(|(name, own)| {
                    let at = name.strip_prefix("null_embedding.")?;
                    Some((at.parse().ok()?, own))
                })
                .collect();
            found.sort_by_key(|(at, _)| u16::MAX - at);
            let found: Vec<_> = found.into_iter().map(|(_, own)| own).collect();
            let found = Tensor::cat(&found, 0).expect("embeddings");
            agree("embeddings", &found, expected("embeddings"), CLOSE);
        }
        agree(name, &dump["latent"], expected("final"), CLOSE);
    }
}

#[test]
fn ddim_edits_are_the_oracles() {
    compared("ddim");
}

#[test]
fn negative_prompt_inversions_are_the_oracles() {
    compared("npi");
}

#[test]
fn null_text_inversions_are_the_oracles_with_their_embeddings() {
    compared("nti");
}

/// MasaCtrl's mask variant, by consistency models and by DDIM.
#[test]
fn masked_mutual_self_attention_is_the_oracles() {
    let oracle = Oracle::new();
    for settings in oracle.settings["masked"].as_array().expect("edits") {
        let (prompts, start) = (&settings["prompts"], &settings["start"]);
        let [from, to] = [0, 1].map(|row| text(&settings["words"][row]));
        let run = on("edit")
            .with("--src-prompt", text(&prompts[0]))
            .with("--tgt-prompt", text(&prompts[1]))
            .with("--masactrl-start", format!("{}:{}", start[0], start[1]))
            .with("--masactrl-mask", format!("{from}:{to}"))
            .args("--control masactrl --dump dump.safetensors -o out.png");
        let run = match settings["steps"].as_u64() {
            Some(steps) => run.args(&format!("--method ddim --steps {steps}")),
            None => run.args("--guidance 7 --tau 0.8"),
        };
        let dump = run.succeeds().tensors("dump.safetensors");
        let name = text(&settings["name"]);
        let expected = &oracle.tensors[&format!("masked.{name}")];
        agree(name, &dump["latent"], expected, CLOSE);
    }
}

#[test]
fn masks_of_masactrl_change_the_edit_and_are_repeated() {
    let run = |flags: &str| edited(&format!("--control masactrl {flags}")).succeeds();
    let [plain, masked] = ["", "--masactrl-mask auto"].map(|flags| run(flags).bytes("out.png"));
    assert_ne!(plain, masked);
    let first = run("--masactrl-mask auto");
    let again = icd("edit").path("--from", &first.path("out.png"));
    let again = again.args("-o out.png --masactrl-mask bird:dog").succeeds();
    let named = run("--masactrl-mask bird:dog --save-latents x.safetensors");
    let other = run("--masactrl-mask auto --save-latents x.safetensors");
    assert_eq!(named.bytes("x.safetensors"), other.bytes("x.safetensors"));
    assert_eq!(again.bytes("out.png").len(), named.bytes("out.png").len());
    let told = edited("--masactrl-mask bird:dog").succeeds().stderr;
    assert!(told.contains("--masactrl-mask has no effect"), "{told}");
    edited("--control masactrl --masactrl-mask bird:cow").fails(2, &["cow"]);
}

/// The tiny model without adapters and guidance input.
fn plain_model(run: Run) -> Run {
    let run = run.folder("plain");
    let folder = run.at("plain");
    let is_wanted = |file: &std::path::Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        !name.contains("forward") && !name.contains("reverse") && name != "icd.toml"
    };
    copy(&data("sd"), &folder, &is_wanted);
    let config = folder.join("unet/config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings["time_cond_proj_dim"] = Value::Null;
    fs::write(&config, settings.to_string()).unwrap();
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let mut unet = tensors(&weights);
    unet.remove("time_embedding.cond_proj.weight");
    candle_core::safetensors::save(&unet, &weights).unwrap();
    run.args("--model plain")
}

#[test]
fn generations_by_ddim_are_the_oracles_with_any_model() {
    let oracle = Oracle::new();
    let settings = &oracle.settings["generate"];
    let run = |run: Run| {
        let run = run
            .with("--prompt", text(&settings["prompt"]))
            .with("--negative-prompt", text(&settings["negative"]))
            .with("--steps", &settings["steps"]);
        let run = run.args("--seed 150 --size 64 --save-latents x.safetensors --json");
        let done = run.succeeds();
        let told: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(told["evaluations"], Value::from(vec![1; 20]));
        done.tensors("x.safetensors")["latent"].clone()
    };
    let guided = run(icd("generate").path("--model", &data("sd")));
    agree(
        "generate",
        &guided,
        &oracle.tensors["generate.final"],
        CLOSE,
    );
    let plain = run(plain_model(icd("generate")));
    agree("plain", &plain, &oracle.tensors["plain.final"], CLOSE);
}

#[test]
fn a_plain_model_generates_without_being_told_how() {
    let run = plain_model(icd("generate"));
    let done = run.args("--prompt bird --dry-run --json").succeeds();
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(told["evaluations"].as_array().unwrap().len(), 100);
    assert_eq!(told["guidance_scale"], 7.5);
    let edit = || {
        let run = plain_model(icd("edit").path("--image", &data("photo.png")));
        let run = run
            .with("--src-prompt", SOURCE)
            .with("--tgt-prompt", TARGET);
        run.args("--size 64 -o out.png")
    };
    edit().args("--method ddim --steps 2").succeeds();
    edit().fails(2, &["--method", "adapters", "ddim"]);
}

#[test]
fn latents_are_edited_as_their_picture_without_optimising_anew() {
    let flags = "--method nti --steps 2 --guidance 5";
    let whole = edited(&format!("{flags} --no-metadata")).succeeds();
    let file = inverted(flags).succeeds();
    let edit = icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &file.path("x.safetensors"))
        .with("--tgt-prompt", TARGET)
        .args("-o out.png --no-metadata --json");
    let done = edit.succeeds();
    assert_eq!(done.bytes("out.png"), whole.bytes("out.png"));
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(told["evaluations"], Value::from(vec![2; 4]));
    let stated = [&told["method"], &told["steps"], &told["guidance"]];
    assert_eq!(stated, [&Value::from("nti"), &2.into(), &5.0.into()]);
}

#[test]
fn latents_of_another_method_are_refused_by_name() {
    let ddim = inverted("--method ddim --steps 3").succeeds();
    let edit = |file: &Done, flags: &str| {
        icd("edit")
            .path("--model", &data("sd"))
            .path("--latents", &file.path("x.safetensors"))
            .with("--tgt-prompt", TARGET)
            .args("-o out.png")
            .args(flags)
    };
    let inverted_by = "inverted by ddim in 3 steps";
    edit(&ddim, "--method icd").fails(1, &[inverted_by, "by icd"]);
    edit(&ddim, "--method nti").fails(1, &[inverted_by, "by nti in 3 steps"]);
    edit(&ddim, "--steps 4").fails(1, &[inverted_by, "by ddim in 4 steps"]);
    edit(&ddim, "--method npi").succeeds();
    let icd = inverted("").succeeds();
    edit(&icd, "--method ddim").fails(1, &["inverted by icd", "by ddim in 50 steps"]);
}

#[test]
fn settings_that_a_method_has_no_use_for_are_refused() {
    edited("--steps 20").fails(2, &["--steps", "ddim"]);
    edited("--negative-prompt house").fails(2, &["--negative-prompt", "ddim"]);
    edited("--method npi --negative-prompt house").fails(2, &["--negative-prompt", "source"]);
    edited("--method ddim --steps 0").fails(2, &["--steps", "1 to 999"]);
    edited("--method ddim --guidance -1").fails(2, &["--guidance", "7.5"]);
    edited("--method other").fails(2, &["other", "npi"]);
}

#[test]
fn inversions_of_ddim_are_cached_for_all_that_they_serve() {
    let cache = tempfile::tempdir().unwrap();
    let run = |flags: &str| {
        let run = edited(&format!("--steps 2 --no-metadata --json {flags}"));
        run.path("--cache", cache.path()).succeeds()
    };
    let count = |done: &Done| {
        let told: Value = serde_json::from_str(&done.stdout).unwrap();
        told["evaluations"].as_array().unwrap().len()
    };
    assert_eq!(count(&run("--method ddim")), 6);
    assert_eq!(count(&run("--method npi --seed 7")), 4);
    let first = run("--method nti");
    assert!(count(&first) > 6);
    let second = run("--method nti");
    assert_eq!(count(&second), 4);
    assert_eq!(first.bytes("out.png"), second.bytes("out.png"));
    assert!(count(&run("--method nti --guidance 3")) > 6);
}

#[test]
fn an_edit_is_repeated_by_its_method() {
    let flags = "--method ddim --steps 3 --anchor --blend bird:dog";
    let first = edited(flags).with("--negative-prompt", "a house");
    let first = first.succeeds();
    let again = icd("edit").path("--from", &first.path("out.png"));
    let again = again.args("-o out.png").succeeds();
    assert_eq!(again.bytes("out.png"), first.bytes("out.png"));
    // What was left to the program is chosen anew for another method.
    let other = icd("edit").path("--from", &first.path("out.png"));
    let other = other.args("--dry-run --json --method icd --steps 3");
    other.fails(2, &["--steps"]);
}

#[test]
fn jobs_of_a_batch_are_single_runs() {
    let job = |target: &str, flags: &str| {
        format!(
            r#"{{"image": "{}", "src_prompt": "{SOURCE}", "tgt_prompt": "{target}", {flags}}}"#,
            data("photo.png").display()
        )
    };
    let jobs = [
        job(TARGET, r#""method": "npi", "output": "npi.png""#),
        job(
            "a photo of a house",
            r#""method": "npi", "output": "house.png""#,
        ),
        job(TARGET, r#""method": "nti", "output": "nti.png""#),
    ];
    let done = icd("batch")
        .file("jobs.jsonl", jobs.join("\n").as_bytes())
        .args("jobs.jsonl --output-dir out --steps 2 --size 64 --no-metadata")
        .path("--model", &data("sd"))
        .succeeds();
    for method in ["npi", "nti"] {
        let flags = format!("--method {method} --steps 2 --no-metadata");
        let alone = edited(&flags).succeeds().bytes("out.png");
        assert_eq!(done.bytes(&format!("out/{method}.png")), alone, "{method}");
    }
}

#[test]
fn a_model_folder_states_its_method() {
    let run = plain_model(icd("edit").path("--image", &data("photo.png")));
    let manifest = "method = \"npi\"\nsteps = 2\nguidance = 3.0\n";
    fs::write(run.at("plain/icd.toml"), manifest).unwrap();
    let run = run
        .with("--src-prompt", SOURCE)
        .with("--tgt-prompt", TARGET);
    let done = run.args("--size 64 --dry-run --json").succeeds();
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(told["method_name"], "npi");
    assert_eq!(told["guidance_scale"], 3.0);
    assert_eq!(told["evaluations"], Value::from(vec![1, 1, 2, 2, 2, 2]));
}

#[test]
fn guidance_that_is_off_needs_one_evaluation() {
    let done = edited("--method ddim --steps 5 --tau 0.5 --control none --json").succeeds();
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    // 5 of the inversion; 801 and 601 unguided, 401, 201 and 1 guided.
    assert_eq!(told["evaluations"], Value::from(vec![1; 5 + 2 + 6]));
}

#[test]
fn reconstructions_of_null_text_inversion_are_the_guided_source_of_edits() {
    let flags = "--method nti --steps 2 --dump dump.safetensors";
    let back = inverted(&format!("{flags} --reconstruct back.png")).succeeds();
    let back = &back.tensors("dump.safetensors")["reconstruct.latent"];
    let edit = edited(&format!("{flags} --control none")).succeeds();
    let rows = &edit.tensors("dump.safetensors")["latent"];
    agree("source", &rows.narrow(0, 0, 1).unwrap(), back, 1e-5);
}

#[test]
fn evaluations_run_by_any_method_and_tell_what_a_result_took() {
    let run = |flags: &str| {
        let run = icd("eval").args("editing tabletop --out out --limit 2 --json");
        let done = run.args(flags).succeeds();
        let told: Value = serde_json::from_str(&done.stdout).unwrap();
        assert!(told["seconds_per_result"].as_f64().unwrap() > 0.0);
        told["evaluations_per_result"].as_f64().unwrap()
    };
    assert_eq!(run(""), 8.0);
    assert_eq!(run("--method ddim --steps 3"), 9.0);
    let back = icd("eval").args("inversion tabletop --out out --limit 1 --method npi --steps 3");
    // Unguided: an evaluation each way.
    let told = back.args("--json").succeeds().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["evaluations_per_result"], 6.0);
}

/// Of SDXL no prompt stands for zeros, unless its index says otherwise (diffusers'
/// `force_zeros_for_empty_prompt`).
#[test]
fn no_negative_prompt_is_what_the_index_of_the_model_says() {
    let generated = |index: Option<bool>| {
        let run = icd("generate").folder("model");
        copy(&data("sdxl"), &run.at("model"), &|_: &std::path::Path| true);
        if let Some(zeroed) = index {
            let file = run.at("model/model_index.json");
            let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            index["force_zeros_for_empty_prompt"] = zeroed.into();
            fs::write(&file, index.to_string()).unwrap();
        }
        let run = run.args("--model model --prompt bird --size 64 --steps 2");
        let done = run.args("--save-latents x.safetensors").succeeds();
        done.bytes("x.safetensors")
    };
    let zeroed = generated(None);
    assert_eq!(generated(Some(true)), zeroed);
    assert_ne!(generated(Some(false)), zeroed);
}
