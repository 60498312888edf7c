//! Every stage of both families against diffusers and transformers, on the
//! tiny models of tests/data (made by tests/oracle/make_golden.py).

use candle_core::{DType, Device, Tensor};
use icd::{
    io::Checkpoint,
    model::{
        Adapters, Model, ModelChoice,
        attention::NoControl,
        config::{unet_config, vae_config},
        unet::{Unet, UnetConfig, UnetInput, embedding::TimeCondProj},
    },
    nn::{Backend, Placement, SharedLayers, Weights},
    noise::Noise,
    picture::{Picture, Size},
    prompt::{Refine, Replace},
    schedule::Timestep,
};
use serde_json::Value;

use crate::support::{Golden, agree, data, model, plain, tensors};

const FAMILIES: [&str; 2] = ["sd", "sdxl"];
/// Single networks agree this well in f32.
const NETWORK: f64 = 1e-5;

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn numbers(value: &Value) -> Vec<u64> {
    list(value).iter().filter_map(Value::as_u64).collect()
}

fn strings(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .filter_map(|text| Some(text.as_str()?.to_string()))
        .collect()
}

#[test]
fn tokens_are_those_of_transformers() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let tokenizers = model(&golden.folder).tokenizers().unwrap();
        for case in list(&golden.settings["tokens"]) {
            let prompt = case["prompt"].as_str().unwrap();
            let ids: Vec<u64> = tokenizers
                .tokenize(prompt)
                .unwrap()
                .ids()
                .iter()
                .map(|&id| id.into())
                .collect();
            assert_eq!(ids, numbers(&case["ids"][0]), "{family}: {prompt:?}");
        }
    }
}

#[test]
fn every_word_finds_its_tokens() {
    let golden = Golden::of("sd");
    let tokenizers = model(&golden.folder).tokenizers().unwrap();
    for case in list(&golden.settings["words"]) {
        let prompt = tokenizers
            .tokenize(case["prompt"].as_str().unwrap())
            .unwrap();
        // The oracle splits at single spaces, and so lists empty words too.
        let mut expected: Vec<_> = list(&case["tokens"]).iter().map(numbers).collect();
        expected.retain(|tokens| !tokens.is_empty());
        let plain = prompt
            .text()
            .split(' ')
            .all(|word| word.split_whitespace().count() < 2);
        let tokens =
            |range: std::ops::Range<usize>| range.map(|token| token as u64).collect::<Vec<_>>();
        let mut found: Vec<_> = prompt
            .words()
            .iter()
            .map(|word| tokens(word.tokens.clone()))
            .collect();
        found.retain(|tokens| !tokens.is_empty());
        assert!(!found.is_empty());
        assert_eq!(found.concat(), expected.concat(), "{}", prompt.text());
        assert!(
            !plain || found == expected,
            "{found:?} for {}",
            prompt.text()
        );
    }
}

/// The oracle's sparse (source, target, weight) triples as a dense matrix.
fn dense(entries: &Value, context: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; context * context];
    for entry in list(entries) {
        let at = |i: usize| entry[i].as_u64().unwrap() as usize;
        matrix[at(0) * context + at(1)] = entry[2].as_f64().unwrap() as f32;
    }
    matrix
}

#[test]
fn alignments_are_those_of_the_reference() {
    let golden = Golden::of("sd");
    let tokenizers = model(&golden.folder).tokenizers().unwrap();
    for (key, is_refine) in [("refine", true), ("replace", false)] {
        for case in list(&golden.settings[key]) {
            let prompts = strings(&case["prompts"]);
            let [source, target] = [0, 1].map(|i| tokenizers.tokenize(&prompts[i]).unwrap());
            let context = source.context();
            let found = if is_refine {
                let Refine { map, keep } = Refine::new(&source, &target);
                let mut matrix = vec![0.0; context * context];
                map.iter()
                    .zip(&keep)
                    .enumerate()
                    .for_each(|(to, (from, keep))| matrix[from * context + to] = *keep);
                matrix
            } else {
                Replace::new(&source, &target).unwrap().matrix
            };
            let expected = dense(&case["entries"], context);
            let same = found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(same, "{key} {prompts:?}");
        }
    }
}

