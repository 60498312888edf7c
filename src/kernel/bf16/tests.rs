//! Operations in bf16 against f32.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{Arithmetic, unit::Unit};

use crate::kernel::{
    Activation, ConvEpilogue, ConvGeometry, Epilogue, PackedConv, PackedLinear, Sees, attend,
    attend_causally, attend_rounded, attend_through_first, conv2d, conv2d_tracked, feed_forward,
    group_norm, linear, linear_geglu, linear_tracked, norm_silu_conv2d,
};

/// The units of this processor.
pub(crate) fn units() -> Vec<Unit> {
    let here = [Unit::tiles(), Unit::dots()].into_iter().flatten();
    here.chain([Unit::Emulated]).collect()
}

/// Values between -2 and 2 that bf16 holds.
fn waves(shape: &[usize], phase: f64) -> Tensor {
    let wave = |i: usize| ((i as f64 * 0.73 + phase).sin() + (i as f64 * 0.141).cos()) as f32;
    let values = (0..shape.iter().product()).map(wave).collect();
    let x = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    let x = x.to_dtype(DType::BF16).unwrap();
    x.to_dtype(DType::F32).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks an operation in bf16 against f32, relative to `size` or the largest result, and that
/// the number of threads changes nothing.
fn check(
    what: &str,
    (tolerance, size): (f32, f32),
    run: impl Fn(Arithmetic) -> Result<Tensor> + Sync,
) {
    let expected = run(Arithmetic::F32).unwrap();
    let largest = values(&expected)
        .iter()
        .fold(size, |most, x| most.max(x.abs()));
    for unit in units() {
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| run(Arithmetic::Bf16(unit)).unwrap())
        };
        let found = on_threads(1);
        assert_eq!(found.dims(), expected.dims(), "{what}");
        for (i, (found, expected)) in values(&found).iter().zip(values(&expected)).enumerate() {
            let gap = (found - expected).abs() / largest;
            assert!(
                gap < tolerance,
                "{what} by {unit:?}: {found} for {expected} at {i}"
            );
        }
        for threads in [2, 3] {
            assert!(
                values(&found) == values(&on_threads(threads)),
                "{what} on {threads} threads"
            );
        }
    }
}

#[test]
fn linear_layers_agree_with_f32_for_many_shapes() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (3, 33, 31),
        (16, 32, 32),
        (17, 64, 96),
        (33, 40, 70),
        (77, 96, 160),
        (300, 320, 130),
        (513, 31, 33),
        (64, 1280, 100),
        (2, 500, 1000),
    ] {
        let (x, weight) = (waves(&[rows, inputs], 0.1), waves(&[outputs, inputs], 0.5));
        let (bias, residual) = (waves(&[outputs], 0.9), waves(&[rows, outputs], 1.3));
        check(
            &format!("{rows} x {inputs} x {outputs}"),
            (2e-6, 0.0),
            |arithmetic| {
                let weight = Arc::new(PackedLinear::packed(&weight, arithmetic)?);
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    residual: Some(&residual),
                };
                linear(&x, &weight, epilogue)
            },
        );
    }
}

#[test]
fn gated_layers_agree_with_f32() {
    for (rows, inputs, d) in [(5, 20, 32), (300, 64, 96), (33, 33, 64)] {
        let (x, weight) = (waves(&[rows, inputs], 0.1), waves(&[2 * d, inputs], 0.5));
        let bias = waves(&[2 * d], 0.9);
        for bias in [None, Some(&bias)] {
            check(
                &format!("{rows} x {inputs} x {d}"),
                (2e-6, 0.0),
                |arithmetic| {
                    let weight = Arc::new(PackedLinear::packed(&weight, arithmetic)?);
                    linear_geglu(&x, &weight, bias)
                },
            );
        }
    }
}

#[test]
fn a_feed_forward_network_has_the_bits_of_its_layers() {
    for (rows, inputs, d, outputs) in [(5, 20, 32, 33), (300, 64, 96, 40), (700, 33, 640, 70)] {
        let x = waves(&[rows, inputs], 0.1);
        let inner = [waves(&[2 * d, inputs], 0.5), waves(&[2 * d], 0.9)];
        let outer = [waves(&[outputs, d], 1.5), waves(&[outputs], 1.9)];
        let residual = waves(&[rows, outputs], 2.3);
        for unit in units() {
            let packed = |weight: &Tensor| {
                Arc::new(PackedLinear::packed(weight, Arithmetic::Bf16(unit)).unwrap())
            };
            let [first, second] = [packed(&inner[0]), packed(&outer[0])];
            for bare in [false, true] {
                let of = |x| (!bare).then_some(x);
                let residual = of(&residual);
                let gated = linear_geglu(&x, &first, of(&inner[1])).unwrap();
                let bias = of(&outer[1]);
                let apart = linear(&gated, &second, Epilogue { bias, residual }).unwrap();
                let biases = [of(&inner[1]), bias];
                let fused = feed_forward(&x, [&first, &second], biases, residual).unwrap();
                assert!(values(&fused) == values(&apart), "{unit:?} {rows} {bare}");
            }
        }
    }
}

