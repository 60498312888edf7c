//! Convolutions against candle's, in f64.

use candle_core::{DType, Device, Var};

use super::{patches::nearest, *};
use crate::kernel::bf16::tests::units;

fn waves(shape: (usize, usize, usize, usize), phase: f64) -> Tensor {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let wave = |i| ((i as f64 * 0.73 + phase).sin() * 2.0) as f32;
    Tensor::from_vec((0..count).map(wave).collect(), shape, &Device::Cpu).unwrap()
}

/// candle's convolution, in f64.
fn plain(x: &Tensor, weight: &Tensor, geometry: ConvGeometry) -> Tensor {
    let x = x.to_dtype(DType::F64).unwrap().permute((0, 3, 1, 2));
    let ConvGeometry {
        stride,
        before,
        after,
        ..
    } = geometry;
    let x = x.unwrap().pad_with_zeros(2, before, after).unwrap();
    let x = x.pad_with_zeros(3, before, after).unwrap();
    let weight = weight.to_dtype(DType::F64).unwrap();
    let y = x.conv2d(&weight, 0, stride, 1, 1).unwrap();
    y.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let gap = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    gap.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

const HALVING: ConvGeometry = ConvGeometry {
    side: 3,
    stride: 2,
    before: 1,
    after: 1,
};

const LOPSIDED: ConvGeometry = ConvGeometry {
    side: 3,
    stride: 2,
    before: 0,
    after: 1,
};

/// (geometry, b, inputs, outputs, h, w)
fn cases() -> Vec<(ConvGeometry, usize, usize, usize, usize, usize)> {
    vec![
        (ConvGeometry::same(3), 1, 1, 1, 1, 1),
        (ConvGeometry::same(3), 2, 5, 3, 7, 4),
        (ConvGeometry::same(3), 1, 33, 17, 31, 40),
        (ConvGeometry::same(3), 8, 20, 36, 3, 3),
        (ConvGeometry::same(1), 3, 130, 9, 5, 6),
        (ConvGeometry::same(5), 1, 2, 2, 3, 9),
        (ConvGeometry::same(3), 2, 64, 65, 13, 14),
        (ConvGeometry::same(3), 1, 80, 128, 34, 70),
        (ConvGeometry::same(3), 7, 64, 50, 15, 7),
        (ConvGeometry::same(3), 3, 96, 33, 16, 8),
        (HALVING, 1, 4, 8, 9, 13),
        (HALVING, 2, 17, 5, 1, 2),
        (LOPSIDED, 1, 12, 7, 8, 6),
        (LOPSIDED, 1, 2, 2, 2, 34),
    ]
}

#[test]
fn it_equals_the_definition_for_many_shapes() {
    for (geometry, b, inputs, outputs, h, w) in cases() {
        let x = waves((b, h, w, inputs), 0.3);
        let weight = waves((outputs, inputs, geometry.side, geometry.side), 1.1);
        let packed = Arc::new(PackedConv::new(&weight).unwrap());
        let y = conv2d(&x, &packed, geometry, ConvEpilogue::default()).unwrap();
        let scale = (inputs * geometry.side * geometry.side) as f64;
        let gap = gap(&y, &plain(&x, &weight, geometry)) / scale;
        assert!(
            gap < 1e-6,
            "{geometry:?} {b} {inputs} {outputs} {h}x{w}: {gap}"
        );
    }
}

#[test]
fn an_enlarged_input_needs_no_copy() {
    let (x, weight) = (waves((2, 3, 5, 20), 0.3), waves((7, 20, 3, 3), 1.1));
    let pick = |at: Vec<usize>| {
        let at: Vec<_> = at.into_iter().map(|i| i as u32).collect();
        Tensor::new(at, &Device::Cpu).unwrap()
    };
    let copied = x.index_select(&pick(nearest(3, 7)), 1).unwrap();
    let copied = copied.index_select(&pick(nearest(5, 10)), 2).unwrap();
    let packed = Arc::new(PackedConv::new(&weight).unwrap());
    let epilogue = ConvEpilogue {
        upsample: Some((7, 10)),
        ..ConvEpilogue::default()
    };
    let geometry = ConvGeometry::same(3);
    let fused = conv2d(&x, &packed, geometry, epilogue).unwrap();
    let apart = conv2d(&copied, &packed, geometry, ConvEpilogue::default()).unwrap();
    assert!(gap(&fused, &apart) < 1e-6);
}

#[test]
fn biases_and_residuals_are_added() {
    let (x, weight) = (waves((2, 3, 5, 4), 0.3), waves((7, 4, 3, 3), 1.1));
    let (bias, residual) = (waves((2, 1, 1, 7), 0.), waves((2, 3, 5, 7), 2.));
    let packed = Arc::new(PackedConv::new(&weight).unwrap());
    let per_picture = bias.reshape((2, 7)).unwrap();
    let epilogue = ConvEpilogue {
        bias: Some(&per_picture),
        residual: Some(&residual),
        ..ConvEpilogue::default()
    };
    let y = conv2d(&x, &packed, ConvGeometry::same(3), epilogue).unwrap();
    let expected = plain(&x, &weight, ConvGeometry::same(3));
    let to_f64 = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    let expected = expected.broadcast_add(&to_f64(&bias)).unwrap();
    assert!(gap(&y, &(expected + to_f64(&residual)).unwrap()) < 1e-4);
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    let to_f64 = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    let sum = (to_f64(a) * to_f64(b)).unwrap().sum_all().unwrap();
    sum.to_scalar().unwrap()
}

/// A convolution is linear in its input and in its weights, so that a step
/// in any direction changes the loss by exactly gradient times direction.
#[test]
fn gradients_are_the_slopes_in_any_direction() {
    for (geometry, b, inputs, outputs, h, w) in cases() {
        let var = |x: Tensor| Var::from_tensor(&x).unwrap();
        let (x_shape, w_shape) = (
            (b, h, w, inputs),
            (outputs, inputs, geometry.side, geometry.side),
        );
        let (x, weight) = (var(waves(x_shape, 0.3)), var(waves(w_shape, 1.1)));
        let bias = var(waves((1, 1, 1, outputs), 0.5).flatten_all().unwrap());
        let y = conv2d_tracked(Arithmetic::F32, [&x, &weight, &bias], geometry).unwrap();
        let slope = waves(y.dims4().unwrap(), 0.9); // of the loss sum(y * slope)
        let loss = (y * &slope).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = |var: &Var| gradients.get(var).unwrap().clone();
        for phase in [0.1, 2.3, 4.7] {
            let (dx, dw) = (waves(x_shape, phase), waves(w_shape, phase));
            for (found, change) in [
                (dot(&gradient(&x), &dx), plain(&dx, &weight, geometry)),
                (dot(&gradient(&weight), &dw), plain(&x, &dw, geometry)),
            ] {
                let expected = dot(&change, &slope);
                let gap = (found - expected).abs() / dot(&slope, &slope);
                assert!(
                    gap < 1e-5,
                    "{geometry:?} {b} {inputs} {outputs} {h}x{w}: {gap}"
                );
            }
        }
        let per_channel = slope.flatten_to(2).unwrap().sum(0).unwrap();
        assert!(gap(&gradient(&bias), &per_channel) < 1e-4);
    }
}

#[test]
fn wrong_weights_are_refused() {
    let geometry = ConvGeometry::same(3);
    for weight in [waves((2, 4, 3, 3), 0.), waves((2, 3, 1, 1), 0.)] {
        let packed = Arc::new(PackedConv::new(&weight).unwrap());
        assert!(
            conv2d(
                &waves((1, 4, 4, 3), 0.),
                &packed,
                geometry,
                ConvEpilogue::default()
            )
            .is_err()
        );
    }
}

/// By F(2x2, 3x3) in bf16, whether it pays or not.
fn transformed(x: &Tensor, weight: &Tensor, unit: Unit, epilogue: ConvEpilogue) -> Tensor {
    let packed = PackedConv::packed(weight, Arithmetic::Bf16(unit)).unwrap();
    let RightSide::Bf16(unit, pairs) = &packed.packed else {
        panic!("it was asked for");
    };
    let (filters, same) = (LazyFilters::default(), ConvGeometry::same(3));
    let (out, shape) = computed(x, &packed, same, epilogue, |patches, addends, out| {
        let filters = (&filters, pairs);
        rounded_winograd::convolve(*unit, (patches, &[]), filters, addends, out);
    })
    .unwrap();
    op::tensor(out, shape).unwrap()
}

/// Whole numbers from -2 to 2 times `step`.
fn whole(shape: &[usize], step: usize) -> Tensor {
    let value = |i: usize| step as f32 * ((i * i + 3 * i) % 5) as f32 - 2.0 * step as f32;
    let values = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Small whole numbers are transformed without rounding.
#[test]
fn rounded_transforms_equal_the_definition_for_many_shapes() {
    for ([b, h, w], inputs, outputs, upsample) in [
        ([1, 1, 1], 32, 1, None),
        ([1, 4, 4], 32, 5, None),
        ([2, 7, 5], 64, 33, None),
        ([1, 33, 64], 32, 40, None),
        ([3, 6, 96], 96, 64, None),
        ([1, 3, 67], 32, 32, None),
        ([2, 5, 8], 32, 40, Some((10, 16))),
        ([2, 5, 7], 32, 33, Some((10, 14))),
        ([1, 16, 32], 64, 40, Some((32, 64))),
        ([1, 4, 5], 64, 32, Some((8, 9))),
        ([1, 4, 5], 64, 32, Some((7, 9))),
    ] {
        let (x, weight) = (
            whole(&[b, h, w, inputs], 1),
            whole(&[outputs, inputs, 3, 3], 4),
        );
        let (height, width) = upsample.unwrap_or((h, w));
        let (bias, residual) = (whole(&[outputs], 3), whole(&[b, height, width, outputs], 7));
        let epilogue = ConvEpilogue {
            bias: Some(&bias),
            residual: Some(&residual),
            upsample,
            ..ConvEpilogue::default()
        };
        let exact = Arc::new(PackedConv::new(&weight).unwrap());
        let expected = conv2d(&x, &exact, ConvGeometry::same(3), epilogue).unwrap();
        let largest = gap(&expected, &expected.zeros_like().unwrap());
        for unit in units() {
            let found = transformed(&x, &weight, unit, epilogue);
            // The kernels in f32 err a little.
            let off = gap(&found, &expected) / largest;
            assert!(
                off < 1e-5,
                "{unit:?} {b} x {h} x {w}, {inputs}, {outputs}: {off}"
            );
        }
    }
}

#[test]
fn a_layer_of_rounded_transforms_serves_upsampled_pictures_and_others() {
    let (x, weight) = (whole(&[1, 16, 32, 64], 1), whole(&[64, 64, 3, 3], 4));
    let same = ConvGeometry::same(3);
    let exact = Arc::new(PackedConv::new(&weight).unwrap());
    for unit in units() {
        let rounded = Arc::new(PackedConv::packed(&weight, Arithmetic::Bf16(unit)).unwrap());
        for upsample in [None, Some((32, 64)), Some((31, 64)), None] {
            let epilogue = ConvEpilogue {
                upsample,
                ..ConvEpilogue::default()
            };
            let [found, expected] =
                [&rounded, &exact].map(|packed| conv2d(&x, packed, same, epilogue).unwrap());
            let off = gap(&found, &expected) / gap(&expected, &expected.zeros_like().unwrap());
            assert!(off < 1e-5, "{unit:?} {upsample:?}: {off}");
        }
    }
}

#[test]
fn rounded_transforms_err_at_most_twice_as_much_as_rounded_products() {
    let scattered = |shape: [usize; 4]| {
        let value = |i: usize| ((i as f64 * 12.9898).sin() * 43_758.545_3).fract() as f32;
        let values = (0..shape.iter().product()).map(value).collect();
        Tensor::from_vec(values, &shape[..], &Device::Cpu).unwrap()
    };
    let (x, weight) = (scattered([1, 16, 16, 64]), scattered([32, 64, 3, 3]));
    let (none, same) = (ConvEpilogue::default(), ConvGeometry::same(3));
    let by = |arithmetic| {
        let packed = Arc::new(PackedConv::packed(&weight, arithmetic).unwrap());
        conv2d(&x, &packed, same, none).unwrap()
    };
    let exact = by(Arithmetic::F32);
    let rms = |found: &Tensor| {
        let square = (found - &exact).unwrap().sqr().unwrap().mean_all().unwrap();
        square.to_scalar::<f32>().unwrap().sqrt()
    };
    for unit in units() {
        let plain = rms(&by(Arithmetic::Bf16(unit)));
        let found = rms(&transformed(&x, &weight, unit, none));
        assert!(
            found < 2.0 * plain && found > 0.0,
            "{unit:?}: {found} for {plain}"
        );
    }
}

#[test]
fn a_picture_is_rounded_among_others_as_it_is_alone() {
    let rounded = units().into_iter().map(Arithmetic::Bf16);
    for arithmetic in [Arithmetic::F32].into_iter().chain(rounded) {
        for (side, inputs, outputs, upsample) in [
            (4, 64, 64, None),
            (7, 96, 33, None),
            (16, 64, 64, None),
            (4, 64, 64, Some((8, 8))),
            (9, 64, 64, Some((18, 18))),
        ] {
            let x = waves((5, side, side, inputs), 0.3);
            let weight = waves((outputs, inputs, 3, 3), 1.1);
            let packed = Arc::new(PackedConv::packed(&weight, arithmetic).unwrap());
            let bits = |first, count| {
                let x = x.narrow(0, first, count).unwrap().contiguous().unwrap();
                let epilogue = ConvEpilogue {
                    upsample,
                    ..ConvEpilogue::default()
                };
                let y = conv2d(&x, &packed, ConvGeometry::same(3), epilogue).unwrap();
                let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let alone: Vec<_> = (0..5).flat_map(|i| bits(i, 1)).collect();
            assert!(
                bits(0, 5) == alone,
                "{arithmetic:?} {side} {inputs} {outputs}"
            );
        }
    }
}
