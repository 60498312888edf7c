//! Seeded normal noise, equal to that of `PyTorch`'s CPU generator on every device.
//!
//! `torch.randn` on a CPU generator uses one of two algorithms. Fewer than 16
//! values: Box-Muller in double precision, one value per call, the second of
//! each pair kept for the next call. 16 values or more: Box-Muller in single
//! precision over blocks of 16 (`ATen/native/cpu/DistributionTemplates.h`).
//! The values are bit-identical to those of `PyTorch`'s AVX2 build; other builds of
//! `PyTorch` differ from it in the last digit.

mod functions;
mod twister;

use std::f64::consts::TAU;

use candle_core::{Device, Shape, Tensor};

use crate::error::Result;
use functions::{ln, sin_cos};
use twister::Twister;

/// Values that `PyTorch` transforms together.
const BLOCK: usize = 16;

/// A stream of standard normal values, `torch.Generator().manual_seed(seed)`.
#[derive(Clone, Debug)]
pub struct Noise {
    twister: Twister,
    /// The second value of a pair drawn singly; draws of blocks do not use it.
    spare: Option<f64>,
}

impl Noise {
    /// Creates the stream of `seed`, of which the generator uses the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self {
            twister: Twister::new(seed as u32),
            spare: None,
        }
    }

    /// Draws standard normal values in f32, `torch.randn(shape, generator=self)`.
    pub fn normal(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values = self.normals(shape.elem_count());
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Draws uniform values in [0, 1) in f32, `torch.rand(shape, generator=self)`.
    pub fn uniform(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values = self.uniforms(shape.elem_count());
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        match count < BLOCK {
            true => (0..count).map(|_| self.single() as f32).collect(),
            false => self.blocks(count),
        }
    }

    /// One value by Box-Muller in double precision.
    fn single(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.twister.uniform_f64(), self.twister.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// `count >= 16` values in blocks; the last 16 are drawn again after an incomplete block.
    fn blocks(&mut self, count: usize) -> Vec<f32> {
        let mut values = self.uniforms(count);
        let (blocks, tail) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !tail.is_empty() {
            values.truncate(count - BLOCK);
            let mut last = std::array::from_fn(|_| self.twister.uniform_f32());
            box_muller(&mut last);
            values.extend(last);
        }
        values
    }

    fn uniforms(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.twister.uniform_f32()).collect()
    }
}

/// Turns 16 uniform values into normal ones, place `j` paired with place `j + 8`.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(TAU as f32 * *b);
        (*a, *b) = (radius * cos, radius * sin);
    }
}

/// SplitMix64's finalizer (S. Vigna, 2015): every bit depends on every bit.
pub(crate) fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws of 1, 20, 4, 16384 and 1 values in turn: two of them single, one
    /// with a tail, and a pair of singles with blocks between.
    fn mixed(seed: u64) -> Vec<f32> {
        let mut noise = Noise::new(seed);
        let draws = [1, 20, 4, 16384, 1];
        draws.into_iter().flat_map(|n| noise.normals(n)).collect()
    }

    /// A checksum of the values' bits.
    fn checksum(values: &[f32]) -> u32 {
        values.iter().fold(0, |sum: u32, value| {
            sum.wrapping_mul(31).wrapping_add(value.to_bits())
        })
    }

    // g = torch.Generator().manual_seed(seed)
    // x = torch.cat([torch.randn(n, generator=g) for n in (1, 20, 4, 16384, 1)])
    // h = 0; for v in x.view(torch.int32).tolist(): h = (h * 31 + v) & 0xffffffff
    // x[[0, 1, 24, 16408, 16409]], hex(h)
    const GOLDEN: [(u64, [f32; 5], u32); 4] = [
        (
            0,
            [
                1.540_996_1,
                0.848_710_36,
                0.939_809_9,
                -1.069_455_1,
                0.774_848_8,
            ],
            0x22b7_fd5b,
        ),
        (
            42,
            [
                0.336_690_37,
                0.678_418_46,
                -0.327_758_64,
                0.575_391_77,
                0.794_968_7,
            ],
            0x68f1_5961,
        ),
        (
            10500,
            [
                1.901_144_3,
                -0.944_237_6,
                2.967_228_7,
                0.637_409_1,
                -0.404_913_9,
            ],
            0x56f0_55ab,
        ),
        (
            (1 << 32) + 7,
            [
                -0.146_795_1,
                -0.166_996_02,
                -0.457_818_9,
                -1.032_182_1,
                -0.724_473_3,
            ],
            0x0081_62ff,
        ),
    ];

    #[test]
    #[expect(clippy::float_cmp)]
    fn noise_has_the_bits_of_torch_randn() {
        for (seed, golden, sum) in GOLDEN {
            let values = mixed(seed);
            let picked = [0, 1, 24, 16408, 16409].map(|i| values[i]);
            assert_eq!(picked, golden, "seed {seed}");
            assert_eq!(checksum(&values), sum, "seed {seed}");
        }
    }

    #[test]
    fn only_the_low_32_bits_of_a_seed_count() {
        assert_eq!(mixed(1 << 63), mixed(0));
        assert_ne!(mixed(7), mixed(0));
    }

    #[test]
    fn a_kept_value_outlives_a_draw_of_blocks() {
        // g.manual_seed(42); torch.randn(3), torch.randn(16)[:2], torch.randn(1)
        let mut noise = Noise::new(42);
        assert_eq!(noise.normals(3), [0.336_690_37, 0.128_809_4, 0.234_462_37]);
        assert_eq!(noise.normals(16)[..2], [1.787_789_3, -0.478_045_25]);
        assert_eq!(noise.normals(1), [0.230_333_03]);
    }

    #[test]
    fn a_tensor_has_the_shape_asked_for() {
        let noise = Noise::new(0).normal((1, 4, 2, 3), &Device::Cpu).unwrap();
        assert_eq!(noise.dims(), [1, 4, 2, 3]);
    }
}
