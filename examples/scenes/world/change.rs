//! Edits: two scenes that differ in one thing, with captions that differ in
//! the words for it.

use icd::picture::Picture;
use rand::{Rng, seq::IndexedRandom};

use super::{Colour, Dice, Ground, Scene, Shape, Size, Texture, Thing, Wording};

/// What an edit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Colour,
    Shape,
    Size,
    Texture,
    Background,
    Pattern,
    Add,
    Remove,
}

impl Change {
    pub(crate) const ALL: [Self; 8] = [
        Self::Colour,
        Self::Shape,
        Self::Size,
        Self::Texture,
        Self::Background,
        Self::Pattern,
        Self::Add,
        Self::Remove,
    ];

    /// Its name in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Texture => "texture",
            Self::Background => "background",
            Self::Pattern => "pattern",
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }

    /// Every value that the changed attribute of `scene` could have, as scenes.
    /// Index `thing` is the thing that is changed.
    pub(crate) fn candidates(self, scene: &Scene, thing: usize) -> Vec<Scene> {
        let with = |change: &dyn Fn(&mut Thing)| {
            let mut scene = scene.clone();
            change(&mut scene.things[thing]);
            scene
        };
        let behind = |change: &dyn Fn(&mut super::Background)| {
            let mut scene = scene.clone();
            change(&mut scene.background);
            scene
        };
        let each = |values: usize, value: &dyn Fn(usize) -> Scene| (0..values).map(value).collect();
        match self {
            Self::Colour => each(Colour::ALL.len(), &|i| with(&|x| x.colour = Colour::ALL[i])),
            Self::Shape => each(Shape::ALL.len(), &|i| with(&|x| x.shape = Shape::ALL[i])),
            Self::Size => each(Size::ALL.len(), &|i| with(&|x| x.size = Size::ALL[i])),
            Self::Texture => each(Texture::ALL.len(), &|i| {
                with(&|x| x.texture = Texture::ALL[i])
            }),
            Self::Background => each(Ground::ALL.len(), &|i| {
                behind(&|x| x.colour = Ground::ALL[i])
            }),
            Self::Pattern => each(Texture::ALL.len(), &|i| {
                behind(&|x| x.texture = Texture::ALL[i])
            }),
            Self::Add | Self::Remove => Vec::new(),
        }
    }
}

/// An edit whose true result is known.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) change: Change,
    pub(crate) source: Scene,
    pub(crate) target: Scene,
    pub(crate) wording: Wording,
}

impl Pair {
    /// An edit of this kind, drawn by lot.
    pub(crate) fn any(change: Change, dice: &mut Dice) -> Self {
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
            wording: Wording::any(dice),
        }
    }

    /// What is there, and what should be there.
    pub(crate) fn captions(&self) -> (String, String) {
        let caption = |scene| self.wording.caption(scene);
        (caption(&self.source), caption(&self.target))
    }

    /// The pixels that differ between the true pictures, row by row.
    pub(crate) fn mask(before: &Picture, after: &Picture) -> Vec<bool> {
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
        _ => Some(dice.random_range(0..scene.things.len())),
    }
}

fn changed(change: Change, scene: &Scene, thing: usize, dice: &mut Dice) -> Scene {
    if matches!(change, Change::Add | Change::Remove) {
        let mut scene = scene.clone();
        let place = scene.things[0].place.opposite();
        let place = place.expect("a scene with room was chosen");
        scene.things.push(Thing {
            place,
            ..Thing::any(dice)
        });
        return scene;
    }
    let others: Vec<_> = change
        .candidates(scene, thing)
        .into_iter()
        .filter(|candidate| candidate != scene)
        .collect();
    others.choose(dice).expect("there is another value").clone()
}
