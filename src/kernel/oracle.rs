//! Compares kernels and their gradients with formulas in f64.

use candle_core::{Device, Result, Shape, Tensor, Var};

/// The step of a finite difference.
const STEP: f64 = 1e-5;

/// Smooth values between -2 and 2, without a period.
pub(super) fn waves(shape: impl Into<Shape>, phase: f64) -> Tensor {
    let shape = shape.into();
    let wave = |i| ((i as f64 * 0.73 + phase).sin() + (i as f64 * 0.141).cos()) as f32;
    let values = (0..shape.elem_count()).map(wave).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Checks a kernel: its values against a formula, its gradients against the
/// formula's finite differences, that only tracked arguments get one, and that
/// the number of threads changes nothing.
pub(super) fn check<const N: usize>(
    name: &str,
    arguments: [Tensor; N],
    tolerance: f64,
    kernel: impl Fn([&Tensor; N]) -> Result<Tensor> + Sync,
    formula: impl Fn(&[Vec<f64>; N]) -> Vec<f64>,
) {
    let exact = arguments.each_ref().map(f64s);
    let y = kernel(arguments.each_ref()).unwrap();
    compare(name, &f64s(&y), &formula(&exact), tolerance);
    let weights = waves(y.shape(), 0.9);
    let loss = |x: &[Vec<f64>; N]| dot(&formula(x), &f64s(&weights));
    let all = gradients(&arguments, [true; N], &weights, &kernel);
    for (i, gradient) in all.iter().enumerate() {
        let gradient = f64s(gradient.as_ref().unwrap());
        for direction in directions(gradient.len()) {
            let slope = slope(loss, &exact, i, &direction);
            let terms = gradient.iter().zip(&direction).map(|(g, d)| (g * d).abs());
            let gap = (dot(&gradient, &direction) - slope).abs() / (1.0 + terms.sum::<f64>());
            assert!(gap < 3.0 * tolerance, "{name}: gradient {i} is {gap} off");
        }
    }
    for i in 0..N {
        let only = std::array::from_fn(|j| i == j);
        let alone = gradients(&arguments, only, &weights, &kernel);
        for (j, (alone, all)) in alone.iter().zip(&all).enumerate() {
            assert_eq!(
                alone.as_ref().map(bits),
                all.as_ref().filter(|_| i == j).map(bits)
            );
        }
    }
    let run = || {
        let all = gradients(&arguments, [true; N], &weights, &kernel);
        let y = kernel(arguments.each_ref()).unwrap();
        (bits(&y), all.map(|gradient| gradient.as_ref().map(bits)))
    };
    assert!(
        on_threads(1, run) == on_threads(2, run),
        "{name}: threads matter"
    );
}

/// Checks values alone.
pub(super) fn compare(name: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs() / expected.abs().max(1.0);
        assert!(
            gap < tolerance,
            "{name}: {found} for {expected} at {i}, {gap} off"
        );
    }
}

/// The values of a tensor.
pub(super) fn f64s(x: &Tensor) -> Vec<f64> {
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The gradients of sum(kernel * weights) for the arguments that are tracked.
fn gradients<const N: usize>(
    arguments: &[Tensor; N],
    tracked: [bool; N],
    weights: &Tensor,
    kernel: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> [Option<Tensor>; N] {
    let arguments: [Tensor; N] = std::array::from_fn(|i| match tracked[i] {
        true => Var::from_tensor(&arguments[i]).unwrap().into_inner(),
        false => arguments[i].clone(),
    });
    let y = kernel(arguments.each_ref()).unwrap();
    let loss = (y * weights).unwrap().sum_all().unwrap();
    let store = loss.backward().unwrap();
    arguments.map(|argument| store.get(&argument).cloned())
}

/// Two waves, and one value alone a few times.
fn directions(length: usize) -> Vec<Vec<f64>> {
    let alone = |at: usize| (0..length).map(|i| f64::from(u8::from(i == at))).collect();
    let mut directions: Vec<Vec<f64>> = (0..length).step_by(length / 5 + 1).map(alone).collect();
    directions.extend([0.1, 2.3].map(|phase| f64s(&waves(length, phase))));
    directions
}

/// How fast the loss changes when argument `i` goes a direction.
fn slope<const N: usize>(
    loss: impl Fn(&[Vec<f64>; N]) -> f64,
    at: &[Vec<f64>; N],
    i: usize,
    direction: &[f64],
) -> f64 {
    let after = |step: f64| {
        let mut x = at.clone();
        x[i].iter_mut()
            .zip(direction)
            .for_each(|(x, d)| *x += step * d);
        loss(&x)
    };
    (after(STEP) - after(-STEP)) / (2.0 * STEP)
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(work)
}