#[test]
fn text_states_are_those_of_transformers() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let reader = model(&golden.folder).text().unwrap();
        let long = list(&golden.settings["tokens"]).pop().unwrap()["prompt"]
            .as_str()
            .unwrap()
            .to_string();
        let source = golden.settings["source"].as_str().unwrap();
        for (name, prompt) in [("source", source), ("empty", ""), ("long", &long)] {
            let states = reader.encode(&[prompt]).unwrap().states;
            agree(
                name,
                &states.hidden_states,
                golden.tensor(&format!("text.{name}")),
                NETWORK,
            );
            assert_eq!(states.pooled.is_some(), family == "sdxl");
            if let Some(pooled) = states.pooled {
                agree(
                    name,
                    &pooled,
                    golden.tensor(&format!("pooled.{name}")),
                    NETWORK,
                );
            }
        }
    }
}

#[test]
fn several_prompts_are_read_as_each_alone() {
    let golden = Golden::of("sdxl");
    let reader = model(&golden.folder).text().unwrap();
    let source = golden.settings["source"].as_str().unwrap();
    let both = reader.encode(&["", source]).unwrap().states;
    agree(
        "second row",
        &both.hidden_states.narrow(0, 1, 1).unwrap(),
        golden.tensor("text.source"),
        NETWORK,
    );
    agree(
        "pooled",
        &both.pooled.unwrap().narrow(0, 1, 1).unwrap(),
        golden.tensor("pooled.source"),
        NETWORK,
    );
}

#[test]
fn the_autoencoder_is_that_of_diffusers() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let vae = model(&golden.folder).vae().unwrap();
        let scale = vae_config(&golden.folder.join("vae/config.json").into())
            .unwrap()
            .scaling_factor;
        let picture = Picture::read(&data("square.png"))
            .unwrap()
            .to_tensor(&Device::Cpu)
            .unwrap();
        let posterior = vae.encode(&picture).unwrap();
        let scaled = |name: &str| (golden.tensor(name) * scale).unwrap();
        agree(
            "mean",
            &posterior.mean().unwrap(),
            &scaled("vae.mean"),
            NETWORK,
        );
        let noise = Noise::new(3)
            .normal(posterior.shape(), &Device::Cpu)
            .unwrap();
        agree(
            "sample",
            &posterior.sample(&noise).unwrap(),
            &scaled("vae.sample_seed3"),
            NETWORK,
        );
        let decoded = vae.decode(golden.tensor("vae.decode_in")).unwrap();
        agree(
            "decoded",
            &decoded,
            golden.tensor("vae.decode_out"),
            NETWORK,
        );
    }
}

/// Evaluates a network as the golden settings under `case` say.
pub(crate) fn evaluate(golden: &Golden, unet: &Unet, case: &str) -> Tensor {
    let settings = &golden.settings["unet"][case];
    let prompts = strings(&settings["prompts"]);
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let text = model(&golden.folder)
        .text()
        .unwrap()
        .encode(&prompts)
        .unwrap()
        .states;
    let guidance: Vec<f64> = list(&settings["w"])
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    let t = Timestep(settings["t"].as_u64().unwrap() as u16);
    let latent = golden.tensor(&format!("unet.{case}.in"));
    unet.forward(
        UnetInput {
            latent,
            times: &vec![t; guidance.len()],
            guidance: &guidance,
            text: &unet.prepare(&text).unwrap(),
        },
        &mut NoControl,
    )
    .unwrap()
}

#[test]
fn the_unet_is_that_of_diffusers_at_even_and_odd_sizes() {
    let files = [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ];
    for (family, file) in FAMILIES.into_iter().zip(files) {
        let golden = Golden::of(family);
        let folder = golden.folder.join("unet");
        let checkpoint = Checkpoint::open(folder.join(file)).unwrap();
        let storage = plain();
        let config = unet_config(&folder.join("config.json").into()).unwrap();
        let unet = Unet::new(&Weights::new(&checkpoint, &storage), config).unwrap();
        for case in ["square", "odd"] {
            let expected = golden.tensor(&format!("unet.{case}.out"));
            agree(case, &evaluate(&golden, &unet, case), expected, NETWORK);
        }
    }
}

#[test]
fn both_adapters_merge_as_in_peft() {
    for family in FAMILIES {
        let golden = Golden::of(family);
        let model = model(&golden.folder);
        both_directions(&golden, NETWORK, |adapters| model.unet(adapters));
    }
}

