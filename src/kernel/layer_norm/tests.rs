use super::*;
use crate::kernel::oracle::{check, compare, f64s, waves};

const EPS: f64 = 1e-5;

fn plain([x, weight, bias]: &[Vec<f64>; 3]) -> Vec<f64> {
    let c = weight.len();
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / c as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
        let h = x.iter().map(|x| (x - mean) / (variance + EPS).sqrt());
        h.zip(weight)
            .zip(bias)
            .map(|((h, w), b)| h * w + b)
            .collect()
    };
    x.chunks(c).flat_map(row).collect()
}

#[test]
fn values_and_gradients_equal_the_formula_for_many_shapes() {
    for (rows, c) in [
        (1, 1),
        (1, 2),
        (5, 7),
        (3, 16),
        (77, 31),
        (900, 40),
        (8, 1283),
        (77, 768),
    ] {
        let arguments = [waves((rows, c), 0.3), waves(c, 1.1), waves(c, 2.5)];
        let kernel = |[x, weight, bias]: [&Tensor; 3]| layer_norm(x, weight, bias, EPS);
        check(&format!("{rows}x{c}"), arguments, 3e-6, kernel, plain);
    }
}

#[test]
fn a_large_mean_costs_no_digits() {
    for (c, offset) in [(320, 1e3), (77, -1e4), (1280, 1e5)] {
        let (x, weight, bias) = (waves((9, c), 0.3), waves(c, 1.1), waves(c, 2.5));
        let x = (x + offset).unwrap();
        let y = layer_norm(&x, &weight, &bias, EPS).unwrap();
        let expected = plain(&[&x, &weight, &bias].map(f64s));
        compare("large mean", &f64s(&y), &expected, 3e-6);
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    assert!(layer_norm(&waves((2, 3), 0.), &waves(2, 0.), &waves(3, 0.), EPS).is_err());
}
