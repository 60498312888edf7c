//! What a failed edit wants next, as far as attention maps and latents that the edit computed
//! anyway show it.

use candle_core::{DType, Tensor};

use super::Edit;
use crate::{
    control::AttentionStore,
    error::Result,
    prompt::{
        Prompt,
        words::{self, WordTokens},
    },
};

/// A word that is looked at less than this, of what the other words of its prompt are, has no
/// place in the picture.
const UNSEEN: f32 = 0.5;
/// How much more attention is worth a try.
const MORE: f64 = 2.0;
/// A place belongs to a word if its map exceeds this fraction of its maximum, as in local blend.
const COVERED: f32 = 0.3;
/// A word that covers more of the picture than this is no thing to confine an edit to.
const EVERYWHERE: f32 = 0.5;
/// An edit that changes more than this outside of its words' area went astray.
const ASTRAY: f32 = 0.5;

/// A setting to try next, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Hint {
    /// No place looked at a new word much: amplify it.
    Unseen {
        /// The word.
        word: String,
        /// The factor to try, twice the present one.
        factor: f64,
    },
    /// Most of the change lies outside of the area of the words that differ: blend by them.
    Astray {
        /// The word of the source prompt.
        source: String,
        /// The one of the target prompt.
        target: String,
        /// How much of the change, 0 to 1.
        outside: f32,
    },
}

/// What an edit shows of one of its targets.
pub(super) struct Shown<'a> {
    /// The maps, with a row for the source and for each target.
    pub(super) maps: &'a AttentionStore,
    /// The latents (rows, 4, h, w), the source's first.
    pub(super) latents: &'a Tensor,
    /// The row of the target.
    pub(super) row: usize,
}

/// A map of a word, row by row.
struct Area {
    size: (usize, usize),
    values: Vec<f32>,
}

impl Area {
    fn of(maps: &AttentionStore, row: usize, word: &WordTokens) -> Result<Option<Self>> {
        let Some(map) = maps
            .at(row, &word.tokens)?
            .filter(|_| !word.tokens.is_empty())
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            size: map.dims2()?,
            values: map.flatten_all()?.to_vec1()?,
        }))
    }

    fn strongest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }

    /// Whether each place is covered.
    fn covered(&self) -> Vec<bool> {
        let least = COVERED * self.strongest();
        self.values.iter().map(|value| *value > least).collect()
    }
}

/// What to try next for a target, if anything seems wrong.
pub(super) fn hint(
    edit: &Edit,
    (source, target): (&Prompt, &Prompt),
    shown: &Shown,
) -> Result<Option<Hint>> {
    match unseen(edit, (source, target), shown)? {
        Some(hint) => Ok(Some(hint)),
        None => astray(edit, (source, target), shown),
    }
}

/// The new word that is looked at least, if that is little.
fn unseen(
    edit: &Edit,
    (source, target): (&Prompt, &Prompt),
    shown: &Shown,
) -> Result<Option<Hint>> {
    let strongest = |word: &WordTokens| -> Result<Option<f32>> {
        let area = Area::of(shown.maps, shown.row, word)?;
        Ok(area.map(|area| area.strongest()))
    };
    let new = words::new_words(source, target);
    let is_new = |token: &usize| new.iter().any(|word| word.tokens.contains(token));
    let mut others = Vec::new();
    for word in target.words() {
        let tokens: Vec<_> = word.tokens.clone().filter(|token| !is_new(token)).collect();
        let known = WordTokens {
            word: word.text.clone(),
            tokens,
        };
        others.extend(strongest(&known)?);
    }
    let usual = others.iter().sum::<f32>() / others.len().max(1) as f32;
    let mut least: Option<(f32, &WordTokens)> = None;
    for word in &new {
        if let Some(own) = strongest(word)?
            && least.is_none_or(|(known, _)| own < known)
        {
            least = Some((own, word));
        }
    }
    let Some((own, word)) = least.filter(|(own, _)| *own < UNSEEN * usual) else {
        return Ok(None);
    };
    // A model that did not look at the word before, either, shows it through others.
    let pairs = words::changed_pairs(source, target);
    if let Some((before, _)) = pairs.iter().find(|(_, after)| after == word)
        && let Some(area) = Area::of(shown.maps, 0, before)?
        && own >= UNSEEN * area.strongest()
    {
        return Ok(None);
    }
    let amplified = edit.control.amplified(source, target).into_iter();
    let own = amplified.filter(|(known, _)| known == word);
    let factor = own.map(|(_, factor)| factor).next_back().unwrap_or(1.0);
    Ok(Some(Hint::Unseen {
        word: word.word.clone(),
        factor: MORE * factor,
    }))
}

