//! `icd model convert`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::DType;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use icd::{
    convert::{Conversion, Input, Output, Request},
    hub::{Cache, RequiredFile},
    lora::{Naming, WeightedLora},
};
use serde_json::json;

use crate::cli::{
    args::output::WriteArgs,
    ui::{
        download::{FetchOptions, fetch_missing},
        lines::{log_line, print_result},
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
    #[arg(long, value_parser = PossibleValuesParser::new(["f32", "f16", "bf16"]).try_map(|name| name.parse::<DType>()))]
    dtype: Option<DType>,
    /// The naming of an adapter's tensors [default: as in IN].
    #[arg(long)]
    naming: Option<Naming>,
    /// A LoRA to merge into a UNet, and its weight; repeat it for several. Its layers of
    /// text encoders are ignored [default weight: 1].
    #[arg(long, value_name = "FILE|HUB[=WEIGHT]")]
    adapter: Vec<WeightedLora>,
    /// Alpha of adapters whose files state none [default: 8 for those that PEFT named
    /// or whose names hold timesteps, as the published ones; the rank for others].
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
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
  icd model convert forward-19-259-519-779.safetensors forward.safetensors \\
      --naming kohya
  icd model convert unet merged --dtype f32 \\
      --adapter forward-19-259-519-779.safetensors=0.9";

impl ConvertArgs {
    pub(crate) fn run(&self) -> Result<()> {
        fetch_missing(&|| self.required_files(), self.options)?;
        let input = Input::open(&self.input, &Cache::from_env())?;
        let output = Output::of(&self.output, &input)?;
        self.check(&output)?;
        let conversion = Conversion::new(&input, &self.request())?;
        if !self.options.quiet {
            conversion
                .remarks()
                .iter()
                .for_each(|remark| log_line(remark));
        }
        let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, left {eta}";
        let bar = self.options.bar(style);
        let written = output.write(
            &input,
            &conversion,
            self.write.existing(),
            &mut |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            },
        );
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
            dtype: self.dtype,
            naming: self.naming,
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

    fn report(&self, conversion: &Conversion, bytes: u64) -> Result<()> {
        let facts = json!({
            "output": self.output,
            "tensors": conversion.tensors(),
            "bytes": bytes,
            "dtype": conversion.types().join(", "),
        });
        print_result(self.json, &facts, self.output.display().to_string())
    }
}
