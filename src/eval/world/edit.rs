//! Edits: two scenes that differ in one thing, with captions that differ in the words for it.

use rand::{Rng, seq::IndexedRandom};

use super::{
    Colour, Dice, Light, Material, Scene, Shape, Size, Surface, Thing, Wall, Wording, dice,
};
use crate::picture::Picture;

/// What an edit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The colour of a thing.
    Colour,
    /// What a thing is made of.
    Material,
    /// The form of a thing.
    Shape,
    /// How big a thing is.
    Size,
    /// Where a thing stands.
    Place,
    /// The table.
    Surface,
    /// The colour of the wall.
    Wall,
    /// What lights the scene.
    Light,
    /// Another thing comes.
    Add,
    /// A thing goes.
    Remove,
}

impl Change {
    /// All kinds of edits.
    pub const ALL: [Self; 10] = [
        Self::Colour,
        Self::Material,
        Self::Shape,
        Self::Size,
        Self::Place,
        Self::Surface,
        Self::Wall,
        Self::Light,
        Self::Add,
        Self::Remove,
    ];

    /// What is told of a thing.
    pub const OF_THINGS: [Self; 5] = [
        Self::Colour,
        Self::Material,
        Self::Shape,
        Self::Size,
        Self::Place,
    ];
    /// What is told of the room around the things.
    pub const OF_ROOM: [Self; 3] = [Self::Surface, Self::Wall, Self::Light];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Material => "material",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Place => "place",
            Self::Surface => "surface",
            Self::Wall => "wall",
            Self::Light => "light",
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }

    /// The scene with every value that may be changed: of the thing of this index, or with
    /// and without it.
    pub fn candidates(self, scene: &Scene, thing: usize) -> Vec<Scene> {
        let with = |set: &dyn Fn(&mut Thing)| {
            let mut scene = scene.clone();
            set(&mut scene.things[thing]);
            scene
        };
        let scene = || scene.clone();
        match self {
            Self::Colour => each(Colour::ALL, |colour| with(&|thing| thing.colour = colour)),
            Self::Material => each(Material::ALL, |value| with(&|thing| thing.material = value)),
            Self::Shape => each(Shape::ALL, |shape| with(&|thing| thing.shape = shape)),
            Self::Size => each(Size::ALL, |size| with(&|thing| thing.size = size)),
            Self::Place => each(&scene().room(thing), |place| {
                with(&|thing| thing.place = place)
            }),
            Self::Surface => each(Surface::ALL, |surface| Scene { surface, ..scene() }),
            Self::Wall => each(Wall::ALL, |wall| Scene { wall, ..scene() }),
            Self::Light => each(Light::ALL, |light| Scene { light, ..scene() }),
            Self::Add | Self::Remove => {
                let mut without = scene();
                without.things.remove(thing);
                vec![scene(), without]
            }
        }
    }
}

/// The scene for each of some values.
fn each<T: Copy>(values: &[T], scene: impl Fn(T) -> Scene) -> Vec<Scene> {
    values.iter().map(|&value| scene(value)).collect()
}

/// An edit whose true result is known.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What it changes.
    pub change: Change,
    /// The scene before.
    pub source: Scene,
    /// The scene after.
    pub target: Scene,
    /// The index of the thing that is changed, comes or goes.
    pub thing: usize,
    /// How both captions are worded.
    pub wording: Wording,
}

impl Pair {
    /// The seed of the pairs that edits are measured on; no training has it.
    pub const SEED: u64 = 0xED17;

    /// Edit `index` of a seed; the kinds of change take turns.
    pub fn numbered(seed: u64, index: u64) -> Self {
        let change = Change::ALL[index as usize % Change::ALL.len()];
        Self::any(change, &mut dice(seed, index))
    }

    fn any(change: Change, dice: &mut Dice) -> Self {
        let (source, target, thing) = match change {
            Change::Add | Change::Remove => coming(change, dice),
            _ => changed(change, dice),
        };
        Self {
            change,
            source,
            target,
            thing,
            wording: Wording::any(dice),
        }
    }

    /// What is there, and what should be there.
    pub fn captions(&self) -> (String, String) {
        let caption = |scene| self.wording.caption(scene);
        (caption(&self.source), caption(&self.target))
    }

    /// The word in each caption for what the edit changes, if there is one that names nothing
    /// else there: the noun of the thing, or of the room.
    pub fn words(&self) -> Option<[String; 2]> {
        let noun = |scene: &Scene| match self.change {
            Change::Surface => Some("table"),
            Change::Wall => Some("wall"),
            Change::Light => Some("light"),
            // A thing that comes or goes has a word in one caption only.
            Change::Add | Change::Remove => None,
            _ => self.wording.own_noun(scene, self.thing),
        };
        Some([noun(&self.source)?, noun(&self.target)?].map(str::to_owned))
    }

    /// The pixels that differ between the true pictures, row by row: the thing, its shadow,
    /// and what mirrors it.
    pub fn mask(before: &Picture, after: &Picture) -> Vec<bool> {
        let (before, after) = (before.pixels().chunks(3), after.pixels().chunks(3));
        before.zip(after).map(|(a, b)| a != b).collect()
    }
}

/// A scene, the same with another value, and the thing that has it.
fn changed(change: Change, dice: &mut Dice) -> (Scene, Scene, usize) {
    let source = Scene::any(dice);
    let thing = dice.random_range(0..source.things.len());
    let mut others = change.candidates(&source, thing);
    others.retain(|other| *other != source);
    let target = others.choose(dice).expect("there is another value").clone();
    (source, target, thing)
}

/// A scene with and without its last thing, in the order of the change.
fn coming(change: Change, dice: &mut Dice) -> (Scene, Scene, usize) {
    let mut without = Scene::any(dice);
    without.things.truncate(2);
    let mut with = without.clone();
    let thing = with.things.len();
    with.things.push(Thing::any(dice));
    let room = with.room(thing);
    let place = *room.choose(dice).expect("a place is free");
    with.things[thing] = with.things[thing].at(place);
    match change {
        Change::Add => {
            // Nothing tells the untold of a thing that is not there yet.
            with.things[thing] = with.things[thing].usual();
            (without, with, thing)
        }
        _ => (with, without, thing),
    }
}
