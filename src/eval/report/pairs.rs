//! The pictures of a report.

use super::{
    Report, Shown,
    cells::told,
    markup::{data_uri, escaped},
};
use crate::{
    error::Result,
    eval::Sample,
    picture::{Format, Picture, Size},
};

/// The longer side of pictures on the page.
const SIDE: usize = 384;
/// Pictures up to this side are kept as they are.
const SMALL: usize = 128;

impl Report<'_> {
    /// An edit with its pictures and scores.
    pub(super) fn pair(&self, shown: &Shown) -> Result<String> {
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
