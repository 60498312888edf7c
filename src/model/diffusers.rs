//! The configuration files of the diffusers layout, read into the measures of
//! our networks. What a network cannot do is an error that names the field.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    clip::{Activation, ClipConfig},
    embedding::PooledText,
    unet::{Level, UnetConfig},
    vae::VaeConfig,
};
use crate::{
    error::{Error, Result},
    schedule::Schedule,
    source::Source,
};

/// Reads a JSON file into `T`.
pub(super) fn read_json<T: DeserializeOwned>(file: &Source) -> Result<T> {
    serde_json::from_str(&file.text()?).map_err(|error| Error::config(file, error))
}

/// The measures of the UNet that `file` (unet/config.json) describes.
pub fn unet_config(file: &Source) -> Result<UnetConfig> {
    let json: UnetJson = read_json(file)?;
    let raw: Value = read_json(file)?;
    refuse_unsupported(file, &raw, &UNET_FIXED)?;
    json.config().map_err(|reason| Error::config(file, reason))
}

/// The measures of the autoencoder that `file` (vae/config.json) describes.
pub fn vae_config(file: &Source) -> Result<VaeConfig> {
    let json: VaeJson = read_json(file)?;
    let raw: Value = read_json(file)?;
    refuse_unsupported(file, &raw, &VAE_FIXED)?;
    let config = VaeConfig {
        blocks: json.layers_per_block,
        latent_channels: json.latent_channels,
        groups: json.norm_num_groups,
        scale: json.scaling_factor,
        middle_attention: json.mid_block_add_attention,
        channels: json.block_out_channels,
    };
    match config.channels.is_empty() || config.groups == 0 || config.scale <= 0.0 {
        true => Err(Error::config(file, "its sizes must all be greater than 0")),
        false => Ok(config),
    }
}

/// The measures of the text encoder that `file` (text_encoder/config.json)
/// describes; `projected` tells whether its pooled projection is used.
pub fn clip_config(file: &Source, projected: bool) -> Result<ClipConfig> {
    let json: ClipJson = read_json(file)?;
    let activation = match json.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => {
            return Err(Error::config(
                file,
                format!("hidden_act {other:?}: only quick_gelu and gelu"),
            ));
        }
    };
    if json.num_attention_heads == 0 || !json.hidden_size.is_multiple_of(json.num_attention_heads) {
        return Err(Error::config(
            file,
            "hidden_size is no multiple of num_attention_heads",
        ));
    }
    Ok(ClipConfig {
        vocabulary: json.vocab_size,
        context: json.max_position_embeddings,
        width: json.hidden_size,
        inner: json.intermediate_size,
        layers: json.num_hidden_layers,
        heads: json.num_attention_heads,
        activation,
        eps: json.layer_norm_eps,
        projection: projected.then_some(json.projection_dim),
    })
}

/// The noise schedule that `file` (scheduler/scheduler_config.json) describes.
pub fn schedule(file: &Source) -> Result<Schedule> {
    let json: ScheduleJson = read_json(file)?;
    let fault = |reason: &str| Err(Error::config(file, reason));
    match (
        json.beta_schedule.as_str(),
        json.prediction_type.as_str(),
        json.num_train_timesteps,
    ) {
        ("scaled_linear", "epsilon", 1000) => {
            Ok(Schedule::scaled_linear(json.beta_start, json.beta_end))
        }
        (_, "epsilon", 1000) => fault("beta_schedule must be scaled_linear"),
        (_, _, 1000) => fault("prediction_type must be epsilon"),
        _ => fault("num_train_timesteps must be 1000"),
    }
}

