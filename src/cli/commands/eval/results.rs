//! The tables and the report of an evaluation.

use std::path::{Path, PathBuf};

use anyhow::Result;
use icd::{
    eval::{Column, Data, RESULTS, Report, Sample, Score, Shown, Summary, csv, metrics_json},
    io::{Existing, write_file},
    metrics::{Measure, Protocol},
    picture::Picture,
};
use serde_json::{Map, Value, json};

use super::{evaluation::Taken, measured::Measured};
use crate::cli::{Console, exit::Exit, ui::lines::print_line};

/// Beside the pictures: for programs, in PnPInversion's form, and for people.
const FILES: [&str; 3] = ["metrics.json", "evaluation_result.csv", "report.html"];

/// All that tables are made of.
pub(super) struct Tables<'a> {
    pub(super) folder: &'a Path,
    pub(super) data: (Data, &'a Path),
    pub(super) method: String,
    pub(super) protocol: Protocol,
    pub(super) columns: Vec<Column>,
    /// Each network and where its weights are.
    pub(super) networks: Vec<(String, String)>,
    /// The settings of the edits.
    pub(super) settings: Map<String, Value>,
    pub(super) samples: &'a [Sample],
    pub(super) results: &'a [PathBuf],
    pub(super) measured: Measured,
    /// What was not measured.
    pub(super) left_out: Option<String>,
    /// The message that some jobs failed.
    pub(super) failed: Option<String>,
    /// What a result took.
    pub(super) taken: Taken,
    /// How many results the report shows.
    pub(super) shown: usize,
}

