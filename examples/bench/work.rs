//! What is timed.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::ValueEnum;
use icd::{
    diffusion::Event,
    guidance::{Guidance, Tau},
    model::{
        Conditioning, Model, ModelChoice,
        attention::NoControl,
        clip::{Clip, ClipConfig},
        unet::{Level, Unet, UnetConfig, UnetInput},
        vae::{Vae, VaeConfig},
    },
    nn::{Placement, RandomInit, Weights},
    pipeline::{Edit, Outputs, Pipeline, Residency},
    schedule::Timestep,
};

use super::{Case, Family, meter::median};

/// Something that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// One evaluation of the UNet with a guidance embedding and 77 text tokens
    Unet,
    /// Pictures to the means of their posteriors
    VaeEncode,
    /// Latents to pictures
    VaeDecode,
    /// The text encoder on two prompts
    Clip,
    /// A whole inversion and edit in 4+4 steps of the model in --model
    Edit,
    /// Forward, backward and AdamW on a UNet of 1.6 million weights
    TrainStep,
}

/// The seconds of the named parts of one run.
pub(crate) struct Laps {
    parts: BTreeMap<(usize, String), f64>,
    last: Instant,
    device: Device,
}

impl Laps {
    fn on(device: &Device) -> Result<Self> {
        device.synchronize()?;
        Ok(Self {
            parts: BTreeMap::new(),
            last: Instant::now(),
            device: device.clone(),
        })
    }

    /// Books the time since the last lap, in which the device came to rest,
    /// under `name`.
    fn lap(&mut self, name: &str) -> Result<()> {
        self.device.synchronize()?;
        let now = Instant::now();
        let known = self.parts.keys().find(|(_, known)| known == name).cloned();
        let key = known.unwrap_or((self.parts.len(), name.to_owned()));
        *self.parts.entry(key).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
        Ok(())
    }

    pub(crate) fn total(&self) -> f64 {
        self.parts.values().sum()
    }

    /// The median of each part over some runs, in their order.
    pub(crate) fn medians(runs: &[Self]) -> Vec<(String, f64)> {
        let keys = runs.first().map(|run| run.parts.keys().cloned());
        let of_runs = |key: &(usize, String)| runs.iter().map(|run| run.parts[key]).collect();
        keys.into_iter()
            .flatten()
            .map(|key| (key.1.clone(), median(of_runs(&key))))
            .collect()
    }
}

type Run<'a> = Box<dyn FnMut() -> Result<Laps> + 'a>;

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::VaeEncode => "vae-encode",
            Self::VaeDecode => "vae-decode",
            Self::Clip => "clip",
            Self::Edit => "edit",
            Self::TrainStep => "train-step",
        }
    }

    /// The only number of rows that makes sense, where there is one.
    pub(crate) fn rows(self) -> Option<usize> {
        match self {
            Self::Clip | Self::Edit => Some(2),
            Self::TrainStep => Some(32),
            _ => None,
        }
    }

    /// Floating point operations of one run at SD1.5's 512 pixels, counted as
    /// multiplications and additions of the plain algorithms.
    pub(crate) fn flops(self, case: Case) -> Option<f64> {
        let known = case.family == Family::Sd15 && case.size == 512;
        let billions = match self {
            Self::Unet => 803.0,
            Self::VaeEncode => 1115.0,
            Self::VaeDecode => 2515.0,
            _ => return None,
        };
        known.then_some(billions * 1e9 * case.rows as f64)
    }

    /// Builds the networks; what comes back runs once.
    pub(crate) fn build(self, case: Case<'_>) -> Result<Run<'_>> {
        match self {
            Self::Unet => unet(case),
            Self::VaeEncode | Self::VaeDecode => vae(case),
            Self::Clip => clip(case),
            Self::Edit => whole_edit(case),
            Self::TrainStep => train_step(case),
        }
    }
}

fn normal(shape: &[usize], device: &Device) -> Result<Tensor> {
    Ok(Tensor::randn(0f32, 1.0, shape, device)?)
}

/// A run with one part.
fn timed<'a>(device: &'a Device, mut work: impl FnMut() -> Result<()> + 'a) -> Run<'a> {
    Box::new(move || {
        let mut laps = Laps::on(device)?;
        work()?;
        laps.lap("run")?;
        Ok(laps)
    })
}

