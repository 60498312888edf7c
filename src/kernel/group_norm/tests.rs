use super::*;
use crate::kernel::oracle::{check, compare, f64s, waves};

/// Large enough that the gradients of groups of one value do not explode.
const EPS: f64 = 1e-3;

/// (pictures, pixels, channels, groups)
type Case = (usize, usize, usize, usize);

const CASES: [Case; 16] = [
    (1, 1, 1, 1),
    (2, 1, 6, 2),
    (1, 2, 4, 4),
    (3, 7, 6, 3),
    (2, 35, 30, 10),
    (8, 9, 20, 2),
    (1, 400, 3, 1),
    (2, 257, 16, 4),
    (4, 64, 33, 11),
    (1, 64, 320, 32),
    (3, 15, 100, 10),
    (1, 17, 130, 13),
    (2, 5, 512, 32),
    (1, 1, 640, 32),
    (1, 5000, 7, 7),
    (2, 600, 64, 32),
];

/// The formula, one group at a time.
fn plain(case: Case, activation: Activation, [x, weight, bias]: &[Vec<f64>; 3]) -> Vec<f64> {
    let (pictures, pixels, channels, groups) = case;
    let size = channels / groups;
    let mut y = vec![0.0; x.len()];
    for picture in 0..pictures {
        for group in 0..groups {
            let place =
                |i: usize| (picture * pixels + i / size) * channels + group * size + i % size;
            let of: Vec<_> = (0..pixels * size).map(place).collect();
            let mean = of.iter().map(|&i| x[i]).sum::<f64>() / of.len() as f64;
            let variance = of.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / of.len() as f64;
            for i in of {
                let h = (x[i] - mean) / (variance + EPS).sqrt();
                let z = h * weight[i % channels] + bias[i % channels];
                y[i] = match activation {
                    Activation::Identity => z,
                    Activation::Silu => z / (1.0 + (-z).exp()),
                    other => unreachable!("{other:?} is not tested here"),
                };
            }
        }
    }
    y
}

fn arguments((pictures, pixels, channels, _): Case) -> [Tensor; 3] {
    [
        waves((pictures, pixels, channels), 0.3),
        waves(channels, 1.1),
        waves(channels, 2.5),
    ]
}

#[test]
fn values_and_gradients_equal_the_formula_for_many_shapes() {
    for case in CASES {
        for activation in [Activation::Identity, Activation::Silu] {
            let kernel = |[x, weight, bias]: [&Tensor; 3]| {
                group_norm(x, [weight, bias], case.3, EPS, activation)
            };
            let formula = |arguments: &[Vec<f64>; 3]| plain(case, activation, arguments);
            check(
                &format!("{case:?} {activation:?}"),
                arguments(case),
                3e-6,
                kernel,
                formula,
            );
        }
    }
}

/// The largest gap to the formula of x times `scale` plus `offset`.
fn check_moved(case: Case, scale: f64, offset: f64, tolerance: f64) {
    let [x, weight, bias] = arguments(case);
    let x = x.affine(scale, offset).unwrap();
    let y = group_norm(&x, [&weight, &bias], case.3, EPS, Activation::Identity).unwrap();
    let expected = plain(case, Activation::Identity, &[&x, &weight, &bias].map(f64s));
    compare(&format!("{case:?}"), &f64s(&y), &expected, tolerance);
}

#[test]
fn a_large_mean_costs_no_digits() {
    for case in [
        (1, 3000, 64, 8),
        (2, 40, 33, 3),
        (1, 1, 640, 32),
        (1, 70000, 6, 2),
    ] {
        check_moved(case, 1.0, 1e3, 3e-6);
        check_moved(case, 1.0, -1e5, 1e-5);
        check_moved(case, 1e-2, 1e3, 1e-5);
        check_moved(case, 1e4, 0.0, 3e-6);
    }
}

#[test]
fn an_outlier_among_the_first_pixels_costs_no_digits() {
    let case = (1, 5000, 32, 4);
    let [x, weight, bias] = arguments(case);
    let mut x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    x[..8].fill(-3e4);
    let x = op::tensor(x, (1, 5000, 32)).unwrap();
    let y = group_norm(&x, [&weight, &bias], 4, EPS, Activation::Identity).unwrap();
    let expected = plain(case, Activation::Identity, &[&x, &weight, &bias].map(f64s));
    compare("outlier", &f64s(&y), &expected, 3e-6);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let [x, weight, bias] = arguments((2, 3, 6, 1));
    for groups in [0, 4] {
        assert!(group_norm(&x, [&weight, &bias], groups, EPS, Activation::Identity).is_err());
    }
    assert!(group_norm(&x, [&waves(5, 0.), &bias], 2, EPS, Activation::Identity).is_err());
    assert!(group_norm(&weight, [&weight, &bias], 2, EPS, Activation::Identity).is_err());
}
