//! Weights in another form hold the same values.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors::save};
use icd::{
    io::{Checkpoint, safetensors_metadata},
    lora::{Adapter, AdapterOptions},
    model::{Adapters, Model, ModelChoice},
};
use tempfile::TempDir;

use crate::{
    golden::evaluate,
    support::{Golden, Run, agree, data, icd, plain, tensors},
};

type Weights = HashMap<String, Tensor>;

/// `icd model convert INPUT OUTPUT`.
pub(crate) fn convert(input: &Path, output: &str) -> Run {
    icd("model").path("convert", input).args(output)
}

pub(crate) fn waves(shape: &[usize], height: f32) -> Tensor {
    let wave = |i: usize| height * (i as f32 * 0.7 + 0.3).sin();
    let values = (0..shape.iter().product()).map(wave).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A folder with a file of these tensors.
pub(crate) fn file_of(tensors: &[(&str, Tensor)]) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.safetensors");
    let tensors: Weights = tensors
        .iter()
        .map(|(n, t)| ((*n).into(), t.clone()))
        .collect();
    save(&tensors, &file).unwrap();
    (folder, file)
}

/// Asserts that the same names have the same values, of the same types.
#[track_caller]
fn same(found: &Weights, expected: &Weights) {
    assert_eq!(found.len(), expected.len());
    for (name, expected) in expected {
        assert_eq!(found[name].dtype(), expected.dtype(), "{name}");
        agree(name, &found[name], expected, 1e-12);
    }
}

#[test]
fn a_pickled_state_dict_becomes_safetensors() {
    let done = convert(&data("sd/unet_part.pt"), "out.safetensors").succeeds();
    assert_eq!(done.stdout, "out.safetensors\n");
    assert_eq!(done.files(), ["out.safetensors"]);
    let mut expected = tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    let found = done.tensors("out.safetensors");
    assert!(found.len() > 10);
    expected.retain(|name, _| found.contains_key(name));
    same(&found, &expected);
}

#[test]
fn shards_become_one_file_and_the_same_input_the_same_bytes() {
    let once = convert(&data("sdxl/unet"), "out.safetensors").succeeds();
    let mut expected = Weights::new();
    for shard in ["00001-of-00002", "00002-of-00002"] {
        let name = format!("sdxl/unet/diffusion_pytorch_model-{shard}.safetensors");
        expected.extend(tensors(&data(&name)));
    }
    same(&once.tensors("out.safetensors"), &expected);
    let again = convert(&data("sdxl"), "out.safetensors").succeeds();
    assert!(once.bytes("out.safetensors") == again.bytes("out.safetensors"));
}

