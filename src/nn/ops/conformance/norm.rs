//! Norms.

use super::*;

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
