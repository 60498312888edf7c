//! Attention.

use super::*;

#[test]
fn attention_reads_values_by_the_softmax_of_its_scores() {
    for backend in backends().into_iter().map(Backend::attending) {
        for (b, n, m, heads, d) in [
            (2, 11, 7, 3, 4),
            (1, 6, 6, 2, 5),
            (3, 5, 6, 1, 8),
            (2, 70, 77, 2, 40),
            (1, 130, 130, 1, 64),
            (2, 9, 9, 2, 80),
            (1, 65, 3, 1, 128),
            (2, 5, 67, 1, 160),
            (33, 129, 9, 8, 64), // enough blocks for a GPU to take more queries in each
        ] {
            let q = backend.waves(&[b, n, heads * d], 0.1);
            let (k, v) = (
                backend.waves(&[b, m, heads * d], 0.5),
                backend.waves(&[b, m, heads * d], 0.9),
            );
            let modes = [AttentionMode::Full, AttentionMode::FirstRowsMaps];
            let causal = (n == m).then_some(AttentionMode::Causal);
            for mode in modes.into_iter().chain(causal) {
                let (_, expected) = plain_attention([&q, &k, &v], heads, mode);
                let y = backend.ops.attention([&q, &k, &v], heads, mode).unwrap();
                assert_eq!(y.dims(), [b, n, heads * d]);
                backend.agrees(&format!("{mode:?}"), &y, &expected);
            }
            let (maps, expected) = plain_attention([&q, &k, &v], heads, AttentionMode::Full);
            if n == m {
                let joined = Tensor::cat(&[&q, &k, &v], 2).unwrap();
                let [q, k, v] =
                    [0, 1, 2].map(|i| joined.narrow(2, i * heads * d, heads * d).unwrap());
                let y = backend
                    .ops
                    .attention([&q, &k, &v], heads, AttentionMode::Full);
                backend.agrees("columns of one tensor", &y.unwrap(), &expected);
            }
            let found = backend.ops.attention_maps(&q, &k, heads).unwrap();
            assert_eq!(found.dims(), [b, heads, n, m]);
            backend.agrees("maps", &found, &maps);
            backend.agrees(
                "read_maps",
                &backend.ops.read_maps(&found, &v).unwrap(),
                &expected,
            );
        }
    }
}

/// The maps (b, heads, n, m) and what they read (b, n, c).
fn plain_attention(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    mode: AttentionMode,
) -> (Vec<f64>, Vec<f64>) {
    let ((b, n, c), (_, m, _)) = (q.dims3().unwrap(), k.dims3().unwrap());
    let (q, k, v, d) = (f64s(q), f64s(k), f64s(v), c / heads);
    let (mut maps, mut out) = (Vec::new(), vec![0.0; b * n * c]);
    for (row, head, query, _) in grid([b, heads, n, 1]) {
        let from = if mode == AttentionMode::FirstRowsMaps {
            0
        } else {
            row
        };
        let score = |key: usize| {
            let terms = (0..d).map(|i| {
                q[(from * n + query) * c + head * d + i] * k[(from * m + key) * c + head * d + i]
            });
            terms.sum::<f64>() / (d as f64).sqrt()
        };
        let hidden = |key: usize| mode == AttentionMode::Causal && key > query;
        let weights: Vec<_> = (0..m)
            .map(|key| if hidden(key) { 0.0 } else { score(key).exp() })
            .collect();
        let sum: f64 = weights.iter().sum();
        for key in 0..m {
            maps.push(weights[key] / sum);
            for i in 0..d {
                out[(row * n + query) * c + head * d + i] +=
                    weights[key] / sum * v[(row * m + key) * c + head * d + i];
            }
        }
    }
    (maps, out)
}

#[test]
fn attention_in_chunks_of_any_size_is_equal() {
    let [_, plain, _] = BACKENDS;
    let heads = |shape: &[usize], phase| split(&plain.waves(shape, phase), 3).unwrap();
    let (q, k, v) = (
        heads(&[2, 11, 12], 0.),
        heads(&[2, 7, 12], 1.),
        heads(&[2, 7, 15], 2.),
    );
    let whole = f64s(&join(&in_chunks(&q, &k, &v, 11).unwrap()).unwrap());
    for chunk in [1, 3, 10, 50] {
        let parts = join(&in_chunks(&q, &k, &v, chunk).unwrap()).unwrap();
        plain.agrees("in chunks", &parts, &whole);
    }
}
