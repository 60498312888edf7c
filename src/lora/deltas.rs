//! The weight delta of a layer, from its tensors in the file.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{
    factor::{Factor, Part},
    layers::{Form, Layer},
    product::{Magnitudes, Pair},
};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
    nn::LoraDelta,
};

/// The weight that a layer's delta is added to.
struct Target<'a> {
    base: &'a Checkpoint,
    name: String,
    /// (outputs, inputs, ..)
    shape: Vec<usize>,
}

impl Target<'_> {
    /// Values of a kernel, 1 for a linear layer.
    fn area(&self) -> usize {
        self.shape.iter().skip(2).product()
    }

    /// Outputs, inputs and area; `None` for what is no layer's weight.
    fn sides(&self) -> Option<[usize; 3]> {
        let [outputs, inputs] = *self.shape.first_chunk()?;
        Some([outputs, inputs, self.area()])
    }

    fn weight(&self) -> Result<Tensor> {
        let weight = self.base.load(&self.name, &Device::Cpu)?;
        Ok(weight.to_dtype(DType::F32)?)
    }

    /// The factors of a pair in the weight's form: down (rank, inputs, ..), up
    /// (outputs, rank, ..).
    fn delta(&self, Pair { up, down }: &Pair, scale: f64) -> Result<LoraDelta> {
        let (rank, ones) = (down.dim(0)?, vec![1; self.shape.len() - 2]);
        Ok(LoraDelta {
            down: down.reshape([&[rank], &self.shape[1..]].concat())?,
            up: up.reshape([&[self.shape[0], rank], &ones[..]].concat())?,
            scale,
        })
    }
}

impl Layer {
    /// The delta for the layer's weight in `base`, from factors rounded to `rounding`.
    pub(super) fn delta(
        &self,
        file: &Checkpoint,
        base: &Checkpoint,
        scale: f64,
        rounding: DType,
    ) -> Result<LoraDelta> {
        let name = format!("{}.weight", self.module);
        let shape = base.shape(&name).unwrap_or_default();
        let target = Target { base, name, shape };
        let mismatch = || self.mismatch(file, &target);
        let sides = target.sides().ok_or_else(mismatch)?;
        let factors = self.factors(file, sides, rounding)?;
        let pair = factors
            .pair(self.form)
            .ok()
            .flatten()
            .ok_or_else(mismatch)?;
        let delta = match factors.magnitudes(&target.shape) {
            Some((magnitudes, kind)) => {
                let weight = target.weight()?;
                let whole = pair.with_magnitudes(scale, &weight, magnitudes, kind);
                target.delta(&whole.map_err(|_| mismatch())?, 1.0)?
            }
            None => target.delta(&pair, scale)?,
        };
        match is_finite(&delta.down)? && is_finite(&delta.up)? {
            true => Ok(delta),
            false => Err(self.fault(file, "its tensors hold values that are not finite numbers")),
        }
    }

    fn factors(&self, file: &Checkpoint, sides: [usize; 3], rounding: DType) -> Result<Factors> {
        let tensors = self.tensors.iter();
        let factors = tensors.filter(|(factor, _)| **factor != Factor::Alpha);
        let read = |(factor, name): (&Factor, &String)| {
            let tensor = file.load(name, &Device::Cpu)?.to_dtype(rounding)?;
            Ok((*factor, tensor.to_dtype(DType::F32)?))
        };
        let all = factors.map(read).collect::<Result<_>>()?;
        Ok(Factors { all, sides })
    }

    /// The error message for a weight that the tensors do not fit.
    fn mismatch(&self, file: &Checkpoint, target: &Target) -> Error {
        let told = |name: &String| {
            let end = name
                .rsplit_once(&self.spelled)
                .map_or(&name[..], |(_, end)| end);
            let shape = file.shape(name).unwrap_or_default();
            format!("{} {shape:?}", end.trim_start_matches('.'))
        };
        let tensors: Vec<_> = self.tensors.values().map(told).collect();
        let reason = format!(
            "its tensors {} do not fit {:?} {:?} in {}: one of the two belongs to another model",
            tensors.join(", "),
            target.name,
            target.shape,
            target.base.file().display()
        );
        self.fault(file, &reason)
    }
}