#[test]
fn convolutions_agree_with_f32_for_many_shapes() {
    let same = ConvGeometry::same;
    let halving = ConvGeometry {
        stride: 2,
        ..same(3)
    };
    let lopsided = ConvGeometry {
        before: 0,
        ..halving
    };
    for (geometry, [b, h, w], inputs, outputs, upsample) in [
        (same(3), [1, 1, 1], 1, 1, None),
        (same(3), [2, 7, 4], 5, 3, None),
        (same(3), [3, 8, 8], 64, 40, None),
        (same(3), [5, 3, 17], 33, 32, None),
        (same(3), [1, 40, 70], 20, 33, None),
        (same(3), [2, 20, 128], 64, 32, None),
        (same(3), [1, 33, 64], 320, 32, None),
        (same(1), [3, 5, 6], 130, 9, None),
        (same(5), [1, 6, 9], 3, 7, None),
        (same(3), [2, 9, 8], 40, 33, Some((18, 16))),
        (same(3), [1, 5, 4], 32, 20, Some((9, 7))),
        (halving, [2, 9, 13], 40, 33, None),
        (halving, [1, 64, 66], 32, 40, None),
        (lopsided, [2, 8, 6], 33, 20, None),
        (lopsided, [1, 34, 32], 64, 32, None),
    ] {
        let (x, side) = (waves(&[b, h, w, inputs], 0.3), geometry.side);
        let weight = waves(&[outputs, inputs, side, side], 1.1);
        let (height, width) = upsample.unwrap_or((h, w));
        let out = [b, geometry.output(height), geometry.output(width), outputs];
        let (bias, shift, residual) = (
            waves(&[outputs], 0.9),
            waves(&[b, outputs], 1.7),
            waves(&out, 2.1),
        );
        check(
            &format!("{geometry:?} {b} x {h} x {w}, {inputs}, {outputs}"),
            (1e-5, 0.0),
            |arithmetic| {
                let weight = Arc::new(PackedConv::packed(&weight, arithmetic)?);
                let epilogue = ConvEpilogue {
                    bias: Some(&bias),
                    shift: Some(&shift),
                    residual: Some(&residual),
                    upsample,
                };
                conv2d(&x, &weight, geometry, epilogue)
            },
        );
    }
}

/// The gradient of one of the variables of a loss whose slopes in y are waves.
fn gradient(y: &Tensor, of: &Var) -> Result<Tensor> {
    let loss = (y * waves(y.dims(), 2.3))?.sum_all()?;
    Ok(loss.backward()?.get(of).unwrap().clone())
}

fn var(shape: &[usize], phase: f64) -> Var {
    Var::from_tensor(&waves(shape, phase)).unwrap()
}

#[test]
fn gradients_of_linear_layers_agree_with_f32() {
    for (rows, inputs, outputs) in [(1, 1, 1), (33, 40, 70), (300, 31, 130), (520, 64, 33)] {
        let (x, weight) = (var(&[rows, inputs], 0.1), var(&[outputs, inputs], 0.5));
        let (bias, what) = (
            var(&[outputs], 0.9),
            format!("{rows} x {inputs} x {outputs}"),
        );
        for of in [&x, &weight, &bias] {
            check(&what, (2e-6, 0.0), |arithmetic| {
                gradient(&linear_tracked(arithmetic, [&x, &weight, &bias])?, of)
            });
        }
        check(&format!("frozen {what}"), (2e-6, 0.0), |arithmetic| {
            let weight = Arc::new(PackedLinear::packed(&weight.detach(), arithmetic)?);
            gradient(&linear(&x, &weight, Epilogue::default())?, &x)
        });
    }
}