fn unet(case: Case<'_>) -> Result<Run<'_>> {
    let config = match case.family {
        Family::Sd15 => UnetConfig::sd15(),
        Family::Sdxl => UnetConfig::sdxl(),
    };
    let first = config.levels[0].channels;
    let fresh = RandomInit::new(0).with("time_embedding.cond_proj.weight", &[first, 512]);
    let unet = Unet::new(&Weights::initial(&fresh, case.storage), config.clone())?;
    let (side, device) = (case.size / 8, &case.storage.device);
    let latent = normal(&[case.rows, 4, side, side], device)?;
    let pooled = config
        .pooled
        .map(|pooled| normal(&[case.rows, pooled.width], device));
    let text = Conditioning {
        hidden_states: normal(&[case.rows, 77, config.cross_attention_dim], device)?,
        pooled: pooled.transpose()?,
    };
    let text = unet.prepare(&text)?;
    let (times, guidance) = (vec![Timestep(499); case.rows], vec![7.0; case.rows]);
    Ok(timed(&case.storage.device, move || {
        let input = UnetInput {
            latent: &latent,
            times: &times,
            guidance: &guidance,
            text: &text,
        };
        unet.forward(input, &mut NoControl)?;
        Ok(())
    }))
}

fn vae(case: Case<'_>) -> Result<Run<'_>> {
    let fresh = RandomInit::new(0)
        .with("quant_conv.weight", &[8, 8, 1, 1])
        .with("post_quant_conv.weight", &[4, 4, 1, 1]);
    let (config, family) = match case.family {
        Family::Sd15 => (VaeConfig::sd15(), icd::model::Family::Sd15),
        Family::Sdxl => (VaeConfig::sdxl(), icd::model::Family::Sdxl),
    };
    let storage = Placement {
        dtype: family.vae_dtype(case.storage),
        ..case.storage.clone()
    };
    let vae = Vae::new(&Weights::initial(&fresh, &storage), config)?;
    let vae = vae.with_tiling(case.tiling);
    let (rows, size, device) = (case.rows, case.size, &case.storage.device);
    if case.what == What::VaeEncode {
        let picture = normal(&[rows, 3, size, size], device)?.clamp(-1f32, 1f32)?;
        return Ok(timed(&case.storage.device, move || {
            vae.encode(&picture)?.mean()?;
            Ok(())
        }));
    }
    let latent = normal(&[rows, 4, size / 8, size / 8], device)?;
    Ok(timed(&case.storage.device, move || {
        vae.decode(&latent)?;
        Ok(())
    }))
}

fn clip(case: Case<'_>) -> Result<Run<'_>> {
    let config = match case.family {
        Family::Sd15 => ClipConfig::vit_l(),
        Family::Sdxl => ClipConfig::vit_big_g(),
    };
    let clip = Clip::new(&Weights::initial(&RandomInit::new(0), case.storage), config)?;
    let ids: Vec<u32> = (0..77).map(|i| 320 + 7 * i).collect();
    Ok(timed(&case.storage.device, move || {
        clip.forward(&[&ids, &ids], &[76, 76])?;
        Ok(())
    }))
}

/// Everything but the reading and writing of picture files: encode, invert,
/// swap adapters, edit with attention control, decode; loading included.
fn whole_edit(case: Case<'_>) -> Result<Run<'_>> {
    let folder = case.model.context("an edit needs --model DIR")?;
    let choice = ModelChoice {
        tiling: case.tiling,
        ..ModelChoice::named(folder.display().to_string())
    };
    let model = Model::open(&choice, case.storage.clone())?;
    let pipeline = Pipeline::new(model, Residency::OneAtATime);
    let device = &case.storage.device;
    let picture = normal(&[1, 3, case.size, case.size], device)?.clamp(-1f32, 1f32)?;
    let guidance = Guidance::new(19.0, Tau::step(0.8)?)?;
    let edit = Edit {
        outputs: Outputs {
            source: true,
            ..Outputs::default()
        },
        ..Edit::new("a photo of a bird", "a photo of a lego bird", guidance)
    };
    Ok(Box::new(move || {
        let mut laps = Laps::on(device)?;
        let (mut stage, mut fault) = ("opening", None);
        let mut observer = |event: Event| {
            if let Event::Begins(next) = event {
                fault = laps.lap(stage).err().or(fault.take());
                stage = next;
            }
        };
        let inverted = pipeline.invert(&picture, &edit.source, 0, &mut observer)?;
        let edited = pipeline.edit(&inverted, &edit, &mut observer)?;
        pipeline.decode(&edited.targets, &mut observer)?;
        observer(Event::Begins("done"));
        fault.map_or(Ok(laps), Err)
    }))
}

/// The very network of `torch_side.py`, 1,577,828 weights.
fn train_step(case: Case<'_>) -> Result<Run<'_>> {
    let (rows, device) = (case.rows, &case.storage.device);
    let level = |channels| Level {
        channels,
        heads: 4,
        transformer_layers: 1,
        transformer_layers_up: 1,
        blocks: 2,
    };
    let config = UnetConfig {
        levels: vec![level(32), level(64)],
        mid_transformer_layers: 1,
        cross_attention_dim: 64,
        norm_num_groups: 8,
        sample_size: 16,
        ..UnetConfig::sd15()
    };
    let fresh = RandomInit::new(0).trainable();
    let exact = case.storage.in_f32();
    let unet = Unet::new(&Weights::initial(&fresh, &exact), config)?;
    let vars: Vec<_> = fresh.vars().into_values().collect();
    let count: usize = vars.iter().map(|var| var.elem_count()).sum();
    eprintln!("{count} weights in {} tensors", vars.len());
    let mut optimiser = AdamW::new(vars, ParamsAdamW::default())?;
    let (latent, target) = (
        normal(&[rows, 4, 16, 16], device)?,
        normal(&[rows, 4, 16, 16], device)?,
    );
    let text = Conditioning {
        hidden_states: normal(&[rows, 16, 64], device)?,
        pooled: None,
    };
    let times: Vec<_> = (0..rows)
        .map(|i| Timestep((31 * i % 1000) as u16))
        .collect();
    let guidance = vec![0.0; rows];
    Ok(Box::new(move || {
        let mut laps = Laps::on(device)?;
        let text = unet.prepare(&text)?;
        let input = UnetInput {
            latent: &latent,
            times: &times,
            guidance: &guidance,
            text: &text,
        };
        let eps = unet.forward(input, &mut NoControl)?;
        let loss = (eps - &target)?.sqr()?.mean_all()?;
        laps.lap("forward")?;
        let gradients = loss.backward()?;
        laps.lap("backward")?;
        optimiser.step(&gradients)?;
        laps.lap("optimiser")?;
        Ok(laps)
    }))
}
