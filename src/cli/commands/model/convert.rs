//! `icd model convert`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use icd::{
    convert::{Conversion, Input, Output, Request},
    hub::{Cache, RequiredFile},
    lora::{Naming, WeightedLora},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::{
    args::output::WriteArgs,
    ui::{
        console::print_line,
        download::{FetchOptions, fetch_missing},
    },
};

/// Converts weights: a PyTorch state dict to safetensors, the data type, an adapter's
/// names, adapters merged into a UNet.
///
/// Whether IN is an adapter, a UNet or other weights is detected from its tensors, which
/// are converted one at a time: memory holds the largest and the adapters.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConvertArgs {
    /// A .safetensors file or the index of several, a PyTorch state dict (.pt, .bin),
    /// a UNet's folder, or hub:owner/name[/file].
    #[arg(value_name = "IN")]
    input: String,
    /// A .safetensors file; for a UNet also a folder, which gets IN's config.json and can be
    /// loaded by diffusers.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// How values are stored; a value too large for f16 is an error [default: as in IN].
    #[arg(long)]
    dtype: Option<DTypeValue>,
    /// The naming of an adapter's tensors [default: as in IN].
    #[arg(long)]
    naming: Option<NamingValue>,
    /// A LoRA to merge into a UNet, and its weight; repeat it for several. Its layers of
    /// text encoders are ignored [default weight: 1].
    #[arg(long, value_name = "FILE|HUB[=WEIGHT]")]
    adapter: Vec<WeightedLora>,
    /// Alpha of adapters whose files state none [default: 8 for those that PEFT named
    /// or whose names hold timesteps, as the published ones; the rank for others].
    #[arg(long, value_name = "ALPHA")]
    adapter_alpha: Option<f64>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    options: FetchOptions,
    /// Print a JSON object instead of the name of OUT.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd model convert teacher.pt teacher.safetensors --dtype f16
  icd model convert forward-19-259-519-779.safetensors forward.safetensors --naming kohya
  icd model convert unet merged --adapter forward-19-259-519-779.safetensors=0.9 --dtype f32";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DTypeValue {
    F32,
    F16,
    Bf16,
}

impl From<DTypeValue> for DType {
    fn from(value: DTypeValue) -> Self {
        match value {
            DTypeValue::F32 => Self::F32,
            DTypeValue::F16 => Self::F16,
            DTypeValue::Bf16 => Self::BF16,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NamingValue {
    /// PEFT's, as in the published adapters.
    Peft,
    /// diffusers', with alpha in the metadata.
    Diffusers,
    /// kohya-ss', with an alpha for each layer.
    Kohya,
}

impl From<NamingValue> for Naming {
    fn from(value: NamingValue) -> Self {
        match value {
            NamingValue::Peft => Self::Peft,
            NamingValue::Diffusers => Self::Diffusers,
            NamingValue::Kohya => Self::Kohya,
        }
    }
}

impl ConvertArgs {
    pub(crate) fn run(&self) -> Result<()> {
        fetch_missing(&|| self.required_files(), self.options)?;
        let input = Input::open(&self.input, &Cache::from_env())?;
        let output = Output::of(&self.output, &input)?;
        self.check(&output)?;
        let conversion = Conversion::new(&input, &self.request())?;
        let bar = self.bar()?;
        let written = output.write(&input, &conversion, &mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        self.report(&conversion, written?)
    }

    /// The files of IN and of the adapters that are on the hub.
    fn required_files(&self) -> icd::Result<Vec<RequiredFile>> {
        let cache = Cache::from_env();
        let adapters = self.adapter.iter().map(|lora| &lora.file);
        let required_files = [&self.input]
            .into_iter()
            .chain(adapters)
            .map(|text| Input::needs(text, &cache));
        Ok(required_files.collect::<icd::Result<Vec<_>>>()?.concat())
    }

    fn request(&self) -> Request {
        Request {
            dtype: self.dtype.map(DType::from),
            naming: self.naming.map(Naming::from),
            adapters: self.adapter.clone(),
            alpha: self.adapter_alpha,
        }
    }

    /// Fails on files that must not or cannot be written, before the work is done.
    fn check(&self, output: &Output) -> Result<()> {
        let files = match output.path().is_dir() {
            true => output.files(),
            false => vec![output.path().into()],
        };
        self.write.check(&files)
    }

    fn bar(&self) -> Result<ProgressBar> {
        if self.options.quiet {
            return Ok(ProgressBar::hidden());
        }
        let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, left {eta}";
        Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?))
    }

    fn report(&self, conversion: &Conversion, bytes: u64) -> Result<()> {
        if !self.json {
            return print_line(&self.output.display().to_string());
        }
        let facts = json!({
            "output": self.output,
            "tensors": conversion.tensors(),
            "bytes": bytes,
            "dtype": conversion.types().join(", "),
        });
        print_line(&facts.to_string())
    }
}
