//! The model arguments, shared by every command that runs a network.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use clap::{Args, ValueEnum, builder::FalseyValueParser};
use icd::{
    hub::Cache,
    io::Digests,
    kernel::Arithmetic,
    lora::WeightedLora,
    model::{Model, ModelChoice, Variant, required_files, vae::Tiling},
    nn::Placement,
    pipeline::{Pipeline, Residency},
    schedule::Timesteps,
};

use super::device::{self, DeviceArgs};
use crate::cli::{
    Console,
    ui::download::{FetchOptions, fetch_missing},
};

/// The adapters of a preset.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct VariantArgs {
    /// Adapter pair of a preset: 4a (4 steps, tau 0.8), 4b (4 steps, tau 0.7) or 3 (3 steps,
    /// tau 0.7) [default: 4a for sd15, 4b for sdxl].
    #[arg(long)]
    pub(crate) variant: Option<Variant>,
}

/// Which model, where and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// sd15, sdxl, tabletop (a small bundled model), or a model in the diffusers layout: a
    /// folder or hub:owner/name[@revision]; its icd.toml may name a UNet, adapters, their
    /// timesteps and the default guidance.
    #[arg(
        long,
        env = "ICD_MODEL",
        hide_env_values = true,
        default_value = "sd15",
        value_name = "NAME|DIR|HUB"
    )]
    model: String,
    #[command(flatten)]
    preset: VariantArgs,
    /// The UNet: a .safetensors or .pt file, a folder with config.json, or
    /// hub:owner/name[/file].
    #[arg(long, value_name = "FILE|DIR|HUB")]
    unet: Option<String>,
    /// A single-file checkpoint in Stable Diffusion's original layout: replaces the
    /// model's UNet, VAE and text encoders; --unet takes precedence over its UNet.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<String>,
    /// The forward adapter, for inversions.
    #[arg(long, value_name = "FILE|HUB")]
    forward_adapter: Option<String>,
    /// The reverse adapter, for edits and generations.
    #[arg(long, value_name = "FILE|HUB")]
    reverse_adapter: Option<String>,
    /// The forward adapter's timesteps, where its file does not state them.
    #[arg(long, alias = "forward-path", value_name = "19,259,519,779,999")]
    forward_timesteps: Option<Timesteps>,
    /// The reverse adapter's timesteps, where its file does not state them.
    #[arg(long, alias = "reverse-path", value_name = "999,779,519,259,0")]
    reverse_timesteps: Option<Timesteps>,
    /// LoRA alpha of adapters and style LoRAs whose files do not state it [default: as the
    /// model's icd.toml says, else 8 for those that PEFT named or that state timesteps, as the
    /// published ones; the rank for others].
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    adapter_alpha: Option<f64>,
    /// A style LoRA and its weight, applied to editing and generation but not to
    /// inversion; repeat it for several [default weight: 1].
    #[arg(long, value_name = "FILE|HUB[=WEIGHT]")]
    lora: Vec<WeightedLora>,
    /// Download missing weights without asking.
    #[arg(long, short, env = "ICD_YES", hide_env_values = true, value_parser = FalseyValueParser::new())]
    yes: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// How the weights are stored, and with bf16 on a CPU also how operands of products are
    /// rounded where the processor multiplies bf16 faster; auto is bf16 on such a CPU, f32 on
    /// others, and f16 elsewhere (bf16 with cuDNN).
    #[arg(
        long,
        env = "ICD_DTYPE",
        hide_env_values = true,
        default_value = "auto"
    )]
    dtype: DTypeValue,
    /// Whether the VAE works in strips of rows: the same picture in less memory and more
    /// time; auto does so above 1024x1024 pixels.
    #[arg(long, default_value = "auto")]
    vae_tiling: Tiling,
    /// Use less memory, at some cost in precision and time: weights in half precision and the
    /// VAE in strips, unless --dtype and --vae-tiling say otherwise.
    #[arg(long)]
    low_memory: bool,
    /// Which networks stay in memory.
    #[arg(long, default_value = "one")]
    residency: Residency,
}

