//! The plots of a report.

use super::{
    Report,
    cells::told,
    plot::{Point, Scatter},
};
use crate::{
    eval::{Column, Mean, Published},
    metrics::Measure,
};

impl Report<'_> {
    /// Preservation against the following of the prompt.
    pub(super) fn plots(&self) -> String {
        let clip = |measure| Column::Measure(measure);
        let plots: Vec<_> = match self.published.is_empty() {
            false => vec![
                self.against_published(clip(Measure::ClipTarget)),
                self.against_published(clip(Measure::ClipTargetEdited)),
            ],
            true => self.by_kind().into_iter().collect(),
        };
        plots.iter().map(Scatter::svg).collect()
    }

    fn against_published(&self, prompt: Column) -> Scatter {
        let psnr = Column::Measure(Measure::Psnr);
        let of = |row: &Published| match prompt {
            Column::Measure(Measure::ClipTarget) => row.clip_whole,
            _ => row.clip_edited,
        };
        let others = self.published.iter().filter_map(|row| {
            let at = (row.psnr?, of(row)?);
            let detail = format!(
                "{}: {} dB, {} (from {})",
                row.system, at.0, at.1, row.source
            );
            Some(Point::other(&row.system, detail, at))
        });
        let own = self.summary.mean(psnr).zip(self.summary.mean(prompt));
        let own = own.map(|at| Point::own(&self.method, at));
        Scatter {
            title: format!("PSNR against {}", told(prompt).name),
            axes: [told(psnr).name, told(prompt).name],
            points: others.chain(own).collect(),
        }
    }

    /// A point for each kind, where nothing else is known of the data.
    fn by_kind(&self) -> Option<Scatter> {
        let columns = &self.summary.columns;
        let first = |wanted: &[Column]| {
            let mut found = wanted.iter().filter(|column| columns.contains(column));
            found.next().copied()
        };
        let across = first(&[Column::Unchanged, Column::Measure(Measure::Psnr)])?;
        let up = first(&[
            Column::Right,
            Column::Measure(Measure::ClipTargetEdited),
            Column::Measure(Measure::ClipTarget),
        ])?;
        let place = |column| columns.iter().position(|one| *one == column);
        let (x, y) = (place(across)?, place(up)?);
        let point = |(kind, _, means): &(String, usize, Vec<Mean>)| {
            let at = |i: usize, column| Some(means[i].value()? * told(column).scale);
            Some(Point::own(kind, (at(x, across)?, at(y, up)?)))
        };
        Some(Scatter {
            title: format!("{} against {}", told(across).name, told(up).name),
            axes: [told(across).name, told(up).name],
            points: self.summary.kinds.iter().filter_map(point).collect(),
        })
    }
}
