//! A toy world of captioned pictures: one or two things before a background,
//! described by few words and drawn exactly, so that the true picture of every
//! edit is known. The bundled model `shapes` knows it.

mod caption;
mod change;
mod error;
mod judge;
mod render;
mod verdict;

use std::f32::consts::TAU;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub use caption::Wording;
pub use change::{Attribute, Change, Pair};
pub use error::{psnr, squared_error};
pub use judge::{fitted, nearest};
pub use render::SIDE;
pub use verdict::Verdict;

/// A choice among a few words, each with a meaning that can be drawn.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $value:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each value has its word")]
        pub enum $name { $($(#[$about])* $value),+ }

        impl $name {
            /// Every choice.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The word for it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }

            fn any(dice: &mut Dice) -> Self {
                *Self::ALL.choose(dice).expect("there are choices")
            }
        }
    };
}

words! {
    /// The outline of a thing.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Star = "star", Cross = "cross", Heart = "heart" }
}
words! {
    /// The colour of a thing.
    Colour {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", White = "white", Black = "black",
    }
}
words! {
    /// The colour of a background; no thing has it.
    Ground { Grey = "grey", Brown = "brown", Pink = "pink", Cyan = "cyan", Tan = "tan", Teal = "teal" }
}
words! {
    /// What a surface bears in a second shade. Captions leave `plain` out.
    Texture { Plain = "plain", Striped = "striped", Dotted = "dotted", Checkered = "checkered" }
}
words! {
    /// How big a thing is.
    Size { Small = "small", Large = "large" }
}
words! {
    /// Where a thing is.
    Place { Left = "left", Right = "right", Top = "top", Bottom = "bottom", Middle = "middle" }
}

impl Place {
    /// The place where a second thing does not touch one that is here.
    pub fn opposite(self) -> Option<Self> {
        match self {
            Self::Left => Some(Self::Right),
            Self::Right => Some(Self::Left),
            Self::Top => Some(Self::Bottom),
            Self::Bottom => Some(Self::Top),
            Self::Middle => None,
        }
    }
}

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

/// A thing in a picture. What captions do not tell is drawn by lot and kept
/// by every edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thing {
    /// Its outline.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// What it bears in a second shade.
    pub texture: Texture,
    /// How big it is.
    pub size: Size,
    /// Where it is.
    pub place: Place,
    untold: Untold,
}

/// What no caption tells of a thing.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Untold {
    /// Pixels from its place's centre, to the right and downwards.
    offset: (f32, f32),
    /// Its size over the usual one.
    scale: f32,
    /// Radians, clockwise.
    turn: f32,
    /// Added to each of red, green and blue (0 to 1).
    tint: [f32; 3],
}

/// What lies behind the things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Background {
    /// Its colour.
    pub colour: Ground,
    /// What it bears in a second shade.
    pub texture: Texture,
    tint: [f32; 3],
}

/// A picture before it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// What lies behind the things.
    pub background: Background,
    /// One thing, or two in opposite places.
    pub things: Vec<Thing>,
}

impl Scene {
    /// The scene as usual in all that no caption tells.
    pub fn usual(&self) -> Self {
        Self {
            background: self.background.usual(),
            things: self.things.iter().map(|thing| thing.usual()).collect(),
        }
    }

    /// The scene with the places of its things exchanged.
    pub fn exchanged(&self) -> Self {
        let places = self.things.iter().rev().map(|thing| thing.place);
        let things = self.things.iter().zip(places);
        Self {
            things: things.map(|(thing, place)| thing.at(place)).collect(),
            ..self.clone()
        }
    }

    /// A scene drawn by lot.
    pub fn any(dice: &mut Dice) -> Self {
        let first = Thing::any(dice);
        let second = first.place.opposite().filter(|_| dice.random_bool(0.55));
        let second = second.map(|place| Thing::any(dice).at(place));
        Self {
            background: Background::any(dice),
            things: [first].into_iter().chain(second).collect(),
        }
    }
}

impl Thing {
    /// The same thing in another place.
    fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// The thing as usual in all that no caption tells.
    fn usual(self) -> Self {
        let untold = Untold::USUAL;
        Self { untold, ..self }
    }

    /// The thing moved by pixels and scaled.
    pub fn fitted(self, offset: (f32, f32), scale: f32) -> Self {
        let untold = Untold {
            offset,
            scale,
            ..Untold::USUAL
        };
        Self { untold, ..self }
    }

    fn any(dice: &mut Dice) -> Self {
        Self {
            shape: Shape::any(dice),
            colour: Colour::any(dice),
            texture: texture(dice),
            size: Size::any(dice),
            place: Place::any(dice),
            untold: Untold::any(dice),
        }
    }
}

impl Untold {
    const USUAL: Self = Self {
        offset: (0.0, 0.0),
        scale: 1.0,
        turn: 0.0,
        tint: [0.0; 3],
    };

    fn any(dice: &mut Dice) -> Self {
        Self {
            offset: (dice.random_range(-1.5..1.5), dice.random_range(-1.5..1.5)),
            scale: dice.random_range(0.92..1.08),
            turn: dice.random_range(-0.03..0.03) * TAU,
            tint: tint(dice),
        }
    }
}

impl Background {
    /// The background without a tint.
    fn usual(self) -> Self {
        Self {
            tint: [0.0; 3],
            ..self
        }
    }

    fn any(dice: &mut Dice) -> Self {
        Self {
            colour: Ground::any(dice),
            texture: texture(dice),
            tint: tint(dice),
        }
    }
}

/// Plain in a bit more than half of all cases.
fn texture(dice: &mut Dice) -> Texture {
    match dice.random_bool(0.4) {
        true => Texture::Plain,
        false => Texture::any(dice),
    }
}

fn tint(dice: &mut Dice) -> [f32; 3] {
    [(); 3].map(|()| dice.random_range(-0.04..0.04))
}