#[test]
fn adapters_on_shared_layers_give_what_merged_ones_do() {
    let halves = Placement {
        dtype: DType::F16,
        backend: Backend::Composed,
        ..Placement::cpu_f32()
    };
    for (placement, tolerance) in [(Placement::cpu_f32(), 1e-5), (halves, 1e-2)] {
        let golden = Golden::of("sd");
        let choice = ModelChoice::named(golden.folder.display().to_string());
        let model = Model::open(&choice, placement).unwrap();
        let layers = SharedLayers::default();
        both_directions(&golden, tolerance, |adapters| {
            model.unet_on(&layers, adapters)
        });
    }
}

/// Compares the UNets of both directions with PEFT's.
fn both_directions(golden: &Golden, tolerance: f64, unet: impl Fn(Adapters) -> icd::Result<Unet>) {
    for (adapters, what) in [
        (Adapters::Forward, "unet.forward.out"),
        (Adapters::Reverse, "unet.reverse.out"),
    ] {
        let found = evaluate(golden, &unet(adapters).unwrap(), "square");
        agree(what, &found, golden.tensor(what), tolerance);
    }
}

#[test]
fn a_pickled_state_dict_holds_the_same_tensors() {
    let pickled = Checkpoint::open(data("sd/unet_part.pt")).unwrap();
    let unet = tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    assert!(!pickled.names().is_empty());
    for name in pickled.names() {
        let found = pickled.load(&name, &Device::Cpu).unwrap();
        assert_eq!(found.dtype(), candle_core::DType::F16);
        agree(&name, &found, &unet[&name], 1e-12);
    }
}

#[test]
fn noise_is_that_of_pytorch() {
    let golden = Golden::of("sd");
    let draw = |noise: &mut Noise, shape: &[usize]| noise.normal(shape, &Device::Cpu).unwrap();
    for count in [1, 5, 15, 16, 17, 40] {
        let found = draw(&mut Noise::new(7), &[count]);
        agree(
            "seed 7",
            &found,
            golden.tensor(&format!("noise.seed7.{count}")),
            4e-7,
        );
    }
    let mut noise = Noise::new(10500);
    for name in ["noise.first", "noise.second"] {
        let expected = golden.tensor(name);
        agree(name, &draw(&mut noise, expected.dims()), expected, 4e-7);
    }
    let mut noise = Noise::new(10500);
    for name in ["noise.short_first", "noise.short_second"] {
        let expected = golden.tensor(name);
        agree(name, &draw(&mut noise, expected.dims()), expected, 4e-7);
    }
}

#[test]
fn resizing_is_that_of_pillow_to_the_bit() {
    let golden = Golden::of("sd");
    let photo = Picture::read(&data("photo.png")).unwrap();
    for (width, height) in [(20, 110), (24, 40), (40, 24)] {
        let expected = golden
            .tensor(&format!("resize.{width}x{height}"))
            .flatten_all()
            .unwrap();
        let found = photo.resized(Size::new(width, height));
        assert_eq!(
            found.pixels(),
            expected.to_vec1::<u8>().unwrap(),
            "{width}x{height}"
        );
    }
}

#[test]
fn a_network_without_guidance_embedding_runs_unguided_only() {
    let golden = Golden::of("sd");
    let mut weights = tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    weights
        .remove("time_embedding.cond_proj.weight")
        .expect("the guidance embedding");
    let file = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(&weights, file.path()).unwrap();
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    let storage = plain();
    let config = unet_config(&data("sd/unet/config.json").into()).unwrap();
    let config = UnetConfig {
        time_cond_proj: TimeCondProj::Stated(None),
        ..config
    };
    let unet = Unet::new(&Weights::new(&checkpoint, &storage), config).unwrap();
    assert!(!unet.takes_guidance());
    let text = model(&golden.folder)
        .text()
        .unwrap()
        .encode(&["a bird"])
        .unwrap()
        .states;
    let run = |w: f64| {
        let latent = golden.tensor("unet.square.in");
        let input = UnetInput {
            latent,
            times: &[Timestep(519)],
            guidance: &[w],
            text: &unet.prepare(&text).unwrap(),
        };
        unet.forward(input, &mut NoControl)
    };
    assert!(run(0.0).is_ok());
    assert!(
        run(7.0)
            .unwrap_err()
            .to_string()
            .contains("guidance-distilled")
    );
}
