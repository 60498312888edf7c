//! Means over many edits.

use super::{Column, Sample, Score};

/// The mean of a column, and what it is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// The sum of the finite values.
    sum: f64,
    /// Finite values.
    pub count: usize,
    /// Values that are not numbers: a region was empty.
    pub nan: usize,
    /// Infinite values: regions were equal.
    pub infinite: usize,
}

impl Mean {
    /// The mean of the finite values, if there are any.
    pub fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn add(&mut self, value: f64) {
        match value {
            value if value.is_nan() => self.nan += 1,
            value if value.is_infinite() => self.infinite += 1,
            value => {
                self.sum += value;
                self.count += 1;
            }
        }
    }
}

/// The means of all edits, and of those of each kind.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was measured.
    pub columns: Vec<Column>,
    /// The name of a kind, the number of its edits that were measured, and its means; in the
    /// order of the names.
    pub kinds: Vec<(String, usize, Vec<Mean>)>,
    /// The number of all edits that were measured, and their means.
    pub all: (usize, Vec<Mean>),
}

impl Summary {
    /// Over samples with their scores, in their order.
    pub fn of(columns: &[Column], scored: &[(&Sample, &Score)]) -> Self {
        let mut names: Vec<_> = scored
            .iter()
            .map(|(sample, _)| sample.kind.clone())
            .collect();
        names.sort();
        names.dedup();
        let kinds = names.into_iter().map(|kind| {
            let own = || scored.iter().filter(|(sample, _)| sample.kind == kind);
            let means = means(columns, own().map(|(_, score)| *score));
            (kind.clone(), own().count(), means)
        });
        Self {
            kinds: kinds.collect(),
            all: (
                scored.len(),
                means(columns, scored.iter().map(|(_, score)| *score)),
            ),
            columns: columns.to_vec(),
        }
    }

    /// The mean of a column over all edits.
    pub fn mean(&self, column: Column) -> Option<f64> {
        let place = self.columns.iter().position(|one| *one == column)?;
        self.all.1[place].value()
    }
}

fn means<'a>(columns: &[Column], scores: impl Iterator<Item = &'a Score>) -> Vec<Mean> {
    let mut means = vec![Mean::default(); columns.len()];
    for score in scores {
        for (mean, column) in means.iter_mut().zip(columns) {
            if let Some(value) = score.values.get(column) {
                mean.add(*value);
            }
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let mut mean = Mean::default();
        assert_eq!(mean.value(), None);
        for value in [1.0, f64::NAN, 2.0, f64::INFINITY, 6.0] {
            mean.add(value);
        }
        assert_eq!(mean.value(), Some(3.0));
        assert_eq!((mean.count, mean.nan, mean.infinite), (3, 1, 1));
    }
}
