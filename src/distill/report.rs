//! The report of a run: a self-contained HTML page with a curve for each metric and the
//! sample pictures.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::run::{METRICS, REPORT, SAMPLES};
use crate::{
    error::{Error, Result},
    io::{Existing, write_file},
};

/// Maximum number of points of a curve; more steps are averaged.
const POINTS: usize = 200;
/// Maximum number of sheets, spread over the run.
const SHEETS: usize = 6;
/// Width and height of a plot in pixels.
const PLOT: (f64, f64) = (640.0, 160.0);

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:680px;margin:2em auto;color:#222}\
    h2{font-size:1em;margin:1.6em 0 .2em}svg{background:#f6f6f6;width:100%}\
    polyline{fill:none;stroke:#2a62b8;stroke-width:1.5}p{color:#555;margin:.2em 0}img{max-width:100%}";

/// Writes `report.html` beside the `metrics.jsonl` of a run's folder.
pub fn write_report(folder: &Path, title: &str) -> Result<PathBuf> {
    let metrics = folder.join(METRICS);
    let text = fs::read_to_string(&metrics).map_err(|error| Error::io(&metrics, error))?;
    let file = folder.join(REPORT);
    let page = page(title, &measured(&text, &metrics)?, &sheets(folder)?);
    write_file(&file, page.as_bytes(), Existing::Replace)?;
    Ok(file)
}

/// The values of each metric in the order of the steps.
fn measured(text: &str, file: &Path) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut curves: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let line: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| Error::config(file, error))?;
        let values = line.into_iter().filter(|(name, _)| name != "step");
        for (name, value) in values {
            curves.entry(name).or_default().extend(value.as_f64());
        }
    }
    Ok(curves)
}

/// Sheets with their numbers of steps, spread over the run, including the last.
fn sheets(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let Ok(entries) = fs::read_dir(folder.join(SAMPLES)) else {
        return Ok(Vec::new());
    };
    let is_sheet = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let steps = name.strip_suffix(".png").unwrap_or_default();
        !steps.is_empty() && steps.bytes().all(|byte| byte.is_ascii_digit())
    };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = files.filter(is_sheet).collect();
    files.sort();
    let count = files.len().min(SHEETS);
    let spread = (1..=count).map(|i| &files[i * files.len() / count - 1]);
    let read = |file: &PathBuf| {
        let steps = file.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(file).map_err(|error| Error::io(file, error))?;
        Ok((steps.trim_start_matches('0').to_owned(), bytes))
    };
    spread.map(read).collect()
}

fn page(title: &str, curves: &BTreeMap<String, Vec<f64>>, sheets: &[(String, Vec<u8>)]) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1>"
    );
    for (name, values) in curves {
        page.push_str(&plot(name, values));
    }
    for (steps, png) in sheets {
        let (steps, png) = (escaped(steps), BASE64_STANDARD.encode(png));
        let sheet =
            format!("<h2>after {steps} steps</h2><img src=\"data:image/png;base64,{png}\">");
        page.push_str(&sheet);
    }
    page.push_str("</html>\n");
    page
}

/// A curve of averaged values, scaled to their range.
fn plot(name: &str, values: &[f64]) -> String {
    let means = averaged(values);
    let (Some(first), Some(last)) = (means.first(), means.last()) else {
        return String::new();
    };
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (width, height) = PLOT;
    let point = |(i, mean): (usize, &f64)| {
        let x = width * i as f64 / (means.len() - 1).max(1) as f64;
        let y = height * (1.0 - (mean - low) / (high - low).max(f64::MIN_POSITIVE));
        format!("{x:.1},{y:.1}")
    };
    let points: Vec<_> = means.iter().enumerate().map(point).collect();
    let points = points.join(" ");
    format!(
        "<h2>{}</h2><svg viewBox=\"-4 -4 {} {}\"><polyline points=\"{points}\"/></svg>\
         <p>{} steps, from {first:.4} to {last:.4}; lowest {low:.4}, highest {high:.4}</p>",
        escaped(name),
        width + 8.0,
        height + 8.0,
        values.len(),
    )
}

/// The means of at most [`POINTS`] parts of equal length.
fn averaged(values: &[f64]) -> Vec<f64> {
    let length = values.len().div_ceil(POINTS).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    values.chunks(length).map(mean).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_curve_for_each_measure() {
        let folder = tempfile::tempdir().unwrap();
        let line =
            |step: usize| format!("{{\"loss\":{},\"step\":{step}}}\n", 2.0 / (step + 1) as f64);
        let text: String = (0..1000).map(line).collect();
        fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        let file = write_report(folder.path(), "a <run>").unwrap();
        let page = fs::read_to_string(file).unwrap();
        assert_eq!(page.matches("<polyline").count(), 1);
        assert!(page.contains("a &lt;run>") && page.contains("1000 steps"));
        // The mean of the first five of 1000 values: 2 (1 + 1/2 + 1/3 + 1/4 + 1/5) / 5
        assert!(page.contains("from 0.9133 to 0.0020"), "{page}");
    }

    #[test]
    fn a_report_shows_the_last_sheet_and_some_before_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        fs::create_dir(folder.path().join("samples")).unwrap();
        for step in 1..=20 {
            fs::write(folder.path().join(format!("samples/{step:06}.png")), "png").unwrap();
        }
        fs::write(folder.path().join("samples/.000021.png.7.tmp"), "half").unwrap();
        let page = fs::read_to_string(write_report(folder.path(), "").unwrap()).unwrap();
        assert_eq!(page.matches("base64,cG5n").count(), SHEETS);
        assert!(page.contains("after 20 steps") && page.contains("after 3 steps"));
    }

    #[test]
    fn curves_run_from_corner_to_corner() {
        let plotted = plot("x", &[3.0, 2.0, 1.0]);
        assert!(
            plotted.contains("0.0,0.0 320.0,80.0 640.0,160.0"),
            "{plotted}"
        );
        assert_eq!(plot("x", &[]), "");
        assert!(plot("x", &[1.0]).contains("0.0,160.0"));
    }
}
