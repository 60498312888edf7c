//! Everything that a run does with a model before its first step.

use candle_core::{DType, Device};

use super::{Adapters, Model};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
};

impl Model {
    /// Opens what a run needs: tokenizers, and every network, with each of the model's
    /// adapters merged; only one is in memory at a time. All values must be numbers.
    pub fn verify(&self) -> Result<()> {
        self.tokenizers()?;
        self.edit_tau().map(drop).or_else(unless_unknown)?;
        for network in self.parts.all() {
            check_values(&self.parts.open(network)?)?;
        }
        self.vae()?;
        self.text_with_loras()?;
        for adapters in self.adapters()? {
            self.unet(adapters)?;
        }
        Ok(())
    }

    /// The adapters that the model has, each of whose values must be a number.
    fn adapters(&self) -> Result<Vec<Adapters>> {
        let mut all = Vec::new();
        for (direction, adapters) in [
            (&self.parts.forward, Adapters::Forward),
            (&self.parts.reverse, Adapters::ReverseWithLoras),
        ] {
            if let Some(file) = direction.adapter_file()? {
                check_values(&Checkpoint::open(&file)?)?;
                all.push(adapters);
            }
        }
        for lora in self.parts.loras()? {
            check_values(&Checkpoint::open(&lora.file)?)?;
        }
        match all.is_empty() {
            true => Ok(vec![Adapters::None]),
            false => Ok(all),
        }
    }
}

/// A setting that a model does not state may be stated for a run.
fn unless_unknown(error: Error) -> Result<()> {
    match error {
        Error::Setting { .. } => Ok(()),
        other => Err(other),
    }
}

/// Refuses values that are infinite or no numbers.
fn check_values(file: &Checkpoint) -> Result<()> {
    for name in file.names() {
        let tensor = file.load(&name, &Device::Cpu)?;
        if !tensor.dtype().is_float() {
            continue;
        }
        // Zero, unless a value is not finite.
        let sum = (tensor.flatten_all()?.to_dtype(DType::F32)? * 0.0)?.sum_all()?;
        if sum.to_scalar::<f32>()? != 0.0 {
            return Err(file.tensor_fault(&name, "it has values that are not finite numbers"));
        }
    }
    Ok(())
}
