//! The weights (outputs, inputs, k, k) of a convolution for its backward pass in bf16.

use candle_core::{Result, Tensor};

use crate::kernel::{
    bf16::{Pairs, TERMS, Terms, WeightShape},
    op,
};

impl WeightShape {
    /// Packs weights for the backward pass, from outputs to inputs, with reversed taps.
    pub(super) fn backward(self, weight: &Tensor) -> Result<Pairs> {
        let shape = (self.steps(self.outputs), self.inputs);
        op::with([&weight.contiguous()?], |[values]| {
            let of = |step, input| self.outputs_from(step, input);
            Ok(Pairs::pack(values, shape, of))
        })
    }

    /// Packs the weights of the forward pass for the backward pass.
    pub(super) fn turned(self, forward: &Pairs) -> Pairs {
        let value = |i: usize| {
            let (channel, tap) = (i / self.taps, i % self.taps);
            let (output, input) = (channel / self.inputs, channel % self.inputs);
            let step = input / TERMS * self.taps + tap;
            forward.value(step, input % TERMS, output)
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

    fn outputs_from(self, step: usize, input: usize) -> Terms {
        let (output, tap) = self.of_step(step);
        Terms {
            first: (output * self.inputs + input) * self.taps + self.taps - 1 - tap,
            stride: self.inputs * self.taps,
            count: TERMS.min(self.outputs - output),
        }
    }
}
