//! A step's rows, learnt in parts whose gradients are added up: a large batch
//! fits a small memory that way, and a small network, which cannot keep many
//! threads busy, learns faster with a part on each.

use std::{collections::BTreeMap, ops::Range, panic, thread};

use candle_core::{Tensor, Var, backprop::GradStore};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use super::AdamW;
use crate::error::{Error, Result};

/// The gradients of weights by the weights' names.
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Those of named weights in what a backward pass left.
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

    /// That of a weight, where it has one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The sums with `other`; what only one has is taken as it is.
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

/// How the rows of a step are divided.
#[derive(Debug)]
pub struct Parts {
    rows: Vec<Range<usize>>,
    /// The threads of each part that is learnt at the same time; none where
    /// one after another has all threads.
    pools: Vec<ThreadPool>,
}

impl Parts {
    /// Divides `batch` rows into `count` parts of equal size, or sizes that
    /// differ by one. `at_once` of them are learnt at the same time, each on
    /// its share of the threads, or fewer where there are not so many threads.
    /// The sum of gradients does not depend on that.
    pub fn new(batch: usize, count: usize, at_once: usize) -> Result<Self> {
        if count == 0 || count > batch {
            return Err(Error::setting(format!(
                "parts must be from 1 to the {batch} rows of the batch, not {count}"
            )));
        }
        let threads = rayon::current_num_threads();
        let at_once = at_once.min(count).min(threads).max(1);
        let pool = |_| {
            let share = threads / at_once;
            let pool = ThreadPoolBuilder::new().num_threads(share).build();
            pool.map_err(|error| Error::setting(format!("no threads could be started: {error}")))
        };
        let pools = match at_once {
            1 => Vec::new(),
            several => (0..several).map(pool).collect::<Result<_>>()?,
        };
        Ok(Self {
            rows: (0..count)
                .map(|i| i * batch / count..(i + 1) * batch / count)
                .collect(),
            pools,
        })
    }

    /// Learns all rows. `lesson` computes some means over the rows of a part,
    /// of which the first is what is to be made small; the means over all rows
    /// come back with the gradients of the first.
    pub fn learn<const N: usize>(
        &self,
        optimiser: &AdamW,
        lesson: impl Fn(Range<usize>) -> Result<[Tensor; N]> + Sync,
    ) -> Result<([f64; N], Gradients)> {
        let batch = self.rows.last().map_or(0, |rows| rows.end) as f64;
        let part = |rows: &Range<usize>| -> Result<_> {
            let share = rows.len() as f64 / batch;
            let measures = lesson(rows.clone())?;
            let store = (&measures[0] * share)?.backward()?;
            let value = |x: Tensor| -> Result<f64> { Ok(share * f64::from(x.to_scalar::<f32>()?)) };
            let values = measures.map(value);
            let gradients = Gradients::of(optimiser.vars(), &store);
            let mut aside = optimiser.aside().take();
            let aside = Gradients::found(optimiser.vars(), |weight| aside.remove(&weight.id()));
            Ok((values, gradients.plus(aside)?))
        };
        let (mut means, mut sum) = ([0.0; N], Gradients::default());
        for round in self.rows.chunks(self.pools.len().max(1)) {
            for learnt in self.side_by_side(round, &part) {
                let (values, gradients) = learnt?;
                for (mean, value) in means.iter_mut().zip(values) {
                    *mean += value?;
                }
                sum = sum.plus(gradients)?;
            }
        }
        Ok((means, sum))
    }

    /// What `part` makes of each range, in their order.
    fn side_by_side<T: Send>(
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
    use crate::distil::AdamWConfig;

    /// Mean and gradient of (w x)^2 over rows 1..=7, w = 3.
    fn learnt(count: usize, at_once: usize) -> ([f64; 2], f32) {
        let weight = Var::new(3f32, &Device::Cpu).unwrap();
        let named = BTreeMap::from([("w".to_owned(), weight.clone())]);
        let optimiser = AdamW::new(named, AdamWConfig::default()).unwrap();
        let rows = Tensor::arange(1f32, 8.0, &Device::Cpu).unwrap();
        let lesson = |range: Range<usize>| {
            let x = rows.narrow(0, range.start, range.len())?;
            let loss = x.broadcast_mul(&weight)?.sqr()?.mean_all()?;
            Ok([loss, x.mean_all()?])
        };
        let parts = Parts::new(7, count, at_once).unwrap();
        let (means, gradients) = parts.learn(&optimiser, lesson).unwrap();
        (means, gradients.get("w").unwrap().to_scalar().unwrap())
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        // mean x^2 = 20, so the loss is 9 * 20 and its gradient 2 * 3 * 20
        for (count, at_once) in [(1, 1), (3, 1), (3, 2), (7, 3), (2, 9)] {
            let ([loss, mean], gradient) = learnt(count, at_once);
            assert!((loss - 180.0).abs() < 1e-4 && (mean - 4.0).abs() < 1e-6);
            assert!(
                (gradient - 120.0).abs() < 1e-4,
                "{count} {at_once}: {gradient}"
            );
        }
        assert_eq!(learnt(5, 1), learnt(5, 2), "to the last bit");
    }

    #[test]
    fn more_parts_than_rows_are_refused() {
        assert!(Parts::new(4, 5, 1).is_err() && Parts::new(4, 0, 1).is_err());
    }
}
