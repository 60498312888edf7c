//! Edits: two scenes that differ in one thing, with captions that differ in
//! the words for it.

use rand::{Rng, seq::IndexedRandom};

use super::{
    Background, Colour, Dice, Ground, Place, Scene, Shape, Size, Texture, Thing, Wording, dice,
};
use crate::picture::Picture;

/// Something that captions tell of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The colour of a thing.
    Colour,
    /// The outline of a thing.
    Shape,
    /// How big a thing is.
    Size,
    /// What a thing bears in a second shade.
    Texture,
    /// Where a thing is.
    Place,
    /// The colour of the background.
    Background,
    /// What the background bears in a second shade.
    Pattern,
}

impl Attribute {
    /// What is told of a thing.
    pub const OF_THINGS: [Self; 5] = [
        Self::Colour,
        Self::Shape,
        Self::Size,
        Self::Texture,
        Self::Place,
    ];
    /// What is told of the background.
    pub const BEHIND: [Self; 2] = [Self::Background, Self::Pattern];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Texture => "texture",
            Self::Place => "place",
            Self::Background => "background",
            Self::Pattern => "pattern",
        }
    }

    /// The scene with every value that the attribute could have, of the thing
    /// of this index where things have it.
    pub fn candidates(self, scene: &Scene, thing: usize) -> Vec<Scene> {
        let with = |set: &dyn Fn(&mut Thing)| {
            let mut scene = scene.clone();
            set(&mut scene.things[thing]);
            scene
        };
        let behind = |set: &dyn Fn(&mut Background)| {
            let mut scene = scene.clone();
            set(&mut scene.background);
            scene
        };
        match self {
            Self::Colour => each(Colour::ALL, |value| with(&|thing| thing.colour = value)),
            Self::Shape => each(Shape::ALL, |value| with(&|thing| thing.shape = value)),
            Self::Size => each(Size::ALL, |value| with(&|thing| thing.size = value)),
            Self::Place => each(Place::ALL, |value| with(&|thing| thing.place = value)),
            Self::Texture => each(Texture::ALL, |value| with(&|thing| thing.texture = value)),
            Self::Background => each(Ground::ALL, |value| behind(&|ground| ground.colour = value)),
            Self::Pattern => each(Texture::ALL, |value| {
                behind(&|ground| ground.texture = value)
            }),
        }
    }
}

/// The scene for each of some values.
fn each<T: Copy>(values: &[T], scene: impl Fn(T) -> Scene) -> Vec<Scene> {
    values.iter().map(|&value| scene(value)).collect()
}

/// What an edit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The value of an attribute.
    Of(Attribute),
    /// A second thing comes.
    Add,
    /// A second thing goes.
    Remove,
}

impl Change {
    /// All kinds of edits.
    pub const ALL: [Self; 8] = [
        Self::Of(Attribute::Colour),
        Self::Of(Attribute::Shape),
        Self::Of(Attribute::Background),
        Self::Of(Attribute::Size),
        Self::Of(Attribute::Texture),
        Self::Of(Attribute::Pattern),
        Self::Add,
        Self::Remove,
    ];

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Of(attribute) => attribute.name(),
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
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

    /// An edit of this kind, drawn by lot.
    fn any(change: Change, dice: &mut Dice) -> Self {
        let (source, thing) = loop {
            let scene = Scene::any(dice);
            if let Some(thing) = changeable(change, &scene, dice) {
                break (scene, thing);
            }
        };
        let target = changed(change, &source, thing, dice);
        let (source, target) = match change {
            // What is added in one direction is removed in the other.
            Change::Remove => (target, source),
            _ => (source, target),
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
    /// else there.
    pub fn words(&self) -> Option<[String; 2]> {
        let Change::Of(attribute) = self.change else {
            return None; // a thing that comes or goes has a word in one caption only
        };
        if Attribute::BEHIND.contains(&attribute) {
            return Some(["background"; 2].map(String::from));
        }
        let word = |scene: &Scene| {
            let word = |thing: &Thing| self.wording.shape(thing.shape);
            let own = word(&scene.things[self.thing]);
            let count = scene
                .things
                .iter()
                .filter(|thing| word(thing) == own)
                .count();
            (count == 1).then(|| own.to_owned())
        };
        Some([word(&self.source)?, word(&self.target)?])
    }

    /// The pixels that differ between the true pictures, row by row.
    pub fn mask(before: &Picture, after: &Picture) -> Vec<bool> {
        let (before, after) = (before.pixels().chunks(3), after.pixels().chunks(3));
        before.zip(after).map(|(a, b)| a != b).collect()
    }
}

/// The thing that `change` can act on, if there is one.
fn changeable(change: Change, scene: &Scene, dice: &mut Dice) -> Option<usize> {
    let only = &scene.things[0];
    match change {
        Change::Add | Change::Remove => {
            (scene.things.len() == 1 && only.place.opposite().is_some()).then_some(1)
        }
        Change::Of(_) => Some(dice.random_range(0..scene.things.len())),
    }
}

fn changed(change: Change, scene: &Scene, thing: usize, dice: &mut Dice) -> Scene {
    let Change::Of(attribute) = change else {
        let mut scene = scene.clone();
        let place = scene.things[0].place.opposite();
        let place = place.expect("a scene with room was chosen");
        let second = Thing::any(dice).at(place);
        scene.things.push(match change {
            // Nothing tells the untold of a thing that is not there yet.
            Change::Add => second.usual(),
            _ => second,
        });
        return scene;
    };
    let others: Vec<_> = attribute
        .candidates(scene, thing)
        .into_iter()
        .filter(|candidate| candidate != scene)
        .collect();
    others.choose(dice).expect("there is another value").clone()
}
