//! Adapters that are being trained, and how they are written.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path as File,
};

use candle_core::{DType, Device, Tensor, Var};

use crate::{
    error::Result,
    latents::{Tensors, write_tensors},
    nn::{Checkpoint, LowRank, LowRanks},
    noise::Noise,
    schedule::Path,
};

/// The layers of a UNet that get a low-rank change, by the ends of their
/// paths: those of the released adapters.
pub const ADAPTED: [&str; 14] = [
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

/// What PEFT writes before the path of a module.
const PREFIX: &str = "unet.base_model.model.";

/// Rank and strength of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rank {
    /// Channels between the factors.
    pub rank: usize,
    /// The change is multiplied by alpha / rank.
    pub alpha: f64,
}

impl Default for Rank {
    /// That of the released adapters.
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: 8.0,
        }
    }
}

/// The low-rank changes of all adapted layers of a UNet, as variables.
#[derive(Clone, Debug)]
pub struct TrainableAdapter {
    /// By module path: the factors down and up.
    factors: BTreeMap<String, [Var; 2]>,
    rank: Rank,
}

impl TrainableAdapter {
    /// An adapter of the UNet whose tensors are in `base`, which changes
    /// nothing yet: down is drawn evenly from within 1 / sqrt(inputs), as PEFT
    /// begins, up is zero.
    pub fn new(base: &Checkpoint, rank: Rank, seed: u64, device: &Device) -> Result<Self> {
        let mut modules: Vec<_> = base.names().into_iter().filter_map(adapted).collect();
        modules.sort_unstable();
        let mut noise = Noise::new(seed);
        let factors = modules.into_iter().map(|module| {
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
            true => Err(base.fault("none of its layers can be adapted: it is no UNet")),
            false => Ok(Self { factors, rank }),
        }
    }

    /// The changes by module path; they follow the variables.
    pub fn changes(&self) -> LowRanks {
        let scale = self.rank.alpha / self.rank.rank as f64;
        let change = |(module, [down, up]): (&String, &[Var; 2])| {
            let change = LowRank {
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
            let name = |factor| format!("{PREFIX}{module}.{factor}.weight");
            [(name("lora_A"), down.clone()), (name("lora_B"), up.clone())]
        };
        self.factors.iter().flat_map(named).collect()
    }

    /// Writes tensors named as [`vars`](Self::vars) names them, in `dtype`,
    /// with the path and alpha in the file's metadata.
    pub fn write(&self, file: &File, tensors: Tensors, path: &Path, dtype: DType) -> Result<()> {
        let narrow = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(dtype)?));
        let tensors = tensors.into_iter().map(narrow).collect::<Result<_>>()?;
        let notes = HashMap::from([
            ("icd.path".to_owned(), path.to_string()),
            ("icd.alpha".to_owned(), self.rank.alpha.to_string()),
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
    ADAPTED.iter().any(ends).then(|| module.into())
}

/// The shapes of the factors of a weight (outputs, inputs, ..).
fn shapes(weight: &[usize], rank: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut down, mut up) = (weight.to_vec(), vec![1; weight.len()]);
    (up[0], up[1], down[0]) = (weight[0], rank, rank);
    (down, up)
}
