//! The curve of tau: what is kept against what is changed.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

/// What a tau gives.
pub(crate) struct Point {
    pub(crate) tau: f64,
    /// Of the picture guided by its own caption, in dB.
    pub(crate) psnr: f64,
    /// The share of correct edits.
    pub(crate) strength: f64,
}

/// Width and height of the plot, and the margin around it.
const PLOT: (f64, f64) = (420.0, 240.0);
const MARGIN: f64 = 48.0;

/// Writes the curve as an SVG: correct edits to the right, PSNR upwards.
pub(crate) fn draw(points: &[Point], file: &Path) -> Result<()> {
    let psnrs = points.iter().map(|point| point.psnr);
    let low = psnrs.clone().fold(f64::INFINITY, f64::min).floor();
    let high = psnrs
        .fold(f64::NEG_INFINITY, f64::max)
        .ceil()
        .max(low + 1.0);
    let place = |point: &Point| {
        let x = MARGIN + PLOT.0 * point.strength;
        let y = MARGIN + PLOT.1 * (high - point.psnr) / (high - low);
        (x, y)
    };
    let (width, height) = (PLOT.0 + 2.0 * MARGIN, PLOT.1 + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <rect x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{}\" height=\"{}\" fill=\"#f4f4f4\"/>\n",
        PLOT.0, PLOT.1
    );
    let mut curve = String::new();
    for point in points {
        let (x, y) = place(point);
        let _ = write!(curve, "{x:.1},{y:.1} "); // a string takes all that is written
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#2a62b8\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">tau {:.1}</text>",
            x + 7.0,
            y - 6.0,
            point.tau
        );
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{curve}\" fill=\"none\" stroke=\"#2a62b8\" stroke-width=\"1.5\"/>"
    );
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    };
    let bottom = MARGIN + PLOT.1;
    text(MARGIN, bottom + 18.0, "middle", "0 %");
    text(MARGIN + PLOT.0, bottom + 18.0, "middle", "100 %");
    text(width / 2.0, bottom + 36.0, "middle", "correct edits");
    text(MARGIN - 6.0, MARGIN + 4.0, "end", &format!("{high}"));
    text(MARGIN - 6.0, bottom, "end", &format!("{low}"));
    text(
        MARGIN,
        MARGIN - 14.0,
        "start",
        "PSNR of the source, guided, in dB",
    );
    svg.push_str("</svg>\n");
    fs::write(file, svg).with_context(|| file.display().to_string())
}
