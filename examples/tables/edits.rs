//! Edits whose true result is known, by four ways to make them.

use std::collections::BTreeMap;

use anyhow::Result;
use icd::{
    edit::{Amplify, Blend, ControlPlan, Mode},
    guidance::{Guidance, Tau},
    picture::Picture,
};
use rayon::prelude::*;

use super::{
    bench::{Bench, Way, noise_seed},
    judge::{fitted, nearest, psnr},
    page::{Page, Row},
    world::{Attribute, Change, Pair, dice},
};

/// The seed of the pairs, which no training has.
pub(crate) const SEED: u64 = 0xED17;

/// How an edit turned out.
struct Outcome {
    change: Change,
    right: bool,
    /// Where the thing that was changed is still where it was; none where no
    /// thing was.
    place: Option<bool>,
    /// Over the pixels that should not change.
    kept: Option<f64>,
}

/// A way to edit.
struct Manner<'a> {
    name: String,
    way: &'a Way,
    plan: ControlPlan,
    guidance: Guidance,
}

/// Pair `index`; the kinds of change take turns.
pub(crate) fn pair(index: u64) -> Pair {
    let change = Change::ALL[index as usize % Change::ALL.len()];
    Pair::any(change, &mut dice(SEED, index))
}

pub(super) fn measure(bench: &Bench, pairs: u64, page: &mut Page) -> Result<()> {
    let manners = manners(bench)?;
    let outcomes: Vec<_> = manners
        .iter()
        .map(|manner| outcomes(bench, manner, pairs))
        .collect::<Result<_>>()?;
    page.section("Edits");
    page.line(&format!(
        "{pairs} pairs, guidance {}; the share of edits whose changed attribute is right, whose \
         thing kept its place, and the PSNR of what should not change.",
        bench.strength()
    ));
    let columns: Vec<_> = outcomes.iter().map(|outcomes| column(outcomes)).collect();
    let rows: Vec<_> = columns[0]
        .keys()
        .map(|name| Row::new(&name.1, columns.iter().map(|column| column[name].clone())))
        .collect();
    let names = manners.iter().map(|manner| manner.name.as_str());
    page.table(["edit"].into_iter().chain(names), &rows);
    Ok(())
}

/// The share of edits that are right without any control, at this guidance.
pub(super) fn strength(bench: &Bench, pairs: u64, guidance: Guidance) -> Result<f64> {
    let manner = Manner {
        name: String::new(),
        way: &bench.few,
        plan: uncontrolled(),
        guidance,
    };
    let outcomes = outcomes(bench, &manner, pairs)?;
    Ok(share(outcomes.iter().map(|outcome| outcome.right)))
}

fn manners(bench: &Bench) -> Result<[Manner<'_>; 4]> {
    let tau = Tau::usual_for(bench.few.path());
    let guidance = Guidance::new(bench.strength(), tau)?;
    let manner = |name: &str, way: &'static str, plan| {
        let way = match way {
            "few" => &bench.few,
            _ => &bench.many,
        };
        Manner {
            name: format!("{name}, {0} + {0}", way.steps()),
            way,
            plan,
            guidance,
        }
    };
    Ok([
        manner("icd", "few", ControlPlan::default()),
        manner("DDIM, same control", "many", ControlPlan::default()),
        manner("icd, no control", "few", uncontrolled()),
        manner("DDIM, no control", "many", uncontrolled()),
    ])
}

fn uncontrolled() -> ControlPlan {
    ControlPlan {
        mode: Mode::None,
        amplify: Amplify::Words(Vec::new()),
        blend: Blend::Words(Vec::new()),
        ..ControlPlan::default()
    }
}

fn outcomes(bench: &Bench, manner: &Manner, pairs: u64) -> Result<Vec<Outcome>> {
    let one = |index| {
        let pair = pair(index);
        let picture = edited(bench, manner, &pair, index)?;
        Ok(outcome(&pair, &picture))
    };
    (0..pairs).into_par_iter().map(one).collect()
}

fn edited(bench: &Bench, manner: &Manner, pair: &Pair, index: u64) -> Result<Picture> {
    let (source, target) = pair.captions();
    let before = pair.source.render();
    let noise = bench.invert(manner.way, &before, &source, noise_seed(index))?;
    let how = (&manner.plan, manner.guidance);
    bench.edit(manner.way, &noise, [&source, &target], how)
}

fn outcome(pair: &Pair, picture: &Picture) -> Outcome {
    let (before, after) = (pair.source.render(), pair.target.render());
    let changes = Pair::mask(&before, &after);
    let truth = match pair.change {
        Change::Add => fitted(picture, &pair.target),
        _ => pair.target.clone(),
    };
    let is = |attribute: Attribute| {
        let candidates = attribute.candidates(&truth, pair.thing);
        candidates[nearest(picture, &candidates)] == truth
    };
    let right = match pair.change {
        Change::Of(attribute) => is(attribute),
        Change::Remove => nearest(picture, &[pair.source.clone(), truth.clone()]) == 1,
        Change::Add => {
            let present = nearest(picture, &[pair.source.clone(), truth.clone()]) == 1;
            present && is(Attribute::Colour) && is(Attribute::Shape)
        }
    };
    let of_a_thing =
        matches!(pair.change, Change::Of(attribute) if Attribute::OF_THINGS.contains(&attribute));
    Outcome {
        change: pair.change,
        right,
        place: of_a_thing.then(|| is(Attribute::Place)),
        kept: psnr(&before, picture, |pixel| !changes[pixel]),
    }
}

/// The cells of a way, by the order and name of their rows.
fn column(outcomes: &[Outcome]) -> BTreeMap<(usize, String), String> {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let mut cells = BTreeMap::new();
    for (i, change) in Change::ALL.into_iter().enumerate() {
        let own = outcomes.iter().filter(|outcome| outcome.change == change);
        let right = share(own.map(|outcome| outcome.right));
        cells.insert((i, change.name().into()), percent(right));
    }
    let places = outcomes.iter().filter_map(|outcome| outcome.place);
    cells.insert((90, "place kept".into()), percent(share(places)));
    let all = share(outcomes.iter().map(|outcome| outcome.right));
    cells.insert((91, "all edits".into()), percent(all));
    let kept: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.kept).collect();
    let kept = kept.iter().sum::<f64>() / kept.len() as f64;
    cells.insert((92, "unchanged area".into()), format!("{kept:.1} dB"));
    cells
}

/// The share of what is true.
pub(crate) fn share(values: impl Iterator<Item = bool>) -> f64 {
    let (count, right) = values.fold((0, 0), |(count, right), value| {
        (count + 1, right + usize::from(value))
    });
    right as f64 / f64::from(count.max(1))
}
