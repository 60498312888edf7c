//! MasaCtrl's mask variant: what a word covers in the target reads what its counterpart covers
//! in the source, and the rest the rest, so that a thing is not confused with what is behind it.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::{MasactrlStart, WordSites};
use crate::{
    diffusion::{StepInfo, WalkControl},
    error::Result,
    model::attention::{Attend, AttentionControl, AttentionKind, Intervention, Site},
};

/// A place belongs to the source's word if its map, stretched from 0 to 1, is not below this
/// (the `thres` of the authors' code).
const THRESHOLD: f32 = 0.1;

/// The tokens of a word of the source and of its counterpart in a target; without any there is
/// no mask for the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskWords {
    /// Positions in the source prompt.
    pub source: Vec<usize>,
    /// Positions in the target prompt.
    pub target: Vec<usize>,
}

/// From its start on, the queries of the targets read the self-attention keys and values of the
/// first row, the source: twice, of what its word covers and of the rest. The results are mixed
/// by the map of the target's word.
///
/// As in the authors' code (`MutualSelfAttentionControlMaskAuto`) the maps are the means over
/// heads and layers of the cross-attention before this layer in the same step, at a quarter of
/// the latent's side, stretched from 0 to 1 and enlarged by repetition; the source's is cut at a
/// threshold. Where a map is flat, or covers everything or nothing, all keys are read.
#[derive(Clone, Debug)]
pub struct MaskedSelfAttention {
    start: MasactrlStart,
    words: Vec<MaskWords>,
    sites: WordSites,
    step: StepInfo,
    /// The maps of this step by the layer: (rows, height, width, tokens).
    maps: Vec<(usize, Tensor)>,
}

/// A map of a word.
struct WordMap {
    size: (usize, usize),
    /// From 0 to 1, row by row.
    values: Vec<f32>,
}

impl MaskedSelfAttention {
    /// For targets with these words, in a network with attention at these levels (number of
    /// times the side is halved).
    pub fn new(start: MasactrlStart, words: Vec<MaskWords>, attentive: &[usize]) -> Self {
        Self::at(start, words, WordSites::new(attentive))
    }

    fn at(start: MasactrlStart, words: Vec<MaskWords>, sites: WordSites) -> Self {
        Self {
            start,
            words,
            sites,
            step: StepInfo::default(),
            maps: Vec::new(),
        }
    }

    /// The control of some of the targets, which are counted from 0.
    pub(super) fn of_targets(&self, targets: &Range<usize>) -> Self {
        Self::at(self.start, self.words[targets.clone()].to_vec(), self.sites)
    }

    fn has_begun(&self, site: &Site) -> bool {
        self.step.index >= self.start.step && site.index >= self.start.layer
    }

    /// The map of some tokens of a row before a site, at its size; `None` if there is none, or
    /// it is flat.
    fn map(&self, row: usize, tokens: &[usize], site: &Site) -> Result<Option<WordMap>> {
        let before = self.maps.iter().filter(|(index, _)| *index < site.index);
        let before: Vec<_> = before
            .map(|(_, maps)| maps.get(row))
            .collect::<Result<_, _>>()?;
        if before.is_empty() || tokens.is_empty() {
            return Ok(None);
        }
        let tokens: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        let tokens = Tensor::new(tokens, before[0].device())?;
        let mean = Tensor::stack(&before, 0)?.mean(0)?; // (height, width, tokens)
        let own = mean.index_select(&tokens, 2)?.sum(D::Minus1)?;
        let map = WordMap {
            size: own.dims2()?,
            values: own.flatten_all()?.to_vec1()?,
        };
        let stretched = map.stretched();
        Ok(stretched.map(|map| map.resized((site.height, site.width))))
    }

