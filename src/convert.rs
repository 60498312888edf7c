//! Converts weights files: PyTorch state dicts to safetensors, the dtype, the
//! naming convention of an adapter, adapters merged into a UNet.
//!
//! A [`Request`] and an [`Input`] make a [`Conversion`], which is written one
//! tensor at a time: at most one of them is in memory.

mod folder;
mod input;
mod lazy;
mod merge;
mod narrow;
mod rename;
mod write;

use std::{collections::BTreeSet, path::Path};

use candle_core::DType;

use crate::{
    error::{Error, Result, Setting},
    io::{Existing, Metadata, safetensors_metadata},
    lora::{Naming, TIMESTEPS, WeightedLora, finite_alpha, timesteps},
};
use lazy::Lazy;

pub use folder::Output;
pub use input::{Input, Kind};

/// How to convert a weights file.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The dtype to convert to, or `None` to keep it. Integer tensors always keep
    /// theirs.
    pub dtype: Option<DType>,
    /// The naming convention for an adapter's tensors, or `None` to keep the names.
    pub naming: Option<Naming>,
    /// Adapters to merge into a UNet, as files, folders or
    /// `hub:owner/name[/file]`. Their text encoder layers are ignored.
    pub adapters: Vec<WeightedLora>,
    /// Alpha of adapters that state none, as in
    /// [`AdapterOptions`](crate::lora::AdapterOptions).
    pub alpha: Option<f64>,
}

/// The tensors of the output file, computed when they are written.
#[derive(Debug)]
pub struct Conversion<'a> {
    tensors: Vec<Lazy<'a>>,
    notes: Metadata,
    remarks: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Applies a request to a file. Options that do not apply to it are errors.
    pub fn new(input: &'a Input, request: &Request) -> Result<Self> {
        request.check(input)?;
        let conversion = match (request.naming, &request.adapters[..]) {
            (Some(naming), _) => Self::renamed(input, naming, request.alpha),
            (None, []) => Self::stored(input),
            (None, adapters) => Self::merged(input, adapters, request.alpha),
        }?;
        Ok(conversion.in_type(request.dtype))
    }

    /// The file without changes.
    fn stored(input: &'a Input) -> Result<Self> {
        let checkpoint = &input.checkpoint;
        let names = checkpoint.names().into_iter();
        let tensors = names.map(|name| Lazy::stored(checkpoint, &name));
        Ok(Self {
            tensors: tensors.collect::<Result<_>>()?,
            notes: notes(input)?,
            remarks: Vec::new(),
        })
    }

    fn in_type(self, dtype: Option<DType>) -> Self {
        let Some(dtype) = dtype else { return self };
        let tensors = self.tensors.into_iter();
        Self {
            tensors: tensors.map(|tensor| tensor.in_type(dtype)).collect(),
            ..self
        }
    }

    /// What a user should know: an adapter's scale that is not stated, and its tensors that
    /// are left out.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The number of tensors.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// The distinct dtypes of the tensors, sorted by name.
    pub fn types(&self) -> Vec<&'static str> {
        let types = self.tensors.iter().map(|tensor| tensor.dtype.as_str());
        let types: BTreeSet<_> = types.collect();
        types.into_iter().collect()
    }

    /// Writes the file atomically, and returns its size in bytes. `progress`
    /// receives the bytes written and the total.
    pub fn write(
        &self,
        file: &Path,
        existing: Existing,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<u64> {
        write::write(file, &self.tensors, &self.notes, existing, progress)
    }
}

impl Request {
    fn check(&self, input: &Input) -> Result<()> {
        let kind = input.kind();
        let refuse = |setting, what: &str| {
            let file = input.checkpoint.file().display();
            let reason = format!("it is for {what}, but {file} holds {kind}");
            Err(Error::of(setting, reason))
        };
        if self.naming.is_some() && kind != Kind::Adapter {
            return refuse(Setting::Naming, "adapters");
        }
        if !self.adapters.is_empty() && kind != Kind::Unet {
            return refuse(Setting::Adapters, "UNets in the diffusers layout");
        }
        match self.alpha {
            Some(_) if self.naming.is_none() && self.adapters.is_empty() => Err(Error::of(
                Setting::AdapterAlpha,
                "it is used only where the naming is changed or adapters are merged",
            )),
            Some(alpha) => finite_alpha(alpha).map(drop),
            None => Ok(()),
        }
    }
}

/// The file's metadata, with the timesteps that an adapter states.
fn notes(input: &Input) -> Result<Metadata> {
    let mut notes = safetensors_metadata(&input.source)?;
    notes.entry("format".into()).or_insert_with(|| "pt".into());
    if input.kind() == Kind::Adapter
        && let Some(timesteps) = timesteps(&input.source)?
    {
        notes.insert(TIMESTEPS.into(), timesteps.to_string());
    }
    Ok(notes)
}
