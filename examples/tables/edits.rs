//! Edits whose true result is known, by four ways to make them.

use anyhow::Result;
use icd::{
    control::{ControlMode, ControlPlan},
    guidance::Guidance,
    picture::Picture,
};
use rayon::prelude::*;

use super::{
    bench::{Bench, Way, noise_seed},
    page::{Page, Row},
    world::{Change, Pair, Verdict},
};

/// A way to edit.
struct Manner<'a> {
    name: &'static str,
    way: &'a Way,
    plan: ControlPlan,
    guidance: Guidance,
}

/// Pair `index` of the table.
pub(crate) fn pair(index: u64) -> Pair {
    Pair::numbered(Pair::SEED, index)
}

pub(super) fn measure(bench: &Bench, pairs: u64, page: &mut Page) -> Result<()> {
    let manners = manners(bench)?;
    let outcomes: Vec<_> = manners
        .iter()
        .map(|manner| outcomes(bench, manner, pairs))
        .collect::<Result<_>>()?;
    page.section("Edits");
    page.line(&format!(
        "{pairs} pairs, guidance {}; with control attention follows the source, and what the edit \
         changes most is blended over the photo's own pixels (`--blend difference`); the share of \
         edits whose changed attribute is correct (for an added object: its presence, colour, material and shape), whose object kept its place, \
         the PSNR against the true edited picture, shadows and reflections included, and the \
         PSNR of the area that should not change.",
        bench.strength()
    ));
    let columns: Vec<_> = outcomes.iter().map(|outcomes| column(outcomes)).collect();
    let row = |i: usize| {
        let values = columns.iter().map(|column| column[i].1.clone());
        Row::new(columns[0][i].0, values)
    };
    let rows: Vec<_> = (0..columns[0].len()).map(row).collect();
    let names = manners
        .iter()
        .map(|manner| format!("{}, {}", manner.name, manner.way.steps()));
    let names: Vec<_> = ["edit".to_owned()].into_iter().chain(names).collect();
    page.table(names.iter().map(String::as_str), &rows);
    Ok(())
}

/// The share of edits that are right without any control, at this guidance.
pub(super) fn strength(bench: &Bench, pairs: u64, guidance: Guidance) -> Result<f64> {
    let manner = Manner {
        name: "",
        way: &bench.few,
        plan: uncontrolled(),
        guidance,
    };
    let outcomes = outcomes(bench, &manner, pairs)?;
    Ok(share(outcomes.iter().map(|outcome| outcome.is_right)))
}

fn manners(bench: &Bench) -> Result<[Manner<'_>; 4]> {
    let guidance = Guidance::new(bench.strength(), bench.model.edit_tau()?)?;
    let manner = |name, way, plan| Manner {
        name,
        way,
        plan,
        guidance,
    };
    Ok([
        manner("icd", &bench.few, bench.usual_control()),
        manner("DDIM, same control", &bench.many, bench.usual_control()),
        manner("icd, no control", &bench.few, uncontrolled()),
        manner("DDIM, no control", &bench.many, uncontrolled()),
    ])
}

/// What the model makes of pair `index` where nothing else is asked for.
pub(super) fn usual(bench: &Bench, pair: &Pair, index: u64) -> Result<Picture> {
    let [usual, ..] = manners(bench)?;
    edited(bench, &usual, pair, index)
}

fn uncontrolled() -> ControlPlan {
    ControlPlan {
        mode: ControlMode::None,
        amplify: Vec::new(),
        blend: Vec::new(),
        ..ControlPlan::default()
    }
}

fn outcomes(bench: &Bench, manner: &Manner, pairs: u64) -> Result<Vec<Verdict>> {
    let one = |index| {
        let pair = pair(index);
        let picture = edited(bench, manner, &pair, index)?;
        Ok(Verdict::of(&pair, &picture))
    };
    (0..pairs).into_par_iter().map(one).collect()
}

fn edited(bench: &Bench, manner: &Manner, pair: &Pair, index: u64) -> Result<Picture> {
    let (source, target) = pair.captions();
    let before = pair.source.render();
    let noise = bench.invert(manner.way, &before, &source, noise_seed(index))?;
    let how = (&manner.plan, manner.guidance);
    bench.edit(manner.way, (&before, &noise), [&source, &target], how)
}

/// The names and cells of a column.
fn column(outcomes: &[Verdict]) -> Vec<(&'static str, String)> {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let of = |change: Change| {
        let own = outcomes.iter().filter(|outcome| outcome.change == change);
        (
            change.name(),
            percent(share(own.map(|outcome| outcome.is_right))),
        )
    };
    let all = share(outcomes.iter().map(|outcome| outcome.is_right));
    let places = share(outcomes.iter().filter_map(|outcome| outcome.place_kept));
    let kept = decibels(outcomes.iter().filter_map(|outcome| outcome.unchanged));
    let whole = [
        ("all", percent(all)),
        ("place kept", percent(places)),
        (
            "true picture",
            decibels(outcomes.iter().map(|outcome| outcome.whole)),
        ),
        ("unchanged area", kept),
    ];
    Change::ALL.into_iter().map(of).chain(whole).collect()
}

/// The mean of some PSNRs.
fn decibels(psnrs: impl Iterator<Item = f64>) -> String {
    let psnrs: Vec<_> = psnrs.collect();
    format!("{:.1} dB", psnrs.iter().sum::<f64>() / psnrs.len() as f64)
}

/// The share of what is true.
pub(crate) fn share(values: impl Iterator<Item = bool>) -> f64 {
    let (count, right) = values.fold((0, 0), |(count, right), value| {
        (count + 1, right + usize::from(value))
    });
    right as f64 / f64::from(count.max(1))
}
