//! Columns, and the cells of tables.

use super::markup::escaped;
use crate::{
    eval::{Column, Mean},
    metrics::Measure,
};

/// How a column is told.
pub(super) struct Told {
    pub(super) name: &'static str,
    /// What values are multiplied by.
    pub(super) scale: f64,
    digits: usize,
    /// Whether more is better.
    pub(super) ascends: bool,
}

/// How this column is told.
pub(super) fn told(column: Column) -> Told {
    let (name, scale, digits, ascends) = match column {
        Column::Measure(Measure::Structure) => ("Structure distance ×10³", 1e3, 2, false),
        Column::Measure(Measure::Psnr) => ("PSNR, dB", 1.0, 2, true),
        Column::Measure(Measure::Lpips) => ("LPIPS ×10³", 1e3, 2, false),
        Column::Measure(Measure::Mse) => ("MSE ×10⁴", 1e4, 2, false),
        Column::Measure(Measure::Ssim) => ("SSIM ×10²", 1e2, 2, true),
        Column::Measure(Measure::ClipSource) => ("CLIP, source", 1.0, 2, true),
        Column::Measure(Measure::ClipTarget) => ("CLIP, whole", 1.0, 2, true),
        Column::Measure(Measure::ClipTargetEdited) => ("CLIP, edited", 1.0, 2, true),
        Column::Measure(Measure::Dinov2) => ("DINOv2 ×10²", 1e2, 2, true),
        Column::Right => ("Right edits, %", 1e2, 0, true),
        Column::PlaceKept => ("Place kept, %", 1e2, 0, true),
        Column::True => ("True edit, dB", 1.0, 2, true),
        Column::Unchanged => ("Unchanged pixels, dB", 1.0, 2, true),
    };
    Told {
        name,
        scale,
        digits,
        ascends,
    }
}

impl Told {
    pub(super) fn number(&self, value: f64) -> String {
        format!("{:.*}", self.digits, value * self.scale)
    }

    pub(super) fn arrow(&self) -> &'static str {
        match self.ascends {
            true => "higher is better",
            false => "lower is better",
        }
    }
}

/// The heading of a column, which sorts by it.
pub(super) fn heading(name: &str, detail: &str) -> String {
    format!(
        "<th scope=\"col\"><button type=\"button\" title=\"{}\">{}</button></th>",
        escaped(detail),
        escaped(name)
    )
}

/// A mean with the counts behind it, as far as they say something.
pub(super) fn cell(mean: &Mean, told: &Told) -> String {
    let counts = [(mean.nan, "not a number"), (mean.infinite, "infinite")];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let behind = match counts.is_empty() {
        true => format!("<small>of {}</small>", mean.count),
        false => format!("<small>of {}; {}</small>", mean.count, counts.join(", ")),
    };
    match mean.value() {
        Some(value) => format!(
            "<td data-value=\"{}\">{} {behind}</td>",
            value * told.scale,
            told.number(value)
        ),
        None => format!("<td>– {behind}</td>"),
    }
}

/// A number, if there is one.
pub(super) fn number(text: Option<String>) -> String {
    match text {
        Some(text) => format!("<td data-value=\"{text}\">{text}</td>"),
        None => "<td>–</td>".into(),
    }
}