impl Tables<'_> {
    /// Writes the files and tells their names, or the means as an object; an error if a job
    /// failed.
    pub(super) fn write(self, console: &Console, as_json: bool) -> Result<()> {
        let scored = self.scored();
        let pairs: Vec<_> = scored
            .iter()
            .map(|(index, score)| (&self.samples[*index], *score))
            .collect();
        let summary = Summary::of(&self.columns, &pairs);
        let facts = metrics_json(self.facts(), &summary, &pairs);
        let report = self.report(&summary, &scored)?;
        let contents = [
            serde_json::to_string_pretty(&facts)? + "\n",
            csv(&self.method, &self.columns, &pairs),
            report,
        ];
        for (name, content) in FILES.iter().zip(&contents) {
            let file = self.folder.join(name);
            write_file(&file, content.as_bytes(), Existing::Replace)?;
            if !as_json {
                print_line(&file.display().to_string())?;
            }
        }
        if as_json {
            let facts = facts.as_object().into_iter().flatten();
            let brief = facts.filter(|(key, _)| *key != "values" && *key != "settings");
            let taken = [
                ("evaluations_per_result", self.taken.evaluations),
                ("seconds_per_result", self.taken.seconds),
            ];
            let taken = taken.map(|(key, value)| (key.to_owned(), json!(value)));
            let brief: Map<_, _> = brief
                .map(|(key, value)| (key.clone(), value.clone()))
                .chain(taken)
                .collect();
            print_line(&Value::Object(brief).to_string())?;
        }
        self.tell(&summary, console);
        self.end()
    }

    /// The samples that have scores.
    fn scored(&self) -> Vec<(usize, &Score)> {
        let scores = self.measured.scores.iter().enumerate();
        scores
            .filter_map(|(index, score)| Some((index, score.as_ref()?)))
            .collect()
    }

    fn without(&self) -> usize {
        self.measured
            .scores
            .iter()
            .filter(|score| score.is_none())
            .count()
    }

    fn tell(&self, summary: &Summary, console: &Console) {
        for (column, mean) in summary.columns.iter().zip(&summary.all.1) {
            let value = mean
                .value()
                .map_or("none".into(), |value| format!("{value:.6}"));
            console.note(&format!(
                "{}: {value} (mean of {})",
                column.name(),
                mean.count
            ));
        }
        if let (Some(evaluations), Some(seconds)) = (self.taken.evaluations, self.taken.seconds) {
            console.note(&format!(
                "network evaluations: {evaluations:.1}, seconds: {seconds:.2} (means of a result)"
            ));
        }
        if let Some(left_out) = &self.left_out {
            console.note(left_out);
        }
        let missing = self.without();
        if missing > 0 {
            console.note(&format!(
                "{missing} of {} have no result yet or none that can be measured",
                self.samples.len()
            ));
        }
    }

    fn end(self) -> Result<()> {
        let told = match (self.failed, self.measured.failed) {
            (None, 0) => return Ok(()),
            (Some(told), 0) => told,
            (None, count) => format!("{count} results could not be measured"),
            (Some(told), count) => format!("{told}; {count} results could not be measured"),
        };
        Err(Exit::JobsFailed(Some(told)).into())
    }

    fn facts(&self) -> Map<String, Value> {
        let (kind, name) = (self.data.0.name(), self.data.1.display().to_string());
        let protocol = self.protocol;
        let border = format!("{:?}", protocol.border()).to_lowercase();
        let antialias = format!("{:?}", protocol.antialias()).to_lowercase();
        let networks = self.networks.iter();
        let networks = networks.map(|(name, place)| (name.clone(), json!(place)));
        let facts = json!({
            "data": { "name": name, "form": kind, "samples": self.samples.len() },
            "method": self.method,
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": {
                "name": protocol.to_string(),
                "ssim_border": border,
                "structure_antialias": antialias,
                "result_jpeg_quality": protocol.jpeg_quality(),
            },
            "networks": Value::Object(networks.collect()),
            "settings": self.settings,
            "without_result": self.without(),
            "not_measured": self.left_out,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }

    fn report(&self, summary: &Summary, scored: &[(usize, &Score)]) -> Result<String> {
        let worst_by = worst_by(&self.columns);
        let mut shown = scored.to_vec();
        shown.sort_by(|(i, a), (j, b)| {
            let rank = |score: &Score| rank(score, worst_by);
            rank(a)
                .partial_cmp(&rank(b))
                .unwrap_or(i.cmp(j))
                .then(i.cmp(j))
        });
        shown.truncate(self.shown);
        let shown = shown
            .into_iter()
            .map(|(index, score)| self.shown_of(index, score));
        let is_pie_bench = self.data.0 == Data::PieBench;
        let report = Report {
            data: self.data.1.display().to_string(),
            method: self.method.clone(),
            facts: self.told_facts(),
            missing: self.left_out.iter().cloned().collect(),
            summary,
            published: if is_pie_bench { &RESULTS } else { &[] },
            shown: shown.collect::<Result<_>>()?,
            worst_by,
        };
        Ok(report.html()?)
    }

    fn shown_of<'a>(&'a self, index: usize, score: &'a Score) -> Result<Shown<'a>> {
        let (sample, file) = (&self.samples[index], &self.results[index]);
        let result = Picture::read(file)?;
        let size = result.size();
        let result = match self.data.0 == Data::PieBench && size.width != size.height {
            true => icd::eval::lower_right(&result, icd::eval::pie_bench::SIZE),
            false => result,
        };
        Ok(Shown {
            sample,
            score,
            source: (sample.image != *file)
                .then(|| Picture::read(&sample.image))
                .transpose()?,
            result,
        })
    }

    fn told_facts(&self) -> Vec<(String, String)> {
        let mut told: Vec<(String, String)> = vec![
            ("data".into(), self.data.1.display().to_string()),
            ("protocol".into(), self.protocol.to_string()),
            ("version of icd".into(), env!("CARGO_PKG_VERSION").into()),
            ("samples".into(), self.samples.len().to_string()),
            ("without a result".into(), self.without().to_string()),
        ];
        told.extend(self.networks.iter().cloned());
        told.extend(self.settings.iter().map(|(key, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (key.clone(), text)
        }));
        told
    }
}

/// By what the worst results are told.
fn worst_by(columns: &[Column]) -> Option<Column> {
    let wanted = [
        Column::Right,
        Column::Measure(Measure::Psnr),
        Column::Measure(Measure::Ssim),
        Column::Measure(Measure::ClipTarget),
    ];
    wanted.into_iter().find(|column| columns.contains(column))
}

/// Low for bad results; what is not finite is not bad.
fn rank(score: &Score, by: Option<Column>) -> (f64, f64) {
    let of = |column: Column| {
        let value = score.values.get(&column).copied().unwrap_or(f64::INFINITY);
        if value.is_finite() {
            value
        } else {
            f64::INFINITY
        }
    };
    let first = by.map_or(0.0, of);
    (first, of(Column::Measure(Measure::Psnr)))
}