#[test]
fn gradients_of_convolutions_agree_with_f32() {
    let same = ConvGeometry::same;
    let halving = ConvGeometry {
        stride: 2,
        ..same(3)
    };
    let lopsided = ConvGeometry {
        before: 0,
        ..halving
    };
    for (geometry, [b, h, w], inputs, outputs) in [
        (same(3), [1, 1, 1], 1, 1),
        (same(3), [2, 7, 4], 5, 3),
        (same(3), [3, 8, 8], 64, 40),
        (same(3), [1, 33, 20], 20, 70),
        (same(1), [3, 5, 6], 130, 9),
        (same(5), [1, 6, 9], 3, 7),
        (halving, [2, 9, 13], 40, 33),
        (halving, [1, 34, 32], 16, 40),
        (lopsided, [2, 8, 6], 33, 20),
        (lopsided, [1, 9, 12], 64, 32),
    ] {
        let (x, side) = (var(&[b, h, w, inputs], 0.3), geometry.side);
        let (weight, bias) = (
            var(&[outputs, inputs, side, side], 1.1),
            var(&[outputs], 0.9),
        );
        let what = format!("{geometry:?} {b} x {h} x {w}, {inputs}, {outputs}");
        for of in [&x, &weight, &bias] {
            check(&what, (1e-5, 0.0), |arithmetic| {
                gradient(
                    &conv2d_tracked(arithmetic, [&x, &weight, &bias], geometry)?,
                    of,
                )
            });
        }
        check(&format!("frozen {what}"), (1e-5, 0.0), |arithmetic| {
            let weight = Arc::new(PackedConv::packed(&weight.detach(), arithmetic)?);
            gradient(&conv2d(&x, &weight, geometry, ConvEpilogue::default())?, &x)
        });
    }
}

#[test]
fn attention_agrees_with_f32_for_many_shapes() {
    for (b, heads, n, m, d, e) in [
        (1, 1, 1, 1, 1, 1),
        (2, 3, 17, 3, 1, 5),
        (3, 4, 77, 17, 40, 40),
        (1, 8, 130, 77, 40, 40),
        (2, 2, 130, 130, 64, 64),
        (2, 1, 33, 1000, 80, 80),
        (1, 1, 64, 257, 160, 33),
        (1, 1, 40, 300, 512, 512),
    ] {
        let (q, k) = (
            waves(&[b, n, heads * d], 0.1),
            waves(&[b, m, heads * d], 0.7),
        );
        let v = waves(&[b, m, heads * e], 1.9);
        // Of the larger scores, the maximum is found block by block.
        let larger = (&q * 16.0).unwrap();
        let all = [Sees::All, Sees::ThroughFirst, Sees::Earlier];
        for (q, sees) in all.iter().flat_map(|sees| [(&q, *sees), (&larger, *sees)]) {
            if sees == Sees::Earlier && n != m {
                continue;
            }
            let what = format!("{sees:?} {b} x {heads} x {n} to {m}, {d}, {e}");
            check(&what, (4e-3, 2.0), |arithmetic| match (arithmetic, sees) {
                (Arithmetic::Bf16(unit), _) => attend_rounded(unit, [q, &k, &v], heads, sees),
                (_, Sees::All) => attend(q, &k, &v, heads),
                (_, Sees::ThroughFirst) => attend_through_first(q, &k, &v, heads),
                (_, Sees::Earlier) => attend_causally(q, &k, &v, heads),
            });
        }
    }
}

#[test]
fn a_norm_in_front_of_a_convolution_is_that_of_the_norm_apart() {
    for (b, h, w, inputs, outputs, groups) in [
        (2, 5, 7, 40, 33, 4),
        (1, 20, 64, 64, 32, 8),
        (1, 16, 64, 64, 64, 8),
        (3, 8, 8, 6, 5, 3),
    ] {
        let (x, weight) = (
            waves(&[b, h, w, inputs], 0.3),
            waves(&[outputs, inputs, 3, 3], 1.1),
        );
        let affine = [waves(&[inputs], 0.2), waves(&[inputs], 0.8)];
        let (affine, geometry) = ([&affine[0], &affine[1]], ConvGeometry::same(3));
        let arithmetics = units().into_iter().map(Arithmetic::Bf16);
        for arithmetic in arithmetics.chain([Arithmetic::F32]) {
            let weight = Arc::new(PackedConv::packed(&weight, arithmetic).unwrap());
            let none = ConvEpilogue::default();
            let fused = norm_silu_conv2d(&x, (affine, groups, 1e-6), &weight, geometry, none);
            let normed = group_norm(&x, affine, groups, 1e-6, Activation::Silu).unwrap();
            let apart = conv2d(&normed, &weight, geometry, none).unwrap();
            assert!(values(&fused.unwrap()) == values(&apart), "{arithmetic:?}");
        }
    }
}
