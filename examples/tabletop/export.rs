//! The finished networks as a model folder in the diffusers layout.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result};
use candle_core::DType;
use icd::{
    io::{Existing, Tensors, write_tensors},
    model::{clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
};
use serde_json::{Value, json};

use super::{Options, configs, scenes::Scenes, stage::Stage, tokenizer};

/// Writes the folder `model` of the output folder, with the UNet of a stage, which is not distilled
/// yet, and the text encoder that it learnt with.
pub(crate) fn model(options: &Options, unet: Stage) -> Result<()> {
    let scale = Scenes::open(options)?.scale;
    let tokenizer = tokenizer::make(&options.out.join("tokenizer"), options.seed)?;
    let text = match unet {
        Stage::Grounding => Stage::Grounding,
        Stage::Vae | Stage::Words | Stage::Base => Stage::Words,
    };
    let folder = options.out.join("model");
    let weights = "diffusion_pytorch_model.safetensors";
    network(
        &folder.join("vae"),
        vae_json(&configs::vae(scale)),
        weights,
        &Stage::Vae.weights(options)?.below("", DType::F32)?,
    )?;
    network(
        &folder.join("unet"),
        unet_json(&configs::unet()),
        weights,
        &unet.weights(options)?.below("unet", DType::F32)?,
    )?;
    network(
        &folder.join("text_encoder"),
        text_json(&configs::text(tokenizer.vocabulary())),
        "model.safetensors",
        &text.weights(options)?.below("text", DType::F32)?,
    )?;
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer)?;
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        fs::copy(
            options.out.join("tokenizer").join(name),
            tokenizer.join(name),
        )?;
    }
    let scheduler = json!({
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "clip_sample": false,
        "set_alpha_to_one": false, "steps_offset": 1,
    });
    settings(
        &folder.join("scheduler"),
        "scheduler_config.json",
        &scheduler,
    )?;
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    settings(&folder, "model_index.json", &index)
}

/// One network: its settings and its tensors.
fn network(folder: &Path, json: Value, weights: &str, tensors: &Tensors) -> Result<()> {
    settings(folder, "config.json", &json)?;
    let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(write_tensors(
        &folder.join(weights),
        tensors,
        notes,
        Existing::Replace,
    )?)
}

fn settings(folder: &Path, name: &str, json: &Value) -> Result<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join(name);
    fs::write(&file, format!("{json:#}\n")).with_context(|| file.display().to_string())
}

fn vae_json(config: &VaeConfig) -> Value {
    let levels = config.block_out_channels.len();
    json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3,
        "block_out_channels": config.block_out_channels, "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels, "norm_num_groups": config.norm_num_groups,
        "scaling_factor": config.scaling_factor, "mid_block_add_attention": config.mid_block_add_attention,
        "use_quant_conv": false, "use_post_quant_conv": false, "sample_size": super::world::SIDE,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
    })
}

fn unet_json(config: &UnetConfig) -> Value {
    let levels = config.levels.len();
    let channels: Vec<_> = config.levels.iter().map(|level| level.channels).collect();
    json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "sample_size": config.sample_size,
        "in_channels": config.in_channels, "out_channels": config.in_channels,
        "block_out_channels": channels, "layers_per_block": config.levels[0].blocks,
        "attention_head_dim": config.levels[0].heads, "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_num_groups, "norm_eps": config.norm_eps,
        "down_block_types": vec!["CrossAttnDownBlock2D"; levels],
        "up_block_types": vec!["CrossAttnUpBlock2D"; levels],
    })
}

fn text_json(config: &ClipConfig) -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "vocab_size": config.vocab_size, "max_position_embeddings": config.max_position_embeddings,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps, "projection_dim": config.hidden_size,
        "bos_token_id": config.vocab_size - 2, "eos_token_id": config.vocab_size - 1,
    })
}
