//! The weights (outputs, inputs, k, k) of a convolution as the right side of products in bf16.

use candle_core::{Result, Tensor};
use half::bf16;

use crate::kernel::bf16::{Pairs, TERMS, Terms};

/// The shape of the weights.
#[derive(Clone, Copy)]
pub(super) struct WeightShape {
    pub outputs: usize,
    pub inputs: usize,
    /// k k.
    pub taps: usize,
}

impl WeightShape {
    /// The shape of weights (outputs, inputs, k, k).
    pub(super) fn of(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs, height, width) = weight.dims4()?;
        Ok(Self {
            outputs,
            inputs,
            taps: height * width,
        })
    }

    /// Packs weights for the forward pass: of 32 inputs all taps, one after another.
    pub(super) fn forward(self, weight: &Tensor) -> Result<Pairs> {
        let shape = (self.steps(self.inputs), self.outputs);
        Pairs::new(weight, shape, |step, output| {
            let (input, tap) = self.of_step(step);
            self.inputs_from(output, input, tap)
        })
    }

    /// Packs weights for the backward pass, from outputs to inputs, with reversed taps.
    pub(super) fn backward(self, weight: &Tensor) -> Result<Pairs> {
        let shape = (self.steps(self.outputs), self.inputs);
        Pairs::new(weight, shape, |step, input| self.outputs_from(step, input))
    }

    /// Packs the weights of the forward pass for the backward pass.
    pub(super) fn turned(self, forward: &Pairs) -> Pairs {
        let value = |i: usize| {
            let (channel, tap) = (i / self.taps, i % self.taps);
            let (output, input) = (channel / self.inputs, channel % self.inputs);
            let step = input / TERMS * self.taps + tap;
            bf16::from_f32(forward.value(step, input % TERMS, output))
        };
        let count = self.outputs * self.inputs * self.taps;
        let values: Vec<_> = (0..count).map(value).collect();
        let shape = (self.steps(self.outputs), self.inputs);
        Pairs::pack(&values, shape, |step, input| self.outputs_from(step, input))
    }

    fn steps(self, channels: usize) -> usize {
        channels.div_ceil(TERMS) * self.taps
    }

    /// The first channel and the tap of a step.
    fn of_step(self, step: usize) -> (usize, usize) {
        (step / self.taps * TERMS, step % self.taps)
    }

    fn inputs_from(self, output: usize, input: usize, tap: usize) -> Terms {
        Terms {
            first: (output * self.inputs + input) * self.taps + tap,
            stride: self.taps,
            count: TERMS.min(self.inputs - input),
        }
    }

    fn outputs_from(self, step: usize, input: usize) -> Terms {
        let (output, tap) = self.of_step(step);
        Terms {
            first: (output * self.inputs + input) * self.taps + self.taps - 1 - tap,
            stride: self.inputs * self.taps,
            count: TERMS.min(self.outputs - output),
        }
    }
}