/// The tensors of a layer.
struct Factors {
    all: BTreeMap<Factor, Tensor>,
    /// Outputs, inputs and area of the weight.
    sides: [usize; 3],
}

impl Factors {
    /// The delta, without its scale; an error or `None` where shapes do not fit. They are
    /// compared before anything is multiplied.
    fn pair(&self, form: Form) -> candle_core::Result<Option<Pair>> {
        let [outputs, inputs, area] = self.sides;
        let fits = |pair: &Pair| -> candle_core::Result<bool> {
            Ok(pair.shape()? == self.sides && pair.up.dim(1)? == pair.down.dim(0)?)
        };
        let pair = match form {
            Form::Lora => {
                let (up, down) = (&self.all[&Factor::Up], &self.all[&Factor::Down]);
                match self.all.get(&Factor::Mid) {
                    Some(core) => Pair::cp([up, core, down], inputs, area)?,
                    None => Pair::of(up, down, area)?,
                }
            }
            Form::LoHa => {
                let half = |parts: [Part; 3]| self.half(parts.map(Factor::Hada), area);
                let first = half([Part::W1A, Part::W1B, Part::T1])?;
                let second = half([Part::W2A, Part::W2B, Part::T2])?;
                if !fits(&first)? || !fits(&second)? {
                    return Ok(None);
                }
                first.hadamard(&second)?
            }
            Form::LoKr => {
                let half = |whole, parts: [Part; 3], area| match self.all.get(&Factor::Lokr(whole))
                {
                    Some(matrix) => Pair::whole(matrix, area),
                    None => self.half(parts.map(Factor::Lokr), area),
                };
                let first = half(Part::W1, [Part::W1A, Part::W1B, Part::T1], 1)?;
                let second = half(Part::W2, [Part::W2A, Part::W2B, Part::T2], area)?;
                let ([a, b, _], [c, d, own]) = (first.shape()?, second.shape()?);
                if [a.saturating_mul(c), b.saturating_mul(d), own] != [outputs, inputs, area] {
                    return Ok(None);
                }
                first.kronecker(&second)?
            }
        };
        Ok(fits(&pair)?.then_some(pair))
    }

    /// One of the two matrices, from its factors and its core, before which the first
    /// factor is transposed.
    fn half(&self, [a, b, core]: [Factor; 3], area: usize) -> candle_core::Result<Pair> {
        let (a, b) = (&self.all[&a], &self.all[&b]);
        match self.all.get(&core) {
            Some(core) => Pair::cp([&a.t()?.contiguous()?, core, b], self.sides[1], area),
            None => Pair::of(a, b, area),
        }
    }

    /// The magnitudes, and what they are those of. LyCORIS has shaped them (outputs, 1, ..)
    /// and, before, (1, inputs, ..).
    fn magnitudes(&self, shape: &[usize]) -> Option<(&Tensor, Magnitudes)> {
        if let Some(magnitudes) = self.all.get(&Factor::Magnitude) {
            return Some((magnitudes, Magnitudes::OfOutputs));
        }
        let magnitudes = self.all.get(&Factor::DoraScale)?;
        let kind = match magnitudes.dims().first() == shape.first() {
            true => Magnitudes::OfOutputs,
            false => Magnitudes::OfInputs,
        };
        Some((magnitudes, kind))
    }
}

/// Whether all values are finite numbers: infinity times 0 is none.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    let sum = (tensor * 0.0)?.sum_all()?.to_dtype(DType::F32)?;
    Ok(sum.to_scalar::<f32>()? == 0.0)
}