/// The hashes of large local files, remembered in the user's cache.
pub(crate) fn digests() -> Digests {
    let cache = dirs::cache_dir();
    cache.map_or(Digests::default(), |cache| {
        Digests::remembered_in(cache.join("icd/digests.json"))
    })
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DTypeValue {
    Auto,
    F32,
    F16,
    Bf16,
}

impl ModelArgs {
    /// Opens the model on its device, downloads missing files, and reports both.
    pub(crate) fn open(&self, console: &Console) -> Result<Pipeline> {
        self.open_on(self.open_device(console)?, console)
    }

    /// Starts the CPU threads and opens the device, once in a process.
    pub(crate) fn open_device(&self, console: &Console) -> Result<Device> {
        self.device.open(&|line| console.note(line))
    }

    /// Starts the CPU threads and opens the devices, once in a process.
    pub(crate) fn open_devices(&self, console: &Console) -> Result<Vec<Device>> {
        self.device.open_all(&|line| console.note(line))
    }

    /// Opens the model on a device, downloads missing files, and reports both.
    pub(crate) fn open_on(&self, device: Device, console: &Console) -> Result<Pipeline> {
        let placement = Placement::new(self.dtype_on(&device), device);
        console.note(&self.placed(&placement));
        let choice = self.choice();
        let yes = self.yes;
        let missing = || required_files(&choice);
        console.suspended(|quiet| fetch_missing(&missing, FetchOptions { yes, quiet }))?;
        let model = Model::open(&choice, placement)?;
        for note in model.notes()?.into_iter().chain(model.notes_of_adapters()?) {
            console.note(&format!("note: {note}"));
        }
        Ok(Pipeline::new(model, self.residency))
    }

    /// Whether missing weights are downloaded without asking.
    pub(crate) fn yes(&self) -> bool {
        self.yes
    }

    /// The files and folders on the disk that the model is read from.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        let one = [
            Some(&self.model),
            self.unet.as_ref(),
            self.checkpoint.as_ref(),
            self.forward_adapter.as_ref(),
            self.reverse_adapter.as_ref(),
        ];
        let loras = self.lora.iter().map(|lora| &lora.file);
        let named = one.into_iter().flatten().chain(loras);
        named.map(PathBuf::from).collect()
    }

    /// One line on where and how networks are computed.
    fn placed(&self, placement: &Placement) -> String {
        let (device, stored) = (device::name(&placement.device), placement.dtype.as_str());
        let exact = match self.dtype {
            DTypeValue::Auto => "; --dtype f32 is exact",
            _ => "",
        };
        match placement.arithmetic() {
            Arithmetic::F32 => format!("device: {device}, weights in {stored}"),
            rounded @ Arithmetic::Bf16(_) => format!(
                "device: {device}, weights in {stored}, products in {}{exact}",
                rounded.name()
            ),
        }
    }

    fn dtype_on(&self, device: &Device) -> DType {
        match self.dtype {
            DTypeValue::Auto if device.is_cpu() && Arithmetic::prefers_bf16() => DType::BF16,
            DTypeValue::Auto if device.is_cpu() && !self.low_memory => DType::F32,
            // cuDNN accumulates f16 in f16, but bf16 in f32.
            DTypeValue::Auto if device.is_cuda() && cfg!(feature = "cudnn") => DType::BF16,
            DTypeValue::Auto | DTypeValue::F16 => DType::F16,
            DTypeValue::F32 => DType::F32,
            DTypeValue::Bf16 => DType::BF16,
        }
    }

    fn tiling(&self) -> Tiling {
        match self.vae_tiling {
            Tiling::Auto if self.low_memory => Tiling::On,
            given => given,
        }
    }

    fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            variant: self.preset.variant,
            unet: self.unet.clone(),
            forward_adapter: self.forward_adapter.clone(),
            reverse_adapter: self.reverse_adapter.clone(),
            forward_timesteps: self.forward_timesteps.clone(),
            reverse_timesteps: self.reverse_timesteps.clone(),
            adapter_alpha: self.adapter_alpha,
            checkpoint: self.checkpoint.clone(),
            tiling: self.tiling(),
            cache: Some(Cache::from_env()),
            digests: digests(),
            loras: self.lora.clone(),
        }
    }
}
