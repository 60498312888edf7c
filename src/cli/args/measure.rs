//! What is measured of edits, and with which weights.

use std::str::FromStr;

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Args, ValueEnum};
use icd::{
    Error,
    hub::Cache,
    metrics::{Metric, NetworkFiles, Protocol, Suite},
    nn::Placement,
};

use crate::cli::{
    Console,
    args::model::digests,
    ui::download::{FetchOptions, fetch_missing},
};

/// What is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measures")]
pub(crate) struct MeasureArgs {
    /// What to measure, divided by commas: psnr, ssim, mse; with their networks lpips, clip,
    /// structure, dinov2; or all [default: psnr, ssim, mse, and those whose --weights are given].
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    metric: Vec<Choice>,
    /// The weights of a network: clip, structure and dinov2 in transformers' names (structure and
    /// dinov2 in their authors', too), lpips a folder with torchvision's SqueezeNet 1.1 and
    /// the linear layers of LPIPS (squeeze.pth); repeat it for several [default: those of the published figures, from the hub; lpips has none there].
    #[arg(long, value_name = "NAME=FILE|DIR|HUB")]
    weights: Vec<Weights>,
    /// The libraries to agree with.
    #[arg(long, default_value = "pie-now")]
    pub(crate) protocol: Protocol,
}

/// A metric, or all.
#[derive(Clone, Copy, Debug)]
enum Choice {
    All,
    One(Metric),
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.trim() {
            "all" => Ok(Self::All),
            name => metric(name).map(Self::One),
        }
    }
}

/// The weights of a metric's network.
#[derive(Clone, Debug)]
struct Weights(Metric, String);

impl FromStr for Weights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let example = "write a metric and its weights, as in clip=models/clip-vit-large-patch14";
        let (name, place) = text
            .split_once('=')
            .ok_or_else(|| Error::setting(example))?;
        let metric = metric(name)?;
        match metric.network() {
            Some(_) => Ok(Self(metric, place.into())),
            None => Err(Error::setting(format!("{metric} needs no weights"))),
        }
    }
}

fn metric(name: &str) -> Result<Metric, Error> {
    let names = Metric::value_variants().iter().map(ToString::to_string);
    let names = names.collect::<Vec<_>>().join(", ");
    let reason = |_| Error::setting(format!("there is no metric {name:?}: write {names} or all"));
    Metric::from_str(name, false).map_err(reason)
}

/// Measures that are loaded.
pub(crate) struct Loaded {
    pub(crate) suite: Suite,
    /// Each network, and where its weights are with their hash.
    pub(crate) networks: Vec<(String, String)>,
}

impl MeasureArgs {
    /// What is to be measured.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let all = Metric::value_variants();
        let mut metrics = match self.metric.is_empty() {
            true => self.by_default(),
            false => self
                .metric
                .iter()
                .flat_map(|choice| match choice {
                    Choice::All => all.to_vec(),
                    Choice::One(metric) => vec![*metric],
                })
                .collect(),
        };
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }

    fn by_default(&self) -> Vec<Metric> {
        let is_given = |metric: &Metric| self.weights.iter().any(|given| given.0 == *metric);
        let all = Metric::value_variants().iter().copied();
        all.filter(|metric| metric.network().is_none() || is_given(metric))
            .collect()
    }

    /// The metrics that were asked for, if any were.
    pub(crate) fn asked(&self) -> Option<Vec<Metric>> {
        (!self.metric.is_empty()).then(|| self.metrics())
    }

    /// What is left out, and how it would be measured; none if nothing is.
    pub(crate) fn left_out(&self) -> Option<String> {
        let metrics = self.metrics();
        let all = Metric::value_variants().iter();
        let others = all.filter(|metric| !metrics.contains(metric));
        let others: Vec<_> = others.map(ToString::to_string).collect();
        (!others.is_empty()).then(|| {
            format!(
                "not measured: {}; --metric asks for them, --weights names their networks",
                others.join(", ")
            )
        })
    }

    /// Loads the networks, after missing weights were downloaded.
    pub(crate) fn load(
        &self,
        metrics: &[Metric],
        (device, yes): (&Device, bool),
        console: &Console,
    ) -> Result<Loaded> {
        let cache = Cache::from_env();
        let mut files = Vec::new();
        for metric in metrics {
            if let Some(network) = metric.network() {
                let given = self.weights.iter().rev().find(|given| given.0 == *metric);
                let found = match given {
                    Some(Weights(_, place)) => NetworkFiles::named(network, place, &cache),
                    None => NetworkFiles::published(network, &cache),
                };
                files.push(found.with_context(|| format!("--weights {metric}"))?);
            }
        }
        let missing = || Ok(files.iter().flat_map(NetworkFiles::required).collect());
        console.suspended(|quiet| fetch_missing(&missing, FetchOptions { yes, quiet }))?;
        let placement = Placement::new(candle_core::DType::F32, device.clone());
        let digests = digests();
        let name = |files: &NetworkFiles| -> Result<_> {
            let digest = digests.of(&files.weights()?)?;
            let name = format!("{}, sha256 {digest}", files.name());
            Ok((files.network().to_string(), name))
        };
        Ok(Loaded {
            suite: Suite::open(self.protocol, metrics, &files, &placement)?,
            networks: files.iter().map(name).collect::<Result<_>>()?,
        })
    }
}
