//! Adapter files: three namings of the same low-rank changes.
//!
//! | naming | example |
//! |---|---|
//! | PEFT | `unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight` |
//! | diffusers | `unet.mid_block.resnets.0.conv1.lora_A.weight`, older `..lora.down.weight` |
//! | kohya | `lora_unet_mid_block_resnets_0_conv1.lora_down.weight`, with `.alpha` |
//!
//! A file may say in its metadata which path its model was distilled on
//! (`icd.path`) and its alpha (`icd.alpha`); the released files say the path in
//! their names only.

mod layers;
mod names;
mod naming;
mod original;
mod trainable;
mod words;

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Error, Result},
    nn::{Checkpoint, LowRank, LowRanks, checkpoint_metadata},
    schedule::Steps,
    source::Source,
};
use names::Modules;

pub(crate) use layers::{Layer, RELEASED_ALPHA, is_adapter, layers, usual_alpha};
pub(crate) use names::Factor;
pub use names::Network;
pub use naming::Naming;
pub(crate) use naming::prefix;
pub use trainable::{ADAPTED, Rank, TrainableAdapter};

/// How an adapter file is to be understood where it does not say so itself.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Alpha where the file states none; the scale is alpha / rank. Without one
    /// it is the rank: the factors are taken as they are.
    pub alpha: Option<f64>,
    /// The type the factors are rounded to before they are merged. The
    /// reference rounds those of SD1.5 to f16 and keeps those of SDXL.
    pub rounding: DType,
}

/// The low-rank changes of one adapter file.
#[derive(Clone, Debug)]
pub struct Adapter {
    changes: LowRanks,
}

impl Adapter {
    /// Reads the adapter in `file` for the network whose tensors are in
    /// `base`. Every tensor of the file must fit a layer there.
    pub fn read(file: impl Into<Source>, base: &Checkpoint, reading: Reading) -> Result<Self> {
        let file = file.into();
        let adapter = Self::read_of(&file, base, reading, &|_| true)?;
        match adapter.changes.is_empty() {
            true => Err(Error::adapter(file, "it holds no adapter tensors")),
            false => Ok(adapter),
        }
    }

    /// Reads what a file that is for several networks holds for this one, whose
    /// tensors are in `base`; it may be nothing.
    pub fn read_part(
        file: &Source,
        network: Network,
        base: &Checkpoint,
        reading: Reading,
    ) -> Result<Self> {
        Self::read_of(file, base, reading, &|name| Network::of(name) == network)
    }

    fn read_of(
        file: &Source,
        base: &Checkpoint,
        reading: Reading,
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(file)?;
        let alpha = stated_alpha(file)?;
        let mut changes = LowRanks::new();
        for (module, factors) in sorted_by_module(&checkpoint, &Modules::of(base), is_wanted)? {
            let fault = |reason| Error::adapter(file, format!("module {module:?}: {reason}"));
            let down = factors
                .down
                .ok_or_else(|| fault("its lora_A (down) tensor is missing"))?;
            let up = factors
                .up
                .ok_or_else(|| fault("its lora_B (up) tensor is missing"))?;
            let rank = down.dim(0)?;
            let alpha = factors.alpha.or(alpha).or(reading.alpha);
            let scale = alpha.map_or(1.0, |alpha| alpha / rank.max(1) as f64);
            let round = |t: Tensor| t.to_dtype(reading.rounding)?.to_dtype(DType::F32);
            changes.insert(
                module,
                LowRank {
                    down: round(down)?,
                    up: round(up)?,
                    scale,
                },
            );
        }
        Ok(Self { changes })
    }

    /// The changes by module path.
    pub fn changes(&self) -> &LowRanks {
        &self.changes
    }
}

/// The timesteps that an adapter file gives in its metadata or its name. The
/// released names leave out the last one, which all paths of a direction share.
fn stated_steps(file: &Source) -> Result<Option<Steps>> {
    if let Some(path) = checkpoint_metadata(file)?.get("icd.path") {
        return path
            .parse()
            .map(Some)
            .map_err(|error| Error::adapter(file, error));
    }
    Ok(names::steps_of(file.name()))
}

