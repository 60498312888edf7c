//! One suite for every backend: each operation against the plain formula in f64 on the
//! CPU, within the precision of its arithmetic. Backends of a GPU are tested where there is
//! one.

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

#[test]
fn linear_layers_are_products_with_all_that_is_added() {
    for backend in backends() {
        for (b, n, inputs, outputs) in [
            (1, 1, 1, 1),
            (2, 3, 40, 33),
            (1, 77, 31, 130),
            (1, 300, 72, 136),
            (1, 1, 2048, 1000), // long sums, which a GPU splits
            (2, 9, 1024, 12),
        ] {
            let x = backend.waves(&[b, n, inputs], 0.1);
            let weight = backend.waves(&[outputs, inputs], 0.5);
            let (bias, residual) = (
                backend.waves(&[outputs], 0.9),
                backend.waves(&[b, n, outputs], 1.3),
            );
            let mut expected = product(&f64s(&x), &f64s(&weight), inputs);
            for (i, y) in expected.iter_mut().enumerate() {
                *y += f64s(&bias)[i % outputs] + f64s(&residual)[i];
            }
            let ops = backend.ops;
            let bias = ops.pack_bias(bias).unwrap();
            let epilogue = Epilogue {
                bias: Some(&bias),
                residual: Some(&residual),
            };
            let weight = ops.pack_linear(&weight.into()).unwrap();
            let y = ops.linear(&x, &weight, epilogue).unwrap();
            assert_eq!(y.dims(), [b, n, outputs]);
            backend.agrees("linear", &y, &expected);
        }
    }
}

/// Rows of x times rows of `weight`, both of `inputs` values.
fn product(x: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    let row = |x| weight.chunks(inputs).map(move |weight| dot(x, weight));
    x.chunks(inputs).flat_map(row).collect()
}

