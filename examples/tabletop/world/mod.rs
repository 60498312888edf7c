//! A world of still lifes: one to three things on a table before a wall, under one light,
//! rendered by a small ray tracer. Few words tell all that matters of a scene, and the true
//! picture of every edit is known, shadows and reflections included.
//!
//! The same scene gives the same bytes on every machine: the tracer uses only what IEEE 754
//! rounds correctly, `+ - * / sqrt` and `floor`, in f32 and in one order.

mod caption;
mod edit;
mod geometry;
mod judge;
mod light;
mod material;
mod render;
mod scene;
mod texture;
mod trace;
mod vector;
mod vocabulary;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub(crate) use caption::Wording;
pub(crate) use edit::{Change, Pair};
pub(crate) use judge::Verdict;
pub(crate) use render::SIDE;
pub(crate) use scene::{Scene, Thing};
pub(crate) use vocabulary::{Colour, Light, Material, Place, Shape, Size, Surface, Wall};

/// Scenes that no training sees have this seed.
pub(crate) const HELD_OUT: u64 = 0x5EED_0FF5;

/// Random choices that are the same on every machine.
pub(crate) type Dice = ChaCha8Rng;

/// The dice of scene `index` in the stream of `seed`.
pub(crate) fn dice(seed: u64, index: u64) -> Dice {
    let mut dice = Dice::seed_from_u64(seed);
    dice.set_stream(index);
    dice
}
