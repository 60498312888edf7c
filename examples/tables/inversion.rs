//! How well pictures come back from noise: by the autoencoder alone, unguided
//! by every pair of adapters, and guided at every tau.

use anyhow::{Context, Result};
use candle_core::Tensor;
use icd::{
    guidance::{Guidance, Tau},
    picture::Picture,
};
use rayon::prelude::*;

use super::{
    Options, ablations,
    bench::{Bench, Way, noise_seed},
    edits, figure,
    page::{Page, Row},
    world::{HELD_OUT, Scene, Wording, dice, psnr},
};

/// A scene with its caption.
struct Sample {
    index: u64,
    picture: Picture,
    caption: String,
}

pub(super) fn measure(bench: &Bench, options: &Options, page: &mut Page) -> Result<()> {
    let samples: Vec<_> = (0..options.scenes).into_par_iter().map(sample).collect();
    autoencoder(bench, &samples, page)?;
    unguided(bench, options, &samples, page)?;
    guided(bench, options, &samples, page)
}

fn sample(index: u64) -> Sample {
    let scene = Scene::any(&mut dice(HELD_OUT, index));
    Sample {
        index,
        picture: scene.render(),
        caption: Wording::PLAIN.caption(&scene),
    }
}

fn autoencoder(bench: &Bench, samples: &[Sample], page: &mut Page) -> Result<()> {
    let mean = mean(samples, |sample| {
        bench.decode(&bench.encode(&sample.picture)?)
    })?;
    page.section("The autoencoder");
    page.line(&format!(
        "{} scenes are reconstructed with a PSNR of {mean:.1} dB.",
        samples.len()
    ));
    Ok(())
}

fn unguided(bench: &Bench, options: &Options, samples: &[Sample], page: &mut Page) -> Result<()> {
    let round = |way: &Way| {
        mean(samples, |sample| {
            let noise = inverted(bench, way, sample)?;
            bench.back(way, &noise, &sample.caption, Guidance::NONE)
        })
    };
    let row = |name: &str, way: &Way| -> Result<Row> {
        let name = format!("{name}, {}", way.steps());
        Ok(Row::new(&name, [format!("{:.2}", round(way)?)]))
    };
    let mut rows = vec![
        row("DDIM, the teacher", &bench.many)?,
        row("DDIM from icd's start noise level", &bench.noisy)?,
    ];
    if let Some(folder) = &options.ablations {
        for (name, way) in ablations::ways(&options.model, folder)? {
            rows.push(row(&name, &way)?);
        }
    }
    rows.push(row(&format!("icd, `{}`", options.model), &bench.few)?);
    page.section("Reconstruction, unguided");
    page.table(["method", "PSNR in dB"], &rows);
    Ok(())
}

/// Reconstruction, guided by its own caption, and the edits that the same
/// settings are strong enough for.
fn guided(bench: &Bench, options: &Options, samples: &[Sample], page: &mut Page) -> Result<()> {
    let noises: Vec<_> = samples
        .par_iter()
        .map(|sample| inverted(bench, &bench.few, sample))
        .collect::<Result<_>>()?;
    let mut points = Vec::new();
    for tau in taus(&bench.few) {
        let guidance = Guidance::new(bench.strength(), Tau::step(tau)?)?;
        let back = mean(samples, |sample| {
            let noise = &noises[sample.index as usize];
            bench.back(&bench.few, noise, &sample.caption, guidance)
        })?;
        let strength = edits::strength(bench, options.pairs, guidance)?;
        points.push(figure::Point {
            tau,
            psnr: back,
            strength,
        });
    }
    page.section("Reconstruction, guided by its own caption");
    page.line(&format!(
        "Guidance {}, off where t > 1000 tau; edits without attention control.",
        bench.strength()
    ));
    let row = |point: &figure::Point| {
        let values = [
            format!("{:.2}", point.psnr),
            format!("{:.0} %", 100.0 * point.strength),
        ];
        Row::new(&format!("{:.1}", point.tau), values)
    };
    let rows: Vec<_> = points.iter().map(row).collect();
    page.table(["tau", "PSNR in dB", "correct edits"], &rows);
    figure::draw(&points, &options.out.join("tau.svg"))
}

/// A tau for each number of guided steps, from none to all.
fn taus(way: &Way) -> Vec<f64> {
    let mut starts: Vec<_> = way
        .path()
        .jumps()
        .map(|jump| jump.from.fraction())
        .collect();
    starts.reverse();
    let over = |t: f64| (t * 10.0).ceil() / 10.0;
    [0.1]
        .into_iter()
        .chain(starts.into_iter().map(over))
        .collect()
}

fn inverted(bench: &Bench, way: &Way, sample: &Sample) -> Result<Tensor> {
    bench.invert(
        way,
        &sample.picture,
        &sample.caption,
        noise_seed(sample.index),
    )
}

/// The mean PSNR of what `make` makes of the samples.
fn mean(samples: &[Sample], make: impl Fn(&Sample) -> Result<Picture> + Sync) -> Result<f64> {
    let values = samples.par_iter().map(|sample| {
        let back = make(sample)?;
        psnr(&sample.picture, &back, |_| true).context("a picture has pixels")
    });
    let values: Vec<_> = values.collect::<Result<_>>()?;
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}