#[test]
fn gated_linear_layers_multiply_one_half_by_the_gelu_of_the_other() {
    // Many rows take a kernel of their own.
    for backend in backends() {
        for (rows, inputs, d) in [(3, 9, 15), (101, 9, 15), (300, 40, 72), (5, 64, 9)] {
            let (x, weight) = (
                backend.waves(&[rows, inputs], 0.1),
                backend.waves(&[2 * d, inputs], 0.5),
            );
            let bias = backend.waves(&[2 * d], 0.9);
            let mut both = product(&f64s(&x), &f64s(&weight), inputs);
            let biases = f64s(&bias);
            both.iter_mut()
                .enumerate()
                .for_each(|(i, y)| *y += biases[i % (2 * d)]);
            let expected: Vec<_> = both
                .chunks(2 * d)
                .flat_map(|row| (0..d).map(|i| row[i] * gelu(row[d + i])))
                .collect();
            let ops = backend.ops;
            let (weight, bias) = (
                ops.pack_linear(&weight.into()).unwrap(),
                ops.pack_bias(bias).unwrap(),
            );
            let y = ops.linear_geglu(&x, &weight, Some(&bias)).unwrap();
            backend.agrees("linear_geglu", &y, &expected);
            let outer = ops
                .pack_linear(&backend.waves(&[7, d], 1.3).into())
                .unwrap();
            let residual = backend.waves(&[rows, 7], 2.1);
            let layers = [(&weight, Some(&bias)), (&outer, None)];
            let found = ops.feed_forward(&x, layers, Some(&residual)).unwrap();
            let bias = None;
            let onto = Epilogue {
                bias,
                residual: Some(&residual),
            };
            let apart = ops.linear(&y, &outer, onto).unwrap();
            backend.agrees("feed_forward", &found, &f64s(&apart));
        }
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

/// Shapes of a convolution.
#[derive(Clone, Copy, Debug)]
struct Conv {
    size: [usize; 2],
    channels: [usize; 2],
    side: usize,
    stride: Stride,
    upsample: Option<(usize, usize)>,
}

#[test]
fn convolutions_see_their_neighbours_and_all_that_surrounds_them() {
    let same = Conv {
        size: [5, 4],
        channels: [3, 6],
        side: 3,
        stride: Stride::One,
        upsample: None,
    };
    let vectors = Conv {
        size: [9, 11],
        channels: [8, 12],
        ..same
    };
    let cases = [
        same,
        Conv { side: 1, ..same },
        Conv {
            size: [9, 6],
            stride: Stride::Two,
            ..same
        },
        Conv {
            size: [9, 6],
            stride: Stride::TwoPadRightBottom,
            ..same
        },
        Conv {
            upsample: Some((10, 8)),
            ..same
        },
        Conv {
            upsample: Some((9, 7)),
            ..same
        },
        Conv {
            size: [24, 24],
            channels: [32, 48],
            ..same
        }, // by Winograd's algorithm
        vectors,
        Conv { side: 1, ..vectors },
        Conv {
            stride: Stride::Two,
            ..vectors
        },
        Conv {
            stride: Stride::TwoPadRightBottom,
            ..vectors
        },
        Conv {
            upsample: Some((18, 22)),
            ..vectors
        },
        Conv {
            upsample: Some((17, 21)),
            ..vectors
        },
        Conv {
            channels: [4, 72],
            ..vectors
        },
        Conv {
            channels: [168, 5],
            ..same
        }, // long sums, which a GPU splits
    ];
    for backend in backends() {
        for case in cases {
            conv(backend, case);
        }
    }
}

fn conv(backend: Backend, case: Conv) {
    let Conv {
        size: [h, w],
        channels: [inputs, outputs],
        side,
        stride,
        upsample,
    } = case;
    let x = backend.waves(&[2, h, w, inputs], 0.1);
    let weight = backend.waves(&[outputs, inputs, side, side], 0.5);
    let (height, width) = upsample.unwrap_or((h, w));
    let geometry = stride.geometry(side);
    let out = [2, geometry.output(height), geometry.output(width), outputs];
    let (bias, shift) = (
        backend.waves(&[outputs], 0.9),
        backend.waves(&[2, outputs], 1.7),
    );
    let residual = backend.waves(&out, 1.3);
    let mut expected = plain_conv(&x, &weight, geometry, (height, width));
    let (biases, shifts, residuals) = (f64s(&bias), f64s(&shift), f64s(&residual));
    let picture = expected.len() / 2;
    for (i, y) in expected.iter_mut().enumerate() {
        *y += biases[i % outputs] + shifts[i / picture * outputs + i % outputs] + residuals[i];
    }
    let ops = backend.ops;
    let (weight, bias) = (
        ops.pack_conv2d(&weight.into()).unwrap(),
        ops.pack_bias(bias).unwrap(),
    );
    let epilogue = ConvEpilogue {
        bias: Some(&bias),
        shift: Some(&shift),
        residual: Some(&residual),
        upsample,
    };
    let y = ops.conv2d(&x, &weight, geometry, epilogue).unwrap();
    assert_eq!(y.dims(), out);
    let wide = Backend {
        tolerance: 2.0 * backend.tolerance, // Winograd's transforms cost some digits
        ..backend
    };
    wide.agrees(&format!("{case:?}"), &y, &expected);
}

/// A convolution of x (2, h, w, inputs), enlarged before to a size.
fn plain_conv(
    x: &Tensor,
    weight: &Tensor,
    geometry: ConvGeometry,
    (height, width): (usize, usize),
) -> Vec<f64> {
    let (_, h, w, inputs) = x.dims4().unwrap();
    let (outputs, _, side, _) = weight.dims4().unwrap();
    let (x, weight) = (f64s(x), f64s(weight));
    let (rows, columns) = (nearest(h, height), nearest(w, width));
    let at = |b: usize, y: usize, x_: usize, c: usize| {
        let (y, x_) = (
            y.checked_sub(geometry.before),
            x_.checked_sub(geometry.before),
        );
        let inside = y.zip(x_).filter(|&(y, x_)| y < height && x_ < width);
        inside.map_or(0.0, |(y, x_)| {
            x[((b * h + rows[y]) * w + columns[x_]) * inputs + c]
        })
    };
    let mut out = Vec::new();
    for (b, i, j, o) in grid([2, geometry.output(height), geometry.output(width), outputs]) {
        let taps = grid([1, side, side, inputs]).map(|(_, ky, kx, c)| {
            let (y, x_) = (i * geometry.stride + ky, j * geometry.stride + kx);
            at(b, y, x_, c) * weight[((o * inputs + c) * side + ky) * side + kx]
        });
        out.push(taps.sum());
    }
    out
}

/// All indices below these sizes, the last one fastest.
fn grid([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

#[test]
fn norms_standardise_groups_and_rows() {
    for backend in backends().into_iter().chain([BF16]) {
        for (shape, groups) in [
            ([2, 7, 5, 6], 3),
            ([2, 9, 9, 64], 8),
            ([1, 5, 3, 330], 11),
            ([2, 64, 64, 64], 8),
        ] {
            norms(backend, shape, groups);
        }
    }
}

fn norms(backend: Backend, shape: [usize; 4], groups: usize) {
    let [_, height, width, c] = shape;
    let x = backend.waves(&shape, 0.3);
    let affine = || [backend.waves(&[c], 0.2), backend.waves(&[c], 0.8)];
    let [weight, bias] = affine().map(|x| f64s(&x));
    let scaled = |values: Vec<f64>| -> Vec<f64> {
        let values = values.iter().enumerate();
        values
            .map(|(i, x)| x * weight[i % c] + bias[i % c])
            .collect()
    };
    let norm = GroupNorm::new(backend.ops, affine(), groups, 1e-6).unwrap();
    let picture = |picture: &[f64]| {
        let group = |i| i % c / (c / groups);
        scaled(standardised(picture, groups, group, 1e-6))
    };
    let pictures = f64s(&x);
    let expected: Vec<_> = pictures
        .chunks(height * width * c)
        .flat_map(picture)
        .collect();
    backend.agrees("group_norm", &norm.forward(&x).unwrap(), &expected);
    let silu: Vec<_> = expected.iter().map(|x| x / (1.0 + (-x).exp())).collect();
    backend.agrees("group_norm, silu", &norm.forward_silu(&x).unwrap(), &silu);
    let (top, bottom) = (x.narrow(1, 0, 2), x.narrow(1, 2, height - 2));
    let (top, bottom) = (top.unwrap(), bottom.unwrap());
    let sums = norm.sums(&top).unwrap().and(&norm.sums(&bottom).unwrap());
    let parts = [&top, &bottom].map(|part| norm.forward_silu_by(&sums, part).unwrap());
    let parts = Tensor::cat(&parts, 1).unwrap();
    backend.agrees("group_norm in parts", &parts, &silu);

    let norm = LayerNorm::new(backend.ops, affine(), 1e-5).unwrap();
    let row = |row: &[f64]| scaled(standardised(row, 1, |_| 0, 1e-5));
    let expected: Vec<_> = f64s(&x).chunks(c).flat_map(row).collect();
    backend.agrees("layer_norm", &norm.forward(&x).unwrap(), &expected);
}

/// Values whose groups have mean zero and variance one.
fn standardised(
    values: &[f64],
    groups: usize,
    group: impl Fn(usize) -> usize,
    eps: f64,
) -> Vec<f64> {
    let mean = |value: &dyn Fn(usize) -> f64| {
        let (mut sums, count) = (vec![0.0; groups], (values.len() / groups) as f64);
        (0..values.len()).for_each(|i| sums[group(i)] += value(i) / count);
        sums
    };
    let means = mean(&|i| values[i]);
    let variances = mean(&|i| (values[i] - means[group(i)]).powi(2));
    (0..values.len())
        .map(|i| (values[i] - means[group(i)]) / (variances[group(i)] + eps).sqrt())
        .collect()
}

#[test]
fn attention_reads_values_by_the_softmax_of_its_scores() {
    for backend in backends().into_iter().map(Backend::attending) {
        for (b, n, m, heads, d) in [
            (2, 11, 7, 3, 4),
            (1, 6, 6, 2, 5),
            (3, 5, 6, 1, 8),
            (2, 70, 77, 2, 40),
            (1, 130, 130, 1, 64),
            (2, 9, 9, 2, 80),
            (1, 65, 3, 1, 128),
            (2, 5, 67, 1, 160),
            (33, 129, 9, 8, 64), // enough blocks for a GPU to take more queries in each
        ] {
            let q = backend.waves(&[b, n, heads * d], 0.1);
            let (k, v) = (
                backend.waves(&[b, m, heads * d], 0.5),
                backend.waves(&[b, m, heads * d], 0.9),
            );
            let modes = [AttentionMode::Full, AttentionMode::FirstRowsMaps];
            let causal = (n == m).then_some(AttentionMode::Causal);
            for mode in modes.into_iter().chain(causal) {
                let (_, expected) = plain_attention([&q, &k, &v], heads, mode);
                let y = backend.ops.attention([&q, &k, &v], heads, mode).unwrap();
                assert_eq!(y.dims(), [b, n, heads * d]);
                backend.agrees(&format!("{mode:?}"), &y, &expected);
            }
            let (maps, expected) = plain_attention([&q, &k, &v], heads, AttentionMode::Full);
            if n == m {
                let joined = Tensor::cat(&[&q, &k, &v], 2).unwrap();
                let [q, k, v] =
                    [0, 1, 2].map(|i| joined.narrow(2, i * heads * d, heads * d).unwrap());
                let y = backend
                    .ops
                    .attention([&q, &k, &v], heads, AttentionMode::Full);
                backend.agrees("columns of one tensor", &y.unwrap(), &expected);
            }
            let found = backend.ops.attention_maps(&q, &k, heads).unwrap();
            assert_eq!(found.dims(), [b, heads, n, m]);
            backend.agrees("maps", &found, &maps);
            backend.agrees(
                "read_maps",
                &backend.ops.read_maps(&found, &v).unwrap(),
                &expected,
            );
        }
    }
}

/// The maps (b, heads, n, m) and what they read (b, n, c).
fn plain_attention(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    mode: AttentionMode,
) -> (Vec<f64>, Vec<f64>) {
    let ((b, n, c), (_, m, _)) = (q.dims3().unwrap(), k.dims3().unwrap());
    let (q, k, v, d) = (f64s(q), f64s(k), f64s(v), c / heads);
    let (mut maps, mut out) = (Vec::new(), vec![0.0; b * n * c]);
    for (row, head, query, _) in grid([b, heads, n, 1]) {
        let from = if mode == AttentionMode::FirstRowsMaps {
            0
        } else {
            row
        };
        let score = |key: usize| {
            let terms = (0..d).map(|i| {
                q[(from * n + query) * c + head * d + i] * k[(from * m + key) * c + head * d + i]
            });
            terms.sum::<f64>() / (d as f64).sqrt()
        };
        let hidden = |key: usize| mode == AttentionMode::Causal && key > query;
        let weights: Vec<_> = (0..m)
            .map(|key| if hidden(key) { 0.0 } else { score(key).exp() })
            .collect();
        let sum: f64 = weights.iter().sum();
        for key in 0..m {
            maps.push(weights[key] / sum);
            for i in 0..d {
                out[(row * n + query) * c + head * d + i] +=
                    weights[key] / sum * v[(row * m + key) * c + head * d + i];
            }
        }
    }
    (maps, out)
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

#[test]
fn low_rank_products_are_added_to_weights() {
    for backend in &BACKENDS[..2] {
        let weight = backend.waves(&[7, 5, 3, 3], 0.9);
        let (up, down) = (backend.waves(&[7, 3], 0.5), backend.waves(&[3, 45], 0.1));
        let columns = f64s(&down.t().unwrap());
        let delta = product(&f64s(&up), &columns, 3);
        let expected: Vec<_> = f64s(&weight)
            .iter()
            .zip(delta)
            .map(|(w, d)| w + d)
            .collect();
        let delta = LoraDelta {
            up,
            down,
            scale: 1.0,
        };
        let sum = LayerWeight::from(weight).plus(&delta).unwrap().unwrap();
        let merged = backend.ops.merge(&sum).unwrap();
        backend.agrees("merge", &merged, &expected);
    }
}

#[test]
fn attention_in_chunks_of_any_size_is_equal() {
    let [_, plain, _] = BACKENDS;
    let heads = |shape: &[usize], phase| split(&plain.waves(shape, phase), 3).unwrap();
    let (q, k, v) = (
        heads(&[2, 11, 12], 0.),
        heads(&[2, 7, 12], 1.),
        heads(&[2, 7, 15], 2.),
    );
    let whole = f64s(&join(&in_chunks(&q, &k, &v, 11).unwrap()).unwrap());
    for chunk in [1, 3, 10, 50] {
        let parts = join(&in_chunks(&q, &k, &v, chunk).unwrap()).unwrap();
        plain.agrees("in chunks", &parts, &whole);
    }
}

/// Patches laid out a few rows at a time: the same values, and the same gradients
/// as those of the CPU kernels.
#[test]
fn convolutions_in_strips_have_equal_values_and_gradients() {
    let plain = BACKENDS[1];
    let loose = Backend {
        tolerance: 1e-4,
        ..plain
    };
    let var = |shape: &[usize], phase| Var::from_tensor(&plain.waves(shape, phase)).unwrap();
    let (x, weight) = (var(&[2, 9, 6, 3], 0.1), var(&[4, 3, 3, 3], 0.5));
    let zero = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
    for stride in [Stride::One, Stride::Two, Stride::TwoPadRightBottom] {
        let geometry = stride.geometry(3);
        let packed = Packed::F32
            .pack_conv2d(&weight.as_tensor().clone().into())
            .unwrap();
        let whole = Packed::F32
            .conv2d(&x, &packed, geometry, ConvEpilogue::bias(Some(&zero)))
            .unwrap();
        let gradients = |y: &Tensor| {
            let back = (y * plain.waves(y.dims(), 0.9))
                .unwrap()
                .backward()
                .unwrap();
            [&x, &weight].map(|var| back.get(var).unwrap().clone())
        };
        for bytes in [1, 5000, usize::MAX] {
            let found = convolved(&x, &weight, geometry, bytes).unwrap();
            plain.agrees("in strips", &found, &f64s(&whole));
            for (found, expected) in gradients(&found).iter().zip(gradients(&whole)) {
                loose.agrees("gradients", found, &f64s(&expected));
            }
        }
    }
}

/// Convolutions and linear layers of Stable Diffusion's sizes, whose sums a GPU splits,
/// agree with candle's in f32 on the same GPU.
#[test]
fn products_of_full_size_agree_on_a_gpu() {
    let Some((ops, device)) = gpu() else {
        return;
    };
    let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, device).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let rounded = |shape: &[usize]| random(shape).to_dtype(dtype).unwrap();
        let wide = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        let backend = Backend {
            ops,
            device,
            dtype,
            operands: dtype,
            tolerance: if dtype == DType::F16 { 2e-3 } else { 1e-2 },
        };
        for (b, side, inputs, outputs) in [
            (1, 64, 320, 320),
            (2, 64, 960, 320),
            (1, 32, 640, 640),
            (2, 16, 1280, 1280),
            (1, 8, 2560, 1280),
            (2, 8, 1280, 1280),
            (1, 64, 320, 4),
        ] {
            let x = rounded(&[b, side, side, inputs]);
            let weight = rounded(&[outputs, inputs, 3, 3]);
            let geometry = ConvGeometry::same(3);
            let none = ConvEpilogue::default();
            let packed = ops.pack_conv2d(&weight.clone().into()).unwrap();
            let y = ops.conv2d(&x, &packed, geometry, none).unwrap();
            let plain = Composed.pack_conv2d(&wide(&weight).into()).unwrap();
            let expected = Composed.conv2d(&wide(&x), &plain, geometry, none).unwrap();
            backend.agrees("conv2d", &y, &f64s(&expected));
        }
        for (rows, inputs, outputs) in [
            (4096, 320, 320),
            (1024, 2560, 640),
            (256, 5120, 1280),
            (77, 768, 320),
            (64, 1280, 1280),
        ] {
            let (x, weight) = (rounded(&[1, rows, inputs]), rounded(&[outputs, inputs]));
            let packed = ops.pack_linear(&weight.clone().into()).unwrap();
            let y = ops.linear(&x, &packed, Epilogue::default()).unwrap();
            let plain = Composed.pack_linear(&wide(&weight).into()).unwrap();
            let expected = Composed.linear(&wide(&x), &plain, Epilogue::default());
            backend.agrees("linear", &y, &f64s(&expected.unwrap()));
        }
    }
}
