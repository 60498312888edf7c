//! How well pictures come back from noise: by the autoencoder alone, unguided
//! by every pair of adapters, and guided at every tau.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use candle_core::Tensor;
use icd::{
    guidance::{Guidance, Tau},
    model::ModelChoice,
    picture::Picture,
};
use rayon::prelude::*;

use super::{
    Options,
    bench::{Bench, Way, noise_seed, open},
    edits, figure,
    judge::psnr,
    page::{Page, Row},
    world::{Scene, Wording, dice},
};

/// The seed of the scenes, which no training has.
pub(crate) const SEED: u64 = 0x5EED_0FF5;

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
    let scene = Scene::any(&mut dice(SEED, index));
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
        "{} scenes are reconstructed at {mean:.1} dB.",
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
    page.section("Into noise and back, unguided");
    let mut rows = vec![Row::new(
        "DDIM, the teacher, 50 + 50",
        [format!("{:.2}", round(&bench.many)?)],
    )];
    if let Some(folder) = &options.ablations {
        for (name, way) in others(&options.model, folder)? {
            rows.push(Row::new(&name, [format!("{:.2}", round(&way)?)]));
        }
    }
    let steps = bench.few.steps();
    let name = format!("{} (bundled), {steps} + {steps}", options.model);
    rows.push(Row::new(&name, [format!("{:.2}", round(&bench.few)?)]));
    page.table(["way", "PSNR in dB"], &rows);
    Ok(())
}

/// The ways of the adapter pairs in the folders of a folder, by the names of these.
fn others(model: &str, folder: &Path) -> Result<Vec<(String, Way)>> {
    let list = |folder: &Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<_> = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    let pair = |folder: &Path| -> Result<Way> {
        let files = list(folder)?;
        let starting = |start: &str| {
            let fits = |name: &str| name.starts_with(start) && name.ends_with(".safetensors");
            let name = |file: &&std::path::PathBuf| {
                file.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(fits)
            };
            files
                .iter()
                .find(name)
                .map(|file| file.display().to_string())
        };
        Way::of(&open(ModelChoice {
            model: model.into(),
            forward_adapter: starting("forward"),
            reverse_adapter: starting("reverse"),
            ..ModelChoice::default()
        })?)
    };
    let folders = list(folder)?.into_iter().filter(|path| path.is_dir());
    folders
        .map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            Ok((name.replace('_', " "), pair(&folder)?))
        })
        .collect()
}

/// Guided by the caption of what is there, and the edits that the same
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
    page.section("Guided by the caption of what is there");
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
    page.table(["tau", "PSNR in dB", "edits that are right"], &rows);
    figure::draw(&points, &options.out.join("tau.svg"))
}

/// A tau for each number of guided steps, from none to all.
fn taus(way: &Way) -> Vec<f64> {
    let mut starts: Vec<_> = way
        .path()
        .segments()
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
