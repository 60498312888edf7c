//! Which scene a picture shows: every candidate is drawn, and the nearest one
//! in mean square error is what it shows.

use std::ops::Range;

use super::{Pair, Scene, Thing, squared_error};
use crate::picture::Picture;

/// Where a thing may lie beside its place's centre, in pixels.
const OFFSETS: [f32; 5] = [-1.5, -0.75, 0.0, 0.75, 1.5];
/// How large it may be.
const SCALES: [f32; 3] = [0.94, 1.0, 1.06];

/// The index of the candidate that the picture shows. Only pixels count on
/// which candidates differ.
pub fn nearest(picture: &Picture, candidates: &[Scene]) -> usize {
    let drawn: Vec<_> = candidates.iter().map(Scene::render).collect();
    let mut area = vec![false; picture.size().pixels()];
    for other in &drawn[1..] {
        let differs = Pair::mask(&drawn[0], other);
        area.iter_mut()
            .zip(differs)
            .for_each(|(here, differs)| *here |= differs);
    }
    let error = |i: &usize| squared_error(picture, &drawn[*i], |pixel| area[pixel]);
    let indices = 0..drawn.len();
    indices
        .min_by(|a, b| error(a).total_cmp(&error(b)))
        .unwrap_or(0)
}

/// The scene with some of its things where and as large as the picture has
/// them, within what captions leave open.
pub fn fitted(picture: &Picture, scene: &Scene, things: Range<usize>) -> Scene {
    let mut scene = scene.clone();
    for thing in things {
        let at = |fitted: Thing| {
            let mut scene = scene.clone();
            scene.things[thing] = fitted;
            scene
        };
        let told = scene.things[thing];
        let fits: Vec<_> = untold()
            .map(|(x, y, scale)| at(told.fitted((x, y), scale)))
            .collect();
        let best = nearest(picture, &fits);
        scene = fits[best].clone();
    }
    scene
}

fn untold() -> impl Iterator<Item = (f32, f32, f32)> {
    let across = OFFSETS.into_iter();
    across.flat_map(|x| {
        let down = OFFSETS.into_iter();
        down.flat_map(move |y| SCALES.map(|scale| (x, y, scale)))
    })
}
