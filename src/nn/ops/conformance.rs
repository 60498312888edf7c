//! One suite for every backend: each operation against the plain formula in f64 on the
//! CPU, within the precision of its arithmetic. Backends of a GPU are tested where there is
//! one.

mod attention;
mod conv;
mod full_size;
mod linear;
mod norm;

use candle_core::{DType, Device, Tensor, Var};

use super::{
    AttentionMode, Composed, Metal, Ops, Packed,
    composed::{convolved, in_chunks, join, split},
};
use crate::{
    kernel::{Activation, Arithmetic, ConvEpilogue, ConvGeometry, Epilogue, bf16_units, nearest},
    nn::{GroupNorm, LayerNorm, LayerWeight, LoraDelta, Stride},
};

/// A backend, type and device, with the tolerance relative to the largest value.
#[derive(Clone, Copy, Debug)]
struct Backend {
    ops: &'static dyn Ops,
    device: &'static Device,
    dtype: DType,
    /// The type that holds all operands of products.
    operands: DType,
    tolerance: f64,
}

const BACKENDS: [Backend; 3] = [
    Backend {
        ops: &Packed::F32,
        device: &Device::Cpu,
        dtype: DType::F32,
        operands: DType::F32,
        tolerance: 1e-5,
    },
    Backend {
        ops: &Composed,
        device: &Device::Cpu,
        dtype: DType::F32,
        operands: DType::F32,
        tolerance: 1e-5,
    },
    Backend {
        ops: &Composed,
        device: &Device::Cpu,
        dtype: DType::F16,
        operands: DType::F16,
        tolerance: 5e-3,
    },
];

/// candle does not multiply bf16 matrices on a CPU: only the other operations are tested.
const BF16: Backend = Backend {
    ops: &Composed,
    device: &Device::Cpu,
    dtype: DType::BF16,
    operands: DType::BF16,
    tolerance: 4e-2,
};

/// All backends that work here.
fn backends() -> Vec<Backend> {
    let on_gpu = [(DType::F32, 3e-5), (DType::F16, 5e-3), (DType::BF16, 4e-2)];
    let on_gpu = on_gpu.map(|(dtype, tolerance)| {
        gpu().map(|(ops, device)| Backend {
            ops,
            device,
            dtype,
            operands: dtype,
            tolerance,
        })
    });
    // Of operands that are rounded already, products are as exact as in f32.
    let rounded = bf16_units().into_iter().map(|unit| Backend {
        ops: Box::leak(Box::new(Packed(Arithmetic::Bf16(unit)))),
        operands: DType::BF16,
        ..BACKENDS[0]
    });
    // On a CPU, for the kernels that candle has there, too.
    let metal = Backend {
        ops: &Metal,
        ..BACKENDS[1]
    };
    BACKENDS
        .into_iter()
        .chain([metal])
        .chain(rounded)
        .chain(on_gpu.into_iter().flatten())
        .collect()
}

/// The CUDA kernels and a GPU, if there is one.
#[cfg(feature = "cuda")]
fn gpu() -> Option<(&'static dyn Ops, &'static Device)> {
    static GPU: std::sync::OnceLock<Option<Device>> = std::sync::OnceLock::new();
    let open = || {
        let opened = crate::nn::open_cuda(0);
        if let Err(reason) = &opened {
            // Past the test runner's capture: nobody shall take this for a pass.
            let line = format!("SKIPPED: the CUDA kernels: {reason}\n");
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        }
        opened.ok()
    };
    let device = GPU.get_or_init(open).as_ref()?;
    Some((&super::Cuda, device))
}

/// This program was built without CUDA kernels.
#[cfg(not(feature = "cuda"))]
fn gpu() -> Option<(&'static dyn Ops, &'static Device)> {
    None
}

impl Backend {
    /// Smooth values between -2 and 2, as this arithmetic rounds them.
    fn waves(self, shape: &[usize], phase: f64) -> Tensor {
        let wave = |i: usize| ((i as f64 * 0.73 + phase).sin() + (i as f64 * 0.141).cos()) as f32;
        let values = (0..shape.iter().product()).map(wave).collect();
        let x = Tensor::from_vec(values, shape, self.device).unwrap();
        let x = x.to_dtype(self.operands).unwrap();
        x.to_dtype(self.dtype).unwrap()
    }

    /// The tolerance for attention, whose weights are rounded between its two products.
    fn attending(self) -> Self {
        let rounds = self.operands == DType::BF16;
        Self {
            tolerance: if rounds {
                5e-3f64.max(self.tolerance)
            } else {
                self.tolerance
            },
            ..self
        }
    }

    #[track_caller]
    fn agrees(self, what: &str, found: &Tensor, expected: &[f64]) {
        assert_eq!(found.dtype(), self.dtype, "{what}");
        let found = f64s(found);
        assert_eq!(found.len(), expected.len(), "{what}");
        let largest = expected.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let gap = (found - expected).abs() / largest;
            assert!(
                gap < self.tolerance,
                "{what} by {self:?}: {found} for {expected} at {i}"
            );
        }
    }
}

fn f64s(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
    x.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// All indices below these sizes, the last one fastest.
fn grid([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

#[test]
fn values_are_activated_gated_and_joined() {
    for backend in backends().into_iter().chain([BF16]) {
        let (ops, x) = (backend.ops, backend.waves(&[3, 34], 0.4));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let curves: [(Activation, &dyn Fn(f64) -> f64); 4] = [
            (Activation::Identity, &|x| x),
            (Activation::Silu, &|x| x * sigmoid(x)),
            (Activation::Gelu, &gelu),
            (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
        ];
        for (activation, curve) in curves {
            let expected: Vec<_> = f64s(&x).into_iter().map(curve).collect();
            let y = ops.activate(&x, activation).unwrap();
            backend.agrees(&format!("{activation:?}"), &y, &expected);
        }
        let gate = |row: &[f64]| {
            (0..17)
                .map(|i| row[i] * gelu(row[17 + i]))
                .collect::<Vec<_>>()
        };
        let expected: Vec<_> = f64s(&x).chunks(34).flat_map(gate).collect();
        backend.agrees("geglu", &ops.geglu(&x).unwrap(), &expected);
        let other = backend.waves(&[3, 5], 0.6);
        let (a, b) = (f64s(&x), f64s(&other));
        let rows = a.chunks(34).zip(b.chunks(5));
        let expected: Vec<_> = rows.flat_map(|(a, b)| [a, b].concat()).collect();
        backend.agrees("concat", &ops.concat(&x, &other).unwrap(), &expected);
    }
}

/// x times the normal distribution function, by a series for erf (Abramowitz and
/// Stegun, 7.1.6), which converges where erf is not one to all digits.
fn gelu(x: f64) -> f64 {
    let z = (x / 2f64.sqrt()).clamp(-6.0, 6.0);
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= 2.0 * z * z / f64::from(2 * n + 1);
        sum += term;
    }
    let erf = 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum;
    x * 0.5 * (1.0 + erf)
}
