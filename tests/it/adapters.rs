//! Adapter files in their namings, and adapters that do not belong.

use candle_core::{DType, Device, Tensor};
use icd::{
    io::Checkpoint,
    lora::{Adapter, AdapterOptions},
};

use crate::support::{agree, data, icd};

pub(crate) const READING: AdapterOptions = AdapterOptions {
    alpha: Some(8.0),
    weight: 1.0,
    rounding: DType::F16,
};

pub(crate) fn base() -> Checkpoint {
    Checkpoint::open(data("sd/unet/diffusion_pytorch_model.safetensors")).expect("the tiny UNet")
}

#[test]
fn the_three_namings_tell_the_same_changes() {
    let base = base();
    let read = |name: &str| Adapter::read(data("sd").join(name), &base, READING).expect(name);
    let peft = read("forward-19-259-519-779.safetensors");
    assert!(peft.deltas().len() > 50, "every adapted layer is there");
    for other in [
        "forward-19-259-519-779.diffusers.safetensors",
        "forward-19-259-519-779.kohya.safetensors",
    ] {
        let other = read(other);
        // The copies leave some modules out to save space.
        assert!(!other.deltas().is_empty());
        for (module, change) in other.deltas() {
            let expected = &peft.deltas()[module];
            assert_eq!(change.scale, expected.scale, "{module}");
            agree(module, &change.down, &expected.down, 1e-12);
            agree(module, &change.up, &expected.up, 1e-12);
        }
    }
}

#[test]
fn an_adapter_of_another_family_is_refused_with_a_list() {
    let stranger = data("sdxl/forward-19-249-499-699.safetensors");
    let error = Adapter::read(stranger, &base(), READING)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("fit no layer") && error.contains("lora_A"),
        "{error}"
    );
}

/// The tiny model with another forward adapter, which must be refused.
fn refused(adapter: &[(&str, Tensor)], code: i32, says: &[&str]) {
    let file = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .expect("a file");
    let tensors: std::collections::HashMap<_, _> = adapter.iter().cloned().collect();
    candle_core::safetensors::save(&tensors, file.path()).expect("an adapter file");
    icd("invert")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .args("--prompt bird -o x.safetensors --size 64 --forward-timesteps 19,999")
        .path("--forward-adapter", file.path())
        .fails(code, says);
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros");
    let down = "unet.base_model.model.conv_in.lora_A.weight";
    let up = "unet.base_model.model.conv_in.lora_B.weight";
    refused(
        &[("unet.nowhere.lora_A.weight", zeros(&[2, 4]))],
        1,
        &["nowhere", "fit no layer"],
    );
    refused(
        &[(down, zeros(&[2, 4, 3, 3]))],
        1,
        &["conv_in", "lora_B (up) tensor is missing"],
    );
    refused(
        &[(up, zeros(&[8, 2, 1, 1]))],
        1,
        &["conv_in", "lora_A (down) tensor is missing"],
    );
    refused(
        &[(down, zeros(&[2, 5, 3, 3])), (up, zeros(&[8, 2, 1, 1]))],
        1,
        &[
            "conv_in.weight",
            "lora_A.weight [2, 5, 3, 3]",
            "another model",
        ],
    );
}

#[test]
fn an_adapter_that_tells_no_path_asks_for_one() {
    let copy = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .expect("a file");
    std::fs::copy(data("sd/forward-19-259-519-779.safetensors"), copy.path()).expect("a copy");
    let run = || {
        icd("invert")
            .path("--model", &data("sd"))
            .path("--image", &data("square.png"))
            .args("--prompt bird -o x.safetensors --size 64")
            .path("--forward-adapter", copy.path())
    };
    run().fails(2, &["--forward-timesteps", "metadata"]);
    run()
        .args("--forward-timesteps 19,259,519,779,999")
        .succeeds();
    run()
        .args("--forward-timesteps 19,519,259")
        .fails(2, &["ascending or descending order"]);
}
