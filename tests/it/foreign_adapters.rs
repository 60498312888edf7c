//! Adapters that PEFT, diffusers and LyCORIS write change a model as they do there: the
//! expected weights are theirs (tests/oracle/adapters.py).

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Tensor, safetensors::save};
use icd::{
    lora::WeightedLora,
    model::{Adapters, Model, ModelChoice},
    nn::SharedLayers,
};
use tempfile::TempDir;

use crate::{
    convert::convert,
    golden::evaluate,
    support::{Golden, agree, data, plain, tensors},
};

/// Folders and files of tests/data/adapters.
const CASES: [&str; 13] = [
    "peft",
    "peft_rslora",
    "peft_dora",
    "peft_loha",
    "peft_lokr",
    "peft_lokr_whole",
    "adapter",
    "weights.safetensors",
    "locon.safetensors",
    "dora_outputs.safetensors",
    "dora_inputs.safetensors",
    "loha.safetensors",
    "lokr.safetensors",
];

/// Those that change text encoders.
const TEXTS: [(&str, &str); 5] = [
    ("sd", "weights.safetensors"),
    ("sd", "peft_text_encoder"),
    ("sdxl", "weights.safetensors"),
    ("sdxl", "peft_text_encoder"),
    ("sdxl", "peft_text_encoder_2"),
];

fn case(family: &str, name: &str) -> PathBuf {
    data("adapters").join(family).join(name)
}

/// The weights of a network that a case changes, by name.
fn expected(family: &str, case: &str, network: &str) -> HashMap<String, Tensor> {
    let case = case.trim_end_matches(".safetensors");
    let prefix = format!("{case}/{network}.");
    let all = tensors(&self::case(family, "expected.safetensors")).into_iter();
    let own = all.filter_map(|(name, weight)| Some((name.strip_prefix(&prefix)?.into(), weight)));
    own.collect()
}

fn stored(family: &str, network: &str) -> HashMap<String, Tensor> {
    let files = std::fs::read_dir(data(family).join(network)).expect("a network");
    let files = files.map(|file| file.expect("a file").path());
    let files = files.filter(|file| file.extension().is_some_and(|e| e == "safetensors"));
    let all = files.flat_map(|file| tensors(&file));
    all.map(|(name, weight)| (name, weight.to_dtype(DType::F32).expect("floats")))
        .collect()
}

/// A file with the weights of a network and of a case.
fn merged(family: &str, case: &str, network: &str) -> (TempDir, PathBuf) {
    let mut weights = stored(family, network);
    let changed = expected(family, case, network);
    assert!(!changed.is_empty(), "{family} {case} {network}");
    weights.extend(changed);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("merged.safetensors");
    save(&weights, &file).expect("a file");
    (folder, file)
}

fn open(family: &str, set: impl FnOnce(&mut ModelChoice)) -> Model {
    let mut choice = ModelChoice::named(data(family).display().to_string());
    set(&mut choice);
    Model::open(&choice, plain()).expect("the model opens")
}

fn style(case: PathBuf) -> Vec<WeightedLora> {
    let file = case.display().to_string();
    vec![WeightedLora { file, weight: 1.0 }]
}

#[test]
fn converted_weights_are_those_that_they_merge() {
    for family in ["sd", "sdxl"] {
        let base = stored(family, "unet");
        for name in CASES {
            let done = convert(&data(family).join("unet"), "x.safetensors")
                .args("--dtype f32")
                .path("--adapter", &case(family, name))
                .succeeds();
            let changed = expected(family, name, "unet");
            assert!(!changed.is_empty(), "{family} {name}");
            for (tensor, found) in done.tensors("x.safetensors") {
                let what = format!("{family} {name} {tensor}");
                match changed.get(&tensor) {
                    Some(expected) => agree(&what, &found, expected, 1e-5),
                    None => agree(&what, &found, &base[&tensor], 1e-12),
                }
            }
        }
    }
}

/// PEFT's `set_scale`, which diffusers' `set_adapters` calls: of a DoRA inside the norm.
#[test]
fn a_weight_multiplies_the_scales_as_there() {
    const WEIGHTED: [(&str, &str); 4] = [
        ("peft_rslora", "0.5"),
        ("peft_dora", "-0.75"),
        ("peft_loha", "0.5"),
        ("peft_lokr", "-1.5"),
    ];
    for family in ["sd", "sdxl"] {
        let golden = Golden::of(family);
        for (name, weight) in WEIGHTED {
            let weighted = format!("{name}={weight}");
            let (_folder, file) = merged(family, &weighted, "unet");
            let done = convert(&data(family).join("unet"), "x.safetensors")
                .args("--dtype f32")
                .path("--adapter", &case(family, &weighted))
                .succeeds();
            for (tensor, expected) in tensors(&file) {
                let found = &done.tensors("x.safetensors")[&tensor];
                agree(
                    &format!("{family} {weighted} {tensor}"),
                    found,
                    &expected,
                    1e-5,
                );
            }
            let of = |loras, unet, adapters| {
                let model = open(family, |choice| (choice.loras, choice.unet) = (loras, unet));
                evaluate(&golden, &model.unet(adapters).unwrap(), "square")
            };
            let mut style = style(case(family, name));
            style[0].weight = weight.parse().expect("a number");
            let found = of(style, None, Adapters::ReverseWithLoras);
            let unet = Some(file.display().to_string());
            let expected = of(Vec::new(), unet, Adapters::Reverse);
            agree(&format!("{family} {weighted}"), &found, &expected, 1e-5);
        }
    }
}

