//! Products of full size on a GPU.

use super::*;

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
