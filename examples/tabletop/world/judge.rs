//! Which scene a picture shows, and whether an edit is right: every candidate is drawn, and
//! the nearest one in mean square error is what the picture shows.

use icd::{
    eval::world::{psnr, squared_error},
    picture::Picture,
};

use super::{Change, Pair, SIDE, Scene};

/// Where a thing may stand beside its place's centre, in units of the world.
const OFFSETS: [f32; 3] = [-0.05, 0.0, 0.05];
/// How large it may be.
const SCALES: [f32; 3] = [0.95, 1.0, 1.05];

/// How an edit turned out, of which the true result is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What the edit was to change.
    pub(crate) change: Change,
    /// Whether the picture shows it; of a thing that was added its colour, material and shape,
    /// too.
    pub(crate) is_right: bool,
    /// PSNR in dB against the true edited picture, shadows and reflections included.
    pub(crate) whole: f64,
    /// The same over the pixels that should not change; none where all should.
    pub(crate) unchanged: Option<f64>,
}

impl Verdict {
    /// The verdict on a picture of [`SIDE`] pixels.
    pub(crate) fn of(pair: &Pair, picture: &Picture) -> Self {
        let truth = match pair.change {
            Change::Add => fitted(picture, &pair.target, pair.thing),
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
            whole: psnr(&after, picture, |_| true).expect("a picture has pixels"),
            unchanged: psnr(&before, picture, |pixel| !changes[pixel]),
        }
    }
}

/// The index of the candidate that the picture shows. Only pixels count on which candidates
/// differ.
fn nearest(picture: &Picture, candidates: &[Scene]) -> usize {
    let drawn: Vec<_> = candidates.iter().map(Scene::render).collect();
    let mut counts = vec![false; SIDE * SIDE];
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

/// The scene with this thing where and as large as the picture has it, within what captions
/// leave open.
fn fitted(picture: &Picture, scene: &Scene, thing: usize) -> Scene {
    let at = |offset, scale| {
        let mut scene = scene.clone();
        scene.things[thing] = scene.things[thing].fitted(offset, scale);
        scene
    };
    let grid = || OFFSETS.into_iter().flat_map(|x| OFFSETS.map(|z| (x, z)));
    let fits: Vec<_> = grid()
        .flat_map(|offset| SCALES.map(|scale| at(offset, scale)))
        .collect();
    fits[nearest(picture, &fits)].clone()
}