/// Whether most of the change lies outside of the first two words that differ, where nothing
/// confines it and they cover a part of the picture.
fn astray(
    edit: &Edit,
    (source, target): (&Prompt, &Prompt),
    shown: &Shown,
) -> Result<Option<Hint>> {
    let is_confined = edit.mask.is_some() || !edit.control.blend.is_empty();
    let pair = words::changed_pairs(source, target).into_iter().next();
    let Some((from, to)) = pair.filter(|_| !is_confined) else {
        return Ok(None);
    };
    let (Some(before), Some(after)) = (
        Area::of(shown.maps, 0, &from)?,
        Area::of(shown.maps, shown.row, &to)?,
    ) else {
        return Ok(None);
    };
    let both = before.covered().into_iter().zip(after.covered());
    let covered: Vec<bool> = both.map(|(before, after)| before || after).collect();
    let share = covered.iter().filter(|covered| **covered).count() as f32 / covered.len() as f32;
    let outside = outside(&covered, before.size, shown)?;
    let is_astray = share <= EVERYWHERE && outside > ASTRAY;
    Ok(is_astray.then_some(Hint::Astray {
        source: from.word,
        target: to.word,
        outside,
    }))
}

/// The share of the change of a target outside of covered places of a grid.
fn outside(covered: &[bool], (height, width): (usize, usize), shown: &Shown) -> Result<f32> {
    let row = |row| shown.latents.narrow(0, row, 1);
    let change = (row(shown.row)? - row(0)?)?.to_dtype(DType::F32)?;
    let change = change.abs()?.mean(1)?.squeeze(0)?; // (h, w)
    let (own_height, own_width) = change.dims2()?;
    let values: Vec<f32> = change.flatten_all()?.to_vec1()?;
    let is_outside = |place: usize| {
        let (y, x) = (place / own_width, place % own_width);
        !covered[y * height / own_height * width + x * width / own_width]
    };
    let all: f32 = values.iter().sum();
    let places = values.iter().enumerate();
    let outer: f32 = places
        .filter(|(place, _)| is_outside(*place))
        .map(|(_, value)| value)
        .sum();
    Ok(if all > 0.0 { outer / all } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{
        control::{Amplify, Blend},
        diffusion::{StepInfo, WalkControl as _},
        guidance::Guidance,
        model::{
            Model, ModelChoice,
            attention::{AttentionControl as _, AttentionKind, BlockPlace, Site},
        },
        nn::Placement,
    };

    const SOURCE: &str = "a bird on a branch";

    fn edit(target: &str) -> Edit {
        let mut edit = Edit::new(SOURCE, target, Guidance::NONE);
        edit.control.amplify = vec![Amplify::Word("lego".into(), 3.0)];
        edit
    }

    /// What is told if each place of a 2x2 picture looks at these words of the target that much,
    /// and at all others by 0.1, and the latent changes at these places.
    fn told<const N: usize>(
        edit: &Edit,
        looks: [(&str, [f32; 4]); N],
        change: [f32; 4],
    ) -> Option<Hint> {
        let choice = ModelChoice::named("tests/data/sd");
        let model = Model::open(&choice, Placement::cpu_f32()).unwrap();
        let prompts = edit.tokenize(&model).unwrap();
        let tokens = prompts[0].context();
        let mut maps = AttentionStore::new(&[2]);
        let of_row = |row: usize| {
            let prompt = &prompts[row];
            let mut values = vec![0.1f32; 4 * tokens];
            for (word, own) in &looks {
                for token in prompt.find(word).unwrap_or_default() {
                    for place in 0..4 {
                        values[place * tokens + token] = own[place];
                    }
                }
            }
            values
        };
        let values = [of_row(0), of_row(1)].concat();
        let values = Tensor::from_vec(values, (2, 1, 4, tokens), &Device::Cpu).unwrap();
        let site = Site {
            index: 0,
            place: BlockPlace::Up,
            kind: AttentionKind::CrossAttention,
            level: 2,
            height: 2,
            width: 2,
        };
        maps.begin(StepInfo::default());
        maps.rewrite(&site, values).unwrap();
        let after = Tensor::from_vec(change.to_vec(), (1, 1, 2, 2), &Device::Cpu).unwrap();
        let latents = Tensor::cat(&[after.zeros_like().unwrap(), after], 0).unwrap();
        let shown = Shown {
            maps: &maps,
            latents: &latents,
            row: 1,
        };
        hint(edit, (&prompts[0], &prompts[1]), &shown).unwrap()
    }

    #[test]
    fn a_new_word_that_no_place_looks_at_is_amplified_more() {
        let edit = edit("a lego bird on a branch");
        let bird = ("bird", [0.5, 0.0, 0.0, 0.0]);
        let inside = [1.0, 0.0, 0.0, 0.0];
        let hint = told(&edit, [bird, ("lego", [0.01; 4])], inside);
        let expected = Hint::Unseen {
            word: "lego".into(),
            factor: 6.0,
        };
        assert_eq!(hint, Some(expected));
        assert_eq!(told(&edit, [bird, ("lego", [0.4; 4])], inside), None);
    }

    #[test]
    fn a_new_word_is_looked_at_as_much_as_the_one_that_it_replaces() {
        let edit = edit("a dog on a branch");
        let branch = ("branch", [0.9, 0.0, 0.0, 0.0]);
        let of_dog = |bird| {
            let looks = [branch, ("dog", [0.01; 4]), ("bird", [bird; 4])];
            told(&edit, looks, [0.0; 4])
        };
        assert!(matches!(of_dog(0.2), Some(Hint::Unseen { word, .. }) if word == "dog"));
        assert_eq!(of_dog(0.01), None);
    }

    #[test]
    fn a_change_outside_of_the_words_is_to_be_blended() {
        let mut edit = edit("a dog on a branch");
        let looks = [
            ("bird", [0.5, 0.0, 0.0, 0.0]),
            ("dog", [0.5, 0.1, 0.0, 0.0]),
        ];
        let astray = [0.25, 0.25, 0.25, 0.25];
        let expected = Hint::Astray {
            source: "bird".into(),
            target: "dog".into(),
            outside: 0.75,
        };
        assert_eq!(told(&edit, looks, astray), Some(expected));
        assert_eq!(told(&edit, looks, [0.6, 0.1, 0.1, 0.1]), None);
        // A word that is everywhere, and an edit that is confined already.
        let everywhere = [("bird", [0.5; 4]), ("dog", [0.5; 4])];
        assert_eq!(told(&edit, everywhere, astray), None);
        edit.control.blend = vec![Blend::Auto];
        assert_eq!(told(&edit, looks, astray), None);
    }

    #[test]
    fn nothing_is_told_of_an_edit_that_changes_nothing() {
        let looks = [
            ("bird", [0.5, 0.0, 0.0, 0.0]),
            ("dog", [0.5, 0.0, 0.0, 0.0]),
        ];
        assert_eq!(told(&edit("a dog on a branch"), looks, [0.0; 4]), None);
    }
}
