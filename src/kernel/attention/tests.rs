//! Attention against its definition in f64.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::*;

fn noise(shape: (usize, usize, usize), seed: u32, height: f32) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * height
    };
    let values: Vec<_> = (0..shape.0 * shape.1 * shape.2).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// (b, rows, heads * width) -> (b, heads, rows, width)
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, rows, wide) = x.dims3()?;
    let x = x.reshape((b, rows, heads, wide / heads))?;
    x.transpose(1, 2)?.contiguous()
}

/// (b, heads, rows, width) -> (b, rows, heads * width)
fn join(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)
}

fn plain_maps(q: &Tensor, k: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (q, k) = (split(q, heads)?, split(k, heads)?);
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let scores = (q.matmul(&k.t()?.contiguous()?)? * scale)?;
    let peaks = scores.detach().max_keepdim(D::Minus1)?;
    let mut powers = scores.broadcast_sub(&peaks)?.exp()?;
    if causal {
        let n = scores.dim(2)?;
        let seen = Tensor::tril2(n, powers.dtype(), &Device::Cpu)?;
        powers = powers.broadcast_mul(&seen)?;
    }
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

/// The definition.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let maps = plain_maps(q, k, heads, causal)?;
    join(&maps.matmul(&split(v, heads)?)?)
}

