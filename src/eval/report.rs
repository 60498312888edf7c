//! The report: one page of HTML that needs no other file.

mod markup;
mod plot;

use super::{Column, Mean, Published, Sample, Score, Summary};
use crate::{
    error::Result,
    metrics::Measure,
    picture::{Format, Picture, Size},
};
use markup::{data_uri, escaped, filled};
use plot::{Point, Scatter};

const PAGE: &str = include_str!("report/page.html");
const STYLE: &str = include_str!("report/style.css");
const SCRIPT: &str = include_str!("report/script.js");

/// The longer side of pictures on the page.
const SIDE: usize = 384;
/// Pictures up to this side are kept as they are.
const SMALL: usize = 128;

/// What a report tells.
pub struct Report<'a> {
    /// The name of the data.
    pub data: String,
    /// The name of the method.
    pub method: String,
    /// Names and values of settings, versions and counts.
    pub facts: Vec<(String, String)>,
    /// What was not measured, and why.
    pub missing: Vec<String>,
    /// The means.
    pub summary: &'a Summary,
    /// Figures of other methods, if they are of the same data.
    pub published: &'a [Published],
    /// The edits that are shown, the worst first.
    pub shown: Vec<Shown<'a>>,
    /// By what the worst are chosen.
    pub worst_by: Option<Column>,
}

/// An edit that is shown.
pub struct Shown<'a> {
    /// The edit.
    pub sample: &'a Sample,
    /// Its scores.
    pub score: &'a Score,
    /// The picture before, if there was one.
    pub source: Option<Picture>,
    /// The picture after.
    pub result: Picture,
}

/// How a column is told.
struct Told {
    name: &'static str,
    /// What values are multiplied by.
    scale: f64,
    digits: usize,
    /// Whether more is better.
    ascends: bool,
}

fn told(column: Column) -> Told {
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
    fn number(&self, value: f64) -> String {
        format!("{:.*}", self.digits, value * self.scale)
    }

    fn arrow(&self) -> &'static str {
        match self.ascends {
            true => "higher is better",
            false => "lower is better",
        }
    }
}