/// The forward path an adapter file states, if it does: an ascending list that
/// ends at 999 (the released names leave the 999 out).
pub fn forward_steps(file: &Source) -> Result<Option<Steps>> {
    Ok(stated_steps(file)?.map(|Steps(mut steps)| {
        steps.sort_unstable();
        if steps.last() != Some(&999) {
            steps.push(999);
        }
        Steps(steps)
    }))
}

/// The reverse path an adapter file states, if it does: a descending list that
/// ends at 0 (the released names are ascending and leave the 0 out).
pub fn reverse_steps(file: &Source) -> Result<Option<Steps>> {
    Ok(stated_steps(file)?.map(|Steps(mut steps)| {
        steps.sort_unstable_by(|a, b| b.cmp(a));
        if steps.last() != Some(&0) {
            steps.push(0);
        }
        Steps(steps)
    }))
}

/// The path that an adapter file states or its name tells, as its metadata has
/// it.
pub(crate) fn stated_path(file: &Source) -> Result<Option<String>> {
    if let Some(path) = checkpoint_metadata(file)?.remove("icd.path") {
        return Ok(Some(path));
    }
    let name = file
        .name()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let steps = match name.contains("forward") {
        true => forward_steps(file)?,
        false => reverse_steps(file)?,
    };
    Ok(steps.map(|steps| steps.to_string()))
}

/// The tensors of one module.
#[derive(Default)]
struct Factors {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

fn sorted_by_module(
    adapter: &Checkpoint,
    modules: &Modules,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Factors>> {
    let mut sorted: BTreeMap<String, Factors> = BTreeMap::new();
    let mut strangers = Vec::new();
    for name in adapter.names().into_iter().filter(|name| is_wanted(name)) {
        let Some((module, factor)) = modules.place(&name) else {
            strangers.push(name);
            continue;
        };
        let tensor = adapter.load(&name, &Device::Cpu)?;
        let factors = sorted.entry(module).or_default();
        match factor {
            Factor::Down => factors.down = Some(tensor),
            Factor::Up => factors.up = Some(tensor),
            Factor::Alpha => factors.alpha = Some(scalar(&tensor)?),
        }
    }
    match strangers.is_empty() {
        true => Ok(sorted),
        false => Err(Error::adapter(adapter.file(), stranger_list(strangers))),
    }
}

fn stranger_list(strangers: Vec<String>) -> String {
    let (count, names) = list(strangers);
    format!(
        "{count} of its tensors fit no layer of the network, so it belongs to another model: {names}"
    )
}

/// How many names there are, and the first of them in words.
fn list(mut names: Vec<String>) -> (usize, String) {
    names.sort_unstable();
    let count = names.len();
    names.truncate(8);
    let dots = if count > names.len() { ", .." } else { "" };
    (count, format!("{}{dots}", names.join(", ")))
}

fn scalar(tensor: &Tensor) -> Result<f64> {
    let value = tensor
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    Ok(value.first().copied().unwrap_or(f64::NAN))
}

/// Alpha as the file's metadata says it: our own `icd.alpha`, or the LoRA
/// configuration that diffusers writes (`lora_adapter_metadata`, JSON).
fn stated_alpha(file: &Source) -> Result<Option<f64>> {
    let metadata = checkpoint_metadata(file)?;
    let own = metadata
        .get("icd.alpha")
        .and_then(|alpha| alpha.parse().ok());
    Ok(own.or_else(|| diffusers_alpha(&metadata)))
}

fn diffusers_alpha(metadata: &HashMap<String, String>) -> Option<f64> {
    let config: serde_json::Value =
        serde_json::from_str(metadata.get("lora_adapter_metadata")?).ok()?;
    ["unet.lora_alpha", "lora_alpha"]
        .iter()
        .find_map(|key| config.get(key)?.as_f64())
}
