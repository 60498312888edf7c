//! Which scene a picture shows, and whether an edit is right: every candidate is drawn, and
//! the nearest one in mean square error is what the picture shows.

use std::ops::Range;

use super::{Change, Pair, Scene, psnr, render::SKETCH, squared_error};
use crate::picture::Picture;

/// Where a thing may stand beside its place's centre, in units of the world.
const OFFSETS: [f32; 3] = [-0.05, 0.0, 0.05];
/// How large it may be.
const SCALES: [f32; 3] = [0.95, 1.0, 1.05];

/// How an edit turned out, of which the true result is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What the edit was to change.
    pub change: Change,
    /// Whether the picture shows it; of a thing that was added its colour, material and shape,
    /// too.
    pub is_right: bool,
    /// Whether the thing that was changed is still where it was; none where no thing was.
    pub place_kept: Option<bool>,
    /// PSNR in dB against the true edited picture, shadows and reflections included.
    pub whole: f64,
    /// The same over the pixels that should not change; none where all should.
    pub unchanged: Option<f64>,
}

impl Verdict {
    /// The verdict on a picture of [`SIDE`](super::SIDE) pixels.
    pub fn of(pair: &Pair, picture: &Picture) -> Self {
        let truth = match pair.change {
            Change::Add => fitted(picture, &pair.target, pair.thing..pair.thing + 1),
            _ => pair.target.clone(),
        };
        let (before, after) = (pair.source.render(), truth.render());
        let changes = Pair::mask(&before, &after);
        let is = |change: Change| {
            let candidates = change.candidates(&truth, pair.thing);
            candidates[nearest(picture, &candidates)] == truth
        };
        let is_right = match pair.change {
            Change::Add => [Change::Add, Change::Colour, Change::Material, Change::Shape]
                .into_iter()
                .all(is),
            Change::Remove => nearest(picture, &[pair.source.clone(), truth.clone()]) == 1,
            change => is(change),
        };
        Self {
            change: pair.change,
            is_right,
            place_kept: keeps_place(pair.change).then(|| is(Change::Place)),
            whole: psnr(&after, picture, |_| true).expect("a picture has pixels"),
            unchanged: psnr(&before, picture, |pixel| !changes[pixel]),
        }
    }
}

/// Whether an edit changes a thing and not its place.
fn keeps_place(change: Change) -> bool {
    Change::OF_THINGS.contains(&change) && change != Change::Place
}

/// The index of the candidate that the picture shows, by sketches of both. Only pixels count on
/// which candidates differ.
pub fn nearest(picture: &Picture, candidates: &[Scene]) -> usize {
    let picture = &picture.resized(SKETCH);
    let drawn: Vec<_> = candidates.iter().map(Scene::sketch).collect();
    let mut counts = vec![false; SKETCH.pixels()];
    for other in drawn.iter().skip(1) {
        let differs = Pair::mask(&drawn[0], other);
        counts
            .iter_mut()
            .zip(differs)
            .for_each(|(here, differs)| *here |= differs);
    }
    let errors = drawn
        .iter()
        .map(|drawn| squared_error(picture, drawn, |pixel| counts[pixel]));
    let least = errors.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
    least.map_or(0, |(index, _)| index)
}

/// The scene with some of its things where and as large as the picture has them, within what
/// captions leave open.
pub fn fitted(picture: &Picture, scene: &Scene, things: Range<usize>) -> Scene {
    things.fold(scene.clone(), |scene, thing| {
        let at = |(offset, scale)| {
            let mut scene = scene.clone();
            scene.things[thing] = scene.things[thing].fitted(offset, scale);
            scene
        };
        let fits: Vec<_> = untold().map(at).collect();
        fits[nearest(picture, &fits)].clone()
    })
}

/// Offsets and scales of a thing that captions do not tell.
fn untold() -> impl Iterator<Item = ((f32, f32), f32)> {
    let offsets = OFFSETS.into_iter().flat_map(|x| OFFSETS.map(|z| (x, z)));
    offsets.flat_map(|offset| SCALES.map(|scale| (offset, scale)))
}