    /// What the queries q (1, n, c) of a target read of the source's keys and values.
    fn read(
        &self,
        target: usize,
        [q, k, v]: [&Tensor; 3],
        site: &Site,
        attend: Attend,
    ) -> Result<Tensor> {
        let words = &self.words[target];
        let source = self.map(0, &words.source, site)?;
        let own = self.map(target + 1, &words.target, site)?;
        let (Some(source), Some(own)) = (source, own) else {
            return attend([q, k, v]);
        };
        let [inside, outside] = source.parts();
        // A small word may fall between the places of a coarser layer.
        if inside.is_empty() || outside.is_empty() {
            return attend([q, k, v]);
        }
        let of = |places: Vec<u32>| {
            let places = Tensor::new(places, k.device())?;
            attend([
                q,
                &k.index_select(&places, 1)?,
                &v.index_select(&places, 1)?,
            ])
        };
        let (inner, outer) = (of(inside)?, of(outside)?);
        let weight = Tensor::from_vec(own.values, (1, (), 1), q.device())?;
        let weight = weight.to_dtype(inner.dtype())?;
        Ok(((&inner - &outer)?.broadcast_mul(&weight)? + outer)?)
    }
}

impl WordMap {
    /// The same from 0 to 1; `None` if it is flat.
    fn stretched(mut self) -> Option<Self> {
        let low = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self
            .values
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        for value in &mut self.values {
            *value = (*value - low) / (high - low);
        }
        (high > low).then_some(self)
    }

    /// At another size, by the nearest value as PyTorch takes it.
    fn resized(self, (height, width): (usize, usize)) -> Self {
        let (own_height, own_width) = self.size;
        let at = |place: usize| {
            let (y, x) = (place / width, place % width);
            self.values[y * own_height / height * own_width + x * own_width / width]
        };
        Self {
            size: (height, width),
            values: (0..height * width).map(at).collect(),
        }
    }

    /// The places of the word, and the others.
    fn parts(&self) -> [Vec<u32>; 2] {
        let places = 0..self.values.len() as u32;
        let (inside, outside) = places.partition(|&place| self.values[place as usize] >= THRESHOLD);
        [inside, outside]
    }
}

impl AttentionControl for MaskedSelfAttention {
    fn intervention(&self, site: &Site) -> Intervention {
        match site.kind {
            AttentionKind::SelfAttention => self.unconditional_intervention(site),
            AttentionKind::CrossAttention if self.step.index >= self.start.step => {
                self.sites.intervention(site, self.step.early)
            }
            AttentionKind::CrossAttention => Intervention::None,
        }
    }

    /// The features of the source are the same whatever the text; so are the masks.
    fn unconditional_intervention(&self, site: &Site) -> Intervention {
        match site.kind {
            AttentionKind::SelfAttention if self.has_begun(site) => Intervention::Attention,
            _ => Intervention::None,
        }
    }

    /// Stores maps (rows, heads, queries, tokens) and returns them unchanged.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        let (rows, _, _, tokens) = maps.dims4()?;
        let heads = maps.to_dtype(DType::F32)?.mean(1)?; // (rows, queries, tokens)
        let own = heads.reshape((rows, site.height, site.width, tokens))?;
        self.maps.push((site.index, own));
        Ok(maps)
    }

    fn attend(&mut self, site: &Site, qkv: [&Tensor; 3], attend: Attend) -> Result<Tensor> {
        let row = |x: &Tensor, row| x.narrow(0, row, 1);
        let [q, k, v] = qkv;
        let (k, v) = (row(k, 0)?, row(v, 0)?);
        let mut rows = vec![attend([&row(q, 0)?, &k, &v])?];
        for target in 0..self.words.len() {
            let q = row(q, target + 1)?;
            rows.push(self.read(target, [&q, &k, &v], site, attend)?);
        }
        Ok(Tensor::cat(&rows, 0)?)
    }
}

impl WalkControl for MaskedSelfAttention {
    fn begin(&mut self, step: StepInfo) {
        self.step = step;
        self.maps.clear();
    }

