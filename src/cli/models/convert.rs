//! `icd model convert`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use icd::{
    convert::{Conversion, Input, Output, Request},
    hub::Need,
    lora::Naming,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::{
    console::tell,
    output::WriteArgs,
    values::LoraValue,
    weights::{Manner, bring},
};

/// Writes weights anew: a PyTorch state dict as safetensors, values in another
/// type, an adapter by other names, adapters merged into a UNet.
///
/// What IN is, an adapter, a UNet or other weights, is told by its tensors.
/// They are read and written one at a time, so that the memory need hold only
/// the largest and the adapters.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConvertArgs {
    /// A .safetensors file or the index of several, a PyTorch state dict (.pt, .bin),
    /// a UNet's folder, or hub:owner/name[/file].
    #[arg(value_name = "IN")]
    input: String,
    /// A file that ends in .safetensors; for a UNet else a folder, with the config.json
    /// of IN, that diffusers loads.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// How values are stored; a value too large for f16 is an error [default: as in IN].
    #[arg(long)]
    dtype: Option<DTypeValue>,
    /// Whose names the tensors of an adapter get [default: as in IN].
    #[arg(long)]
    naming: Option<NamingValue>,
    /// An adapter to merge into a UNet and its share; repeat it for several. What it
    /// holds for text encoders is left out [default share: 1].
    #[arg(long, value_name = "FILE|HUB=SHARE")]
    adapter: Vec<LoraValue>,
    /// Alpha of adapters whose files state none [default: 8 for those that PEFT named
    /// or whose names tell a path, as the released ones; the rank for others].
    #[arg(long, value_name = "ALPHA")]
    adapter_alpha: Option<f64>,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    manner: Manner,
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
    /// As in the released adapters.
    Peft,
    /// With one alpha in the metadata, as diffusers reads it.
    Diffusers,
    /// With alpha for each layer, as most programs for pictures read it.
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
    pub(super) fn run(&self) -> Result<()> {
        bring(&|| self.needs(), self.manner)?;
        let input = Input::open(&self.input)?;
        let output = Output::of(&self.output, &input)?;
        self.check(&output)?;
        let conversion = Conversion::new(&input, &self.request())?;
        let bar = self.bar()?;
        let written = output.write(&input, &conversion, &mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        self.tell(&conversion, written?)
    }

    /// What of IN and of the adapters lies on the hub.
    fn needs(&self) -> icd::Result<Vec<Need>> {
        let adapters = self.adapter.iter().map(|LoraValue(file, _)| file);
        let needs = [&self.input]
            .into_iter()
            .chain(adapters)
            .map(|text| Input::needs(text));
        Ok(needs.collect::<icd::Result<Vec<_>>>()?.concat())
    }

    fn request(&self) -> Request {
        let adapters = self.adapter.iter();
        let adapters = adapters.map(|LoraValue(file, share)| (file.clone(), *share));
        Request {
            dtype: self.dtype.map(DType::from),
            naming: self.naming.map(Naming::from),
            adapters: adapters.collect(),
            alpha: self.adapter_alpha,
        }
    }

    /// Refuses what must not or could not be written, before the work is done.
    fn check(&self, output: &Output) -> Result<()> {
        let files = match output.path().is_dir() {
            true => output.files(),
            false => vec![output.path().into()],
        };
        self.write.check(&files)
    }

    fn bar(&self) -> Result<ProgressBar> {
        if self.manner.quiet {
            return Ok(ProgressBar::hidden());
        }
        let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, left {eta}";
        Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?))
    }

    fn tell(&self, conversion: &Conversion, bytes: u64) -> Result<()> {
        if !self.json {
            return tell(&self.output.display().to_string());
        }
        let facts = json!({
            "output": self.output,
            "tensors": conversion.tensors(),
            "bytes": bytes,
            "dtype": conversion.types().join(", "),
        });
        tell(&facts.to_string())
    }
}
