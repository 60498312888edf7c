//! A world of still lifes: one to three things on a table before a wall, under one light,
//! rendered by a small ray tracer. Few words tell all that matters of a scene, and the true
//! picture of every edit is known, shadows and reflections included. The bundled model
//! `tabletop` knows it.
//!
//! The same scene gives the same bytes on every machine: the tracer uses only what IEEE 754
//! rounds correctly, `+ - * / sqrt` and `floor`, in f32 and in one order.

mod caption;
mod edit;
mod error;
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

pub use caption::Wording;
pub use edit::{Change, Pair};
pub use error::{psnr, squared_error};
pub use judge::{Verdict, fitted, nearest};
pub use render::SIDE;
pub use scene::{Scene, Thing};
pub use vocabulary::{Colour, Light, Material, Place, Shape, Size, Surface, Wall};

/// Scenes that no training sees have this seed.
pub const HELD_OUT: u64 = 0x5EED_0FF5;

/// Random choices that are the same on every machine.
pub type Dice = ChaCha8Rng;

/// The dice of scene `index` in the stream of `seed`.
pub fn dice(seed: u64, index: u64) -> Dice {
    let mut dice = Dice::seed_from_u64(seed);
    dice.set_stream(index);
    dice
}
