//! Generation from captions: whether each thing that is told is drawn.

use anyhow::Result;
use candle_core::Device;
use icd::{
    guidance::{Guidance, Tau},
    noise::Noise,
    picture::Picture,
};
use rayon::prelude::*;

use super::{
    bench::{Bench, Way, noise_seed},
    edits::share,
    page::{Page, Row},
    world::{Change, Scene, Wording, dice, fitted, nearest},
};

/// The seed of the scenes that are told, which no training has.
pub(crate) const SEED: u64 = 0xD2A3;

/// Whether each attribute that the caption tells is right; it has the name of its change.
type Verdict = Vec<(Change, bool)>;

pub(super) fn measure(bench: &Bench, count: u64, page: &mut Page) -> Result<()> {
    let ways = [&bench.few, &bench.many];
    let verdicts: Vec<_> = ways
        .iter()
        .map(|way| verdicts(bench, way, count))
        .collect::<Result<_>>()?;
    page.section("Generation");
    page.line(&format!(
        "{count} captions, guidance {} at every step; the share of correct attributes.",
        bench.strength()
    ));
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let of = |attribute| {
        let values = verdicts.iter().map(|verdicts| {
            let told = verdicts.iter().flatten();
            percent(share(
                told.filter(|told| told.0 == attribute).map(|told| told.1),
            ))
        });
        Row::new(attribute.name(), values)
    };
    let mut rows: Vec<_> = attributes().map(of).collect();
    let all = verdicts.iter().map(|verdicts| {
        let whole = verdicts
            .iter()
            .map(|verdict| verdict.iter().all(|told| told.1));
        percent(share(whole))
    });
    rows.push(Row::new("whole caption", all));
    let names = ways.map(|way| format!("{} steps", way.path().count()));
    let names = ["attribute"]
        .into_iter()
        .chain(names.iter().map(String::as_str));
    page.table(names, &rows);
    Ok(())
}

fn attributes() -> impl Iterator<Item = Change> {
    Change::OF_THINGS.into_iter().chain(Change::OF_ROOM)
}

fn verdicts(bench: &Bench, way: &Way, count: u64) -> Result<Vec<Verdict>> {
    let guidance = Guidance::new(bench.strength(), Tau::CONSTANT)?;
    let one = |index| {
        let scene = Scene::any(&mut dice(SEED, index)).usual();
        let caption = Wording::PLAIN.caption(&scene);
        let side = bench.model.unet_config().sample_size;
        let noise = Noise::new(noise_seed(index)).normal((1, 4, side, side), &Device::Cpu)?;
        let picture = bench.back(way, &noise, &caption, guidance)?;
        Ok(verdict(&picture, &scene))
    };
    (0..count).into_par_iter().map(one).collect()
}

fn verdict(picture: &Picture, told: &Scene) -> Verdict {
    let scene = fitted(picture, told, 0..told.things.len());
    let is = |attribute: Change, thing| {
        let candidates = attribute.candidates(&scene, thing);
        (
            attribute,
            candidates[nearest(picture, &candidates)] == scene,
        )
    };
    let of_things = (0..scene.things.len())
        .flat_map(|thing| Change::OF_THINGS.map(|attribute| is(attribute, thing)));
    let of_room = Change::OF_ROOM.map(|attribute| is(attribute, 0));
    of_things.chain(of_room).collect()
}
