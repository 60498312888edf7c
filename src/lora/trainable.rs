//! Trainable adapters, and writing them to files.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor, Var};

use super::{Factor, Naming, RELEASED_ALPHA};
use crate::{
    error::Result,
    io::{Checkpoint, Existing, Tensors, write_tensors},
    layout::Network,
    nn::{LoraDelta, LoraDeltas},
    noise::Noise,
    schedule::Timesteps,
};

/// The UNet layers that get a LoRA, by the suffixes of their module paths: the
/// target modules of the released adapters.
pub const TARGET_MODULES: [&str; 14] = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
];

/// Rank and alpha of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraConfig {
    /// The LoRA rank.
    pub rank: usize,
    /// The delta is scaled by alpha / rank.
    pub alpha: f64,
}

impl Default for LoraConfig {
    /// The configuration of the released adapters.
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: RELEASED_ALPHA,
        }
    }
}

/// The LoRA factors of all adapted layers of a UNet, as trainable variables.
#[derive(Clone, Debug)]
pub struct TrainableAdapter {
    /// The down and up factors by module path.
    factors: BTreeMap<String, [Var; 2]>,
    rank: LoraConfig,
}

impl TrainableAdapter {
    /// A new adapter for the UNet whose tensors are in `base`, initialised as in
    /// PEFT: down is uniform within +-1 / sqrt(inputs), up is zero, so that the
    /// initial delta is zero.
    pub fn new(base: &Checkpoint, rank: LoraConfig, seed: u64, device: &Device) -> Result<Self> {
        let modules = base.names().into_iter().filter_map(adapted);
        let mut noise = Noise::new(seed);
        let factors = modules.map(|module| {
            let shape = base.shape(&format!("{module}.weight")).unwrap_or_default();
            let (down, up) = shapes(&shape, rank.rank);
            let inputs: usize = down[1..].iter().product();
            let bound = 1.0 / (inputs.max(1) as f64).sqrt();
            let drawn = noise.uniform(down, device)?.affine(2.0 * bound, -bound)?;
            let zeros = Tensor::zeros(up, DType::F32, device)?;
            let factors = [Var::from_tensor(&drawn)?, Var::from_tensor(&zeros)?];
            Ok((module, factors))
        });
        let factors: BTreeMap<_, _> = factors.collect::<Result<_>>()?;
        match factors.is_empty() {
            true => Err(base.fault("none of its layers can be adapted: it is not a UNet")),
            false => Ok(Self { factors, rank }),
        }
    }

    /// The deltas by module path; they are backed by the variables.
    pub fn deltas(&self) -> LoraDeltas {
        let scale = self.rank.alpha / self.rank.rank as f64;
        let change = |(module, [down, up]): (&String, &[Var; 2])| {
            let change = LoraDelta {
                down: down.as_tensor().clone(),
                up: up.as_tensor().clone(),
                scale,
            };
            (module.clone(), change)
        };
        self.factors.iter().map(change).collect()
    }

    /// The variables by their tensor names in the file.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        let named = |(module, [down, up]): (&String, &[Var; 2])| {
            let name = |factor| Naming::Peft.tensor((Network::Unet, module), factor, 0);
            let [a, b] = [Factor::Down, Factor::Up].map(name);
            [(a, down.clone()), (b, up.clone())]
        };
        self.factors.iter().flat_map(named).collect()
    }

    /// Writes tensors named as in [`vars`](Self::vars), in `dtype`, with the
    /// timesteps and alpha in the file's metadata.
    pub fn write(
        &self,
        file: &Path,
        tensors: Tensors,
        path: &Timesteps,
        dtype: DType,
    ) -> Result<()> {
        let narrow = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(dtype)?));
        let tensors = tensors.into_iter().map(narrow).collect::<Result<_>>()?;
        let notes = HashMap::from([
            (super::TIMESTEPS.to_owned(), path.to_string()),
            (super::ALPHA.to_owned(), self.rank.alpha.to_string()),
            ("format".to_owned(), "pt".to_owned()),
        ]);
        write_tensors(file, &tensors, notes, Existing::Replace)
    }
}

/// The module path of a weight, if its layer is adapted.
fn adapted(name: String) -> Option<String> {
    let module = name.strip_suffix(".weight")?;
    let ends = |end: &&str| {
        let before = module.strip_suffix(*end);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    TARGET_MODULES.iter().any(ends).then(|| module.into())
}

/// The shapes of the factors of a weight (outputs, inputs, ..).
fn shapes(weight: &[usize], rank: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut down, mut up) = (weight.to_vec(), vec![1; weight.len()]);
    (up[0], up[1], down[0]) = (weight[0], rank, rank);
    (down, up)
}