/// Values that the UNet takes for granted; a file may leave them out.
const UNET_FIXED: [(&str, &[&str]); 17] = [
    ("act_fn", &["\"silu\""]),
    ("addition_embed_type", &["\"text_time\""]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &[]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("downsample_padding", &["1"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &[]),
    ("flip_sin_to_cos", &["true"]),
    ("freq_shift", &["0"]),
    ("mid_block_type", &["\"UNetMidBlock2DCrossAttn\""]),
    ("num_class_embeds", &[]),
    ("only_cross_attention", &["false"]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("time_embedding_dim", &[]),
    ("time_embedding_type", &["\"positional\""]),
];

/// Values that the autoencoder takes for granted.
const VAE_FIXED: [(&str, &[&str]); 6] = [
    ("act_fn", &["\"silu\""]),
    ("in_channels", &["3"]),
    ("out_channels", &["3"]),
    ("latents_mean", &[]),
    ("latents_std", &[]),
    ("shift_factor", &["0.0", "0"]),
];

/// Refuses a field with any value but null and the allowed ones.
fn refuse_unsupported(file: &Source, raw: &Value, fixed: &[(&str, &[&str])]) -> Result<()> {
    for (field, allowed) in fixed {
        let value = raw.get(field).unwrap_or(&Value::Null);
        if !value.is_null() && !allowed.contains(&value.to_string().as_str()) {
            let hint = if allowed.is_empty() {
                "null".into()
            } else {
                allowed.join(" or ")
            };
            let reason = format!("{field} = {value} is not supported; it must be {hint}");
            return Err(Error::config(file, reason));
        }
    }
    Ok(())
}

/// One value for all levels, or one per level.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum PerLevel {
    One(usize),
    Each(Vec<usize>),
}

impl PerLevel {
    fn values(&self, levels: usize, field: &str) -> Result<Vec<usize>, String> {
        match self {
            Self::One(value) => Ok(vec![*value; levels]),
            Self::Each(values) if values.len() == levels => Ok(values.clone()),
            Self::Each(values) => Err(format!(
                "{field} has {} values for {levels} levels",
                values.len()
            )),
        }
    }
}

#[derive(Deserialize)]
struct UnetJson {
    in_channels: usize,
    out_channels: usize,
    sample_size: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    layers_per_block: PerLevel,
    /// diffusers' historic name: these are numbers of heads.
    attention_head_dim: PerLevel,
    num_attention_heads: Option<PerLevel>,
    transformer_layers_per_block: Option<PerLevel>,
    reverse_transformer_layers_per_block: Option<PerLevel>,
    cross_attention_dim: usize,
    norm_num_groups: usize,
    norm_eps: Option<f64>,
    addition_embed_type: Option<String>,
    addition_time_embed_dim: Option<usize>,
    projection_class_embeddings_input_dim: Option<usize>,
}

impl UnetJson {
    fn config(&self) -> Result<UnetConfig, String> {
        let levels = self.levels()?;
        let groups = self.norm_num_groups;
        if self.in_channels != self.out_channels {
            return Err("in_channels and out_channels differ".into());
        }
        if groups == 0
            || levels
                .iter()
                .any(|level| level.channels == 0 || level.blocks == 0)
        {
            return Err("its sizes must all be greater than 0".into());
        }
        Ok(UnetConfig {
            latent_channels: self.in_channels,
            middle_depth: self.depths()?.last().copied().unwrap_or(1),
            levels,
            text_width: self.cross_attention_dim,
            groups,
            eps: self.norm_eps.unwrap_or(1e-5),
            pooled: self.pooled()?,
            side: self.sample_size,
        })
    }

    fn levels(&self) -> Result<Vec<Level>, String> {
        let count = self.block_out_channels.len();
        let heads = self
            .num_attention_heads
            .as_ref()
            .unwrap_or(&self.attention_head_dim);
        let heads = heads.values(count, "attention_head_dim")?;
        let blocks = self.layers_per_block.values(count, "layers_per_block")?;
        let down = attends("down_block_types", &self.down_block_types, count, "Down")?;
        let mut up = attends("up_block_types", &self.up_block_types, count, "Up")?;
        up.reverse();
        let (depths, depths_up) = (self.depths()?, self.depths_up()?);
        let level = |i: usize| {
            let channels = self.block_out_channels[i];
            if (down[i] || up[i] || i + 1 == count)
                && (heads[i] == 0 || !channels.is_multiple_of(heads[i]))
            {
                return Err(format!(
                    "{channels} channels do not fall into {} heads",
                    heads[i]
                ));
            }
            Ok(Level {
                channels,
                heads: heads[i],
                depth: if down[i] { depths[i] } else { 0 },
                depth_up: if up[i] { depths_up[i] } else { 0 },
                blocks: blocks[i],
            })
        };
        match count {
            0 => Err("block_out_channels is empty".into()),
            _ => (0..count).map(level).collect(),
        }
    }

    fn depths(&self) -> Result<Vec<usize>, String> {
        let depths = self
            .transformer_layers_per_block
            .as_ref()
            .unwrap_or(&PerLevel::One(1));
        depths.values(
            self.block_out_channels.len(),
            "transformer_layers_per_block",
        )
    }

    /// Depths on the way up, finest level first; the file lists them coarsest first.
    fn depths_up(&self) -> Result<Vec<usize>, String> {
        let Some(depths) = &self.reverse_transformer_layers_per_block else {
            return self.depths();
        };
        let count = self.block_out_channels.len();
        let mut depths = depths.values(count, "reverse_transformer_layers_per_block")?;
        depths.reverse();
        Ok(depths)
    }

    fn pooled(&self) -> Result<Option<PooledText>, String> {
        if self.addition_embed_type.is_none() {
            return Ok(None);
        }
        let size_width = self
            .addition_time_embed_dim
            .ok_or("addition_time_embed_dim is missing")?;
        let inputs = self
            .projection_class_embeddings_input_dim
            .ok_or("projection_class_embeddings_input_dim is missing")?;
        let width = inputs.checked_sub(6 * size_width);
        let width =
            width.ok_or("projection_class_embeddings_input_dim is too small for six sizes")?;
        Ok(Some(PooledText { width, size_width }))
    }
}

/// Which levels attend, by the class names of their blocks.
fn attends(field: &str, types: &[String], levels: usize, way: &str) -> Result<Vec<bool>, String> {
    if types.len() != levels {
        return Err(format!(
            "{field} has {} values for {levels} levels",
            types.len()
        ));
    }
    let kind = |name: &String| match name {
        name if *name == format!("CrossAttn{way}Block2D") => Ok(true),
        name if *name == format!("{way}Block2D") => Ok(false),
        name => Err(format!("{field}: {name} is not supported")),
    };
    types.iter().map(kind).collect()
}

#[derive(Deserialize)]
struct VaeJson {
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    norm_num_groups: usize,
    /// Early files leave it out: SD1.5's.
    #[serde(default = "sd15_scale")]
    scaling_factor: f64,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
}

fn sd15_scale() -> f64 {
    VaeConfig::sd15().scale
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct ClipJson {
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    #[serde(default = "clip_eps")]
    layer_norm_eps: f64,
    #[serde(default = "clip_projection")]
    projection_dim: usize,
}

fn clip_eps() -> f64 {
    1e-5
}

fn clip_projection() -> usize {
    512
}

#[derive(Deserialize)]
struct ScheduleJson {
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: usize,
    #[serde(default = "epsilon")]
    prediction_type: String,
}

fn epsilon() -> String {
    "epsilon".into()
}
