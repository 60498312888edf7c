//! The report: one page of HTML that needs no other file.

mod cells;
mod markup;
mod pairs;
mod plot;
mod plots;
mod tables;

use super::{Column, Published, Sample, Score, Summary};
use crate::{error::Result, picture::Picture};
use cells::told;
use markup::{escaped, filled};

const PAGE: &str = include_str!("report/page.html");
const PUBLISHED: &str = include_str!("report/published.html");
const STYLE: &str = include_str!("report/style.css");
const SCRIPT: &str = include_str!("report/script.js");

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
            "published_link" if self.published.is_empty() => String::new(),
            "published_link" => "<a href=\"#published\">Published</a> ".into(),
            "published" if self.published.is_empty() => String::new(),
            "published" => filled(PUBLISHED, |_| self.published_table()),
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
}
