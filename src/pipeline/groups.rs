//! The rows of an edit of many targets, evaluated in groups: memory is that of a group, and
//! the results are those of one evaluation of all rows.

use std::ops::Range;

use candle_core::Tensor;

use crate::{
    control::join_rows,
    diffusion::{Event, Observer},
    error::Result,
};

/// The most rows of an evaluation, unless another number is set: memory grows with it, and
/// networks of real size are no faster with more.
pub(super) const MAX_ROWS: usize = 8;

/// The targets of each group, counted from 0: as many as fit into `max_rows` beside the
/// sources, which are in every group; one at least.
pub(super) fn groups(targets: usize, sources: usize, max_rows: usize) -> Vec<Range<usize>> {
    let own = max_rows.saturating_sub(sources).max(1);
    let starts = (0..targets).step_by(own);
    starts
        .map(|start| start..(start + own).min(targets))
        .collect()
}

/// Puts the values of groups together, as if all rows had been evaluated at once.
pub(super) struct Gathered<'a> {
    observer: &'a mut dyn Observer,
    /// The rows that every group begins with.
    sources: usize,
    /// The values of each name, group by group.
    values: Vec<(String, Vec<Tensor>)>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(observer: &'a mut dyn Observer, sources: usize) -> Self {
        Self {
            observer,
            sources,
            values: Vec::new(),
        }
    }

    /// Reports the values of all groups.
    pub(super) fn report(self) -> Result<()> {
        for (name, groups) in &self.values {
            let value = join_rows(groups, self.sources)?;
            self.observer.observe(Event::Value(name, &value));
        }
        Ok(())
    }
}

impl Observer for Gathered<'_> {
    fn observe(&mut self, event: Event) {
        let Event::Value(name, value) = event else {
            return self.observer.observe(event);
        };
        if !self.wants_values() {
            return;
        }
        let value = value.clone();
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, groups)) => groups.push(value),
            None => self.values.push((name.into(), vec![value])),
        }
    }

    fn wants_values(&self) -> bool {
        self.observer.wants_values()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn groups_hold_all_targets_and_no_more_rows_than_allowed() {
        assert_eq!(groups(5, 1, 3), [0..2, 2..4, 4..5]);
        assert_eq!(groups(5, 0, 3), [0..3, 3..5]);
        assert_eq!(groups(2, 1, 8), vec![0..2]);
        // A group has a target, whatever is allowed.
        assert_eq!(groups(2, 1, 1), [0..1, 1..2]);
        assert!(groups(0, 1, 8).is_empty());
    }

    #[test]
    fn values_of_groups_are_those_of_all_rows() {
        let rows = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let mut seen = Vec::new();
        let mut record = |event: Event| match event {
            Event::Value(name, value) => {
                seen.push(format!("{name} {:?}", value.to_vec1::<f32>().unwrap()));
            }
            Event::Evaluated { rows, .. } => seen.push(format!("{rows} rows")),
            _ => {}
        };
        let mut gathered = Gathered::new(&mut record, 1);
        for (count, values) in [(3, [0., 1., 2.].as_slice()), (2, &[0., 3.])] {
            gathered.observe(Event::Evaluated {
                step: 0,
                of: 1,
                rows: count,
            });
            gathered.observe(Event::Value("x", &rows(values)));
        }
        gathered.report().unwrap();
        assert_eq!(seen, ["3 rows", "2 rows", "x [0.0, 1.0, 2.0, 3.0]"]);
    }
}
