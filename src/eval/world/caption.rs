//! Captions: what a scene shows, worded in one of many ways.

use rand::Rng;

use super::{Background, Dice, Place, Scene, Shape, Size, Texture, Thing};

/// Which of the words for the same thing a caption takes.
#[derive(Clone, Copy, Debug)]
pub struct Wording {
    opening: usize,
    background_first: bool,
    synonyms: bool,
    place_first: bool,
}

/// What captions that name things first may begin with.
const OPENINGS: [&str; 4] = ["", "a picture of ", "a drawing of ", "there is "];
/// What captions that name places first may begin with.
const OPENINGS_BEFORE_PLACES: [&str; 4] = ["", "", "", "there is "];

impl Wording {
    /// The plainest: no opening, the background last. A text encoder reads from
    /// left to right: where the place comes first, each word of a thing is read
    /// in the light of it.
    pub const PLAIN: Self = Self {
        opening: 0,
        background_first: false,
        synonyms: false,
        place_first: true,
    };

    /// A wording drawn by lot.
    pub fn any(dice: &mut Dice) -> Self {
        Self {
            opening: dice.random_range(0..OPENINGS.len()),
            background_first: dice.random_bool(0.25),
            synonyms: dice.random_bool(0.3),
            place_first: dice.random_bool(0.7),
        }
    }

    /// The caption of a scene.
    pub fn caption(self, scene: &Scene) -> String {
        let things: Vec<_> = scene.things.iter().map(|thing| self.thing(thing)).collect();
        let things = format!("{}{}", self.opening(), things.join(" and "));
        let background = background(scene.background);
        match self.background_first {
            true => format!("{background} {things}"),
            false => format!("{things} {background}"),
        }
    }

    fn opening(self) -> &'static str {
        match self.place_first {
            true => OPENINGS_BEFORE_PLACES[self.opening],
            false => OPENINGS[self.opening],
        }
    }

    fn thing(self, thing: &Thing) -> String {
        let words = [
            "a",
            self.size(thing.size),
            thing.colour.word(),
            texture(thing.texture),
            self.shape(thing.shape),
        ];
        let (thing, place) = (joined(&words), self.place(thing.place));
        match self.place_first {
            true => format!("{place} {thing}"),
            false => format!("{thing} {place}"),
        }
    }

    fn size(self, size: Size) -> &'static str {
        match size {
            Size::Large if self.synonyms => "big",
            Size::Small if self.synonyms => "little",
            _ => size.word(),
        }
    }

    /// The word for a shape.
    pub(super) fn shape(self, shape: Shape) -> &'static str {
        match shape {
            Shape::Circle if self.synonyms => "disc",
            Shape::Square if self.synonyms => "box",
            _ => shape.word(),
        }
    }

    fn place(self, place: Place) -> &'static str {
        match place {
            Place::Left => "on the left",
            Place::Right => "on the right",
            Place::Top => "at the top",
            Place::Bottom => "at the bottom",
            Place::Middle if self.synonyms => "in the centre",
            Place::Middle => "in the middle",
        }
    }
}

fn background(background: Background) -> String {
    let words = [
        "on a",
        background.colour.word(),
        texture(background.texture),
        "background",
    ];
    joined(&words)
}

/// Nothing is said of a plain surface.
fn texture(texture: Texture) -> &'static str {
    match texture {
        Texture::Plain => "",
        _ => texture.word(),
    }
}

fn joined(words: &[&str]) -> String {
    let said: Vec<_> = words.iter().filter(|word| !word.is_empty()).collect();
    said.iter().map(|word| **word).collect::<Vec<_>>().join(" ")
}
