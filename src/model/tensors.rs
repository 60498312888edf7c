//! The tensors of a file that no network of this program has: those without effect, those
//! that change what is computed, and those of other models.

use super::{config::with_inputs, unet::UnetConfig};
use crate::{
    error::{Error, Result},
    io::{Checkpoint, Source, safetensors_metadata},
    layout::Network,
    nn::Taken,
};

/// Refuses a file with tensors that the network built from it did not take: they would
/// change its results, or its configuration describes another network.
pub(super) fn check_taken(file: &Checkpoint, taken: &Taken, network: Network) -> Result<()> {
    let left = taken.left_in(file);
    match left.iter().find(|name| !is_harmless(name, network)) {
        Some(name) => Err(left_over(file, name, network)),
        None => Ok(()),
    }
}

/// The error of a tensor that a network does not have.
pub(super) fn left_over(file: &Checkpoint, name: &str, network: Network) -> Error {
    let reason = match meaning(name) {
        Some(meaning) => format!("it says that {meaning}"),
        None if name.starts_with("time_embedding.cond_proj.") => {
            "it takes the guidance as an input, but the config.json says that there is none \
             (time_cond_proj_dim = null): the two do not belong together"
                .into()
        }
        None => format!(
            "the {network} that its config.json describes has no such tensor: the two do not \
             belong together"
        ),
    };
    file.tensor_fault(file.stored_name(name), &reason)
}

/// Whether a tensor changes nothing that a network computes.
pub(super) fn is_harmless(name: &str, network: Network) -> bool {
    let beginnings: &[&str] = match network {
        Network::Unet => &["model_ema."],
        // The loss of a training.
        Network::Vae => &["loss.", "model_ema."],
        // The other half of CLIP, and projections that are not used.
        Network::TextEncoder(_) => &[
            "vision_model.",
            "visual_projection.",
            "visual.",
            "text_projection",
            "logit_scale",
        ],
    };
    let ends = ["position_ids", "attn_mask"];
    ends.contains(&name.rsplit('.').next().unwrap_or(name))
        || beginnings.iter().any(|begin| name.starts_with(begin))
}

/// What a tensor says of all weights, by its name.
fn meaning(name: &str) -> Option<&'static str> {
    const QUANTISED: &str =
        "the weights are quantised, which is not supported: use the model in f16 or f32";
    match name.rsplit('.').next()? {
        "v_pred" | "edm_vpred" => Some(
            "the UNet predicts velocities (v-prediction), which is not supported: only those \
             that predict noise are",
        ),
        "sigma_max" | "sigma_min" if name.starts_with("edm_") => {
            Some("the UNet was trained with EDM's noise levels, which are not supported")
        }
        "ztsnr" => Some(
            "the noise schedule ends without signal (zero terminal SNR), which is not supported",
        ),
        "scaled_fp8" | "scale_weight" | "weight_scale" | "scale_input" | "input_scale" => {
            Some("the weights are scaled fp8, which is not supported: use the model in f16 or f32")
        }
        "comfy_quant" | "absmax" | "quant_map" | "nested_absmax" | "nested_quant_map"
        | "qweight" | "qzeros" | "wscales" | "SCB" => Some(QUANTISED),
        other if other.starts_with("bitsandbytes__") => Some(QUANTISED),
        _ => None,
    }
}

/// The model that a file holds, by the name of a tensor that no model of this program has.
fn other_model(name: &str) -> Option<&'static str> {
    if name.starts_with("cond_stage_model.model.") {
        return Some("Stable Diffusion 2 as a single file");
    }
    if name.starts_with("conditioner.embedders.0.model.") {
        return Some("the refiner of Stable Diffusion XL, or Stable Diffusion 2");
    }
    let (modules, _) = name.rsplit_once('.')?;
    modules.split('.').find_map(|module| match module {
        "joint_blocks" => Some("Stable Diffusion 3"),
        "double_blocks" | "single_transformer_blocks" => Some("Flux"),
        "adaln_single" => Some("PixArt"),
        "clip_txt_mapper" | "clip_txt_pooled_mapper" => Some("Stable Cascade"),
        "control_model" | "controlnet_cond_embedding" | "controlnet_down_blocks" => {
            Some("a ControlNet")
        }
        "temporal_transformer_blocks" | "motion_modules" => Some("a model of videos"),
        "ip_adapter" => Some("an IP-Adapter"),
        "context_refiner" => Some("Lumina"),
        _ => None,
    })
}

/// Refuses files of models that this program does not have, and those that say so.
pub(super) fn check_family(source: &Source, file: &Checkpoint) -> Result<()> {
    for name in file.names() {
        if let Some(meaning) = meaning(&name) {
            return Err(file.tensor_fault(&name, &format!("it says that {meaning}")));
        }
        if let Some(model) = other_model(&name) {
            return Err(file.tensor_fault(&name, &format!("it is of {model}, {UNSUPPORTED}")));
        }
    }
    check_prediction(source)
}

const UNSUPPORTED: &str = "which is not supported: only Stable Diffusion 1.x and XL are, and \
     models of their kind in a folder in the diffusers layout";

/// The metadata of single files names what a UNet predicts
/// (<https://github.com/Stability-AI/ModelSpec>; the second key is an older one).
fn check_prediction(source: &Source) -> Result<()> {
    let notes = safetensors_metadata(source)?;
    for key in ["modelspec.prediction_type", "modelspec.predict_key"] {
        let Some(value) = notes.get(key) else {
            continue;
        };
        if !["epsilon", "eps", ""].contains(&&value.to_lowercase()[..]) {
            let reason = format!("its metadata say {key} = {value:?}, which is not supported");
            return Err(Error::weights(
                source,
                format!("{reason}; it must be epsilon"),
            ));
        }
    }
    Ok(())
}

/// Refuses the weights of another UNet than a configuration describes, by what tells
/// families apart: the channels of the latent, and the width of the text's states.
pub(super) fn check_unet(file: &Checkpoint, config: &UnetConfig) -> Result<()> {
    let second = |name: &str| file.shape(name)?.get(1).copied();
    if let Some(inputs) = second("conv_in.weight")
        && inputs != config.in_channels
    {
        let (what, expected) = (with_inputs(inputs), config.in_channels);
        return Err(file.fault(format!(
            "it takes {inputs} channels, as {what} does, and its config.json says {expected}"
        )));
    }
    let names = file.names();
    let reads = names
        .iter()
        .find(|name| name.ends_with("attn2.to_k.weight"));
    match reads.and_then(|name| second(name)) {
        Some(width) if width != config.cross_attention_dim => Err(file.fault(format!(
            "it is a UNet for text of width {width}{}, but its config.json says {}",
            of_width(width),
            config.cross_attention_dim
        ))),
        _ => Ok(()),
    }
}

/// The model whose text has that width.
fn of_width(width: usize) -> &'static str {
    match width {
        768 => " (Stable Diffusion 1)",
        1024 => " (Stable Diffusion 2)",
        2048 => " (Stable Diffusion XL)",
        1280 => " (the refiner of Stable Diffusion XL)",
        _ => "",
    }
}
