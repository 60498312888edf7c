//! Reads the configuration files of the diffusers layout into the configurations of our
//! networks. An unsupported value is an error that names the field.

mod fields;
mod schedule;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    bounds,
    clip::ClipConfig,
    unet::{
        Level, UnetConfig,
        embedding::{PooledText, TimeCondProj},
    },
    vae::VaeConfig,
};
use crate::{
    error::{Error, Result},
    io::{KnownFile, Source},
    picture::fit::STEP,
};
use fields::Fields;

pub use schedule::schedule;

/// Reads a JSON file into `T`.
pub(super) fn read_json<T: DeserializeOwned>(file: &Source) -> Result<T> {
    parsed(file, &file.text()?)
}

/// The value of a JSON text. Of a file that is known to hold something else, that is told.
fn parsed<T: DeserializeOwned>(file: &Source, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let other = KnownFile::of(text.as_bytes());
        let other = other.filter(|_| error.is_syntax());
        Error::config(
            file,
            other.map_or_else(|| error.to_string(), KnownFile::told),
        )
    })
}

/// The configuration of the UNet that `file` (unet/config.json) describes.
pub fn unet_config(file: &Source) -> Result<UnetConfig> {
    let json: UnetJson = read(file, fields::UNET)?;
    json.config().map_err(|reason| Error::config(file, reason))
}

/// The configuration of the autoencoder that `file` (vae/config.json) describes.
pub fn vae_config(file: &Source) -> Result<VaeConfig> {
    let config: VaeConfig = read(file, fields::VAE)?;
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
    let config: ClipConfig = read(file, fields::TEXT)?;
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

/// Reads a configuration into `T`. Numbers out of bounds and values that are not computed
/// here are errors that name the field.
fn read<T: DeserializeOwned>(file: &Source, fields: &Fields) -> Result<T> {
    let fault = |reason: String| Error::config(file, reason);
    let text = file.text()?;
    let raw: Value = parsed(file, &text)?;
    bounds::check(&raw).map_err(fault)?;
    if let Value::Object(config) = &raw {
        fields::check(config, fields).map_err(fault)?;
    }
    parsed(file, &text)
}

/// The kinds of configuration files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigKind {
    Scheduler,
    Text,
    Unet,
    Vae,
}

/// Most notes of one file.
const MAX_NOTES: usize = 8;

/// A note of each field that is passed over, as diffusers and transformers do with fields
/// that they do not have.
pub(super) fn unknown_fields(file: &Source, kind: ConfigKind) -> Result<Vec<String>> {
    let fields = match kind {
        ConfigKind::Scheduler => fields::SCHEDULER,
        ConfigKind::Text => fields::TEXT,
        ConfigKind::Unet => fields::UNET,
        ConfigKind::Vae => fields::VAE,
    };
    let config = read_json(file)?;
    let file = file.name().display();
    let unknown = fields::unknown(&config, fields).into_iter().take(MAX_NOTES);
    let note = |field| format!("{file}: the field {field:?} is not known and is passed over");
    Ok(unknown.map(note).collect())
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
    time_cond_proj_dim: Option<usize>,
}

impl UnetJson {
    fn config(&self) -> Result<UnetConfig, String> {
        if self.in_channels != self.out_channels {
            return Err(format!(
                "in_channels = {} and out_channels = {}: {} is not supported; both must be \
                 the channels of the latent",
                self.in_channels,
                self.out_channels,
                with_inputs(self.in_channels)
            ));
        }
        Ok(UnetConfig {
            in_channels: self.in_channels,
            mid_transformer_layers: self.depths()?.last().copied().unwrap_or(1),
            levels: self.levels()?,
            cross_attention_dim: self.cross_attention_dim,
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            pooled: self.pooled()?,
            time_cond_proj: TimeCondProj::Stated(self.time_cond_proj_dim),
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

/// What a UNet with that many input channels is.
pub(super) fn with_inputs(channels: usize) -> &'static str {
    match channels {
        9 => "a UNet for inpainting",
        8 => "a UNet for editing by instructions (InstructPix2Pix)",
        5 => "a UNet with depth as an input",
        7 => "a UNet for upscaling",
        _ => "a UNet with other inputs than the latent",
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
