//! Convolutions.

use super::*;

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
