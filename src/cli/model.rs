//! The model arguments, shared by every verb that runs a network.

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum, builder::FalseyValueParser};
use icd::{
    model::{Model, ModelChoice, Variant, needs, vae::Tiling},
    nn::Storage,
    schedule::Steps,
};

use super::{
    Console,
    device::{self, device},
    set_threads,
    values::LoraValue,
    weights::{Manner, bring},
};

/// Which model, where and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// sd15, sdxl, shapes (a toy world that is part of the program), or a model in the
    /// diffusers layout: a folder, or hub:owner/name[@revision] (its icd.toml may name unet, adapters, paths and the usual guidance).
    #[arg(
        long,
        env = "ICD_MODEL",
        default_value = "sd15",
        value_name = "NAME|DIR|HUB"
    )]
    model: String,
    /// A preset's adapter pair: 4 steps for tau 0.8, 4 steps for tau 0.7, or 3.
    #[arg(long)]
    variant: Option<VariantValue>,
    /// Another UNet: a .safetensors or .pt file, a folder with config.json, or
    /// hub:owner/name[/file].
    #[arg(long, value_name = "FILE|DIR|HUB")]
    unet: Option<String>,
    /// One file in Stable Diffusion's original layout whose UNet, autoencoder and
    /// text encoders take the place of the model's; a --unet goes before its UNet.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<String>,
    /// Another adapter for the way into noise.
    #[arg(long, value_name = "FILE|HUB")]
    forward_adapter: Option<String>,
    /// Another adapter for the way back.
    #[arg(long, value_name = "FILE|HUB")]
    reverse_adapter: Option<String>,
    /// The forward adapter's timesteps, where its file does not tell them.
    #[arg(long, value_name = "19,259,519,779,999")]
    forward_path: Option<Steps>,
    /// The reverse adapter's timesteps, where its file does not tell them.
    #[arg(long, value_name = "999,779,519,259,0")]
    reverse_path: Option<Steps>,
    /// Alpha of adapters whose files state none (8 for the released ones).
    #[arg(long, value_name = "ALPHA")]
    adapter_alpha: Option<f64>,
    /// An adapter of a style and its share, stacked on the way back (not on the
    /// way into noise); repeat it for several [default share: 1].
    #[arg(long, value_name = "FILE|HUB=SHARE")]
    lora: Vec<LoraValue>,
    /// Fetch weights that are missing without a question.
    #[arg(long, env = "ICD_YES", value_parser = FalseyValueParser::new())]
    yes: bool,
    /// auto, cpu, cuda[:N] or metal[:N].
    #[arg(
        long,
        env = "ICD_DEVICE",
        hide_env_values = true,
        default_value = "auto"
    )]
    device: String,
    /// How the weights are stored; auto is f32 on a CPU and f16 elsewhere (bf16 with
    /// cuDNN).
    #[arg(
        long,
        env = "ICD_DTYPE",
        hide_env_values = true,
        default_value = "auto"
    )]
    dtype: DTypeValue,
    /// Whether the autoencoder works in strips of rows, for the same picture in less
    /// memory and more time; auto does beyond 1024x1024 pixels.
    #[arg(long, default_value = "auto")]
    vae_tiling: TilingValue,
    /// Save memory, at some cost in precision and time: f16 weights and an autoencoder
    /// in strips, unless --dtype and --vae-tiling say otherwise.
    #[arg(long)]
    low_memory: bool,
    /// CPU threads; all cores by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum VariantValue {
    #[value(name = "4a")]
    FourA,
    #[value(name = "4b")]
    FourB,
    #[value(name = "3")]
    Three,
}

impl From<VariantValue> for Variant {
    fn from(value: VariantValue) -> Self {
        match value {
            VariantValue::FourA => Self::FourA,
            VariantValue::FourB => Self::FourB,
            VariantValue::Three => Self::Three,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DTypeValue {
    Auto,
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TilingValue {
    Auto,
    On,
    Off,
}

impl ModelArgs {
    /// Opens the model on its device and says where it runs.
    pub(super) fn open(&self, console: &Console) -> Result<Model> {
        set_threads(self.threads.map(usize::from))?;
        let device = device(&self.device, &|line| console.note(line))?;
        let storage = Storage {
            dtype: self.dtype_on(&device),
            device,
        };
        console.note(&format!(
            "device: {}, weights in {:?}",
            device::name(&storage.device),
            storage.dtype
        ));
        let choice = self.choice();
        let about = || format!("model {}", self.model);
        let yes = self.yes;
        let fetched = console.aside(|quiet| bring(&|| needs(&choice), Manner { yes, quiet }));
        fetched.with_context(about)?;
        Model::open(&choice, storage).with_context(about)
    }

    fn dtype_on(&self, device: &Device) -> DType {
        match self.dtype {
            DTypeValue::Auto if device.is_cpu() && !self.low_memory => DType::F32,
            // cuDNN sums f16 in f16, but bf16 in f32.
            DTypeValue::Auto if device.is_cuda() && cfg!(feature = "cudnn") => DType::BF16,
            DTypeValue::Auto | DTypeValue::F16 => DType::F16,
            DTypeValue::F32 => DType::F32,
            DTypeValue::Bf16 => DType::BF16,
        }
    }

    fn tiling(&self) -> Tiling {
        match self.vae_tiling {
            TilingValue::Auto if !self.low_memory => Tiling::Auto,
            TilingValue::Auto | TilingValue::On => Tiling::On,
            TilingValue::Off => Tiling::Off,
        }
    }

    fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            variant: self.variant.map(Into::into),
            unet: self.unet.clone(),
            forward_adapter: self.forward_adapter.clone(),
            reverse_adapter: self.reverse_adapter.clone(),
            forward_path: self.forward_path.clone(),
            reverse_path: self.reverse_path.clone(),
            adapter_alpha: self.adapter_alpha,
            checkpoint: self.checkpoint.clone(),
            tiling: self.tiling(),
            styles: self
                .lora
                .iter()
                .map(|LoraValue(file, share)| (file.clone(), *share))
                .collect(),
        }
    }
}
