//! Adapters that are being trained, and how they are written.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor, Var};

use super::{Factor, Naming, RELEASED_ALPHA};
use crate::{
    error::Result,
    io::{Checkpoint, Tensors, write_tensors},
    layout::Network,
    nn::{LoraDelta, LoraDeltas},
    noise::Noise,
    schedule::Timesteps,
};

/// The layers of a UNet that get a low-rank change, by the ends of their
/// paths: those of the released adapters.
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

/// Rank and strength of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraConfig {
    /// Channels between the factors.
    pub rank: usize,
    /// The change is multiplied by alpha / rank.
    pub alpha: f64,
}

impl Default for LoraConfig {
    /// That of the released adapters.
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: RELEASED_ALPHA,
        }
    }
}

/// The low-rank changes of all adapted layers of a UNet, as variables.
#[derive(Clone, Debug)]
pub struct TrainableAdapter {
    /// By module path: the factors down and up.
    factors: BTreeMap<String, [Var; 2]>,
    rank: LoraConfig,
}

impl TrainableAdapter {
    /// An adapter of the UNet whose tensors are in `base`, which changes
    /// nothing yet: down is drawn evenly from within 1 / sqrt(inputs), as PEFT
    /// begins, up is zero.
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

    /// The changes by module path; they follow the variables.
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

    /// The variables, under the names that the file gives them.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        let named = |(module, [down, up]): (&String, &[Var; 2])| {
            let name = |factor| Naming::Peft.tensor((Network::Unet, module), factor, 0);
            let [a, b] = [Factor::Down, Factor::Up].map(name);
            [(a, down.clone()), (b, up.clone())]
        };
        self.factors.iter().flat_map(named).collect()
    }

    /// Writes tensors named as [`vars`](Self::vars) names them, in `dtype`,
    /// with the path and alpha in the file's metadata.
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
        write_tensors(file, &tensors, notes)
    }
}

/// The module of an adapted layer's weight.
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
