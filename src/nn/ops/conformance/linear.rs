//! Linear layers, and what is merged into weights.

use super::*;

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
