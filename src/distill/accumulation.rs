//! Gradient accumulation: a batch is processed in micro-batches, one after another to save
//! memory, or in parallel for small networks, which cannot use many threads.

use std::{collections::BTreeMap, ops::Range, panic, thread};

use candle_core::{Tensor, Var, backprop::GradStore};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use super::AdamW;
use crate::error::{Error, Result};

/// The gradients of weights by name.
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Takes the gradients of named weights from a store.
    pub fn of<'a>(weights: impl Iterator<Item = (&'a String, &'a Var)>, store: &GradStore) -> Self {
        Self::found(weights, |weight| store.get(weight).cloned())
    }

    fn found<'a>(
        weights: impl Iterator<Item = (&'a String, &'a Var)>,
        mut find: impl FnMut(&Var) -> Option<Tensor>,
    ) -> Self {
        let named = |(name, weight): (&String, &Var)| Some((name.clone(), find(weight)?));
        Self(weights.filter_map(named).collect())
    }

    /// The gradient of a weight, if any.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The sums with `other`; gradients in only one of both are kept.
    fn plus(self, other: Self) -> Result<Self> {
        let sum = |(name, gradient): (String, Tensor)| match other.get(&name) {
            Some(more) => Ok((name, (gradient + more)?)),
            None => Ok((name, gradient)),
        };
        let mut sums: BTreeMap<_, _> = self.0.into_par_iter().map(sum).collect::<Result<_>>()?;
        for (name, gradient) in other.0 {
            sums.entry(name).or_insert(gradient);
        }
        Ok(Self(sums))
    }
}

/// The division of a batch into micro-batches.
#[derive(Debug)]
pub struct GradientAccumulation {
    rows: Vec<Range<usize>>,
    /// The threads of each parallel micro-batch; empty if they run one after another on all
    /// threads.
    pools: Vec<ThreadPool>,
}

impl GradientAccumulation {
    /// Divides `batch` rows into `count` micro-batches of equal size, or sizes that
    /// differ by one. `parallel` of them, but not more than threads, run in parallel, each
    /// on its part of the threads. The sum of the gradients does not depend on that.
    pub fn new(batch: usize, count: usize, parallel: usize) -> Result<Self> {
        if count == 0 || count > batch {
            return Err(Error::setting(format!(
                "gradient accumulation must be from 1 to the batch of {batch}, not {count}"
            )));
        }
        let threads = rayon::current_num_threads();
        let parallel = parallel.min(count).min(threads).max(1);
        let pool = |_| {
            let pool = ThreadPoolBuilder::new().num_threads(threads / parallel);
            let reason = |error| format!("no threads could be started: {error}");
            pool.build().map_err(|error| Error::setting(reason(error)))
        };
        let pools = match parallel {
            1 => Vec::new(),
            several => (0..several).map(pool).collect::<Result<_>>()?,
        };
        let rows = (0..count).map(|i| i * batch / count..(i + 1) * batch / count);
        let rows = rows.collect();
        Ok(Self { rows, pools })
    }

    /// Computes means over the batch and the gradients of the first one, the loss.
    /// `means` returns those of a micro-batch.
    pub fn learn<const N: usize>(
        &self,
        optimiser: &AdamW,
        means: impl Fn(Range<usize>) -> Result<[Tensor; N]> + Sync,
    ) -> Result<([f64; N], Gradients)> {
        let batch = self.rows.last().map_or(0, |rows| rows.end) as f64;
        let part = |rows: &Range<usize>| -> Result<_> {
            let share = rows.len() as f64 / batch;
            let means = means(rows.clone())?;
            let store = (&means[0] * share)?.backward()?;
            let value = |x: Tensor| -> Result<f64> { Ok(share * f64::from(x.to_scalar::<f32>()?)) };
            let values = means.map(value);
            let gradients = Gradients::of(optimiser.vars(), &store);
            let mut sink = optimiser.gradient_sink().take();
            let sink = Gradients::found(optimiser.vars(), |weight| sink.remove(&weight.id()));
            Ok((values, gradients.plus(sink)?))
        };
        let (mut means, mut sum) = ([0.0; N], Gradients::default());
        for round in self.rows.chunks(self.pools.len().max(1)) {
            for result in self.in_parallel(round, &part) {
                let (values, gradients) = result?;
                for (mean, value) in means.iter_mut().zip(values) {
                    *mean += value?;
                }
                sum = sum.plus(gradients)?;
            }
        }
        Ok((means, sum))
    }

    /// Applies `part` to each range, in their order.
    fn in_parallel<T: Send>(
        &self,
        round: &[Range<usize>],
        part: &(impl Fn(&Range<usize>) -> T + Sync),
    ) -> Vec<T> {
        if self.pools.is_empty() {
            return round.iter().map(part).collect();
        }
        thread::scope(|scope| {
            let mut started = Vec::new();
            for (rows, pool) in round.iter().zip(&self.pools) {
                started.push(scope.spawn(move || pool.install(|| part(rows))));
            }
            let finished = started.into_iter().map(thread::ScopedJoinHandle::join);
            finished
                .map(|outcome| outcome.unwrap_or_else(|panic| panic::resume_unwind(panic)))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::distill::AdamWConfig;

    /// Mean and gradient of (w x)^2 over rows 1..=7, w = 3.
    fn trained(count: usize, at_once: usize) -> ([f64; 2], f32) {
        let weight = Var::new(3f32, &Device::Cpu).unwrap();
        let named = BTreeMap::from([("w".to_owned(), weight.clone())]);
        let optimiser = AdamW::new(named, AdamWConfig::default()).unwrap();
        let rows = Tensor::arange(1f32, 8.0, &Device::Cpu).unwrap();
        let means_of = |range: Range<usize>| {
            let x = rows.narrow(0, range.start, range.len())?;
            let loss = x.broadcast_mul(&weight)?.sqr()?.mean_all()?;
            Ok([loss, x.mean_all()?])
        };
        let parts = GradientAccumulation::new(7, count, at_once).unwrap();
        let (means, gradients) = parts.learn(&optimiser, means_of).unwrap();
        (means, gradients.get("w").unwrap().to_scalar().unwrap())
    }

    #[test]
    fn micro_batches_add_up_to_the_batch() {
        // mean x^2 = 20, so the loss is 9 * 20 and its gradient 2 * 3 * 20
        for (count, at_once) in [(1, 1), (3, 1), (3, 2), (7, 3), (2, 9)] {
            let ([loss, mean], gradient) = trained(count, at_once);
            assert!((loss - 180.0).abs() < 1e-4 && (mean - 4.0).abs() < 1e-6);
            assert!(
                (gradient - 120.0).abs() < 1e-4,
                "{count} {at_once}: {gradient}"
            );
        }
        assert_eq!(trained(5, 1), trained(5, 2), "to the last bit");
    }

    #[test]
    fn more_parts_than_rows_are_refused() {
        assert!(
            GradientAccumulation::new(4, 5, 1).is_err()
                && GradientAccumulation::new(4, 0, 1).is_err()
        );
    }
}
