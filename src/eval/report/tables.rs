//! The tables of a report: means by kind of edit, and figures of other methods.

use super::{
    Report,
    cells::{cell, heading, number, told},
    markup::escaped,
};
use crate::{
    eval::{Column, Mean, Published},
    metrics::Measure,
};

impl Report<'_> {
    /// The table of means by kind.
    pub(super) fn kinds(&self) -> String {
        let columns = self.summary.columns.iter().map(|column| told(*column));
        let columns: Vec<_> = columns.collect();
        let head = columns
            .iter()
            .map(|column| heading(column.name, column.arrow()));
        let head: String = [heading("Kind of edit", ""), heading("Edits", "")]
            .into_iter()
            .chain(head)
            .collect();
        let row = |kind: &str, edits: usize, means: &[Mean]| {
            let cells = means
                .iter()
                .zip(&columns)
                .map(|(mean, told)| cell(mean, told));
            format!(
                "<tr><th scope=\"row\" data-value=\"{kind}\">{kind}</th>\
                 <td data-value=\"{edits}\">{edits}</td>{}</tr>",
                cells.collect::<String>(),
                kind = escaped(kind),
            )
        };
        let kinds = self.summary.kinds.iter();
        let rows: String = kinds
            .map(|(kind, edits, means)| row(kind, *edits, means))
            .collect();
        let (edits, means) = &self.summary.all;
        let all = row("All", *edits, means);
        format!("<thead><tr>{head}</tr></thead><tbody>{rows}</tbody><tfoot>{all}</tfoot>")
    }

    /// The table of published figures, this method's first.
    pub(super) fn published_table(&self) -> String {
        let measures = [
            Measure::Structure,
            Measure::Psnr,
            Measure::Lpips,
            Measure::Mse,
            Measure::Ssim,
            Measure::ClipTarget,
            Measure::ClipTargetEdited,
        ];
        let columns = measures.map(|measure| told(Column::Measure(measure)));
        let named = ["Method", "Model", "Steps", "Time", "Source"].map(|name| heading(name, ""));
        let [method, rest @ ..] = named;
        let numbers = columns.iter().map(|told| heading(told.name, told.arrow()));
        let head: String = [method].into_iter().chain(numbers).chain(rest).collect();
        let own = measures.iter().zip(&columns).map(|(measure, told)| {
            let mean = self.summary.mean(Column::Measure(*measure));
            number(mean.map(|mean| told.number(mean)))
        });
        let own = format!(
            "<tr class=\"own\"><th scope=\"row\">{}</th>{}<td></td><td></td><td></td>\
             <td>this run</td></tr>",
            escaped(&self.method),
            own.collect::<String>()
        );
        let rows: String = self.published.iter().map(published_row).collect();
        format!(
            "<table class=\"sortable\"><thead><tr>{head}</tr></thead><tbody>{own}{rows}</tbody></table>"
        )
    }
}

fn published_row(row: &Published) -> String {
    let figures = [
        row.structure_distance,
        row.psnr,
        row.lpips,
        row.mse,
        row.ssim,
        row.clip_whole,
        row.clip_edited,
    ];
    let numbers = figures.map(|figure| number(figure.map(|figure| format!("{figure:.2}"))));
    let note = match &row.note[..] {
        "a" => " (MSE: see the note)",
        "sic" => " (SSIM as printed there)",
        _ => "",
    };
    let words =
        [&row.base, &row.steps, &row.time].map(|text| format!("<td>{}</td>", escaped(text)));
    format!(
        "<tr><th scope=\"row\">{}</th>{}{}<td>{}{note}</td></tr>",
        escaped(&row.system),
        numbers.concat(),
        words.concat(),
        escaped(&row.source)
    )
}