    fn reads_source(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::attention::BlockPlace;

    fn site(kind: AttentionKind, index: usize) -> Site {
        Site {
            index,
            place: BlockPlace::Up,
            kind,
            level: 2,
            height: 1,
            width: 2,
        }
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_vec(values.to_vec(), (values.len() / 2, 2, 1), &Device::Cpu).unwrap()
    }

    /// The mean of the values that can be read: enough to tell which those are.
    fn mean([q, _, v]: [&Tensor; 3]) -> Result<Tensor> {
        Ok((q.zeros_like()?).broadcast_add(&v.mean_keepdim(1)?)?)
    }

    /// What two queries of the target read of values 3 and 5 of the source; its word covers
    /// the first of two places, the target's word these shares of its own.
    fn read(covered: [f32; 2], shares: [f32; 2]) -> Vec<f32> {
        let words = MaskWords {
            source: vec![1],
            target: vec![0],
        };
        let start = MasactrlStart { step: 1, layer: 2 };
        let mut control = MaskedSelfAttention::new(start, vec![words], &[2]);
        control.begin(StepInfo {
            index: 1,
            ..StepInfo::default()
        });
        let maps = [
            0.5, covered[0], 0.5, covered[1], shares[0], 0.5, shares[1], 0.5f32,
        ];
        let maps = Tensor::from_vec(maps.to_vec(), (2, 1, 2, 2), &Device::Cpu).unwrap();
        let cross = site(AttentionKind::CrossAttention, 1);
        assert_eq!(control.intervention(&cross), Intervention::Maps);
        control.rewrite(&cross, maps).unwrap();
        let (q, v) = (tensor(&[0., 0., 0., 0.]), tensor(&[3., 5., 100., 100.]));
        let here = site(AttentionKind::SelfAttention, 2);
        assert_eq!(control.intervention(&here), Intervention::Attention);
        let y = control.attend(&here, [&q, &v, &v], &mean).unwrap();
        let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(y[..2], [4., 4.], "the source reads all of itself");
        y[2..].to_vec()
    }

    #[test]
    fn what_the_word_covers_reads_what_its_counterpart_covers() {
        assert_eq!(read([0.9, 0.1], [0.2, 0.6]), [5., 3.]);
        assert_eq!(read([0.9, 0.1], [0.6, 0.2]), [3., 5.]);
    }

    #[test]
    fn a_flat_map_masks_nothing() {
        assert_eq!(read([0.5, 0.5], [0.2, 0.6]), [4., 4.]);
        assert_eq!(read([0.9, 0.1], [0.4, 0.4]), [4., 4.]);
    }

    #[test]
    fn maps_are_enlarged_by_repetition_and_stretched() {
        let map = WordMap {
            size: (1, 2),
            values: vec![0.25, 0.75],
        };
        let map = map.stretched().unwrap().resized((2, 4));
        assert_eq!(map.values, [0., 0., 1., 1., 0., 0., 1., 1.]);
        assert_eq!(map.parts(), [vec![2, 3, 6, 7], vec![0, 1, 4, 5]]);
        let fewer = map.resized((1, 1));
        assert_eq!(fewer.values, [0.]);
    }

    #[test]
    fn it_begins_at_its_start_and_reads_maps_only_then() {
        let start = MasactrlStart { step: 1, layer: 2 };
        let mut control = MaskedSelfAttention::new(start, vec![MaskWords::default()], &[2]);
        let (own, cross) = (AttentionKind::SelfAttention, AttentionKind::CrossAttention);
        let mut asked = |step, kind, index| {
            control.begin(StepInfo {
                index: step,
                ..StepInfo::default()
            });
            let site = site(kind, index);
            (
                control.intervention(&site),
                control.unconditional_intervention(&site),
            )
        };
        let (none, maps) = (Intervention::None, Intervention::Maps);
        let attends = Intervention::Attention;
        assert_eq!(asked(0, own, 2), (none, none));
        assert_eq!(asked(0, cross, 2), (none, none));
        assert_eq!(asked(1, own, 1), (none, none));
        assert_eq!(asked(1, own, 2), (attends, attends));
        assert_eq!(asked(1, cross, 0), (maps, none));
    }
}
