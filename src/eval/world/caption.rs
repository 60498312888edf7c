//! Captions: what a scene shows, worded in one of many ways, and read again.

use std::str::FromStr;

use rand::Rng;

use super::{Colour, Dice, Light, Material, Place, Scene, Shape, Size, Surface, Thing, Wall};

/// Which of the words for the same thing a caption takes, and their order.
#[derive(Clone, Copy, Debug)]
pub struct Wording {
    opening: &'static str,
    order: Order,
    place: PlaceOf,
    nouns: Nouns,
}

/// What comes first.
#[derive(Clone, Copy, Debug)]
enum Order {
    Things,
    Setting,
}

/// Where the place of a thing is told.
#[derive(Clone, Copy, Debug)]
enum PlaceOf {
    Before,
    After,
}

#[derive(Clone, Copy, Debug)]
enum Nouns {
    Usual,
    Synonyms,
}

const OPENINGS: [&str; 4] = ["", "", "a photo of ", "a still life with "];

/// Other words for shapes and sizes.
const SYNONYMS: [(&str, &str); 4] = [
    ("ball", "sphere"),
    ("mug", "cup"),
    ("large", "big"),
    ("small", "little"),
];

impl Wording {
    /// The plainest: no opening, places first, the table, wall and light last. A text encoder
    /// reads from left to right: so each word of a thing is read in the light of its place.
    pub const PLAIN: Self = Self {
        opening: "",
        order: Order::Things,
        place: PlaceOf::Before,
        nouns: Nouns::Usual,
    };

    /// A wording drawn by lot.
    pub fn any(dice: &mut Dice) -> Self {
        let place = match dice.random_bool(0.7) {
            true => PlaceOf::Before,
            false => PlaceOf::After,
        };
        let opening = OPENINGS[dice.random_range(0..OPENINGS.len())];
        Self {
            opening: match place {
                PlaceOf::Before => "",
                PlaceOf::After => opening,
            },
            place,
            order: match dice.random_bool(0.25) {
                true => Order::Setting,
                false => Order::Things,
            },
            nouns: match dice.random_bool(0.3) {
                true => Nouns::Synonyms,
                false => Nouns::Usual,
            },
        }
    }

    /// The caption of a scene.
    pub fn caption(self, scene: &Scene) -> String {
        let things: Vec<_> = scene.things.iter().map(|thing| self.thing(thing)).collect();
        let things = format!("{}{}", self.opening, things.join(" and "));
        let setting = format!(
            "on a {} table before {} {} wall in {} light",
            scene.surface.word(),
            article(scene.wall.word()),
            scene.wall.word(),
            scene.light.word()
        );
        match self.order {
            Order::Things => format!("{things} {setting}"),
            Order::Setting => format!("{setting} {things}"),
        }
    }

    /// The noun of a thing, if no other thing of the scene has it.
    pub(super) fn own_noun(self, scene: &Scene, thing: usize) -> Option<&'static str> {
        let own = scene.things[thing].shape;
        let same = scene.things.iter().filter(|thing| thing.shape == own);
        (same.count() == 1).then(|| self.noun(own.word()))
    }

    fn thing(self, thing: &Thing) -> String {
        let words = [
            "a",
            self.noun(thing.size.word()),
            thing.colour.word(),
            told(thing.material),
            self.noun(thing.shape.word()),
        ];
        let said: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let (thing, place) = (said.join(" "), thing.place.word());
        match self.place {
            PlaceOf::Before => format!("at the {place} {thing}"),
            PlaceOf::After => format!("{thing} at the {place}"),
        }
    }

    fn noun(self, word: &'static str) -> &'static str {
        let other = SYNONYMS.iter().find(|(usual, _)| *usual == word);
        match (self.nouns, other) {
            (Nouns::Synonyms, Some((_, other))) => other,
            _ => word,
        }
    }
}

fn article(word: &str) -> &'static str {
    match word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    }
}

/// Nothing is said of a matte thing.
fn told(material: Material) -> &'static str {
    match material {
        Material::Matte => "",
        _ => material.word(),
    }
}

/// What has been read of a caption.
#[derive(Default)]
struct Reader<'a> {
    /// Words since the last noun.
    words: Vec<&'a str>,
    things: Vec<(Thing, bool)>,
    place: Option<Place>,
    setting: (Option<Surface>, Option<Wall>, Option<Light>),
}

impl FromStr for Scene {
    type Err = String;

    /// The scene that a caption tells, as usual in all that it does not.
    fn from_str(caption: &str) -> Result<Self, String> {
        let mut reader = Reader::default();
        for word in caption.split_whitespace() {
            reader.read(word)?;
        }
        let placed = reader.things.iter().all(|(_, is_placed)| *is_placed);
        match reader.setting {
            (Some(surface), Some(wall), Some(light)) if placed && !reader.things.is_empty() => {
                let things = reader.things.into_iter().map(|(thing, _)| thing).collect();
                Ok(Self {
                    things,
                    surface,
                    wall,
                    light,
                })
            }
            _ => Err("a caption tells of things, their places, a table, a wall and light".into()),
        }
    }
}

impl<'a> Reader<'a> {
    fn read(&mut self, word: &'a str) -> Result<(), String> {
        let usual = SYNONYMS.iter().find(|(_, other)| *other == word);
        let word = usual.map_or(word, |(usual, _)| usual);
        let shape = Shape::ALL.iter().find(|shape| shape.word() == word);
        match (word, shape) {
            ("table", _) => self.setting.0 = Some(self.told(Surface::ALL, Surface::word)?),
            ("wall", _) => self.setting.1 = Some(self.told(Wall::ALL, Wall::word)?),
            ("light", _) => self.setting.2 = Some(self.told(Light::ALL, Light::word)?),
            ("left" | "right", _) => return self.placed(word),
            (_, Some(&shape)) => self.thing(shape)?,
            _ => {
                self.words.push(word);
                return Ok(());
            }
        }
        self.words.clear();
        Ok(())
    }

    /// The value whose word has been read since the last noun.
    fn told<T: Copy>(&self, values: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
        let value = values
            .iter()
            .find(|value| self.words.contains(&word(**value)));
        let known = || values.iter().map(|&value| word(value)).collect::<Vec<_>>();
        value
            .copied()
            .ok_or_else(|| format!("say one of {}", known().join(", ")))
    }

    /// The place of the last thing, if it has none yet, or of the next one.
    fn placed(&mut self, column: &str) -> Result<(), String> {
        let depth = self.words.pop().unwrap_or_default();
        let place = format!("{depth} {column}");
        let found = Place::ALL.iter().find(|known| known.word() == place);
        let place = *found.ok_or_else(|| format!("{place:?} is no place"))?;
        match self.things.last_mut() {
            Some((thing, is_placed)) if !*is_placed => {
                (*thing, *is_placed) = (thing.at(place), true);
            }
            _ => self.place = Some(place),
        }
        self.words.clear();
        Ok(())
    }

    fn thing(&mut self, shape: Shape) -> Result<(), String> {
        let material = self.told(Material::ALL, Material::word);
        let place = self.place.take();
        let thing = Thing::new(
            shape,
            self.told(Colour::ALL, Colour::word)?,
            material.unwrap_or(Material::Matte),
            self.told(Size::ALL, Size::word)?,
            place.unwrap_or(Place::FrontLeft),
        );
        self.things.push((thing, place.is_some()));
        Ok(())
    }
}
