//! `icd metrics`.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::{Args, builder::FalseyValueParser};
use icd::{
    Error,
    metrics::{Mask, Measure, Metric, Pair},
    picture::{Picture, bytes_of},
};
use serde_json::{Map, Value, json};

use crate::cli::{
    Console, ReportArgs,
    args::{device::DeviceArgs, measure::MeasureArgs},
    ui::lines::print_line,
};

/// Compares two pictures: how much of A is preserved in B, and how well B shows a prompt.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MetricsArgs {
    /// The picture before.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The picture after.
    #[arg(value_name = "B")]
    after: PathBuf,
    /// A mask of their size, white where B may differ: psnr, ssim, mse and lpips are of the rest,
    /// with the white black in both pictures, and clip is told of the white alone, too.
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// What B should show, for clip.
    #[arg(long, allow_hyphen_values = true)]
    prompt: Option<String>,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Download missing weights without asking.
    #[arg(long, short, env = "ICD_YES", hide_env_values = true, value_parser = FalseyValueParser::new())]
    yes: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    report: ReportArgs,
}

const EXAMPLES: &str = "\
Examples:
  icd metrics in.png bird.edited.png
  icd metrics in.png bird.edited.png --mask mask.png --json
  icd metrics in.png bird.edited.png --prompt \"a lego bird\" --metric psnr,clip \\
      --weights clip=clip-vit-large-patch14";

impl MetricsArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let console = Console::new(self.report, false);
        let metrics = self.measure.metrics();
        let reason = "clip compares B with a text: pass --prompt";
        let is_told = self.prompt.is_some() || !metrics.contains(&Metric::Clip);
        ensure!(is_told, Error::setting(reason));
        let source = read(&self.before)?;
        let (bytes, after) = (bytes(&self.after)?, read(&self.after)?);
        let mask = self.mask.as_deref().map(read_mask).transpose()?;
        let device = self.device.open(&|line| console.note(line))?;
        let loaded = self.measure.load(&metrics, (&device, self.yes), &console)?;
        let result = self.measure.protocol.as_saved(after, &bytes);
        let pair = Pair {
            source: &source,
            result: &result,
            mask: mask.as_ref(),
            source_prompt: None,
            target_prompt: self.prompt.as_deref(),
        };
        let measured = loaded.suite.measured(&pair)?;
        console.clear();
        match self.report.json {
            true => print_line(&self.object(&measured).to_string()),
            false => measured
                .iter()
                .try_for_each(|(measure, value)| print_line(&line(*measure, *value))),
        }
    }

    /// All as an object; what is infinite or has no region is null.
    fn object(&self, measured: &[(Measure, f64)]) -> Value {
        let values = measured.iter();
        let values = values.map(|(measure, value)| (key(*measure).to_owned(), json!(value)));
        let mut object: Map<_, _> = values.collect();
        object.insert("protocol".into(), json!(self.measure.protocol.to_string()));
        Value::Object(object)
    }
}

fn key(measure: Measure) -> &'static str {
    match measure {
        Measure::Psnr => "psnr",
        Measure::Ssim => "ssim",
        Measure::Mse => "mse",
        Measure::Lpips => "lpips",
        Measure::ClipSource => "clip_source",
        Measure::ClipTarget => "clip",
        Measure::ClipTargetEdited => "clip_edited",
        Measure::Structure => "structure",
        Measure::Dinov2 => "dinov2",
    }
}

fn line(measure: Measure, value: f64) -> String {
    let name = key(measure);
    match (measure, value) {
        (_, value) if value.is_nan() => format!("{name}: the region is empty"),
        (_, value) if value.is_infinite() => format!("{name}: identical"),
        (Measure::Psnr, value) => format!("{name}: {value:.2} dB"),
        (Measure::ClipTarget | Measure::ClipTargetEdited | Measure::ClipSource, value) => {
            format!("{name}: {value:.2}")
        }
        (_, value) => format!("{name}: {value:.6}"),
    }
}

fn bytes(file: &Path) -> Result<Vec<u8>> {
    let bytes = File::open(file).and_then(bytes_of);
    Ok(bytes.map_err(|error| Error::io(file, error))?)
}

fn read(file: &Path) -> Result<Picture> {
    Ok(Picture::decode(&bytes(file)?, file)?)
}

fn read_mask(file: &Path) -> Result<Mask> {
    Ok(Mask::of_picture(&Picture::decode_mask(
        &bytes(file)?,
        file,
    )?))
}