impl Report<'_> {
    /// The page.
    pub fn html(&self) -> Result<String> {
        let pairs: Vec<_> = self
            .shown
            .iter()
            .map(|shown| self.pair(shown))
            .collect::<Result<_>>()?;
        Ok(filled(PAGE, |name| match name {
            "title" => escaped(&format!("{} on {}", self.method, self.data)),
            "style" => STYLE.to_owned(),
            "script" => SCRIPT.to_owned(),
            "facts" => self.facts(),
            "missing" => self.missing(),
            "kinds" => self.kinds(),
            "plots" => self.plots(),
            "published" => self.published_table(),
            "sorts" => self.sorts(),
            "filters" => self.filters(),
            "count" => self.count(),
            "pairs" => pairs.concat(),
            _ => String::new(),
        }))
    }

    fn facts(&self) -> String {
        let fact = |(name, value): &(String, String)| {
            format!(
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escaped(name),
                escaped(value)
            )
        };
        self.facts.iter().map(fact).collect()
    }

    fn missing(&self) -> String {
        let line = |line: &String| format!("<p class=\"missing\">{}</p>", escaped(line));
        self.missing.iter().map(line).collect()
    }

    /// The table of means by kind.
    fn kinds(&self) -> String {
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

    /// Preservation against the following of the prompt.
    fn plots(&self) -> String {
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

    /// The table of published figures, this method's first.
    fn published_table(&self) -> String {
        if self.published.is_empty() {
            return String::new();
        }
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

    fn sorts(&self) -> String {
        let option = |column: &Column| {
            let told = told(*column);
            let direction = if told.ascends {
                "ascending"
            } else {
                "descending"
            };
            let chosen = if Some(*column) == self.worst_by {
                " selected"
            } else {
                ""
            };
            format!(
                "<option value=\"{}\" data-worst=\"{direction}\"{chosen}>{}</option>",
                column.name(),
                escaped(told.name)
            )
        };
        self.summary.columns.iter().map(option).collect()
    }

    fn filters(&self) -> String {
        let mut kinds: Vec<_> = self.shown.iter().map(|shown| &shown.sample.kind).collect();
        kinds.sort();
        kinds.dedup();
        let option = |kind: &String| format!("<option>{}</option>", escaped(kind));
        kinds.into_iter().map(option).collect()
    }

    fn count(&self) -> String {
        let (shown, all) = (self.shown.len(), self.summary.all.0);
        match self.worst_by {
            Some(column) if shown < all => format!(
                "The {shown} worst of {all} edits by {} are shown.",
                escaped(told(column).name)
            ),
            _ => format!("{shown} edits are shown."),
        }
    }

    fn pair(&self, shown: &Shown) -> Result<String> {
        let Shown { sample, score, .. } = shown;
        let key = escaped(&sample.key);
        let columns = self.summary.columns.iter();
        let values = columns.clone().filter_map(|column| {
            let value = score.values.get(column)?;
            Some(format!(
                " data-{}=\"{}\"",
                column.name().replace('_', "-"),
                value
            ))
        });
        let facts = columns.filter_map(|column| {
            let (told, value) = (told(*column), *score.values.get(column)?);
            let text = match value {
                value if value.is_nan() => "no such region".into(),
                value if value.is_infinite() => "identical".into(),
                value => told.number(value),
            };
            Some(format!(
                "<div><dt>{}</dt><dd>{text}</dd></div>",
                escaped(told.name)
            ))
        });
        Ok(format!(
            "<li class=\"pair\" data-kind=\"{kind}\" data-key=\"{key}\"{values}>{pictures}\
             <h3>{key} <small>{kind}</small></h3><p>{words}</p><dl>{facts}</dl></li>",
            kind = escaped(&sample.kind),
            values = values.collect::<String>(),
            pictures = slider(shown)?,
            words = words(sample),
            facts = facts.collect::<String>(),
        ))
    }
}

/// The picture before over the one after, with a slider between them.
fn slider(shown: &Shown) -> Result<String> {
    let Size { width, height } = shown.result.size();
    let (key, after) = (escaped(&shown.sample.key), on_page(&shown.result)?);
    let target = escaped(&shown.sample.target_prompt);
    let after = format!("<img src=\"{after}\" alt=\"After: {target}\" loading=\"lazy\">");
    let before = match &shown.source {
        None => String::new(),
        Some(source) => format!(
            "<img class=\"before\" src=\"{}\" alt=\"Before: {}\" loading=\"lazy\">\
             <input type=\"range\" min=\"0\" max=\"100\" value=\"50\" \
             aria-label=\"Edit {key}: how much of the picture before is shown\">",
            on_page(source)?,
            escaped(&shown.sample.source_prompt)
        ),
    };
    let kind = match shown.source {
        Some(_) => "slider",
        None => "slider alone",
    };
    Ok(format!(
        "<div class=\"{kind}\" style=\"aspect-ratio:{width}/{height}\">{after}{before}</div>"
    ))
}

/// The prompts, of which the target follows the source if it is another.
fn words(sample: &Sample) -> String {
    let (source, target) = (
        escaped(&sample.source_prompt),
        escaped(&sample.target_prompt),
    );
    match source.is_empty() || source == target {
        true => target,
        false => format!("{source}<br>→ {target}"),
    }
}

fn heading(name: &str, detail: &str) -> String {
    format!(
        "<th scope=\"col\"><button type=\"button\" title=\"{}\">{}</button></th>",
        escaped(detail),
        escaped(name)
    )
}

/// A mean with the counts behind it, as far as they say something.
fn cell(mean: &Mean, told: &Told) -> String {
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

fn number(text: Option<String>) -> String {
    match text {
        Some(text) => format!("<td data-value=\"{text}\">{text}</td>"),
        None => "<td>–</td>".into(),
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

/// A picture as it stands in the page.
fn on_page(picture: &Picture) -> Result<String> {
    let Size { width, height } = picture.size();
    let longer = width.max(height);
    if longer <= SMALL {
        return Ok(data_uri("image/png", &picture.encode(Format::Png)?));
    }
    let scaled = |side: usize| (side * SIDE.min(longer) / longer).max(1);
    let picture = picture.resized(Size::new(scaled(width), scaled(height)));
    Ok(data_uri("image/jpeg", &picture.encode(Format::Jpeg)?))
}