#[test]
fn values_are_rounded_to_the_nearest_and_whole_numbers_kept() {
    let ids = Tensor::new(&[3i64, -1, 1 << 40], &Device::Cpu).unwrap();
    let (_folder, file) = file_of(&[("w", waves(&[5, 7], 3.0)), ("ids", ids.clone())]);
    for (name, dtype, bits) in [
        ("f16", DType::F16, 11),
        ("bf16", DType::BF16, 8),
        ("f32", DType::F32, 24),
    ] {
        let run = convert(&file, "out.safetensors").with("--dtype", name);
        let done = run.args("--json").succeeds();
        let told: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(told["output"], "out.safetensors");
        assert_eq!(told["tensors"], 2);
        assert_eq!(told["dtype"], format!("{name}, i64"));
        assert_eq!(told["bytes"], done.bytes("out.safetensors").len());
        let found = done.tensors("out.safetensors");
        assert_eq!(found["w"].dtype(), dtype);
        let half_a_step = 0.5f64.powi(bits);
        for (a, b) in values(&found["w"]).iter().zip(values(&waves(&[5, 7], 3.0))) {
            assert!(
                (a - b).abs() <= half_a_step * b.abs(),
                "{name}: {a} is not {b}"
            );
        }
        assert_eq!(
            found["ids"].to_vec1::<i64>().unwrap(),
            ids.to_vec1::<i64>().unwrap()
        );
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let wide = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    wide.to_vec1().unwrap()
}

/// Asserts that two adapter files tell the same changes of a UNet; the first
/// states its alpha.
#[track_caller]
fn same_changes(file: &Path, original: &Path, unet: &Path) {
    let base = Checkpoint::open(unet).unwrap();
    let read = |file: &Path, alpha| {
        let rounding = DType::F32;
        Adapter::read(
            file,
            &base,
            AdapterOptions {
                alpha,
                weight: 1.0,
                rounding,
            },
        )
        .unwrap()
    };
    let (found, expected) = (read(file, None), read(original, Some(8.0)));
    assert_eq!(found.deltas().len(), expected.deltas().len());
    for (module, expected) in expected.deltas() {
        let found = &found.deltas()[module];
        assert_eq!(found.scale, expected.scale, "{module}");
        agree(module, &found.down, &expected.down, 1e-12);
        agree(module, &found.up, &expected.up, 1e-12);
    }
}

#[test]
fn an_adapter_goes_through_all_namings_and_comes_back() {
    for (name, unet, path) in [
        (
            "sd/forward-19-259-519-779.safetensors",
            "sd/unet/diffusion_pytorch_model.safetensors",
            "19,259,519,779,999",
        ),
        (
            "sdxl/reverse-249-499-699-999.safetensors",
            "sdxl/unet/diffusion_pytorch_model.safetensors.index.json",
            "999,699,499,249,0",
        ),
    ] {
        let (original, unet) = (data(name), data(unet));
        let mut kept = Vec::new();
        for naming in ["kohya", "diffusers", "peft"] {
            let before = kept
                .last()
                .map_or(original.clone(), |done: &crate::support::Done| {
                    done.path("x.safetensors")
                });
            let run = convert(&before, "x.safetensors").with("--naming", naming);
            let done = run.succeeds();
            let file = done.path("x.safetensors");
            same_changes(&file, &original, &unet);
            let notes = safetensors_metadata(&file.into()).unwrap();
            assert_eq!(notes["icd.path"], path, "{naming}");
            kept.push(done);
        }
        same(&kept[2].tensors("x.safetensors"), &tensors(&original));
    }
}

#[test]
fn the_names_are_those_that_other_programs_write() {
    for naming in ["diffusers", "kohya"] {
        let original = data("sd/forward-19-259-519-779.safetensors");
        let run = convert(&original, "x.safetensors").with("--naming", naming);
        let found = run.succeeds().tensors("x.safetensors");
        let theirs = data(&format!("sd/forward-19-259-519-779.{naming}.safetensors"));
        for (name, expected) in tensors(&theirs) {
            assert_eq!(found[&name].dims(), expected.dims(), "{name}");
            agree(&name, &found[&name], &expected, 1e-12);
        }
    }
}

#[test]
fn text_encoders_keep_their_place() {
    let old = "text_model.encoder.layers.1.self_attn.q_proj.lora_linear_layer";
    let one = |encoder: &str, half: &str| format!("{encoder}.{old}.{half}.weight");
    let encoders = ["text_encoder", "text_encoder_2"];
    let names = encoders.map(|encoder| [one(encoder, "down"), one(encoder, "up")]);
    let given = names.iter().flatten();
    let given: Vec<_> = given.map(|name| (&name[..], waves(&[2, 2], 1.0))).collect();
    let (_folder, file) = file_of(&given);
    let kohya = convert(&file, "x.safetensors")
        .args("--naming kohya")
        .succeeds();
    let layer = "text_model_encoder_layers_1_self_attn_q_proj";
    for encoder in ["lora_te1", "lora_te2"] {
        let alpha = &kohya.tensors("x.safetensors")[&format!("{encoder}_{layer}.alpha")];
        assert_eq!(alpha.to_scalar::<f32>().unwrap(), 2.0, "the rank");
    }
    let back = convert(&kohya.path("x.safetensors"), "y.safetensors").args("--naming peft");
    let back = back.succeeds().tensors("y.safetensors");
    let layer = "base_model.model.text_model.encoder.layers.1.self_attn.q_proj";
    for encoder in encoders {
        assert!(back.contains_key(&format!("{encoder}.{layer}.lora_B.weight")));
    }
    assert_eq!(back.len(), 4);
}

#[test]
fn one_alpha_serves_layers_that_had_several() {
    let layers = [("conv_in", 2.0), ("conv_out", 8.0)];
    let mut given = Vec::new();
    for (module, alpha) in layers {
        let alpha = Tensor::new(alpha, &Device::Cpu).unwrap();
        given.push((format!("lora_unet_{module}.alpha"), alpha));
        for factor in ["lora_down", "lora_up"] {
            given.push((
                format!("lora_unet_{module}.{factor}.weight"),
                waves(&[2, 2], 1.0),
            ));
        }
    }
    let given: Vec<_> = given.iter().map(|(n, t)| (&n[..], t.clone())).collect();
    let (_folder, file) = file_of(&given);
    let done = convert(&file, "x.safetensors")
        .args("--naming peft")
        .succeeds();
    let notes = safetensors_metadata(&done.path("x.safetensors").into()).unwrap();
    assert_eq!(notes["icd.alpha"], "8");
    let found = done.tensors("x.safetensors");
    for (module, alpha) in layers {
        let up = &found[&format!("unet.base_model.model.{module}.lora_B.weight")];
        agree(module, up, &waves(&[2, 2], alpha as f32 / 8.0), 1e-7);
    }
}

#[test]
fn a_merged_unet_is_the_live_adapters() {
    for (family, adapter) in [
        ("sd", "forward-19-259-519-779.safetensors"),
        ("sdxl", "forward-19-249-499-699.safetensors"),
    ] {
        let golden = Golden::of(family);
        let unet = golden.folder.join("unet");
        let run = convert(&unet, "merged").args("--dtype f32");
        let done = run
            .path("--adapter", &golden.folder.join(adapter))
            .succeeds();
        assert_eq!(done.stdout, "merged\n");
        let config = fs::read(done.path("merged/config.json")).unwrap();
        assert_eq!(config, fs::read(unet.join("config.json")).unwrap());
        let of = |unet: Option<&Path>| {
            let choice = ModelChoice {
                model: golden.folder.display().to_string(),
                unet: unet.map(|unet| unet.display().to_string()),
                ..ModelChoice::default()
            };
            Model::open(&choice, plain()).unwrap()
        };
        let merged = of(Some(&done.path("merged"))).unet(Adapters::None).unwrap();
        let merged = evaluate(&golden, &merged, "square");
        let live = evaluate(
            &golden,
            &of(None).unet(Adapters::Forward).unwrap(),
            "square",
        );
        agree("live", &merged, &live, 1e-5);
        agree("peft", &merged, golden.tensor("unet.forward.out"), 1e-5);
    }
}

#[test]
fn shares_and_alphas_weigh_the_adapters() {
    let named = |module: &str, half: &str| format!("unet.{module}.lora_{half}.weight");
    let (a, b) = (named("conv_out", "A"), named("conv_out", "B"));
    let (down, up) = (waves(&[2, 4, 3, 3], 0.5), waves(&[4, 2, 1, 1], 0.25));
    let (_folder, style) = file_of(&[(&a, down.clone()), (&b, up.clone())]);
    let run = |flags: &str| {
        let run = convert(&data("sd/unet"), "x.safetensors").args("--dtype f32");
        let run = run.with("--adapter", format!("{}=0.5", style.display()));
        let run = run.with("--adapter", format!("{}=-2", style.display()));
        run.args(flags).succeeds().tensors("x.safetensors")
    };
    let base = tensors(&data("sd/unet/diffusion_pytorch_model.safetensors"));
    let base = base["conv_out.weight"].to_dtype(DType::F32).unwrap();
    let delta = up
        .flatten_from(1)
        .unwrap()
        .matmul(&down.flatten_from(1).unwrap());
    let delta = delta.unwrap().reshape(base.shape()).unwrap();
    for (flags, alpha) in [("", 2.0), ("--adapter-alpha 5", 5.0)] {
        let change = (&delta * (-1.5 * alpha / 2.0)).unwrap();
        let expected = (&base + change).unwrap();
        agree("conv_out", &run(flags)["conv_out.weight"], &expected, 1e-6);
    }
}
