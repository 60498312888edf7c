//! Scenes before they are drawn.

use rand::{Rng, seq::SliceRandom};

use super::{Colour, Dice, Light, Material, Place, Shape, Size, Surface, Wall};

/// A thing on the table. What captions do not tell is drawn by lot and kept by every edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thing {
    /// Its form.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// What it is made of.
    pub material: Material,
    /// How big it is.
    pub size: Size,
    /// Where it stands.
    pub place: Place,
    pub(super) untold: Untold,
}

/// What no caption tells of a thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Untold {
    /// From its place's centre to the right and to the viewer, in units of the world.
    pub(super) offset: (f32, f32),
    /// Its size over the usual one.
    pub(super) scale: f32,
    /// The tangent of half the angle by which it is turned about its axis.
    pub(super) turn: f32,
    /// Its colour over the usual one.
    pub(super) tint: f32,
}

/// A picture before it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// One to three things, each in a place of its own.
    pub things: Vec<Thing>,
    /// What they stand on.
    pub surface: Surface,
    /// What is behind them.
    pub wall: Wall,
    /// What lights them.
    pub light: Light,
}

impl Scene {
    /// A scene drawn by lot.
    pub fn any(dice: &mut Dice) -> Self {
        let count = [1, 2, 2, 2, 3, 3][dice.random_range(0..6)];
        let mut places = Place::ALL.to_vec();
        places.shuffle(dice);
        let places = places.into_iter().take(count);
        Self {
            things: places.map(|place| Thing::any(dice).at(place)).collect(),
            surface: Surface::any(dice),
            wall: Wall::any(dice),
            light: Light::any(dice),
        }
    }

    /// The scene as usual in all that no caption tells.
    pub fn usual(&self) -> Self {
        Self {
            things: self.things.iter().map(|thing| thing.usual()).collect(),
            ..self.clone()
        }
    }

    /// The scene with the places of its things passed on to the next one.
    pub fn exchanged(&self) -> Self {
        let mut places: Vec<_> = self.things.iter().map(|thing| thing.place).collect();
        places.rotate_left(1);
        let things = self.things.iter().zip(places);
        Self {
            things: things.map(|(thing, place)| thing.at(place)).collect(),
            ..self.clone()
        }
    }

    /// The places that are free beside the other things than this one.
    pub fn room(&self, thing: usize) -> Vec<Place> {
        let others = self.things.iter().enumerate().filter(|(i, _)| *i != thing);
        let taken: Vec<_> = others.map(|(_, other)| other.place).collect();
        let places = Place::ALL.iter().copied();
        places.filter(|place| !taken.contains(place)).collect()
    }
}

impl Thing {
    /// A thing as usual in all that no caption tells.
    pub fn new(shape: Shape, colour: Colour, material: Material, size: Size, place: Place) -> Self {
        let untold = Untold::USUAL;
        Self {
            shape,
            colour,
            material,
            size,
            place,
            untold,
        }
    }

    /// The same thing in another place.
    pub fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// The thing as usual in all that no caption tells.
    pub fn usual(self) -> Self {
        let untold = Untold::USUAL;
        Self { untold, ..self }
    }

    /// The thing moved to the right and to the viewer, and scaled.
    pub fn fitted(self, offset: (f32, f32), scale: f32) -> Self {
        let untold = Untold {
            offset,
            scale,
            ..self.untold
        };
        Self { untold, ..self }
    }

    pub(super) fn any(dice: &mut Dice) -> Self {
        Self {
            shape: Shape::any(dice),
            colour: Colour::any(dice),
            // Matte things are the plainest: twice as many.
            material: match dice.random_range(0..6) {
                0 => Material::Matte,
                _ => Material::any(dice),
            },
            size: Size::any(dice),
            place: Place::any(dice),
            untold: Untold::any(dice),
        }
    }
}

impl Untold {
    pub(super) const USUAL: Self = Self {
        offset: (0.0, 0.0),
        scale: 1.0,
        turn: 0.0,
        tint: 1.0,
    };

    fn any(dice: &mut Dice) -> Self {
        Self {
            offset: (
                dice.random_range(-0.06..0.06),
                dice.random_range(-0.06..0.06),
            ),
            scale: dice.random_range(0.94..1.06),
            turn: dice.random_range(-0.12..0.12),
            tint: dice.random_range(0.9..1.1),
        }
    }
}
