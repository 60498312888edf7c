//! Reads the configuration files of the diffusers layout into the configurations of our
//! networks. An unsupported value is an error that names the field.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    bounds,
    clip::ClipConfig,
    unet::{Level, UnetConfig, embedding::PooledText},
    vae::VaeConfig,
};
use crate::{
    error::{Error, Result},
    io::Source,
    picture::fit::STEP,
    schedule::NoiseSchedule,
};

/// Reads a JSON file into `T`.
pub(super) fn read_json<T: DeserializeOwned>(file: &Source) -> Result<T> {
    serde_json::from_str(&file.text()?).map_err(|error| Error::config(file, error))
}

/// The configuration of the UNet that `file` (unet/config.json) describes.
pub fn unet_config(file: &Source) -> Result<UnetConfig> {
    let json: UnetJson = read_supported(file, &UNET_FIXED)?;
    json.config().map_err(|reason| Error::config(file, reason))
}

/// The configuration of the autoencoder that `file` (vae/config.json) describes.
pub fn vae_config(file: &Source) -> Result<VaeConfig> {
    let config: VaeConfig = read_supported(file, &VAE_FIXED)?;
    match config.factor() <= STEP {
        true => Ok(config),
        false => Err(Error::config(
            file,
            format!(
                "block_out_channels has {} levels: more than 4 are not supported",
                config.block_out_channels.len()
            ),
        )),
    }
}

/// The configuration of the text encoder that `file` (text_encoder/config.json)
/// describes; `projected` is whether its pooled projection is used.
pub fn clip_config(file: &Source, projected: bool) -> Result<ClipConfig> {
    let config: ClipConfig = read_supported(file, &[])?;
    let (width, heads) = (config.hidden_size, config.num_attention_heads);
    if !width.is_multiple_of(heads) {
        let reason = "hidden_size is not a multiple of num_attention_heads";
        return Err(Error::config(file, reason));
    }
    Ok(ClipConfig {
        projection_dim: config.projection_dim.filter(|_| projected),
        ..config
    })
}

/// The noise schedule that `file` (scheduler/scheduler_config.json) describes.
pub fn schedule(file: &Source) -> Result<NoiseSchedule> {
    let json: ScheduleJson = read_supported(file, &[])?;
    let fault = |reason: &str| Err(Error::config(file, reason));
    match (
        json.beta_schedule.as_str(),
        json.prediction_type.as_str(),
        json.num_train_timesteps,
    ) {
        ("scaled_linear", "epsilon", 1000) => {
            Ok(NoiseSchedule::scaled_linear(json.beta_start, json.beta_end))
        }
        (_, "epsilon", 1000) => fault("beta_schedule must be scaled_linear"),
        (_, _, 1000) => fault("prediction_type must be epsilon"),
        _ => fault("num_train_timesteps must be 1000"),
    }
}

/// The values that the UNet supports; a file may omit them.
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

/// The values that the autoencoder supports; a file may omit them.
const VAE_FIXED: [(&str, &[&str]); 6] = [
    ("act_fn", &["\"silu\""]),
    ("in_channels", &["3"]),
    ("out_channels", &["3"]),
    ("latents_mean", &[]),
    ("latents_std", &[]),
    ("shift_factor", &["0.0", "0"]),
];

/// Reads a configuration into `T`, and rejects numbers out of bounds and fields whose value
/// is neither null nor allowed.
fn read_supported<T: DeserializeOwned>(file: &Source, fixed: &[(&str, &[&str])]) -> Result<T> {
    let raw: Value = read_json(file)?;
    bounds::check(&raw).map_err(|reason| Error::config(file, reason))?;
    for (field, allowed) in fixed {
        let value = raw.get(field).unwrap_or(&Value::Null);
        if !value.is_null() && !allowed.contains(&value.to_string().as_str()) {
            let hint = match allowed.is_empty() {
                true => "null".into(),
                false => allowed.join(" or "),
            };
            let reason = format!("{field} = {value} is not supported; it must be {hint}");
            return Err(Error::config(file, reason));
        }
    }
    serde_json::from_value(raw).map_err(|error| Error::config(file, error))
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
    /// The name is historic in diffusers: these are numbers of heads.
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
        if self.in_channels != self.out_channels {
            return Err("in_channels and out_channels differ".into());
        }
        Ok(UnetConfig {
            in_channels: self.in_channels,
            mid_transformer_layers: self.depths()?.last().copied().unwrap_or(1),
            levels: self.levels()?,
            cross_attention_dim: self.cross_attention_dim,
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            pooled: self.pooled()?,
            sample_size: self.sample_size,
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
            if (down[i] || up[i] || i + 1 == count) && !channels.is_multiple_of(heads[i]) {
                return Err(format!(
                    "{channels} channels cannot be divided into {} heads",
                    heads[i]
                ));
            }
            Ok(Level {
                channels,
                heads: heads[i],
                transformer_layers: if down[i] { depths[i] } else { 0 },
                transformer_layers_up: if up[i] { depths_up[i] } else { 0 },
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

    /// Depths of the up blocks, finest level first; the file lists them coarsest first.
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

/// Which levels have cross-attention, by the class names of their blocks.
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