#[test]
fn styles_and_both_directions_are_the_merged_weights() {
    for family in ["sd", "sdxl"] {
        let golden = Golden::of(family);
        for name in CASES {
            let (_folder, file) = merged(family, name, "unet");
            let own = case(family, name).display().to_string();
            let other = open(family, |choice| {
                choice.unet = Some(file.display().to_string());
            });
            let check = |what: &str, found: &Model, adapters, like| {
                let expected = evaluate(&golden, &other.unet(like).unwrap(), "square");
                let found = evaluate(&golden, &found.unet(adapters).unwrap(), "square");
                agree(&format!("{family} {name} {what}"), &found, &expected, 1e-5);
            };
            let model = open(family, |choice| choice.loras = style(case(family, name)));
            check(
                "style",
                &model,
                Adapters::ReverseWithLoras,
                Adapters::Reverse,
            );
            let model = open(family, |choice| {
                choice.forward_adapter = Some(own.clone());
                choice.reverse_adapter = Some(own.clone());
            });
            // The settings of the folder state an alpha, which what a file states outranks.
            check("forward", &model, Adapters::Forward, Adapters::None);
            check("reverse", &model, Adapters::Reverse, Adapters::None);
            let layers = SharedLayers::default();
            let shared = model.unet_on(&layers, Adapters::Forward).unwrap();
            let expected = evaluate(&golden, &other.unet(Adapters::None).unwrap(), "square");
            agree(
                "shared",
                &evaluate(&golden, &shared, "square"),
                &expected,
                1e-5,
            );
        }
    }
}

/// The names change, the scales of each layer stay.
#[test]
fn renamed_adapters_merge_the_same() {
    for name in [
        "peft_rslora/adapter_model.safetensors",
        "adapter/pytorch_lora_weights.safetensors",
        "weights.safetensors",
    ] {
        let case = name.split('/').next().expect("a case");
        let changed = expected("sd", case, "unet");
        for naming in ["peft", "diffusers", "kohya"] {
            let renamed = convert(&self::case("sd", name), "x.safetensors")
                .args(&format!("--naming {naming}"))
                .succeeds();
            let done = convert(&data("sd/unet"), "y.safetensors")
                .args("--dtype f32")
                .path("--adapter", &renamed.path("x.safetensors"))
                .succeeds();
            let found = done.tensors("y.safetensors");
            for (tensor, expected) in &changed {
                agree(
                    &format!("{name} {naming} {tensor}"),
                    &found[tensor],
                    expected,
                    1e-5,
                );
            }
        }
    }
}

#[test]
fn text_encoders_are_the_merged_ones() {
    for (family, name) in TEXTS {
        let folder = tempfile::tempdir().expect("a folder");
        crate::support::copy(&data(family), folder.path(), &|_| true);
        for network in ["text_encoder", "text_encoder_2"] {
            let mut weights = stored_if_there(family, network);
            weights.extend(expected(family, name, network));
            if !weights.is_empty() {
                let file = folder.path().join(network).join("model.safetensors");
                save(&weights, file).expect("weights");
            }
        }
        let states = |model: Model| {
            let text = model.text_with_loras().expect("text encoders");
            let states = text
                .encode(&["a photo of a bird", "dog"])
                .expect("prompts")
                .states;
            (states.hidden_states, states.pooled)
        };
        let found = states(open(family, |choice| {
            choice.loras = style(case(family, name));
        }));
        let merged = ModelChoice::named(folder.path().display().to_string());
        let merged = states(Model::open(&merged, plain()).expect("the model opens"));
        let before = states(open(family, |_| {}));
        agree(name, &found.0, &merged.0, 1e-5);
        let mut distance = crate::support::distance(&found.0, &before.0);
        if let (Some(found), Some(merged)) = (&found.1, &merged.1) {
            agree(name, found, merged, 1e-5);
            distance += crate::support::distance(found, &before.1.expect("pooled"));
        }
        assert!(distance > 1e-3, "{family} {name} changes nothing");
    }
}

fn stored_if_there(family: &str, network: &str) -> HashMap<String, Tensor> {
    match data(family).join(network).is_dir() {
        true => stored(family, network),
        false => HashMap::new(),
    }
}