fn wide(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

fn most(x: &Tensor) -> f64 {
    let most = wide(x).abs().unwrap().max_all().unwrap();
    most.to_scalar().unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    most(&(wide(a) - wide(b)).unwrap())
}

/// (b, heads, n, m, d, e, height of the queries)
type Case = (usize, usize, usize, usize, usize, usize, f32);

const CASES: [Case; 17] = [
    (1, 1, 1, 1, 1, 1, 1.0),
    (2, 3, 17, 3, 1, 5, 1.0),
    (1, 2, 3, 77, 5, 1, 10.0),
    (3, 4, 77, 17, 40, 40, 1.0),
    (1, 8, 130, 77, 40, 40, 3.0),
    (2, 5, 130, 130, 64, 64, 1.0),
    (4, 1, 17, 1000, 80, 80, 1.0),
    (1, 2, 1000, 130, 160, 160, 1.0),
    (1, 1, 130, 300, 512, 512, 1.0),
    (1, 2, 1000, 1000, 40, 20, 2.0),
    (1, 3, 64, 1, 16, 16, 1.0),
    (2, 1, 256, 256, 16, 16, 1.0),
    (1, 2, 77, 77, 64, 64, 1.0),
    (1, 1, 1, 1000, 40, 40, 1.0),
    (1, 2, 96, 257, 40, 40, 35.0),
    (1, 1, 130, 17, 1, 3, 100.0),
    (1, 1, 850, 20, 8, 8, 1.0),
];

fn arguments((b, heads, n, m, d, e, height): Case) -> ([Tensor; 3], usize) {
    let q = noise((b, n, heads * d), 1, height);
    let k = noise((b, m, heads * d), 2, 2.0);
    ([q, k, noise((b, m, heads * e), 3, 3.0)], heads)
}

#[test]
fn it_equals_its_definition_for_many_shapes() {
    for case in CASES {
        let ([q, k, v], heads) = arguments(case);
        let out = attend(&q, &k, &v, heads).unwrap();
        let expected = plain(&wide(&q), &wide(&k), &wide(&v), heads, false).unwrap();
        let gap = gap(&out, &expected) / most(&v);
        assert!(gap < 1e-5, "{case:?}: {gap}");
    }
}

#[test]
fn large_scores_pick_one_key() {
    // Scores of 100 and -100, and far beyond what e^x can hold.
    for height in [10.0, 1e3, 1e15] {
        let (q, v) = (noise((1, 50, 1), 1, height), noise((1, 2, 4), 3, 1.0));
        let k = Tensor::new(&[[[10f32], [-10.0]]], &Device::Cpu).unwrap();
        let out = attend(&q, &k, &v, 1).unwrap();
        let expected = plain(&wide(&q), &wide(&k), &wide(&v), 1, false).unwrap();
        assert!(gap(&out, &expected) < 1e-5);
    }
}

#[test]
fn causal_queries_see_no_later_key() {
    for (b, heads, n, d) in [
        (1, 12, 77, 64),
        (4, 20, 77, 64),
        (2, 3, 1, 5),
        (1, 2, 300, 40),
    ] {
        let part = |seed| noise((b, n, heads * d), seed, 2.0);
        let (q, k, v) = (part(1), part(2), part(3));
        let out = attend_causally(&q, &k, &v, heads).unwrap();
        let expected = plain(&wide(&q), &wide(&k), &wide(&v), heads, true).unwrap();
        let gap = gap(&out, &expected) / most(&v);
        assert!(gap < 1e-5, "{b} {heads} {n} {d}: {gap}");
    }
}

#[test]
fn maps_are_the_softmax_and_reading_them_is_attention() {
    for case in CASES {
        let ([q, k, v], heads) = arguments(case);
        let maps = attention_maps(&q, &k, heads).unwrap();
        let expected = plain_maps(&wide(&q), &wide(&k), heads, false).unwrap();
        assert!(gap(&maps, &expected) < 1e-5, "{case:?}");
        let sums = maps.sum(D::Minus1).unwrap();
        assert!(gap(&sums, &sums.ones_like().unwrap()) < 2e-6);
        let out = read_maps(&maps, &v).unwrap();
        let expected = plain(&wide(&q), &wide(&k), &wide(&v), heads, false).unwrap();
        let gap = gap(&out, &expected) / most(&v);
        assert!(gap < 1e-5, "{case:?}: {gap}");
    }
}

#[test]
fn every_image_reads_through_the_first_maps() {
    for case in CASES {
        let ([q, k, v], heads) = arguments(case);
        let b = q.dim(0).unwrap();
        let through = attend_through_first(&q, &k, &v, heads).unwrap();
        let first = |x: &Tensor| {
            let x = x.narrow(0, 0, 1).unwrap();
            x.repeat((b, 1, 1)).unwrap().contiguous().unwrap()
        };
        let expected = attend(&first(&q), &first(&k), &v, heads).unwrap();
        assert_eq!(gap(&through, &expected), 0.0, "{case:?}");
    }
}

/// The gradients of sum(out * slope).
fn gradients(
    arguments: &[Tensor; 3],
    attention: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> [Tensor; 3] {
    let [q, k, v] = arguments.each_ref().map(|x| Var::from_tensor(x).unwrap());
    let out = attention(&q, &k, &v).unwrap();
    let slope = noise(out.dims3().unwrap(), 9, 1.0)
        .to_dtype(out.dtype())
        .unwrap();
    let loss = (out * slope).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    [q, k, v].map(|x| gradients.get(&x).unwrap().clone())
}

fn compare_gradients(arguments: &[Tensor; 3], heads: usize, causal: bool) {
    let found = gradients(arguments, |q, k, v| match causal {
        true => attend_causally(q, k, v, heads),
        false => attend(q, k, v, heads),
    });
    let wide = arguments.each_ref().map(wide);
    let expected = gradients(&wide, |q, k, v| plain(q, k, v, heads, causal));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let gap = gap(found, expected) / most(expected).max(1.0);
        // Scores near 200 are rounded by up to 8e-6, and so are the weights.
        assert!(
            gap < 2e-5,
            "{i} {:?} {heads} {causal}: {gap}",
            arguments[0].dims()
        );
    }
}

#[test]
fn gradients_are_those_of_the_definition() {
    for case in CASES {
        let (arguments, heads) = arguments(case);
        compare_gradients(&arguments, heads, false);
    }
}

#[test]
fn causal_gradients_are_those_of_the_definition() {
    for (b, heads, n, d) in [(1, 12, 77, 64), (2, 3, 1, 5), (1, 2, 300, 40)] {
        let arguments = [1, 2, 3].map(|seed| noise((b, n, heads * d), seed, 1.0));
        compare_gradients(&arguments, heads, true);
    }
}

#[test]
fn only_tracked_arguments_get_gradients() {
    let ([q, k, v], heads) = arguments(CASES[5]);
    let [dq, dk, dv] = gradients(&[q.clone(), k.clone(), v.clone()], |q, k, v| {
        attend(q, k, v, heads)
    });
    let all = [dq, dk, dv];
    for chosen in 0..3 {
        let mut arguments = [q.clone(), k.clone(), v.clone()];
        let var = Var::from_tensor(&arguments[chosen]).unwrap();
        arguments[chosen] = var.as_tensor().clone();
        let [q, k, v] = &arguments;
        let out = attend(q, k, v, heads).unwrap();
        let slope = noise(out.dims3().unwrap(), 9, 1.0);
        let gradients = (out * slope)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        assert_eq!(gap(gradients.get(&var).unwrap(), &all[chosen]), 0.0);
        let others = arguments.iter().enumerate().filter(|(i, _)| *i != chosen);
        assert!(others.into_iter().all(|(_, x)| gradients.get(x).is_none()));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let results = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let ([q, k, v], heads) = arguments(CASES[9]);
            let out = attend(&q, &k, &v, heads).unwrap();
            let maps = attention_maps(&q, &k, heads).unwrap();
            let read = read_maps(&maps, &v).unwrap();
            let through = attend_through_first(&q, &k, &v, heads).unwrap();
            let [dq, dk, dv] = gradients(&[q, k, v], |q, k, v| attend(q, k, v, heads));
            [out, maps, read, through, dq, dk, dv]
        })
    });
    for i in 0..results[0].len() {
        assert!(results.iter().all(|result| {
            let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            bits(&result[i]) == bits(&results[0][i])
        }));
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let x = |b, rows, wide| noise((b, rows, wide), 1, 1.0);
    for (q, k, v, heads) in [
        (x(1, 4, 6), x(1, 5, 6), x(1, 5, 6), 4),
        (x(1, 4, 6), x(1, 5, 6), x(1, 5, 6), 0),
        (x(1, 4, 6), x(1, 5, 8), x(1, 5, 6), 2),
        (x(1, 4, 6), x(1, 5, 6), x(1, 4, 6), 2),
        (x(2, 4, 6), x(1, 5, 6), x(1, 5, 6), 2),
    ] {
        assert!(attend(&q, &k, &v, heads).is_err());
        assert!(attend_through_first(&q, &k, &v, heads).is_err());
        assert!(attend_causally(&q, &k, &v, heads).is_err());
    }
    let q = x(1, 4, 6);
    assert!(attend_causally(&q, &x(1, 5, 6), &x(1, 5, 6), 2).is_err());
    let tracked = Var::from_tensor(&q).unwrap();
    assert!(attention_maps(&tracked, &q, 2).is_err());
    assert!(attend_through_first(&tracked, &q, &q, 2).is_err());
    let maps = attention_maps(&q, &q, 2).unwrap();
    assert!(read_maps(&maps, &x(1, 5, 6)).is_err());
    assert!(read_maps(&maps, &x(1, 4, 5)).is_err());
}
