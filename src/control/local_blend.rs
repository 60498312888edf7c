//! Local blend: the latent changes only where the edit belongs, which the attention of chosen
//! words tells (prompt-to-prompt, arXiv 2208.01626, section 3), or what the edit changes most.

mod difference;
mod threshold;
mod words;

use std::ops::Range;

use candle_core::{D, Tensor};

use super::masked;
use crate::{
    diffusion::{StepInfo, WalkControl},
    error::Result,
    model::attention::{AttentionControl, Intervention, Site},
    nn::{channels_first, channels_last, ops::upsample_nearest},
};
use difference::Difference;
pub use threshold::BlendThreshold;
pub use words::BlendWords;
use words::WordMaps;

/// Finds the area of an edit from step to step, and keeps the source's latent outside of it.
///
/// Each target has an area of its own: what several targets of one walk become is what each
/// becomes alone.
#[derive(Clone, Debug)]
pub struct LocalBlend {
    area: Area,
    threshold: BlendThreshold,
    /// The first step, from 0, after which it acts.
    start: usize,
    step: StepInfo,
    /// The mask of the last step.
    mask: Option<Tensor>,
}

/// What tells where an edit belongs.
#[derive(Clone, Debug)]
enum Area {
    Words(WordMaps),
    Difference(Difference),
}

impl LocalBlend {
    /// A blend over `words` for a network with attention at these levels (number of times the
    /// side is halved): where their cross-attention maps, summed over the steps so far, exceed
    /// [`BlendThreshold::WORDS`].
    pub fn by_words(words: BlendWords, attentive: &[usize]) -> Self {
        let maps = WordMaps::new(words, attentive);
        Self::by(Area::Words(maps), BlendThreshold::WORDS)
    }

    /// A blend over what the edit changes most: where a target's latents differ from the source's
    /// by more than [`BlendThreshold::DIFFERENCE`]. It needs no words.
    pub fn by_difference() -> Self {
        let area = Area::Difference(Difference::default());
        Self::by(area, BlendThreshold::DIFFERENCE)
    }

    fn by(area: Area, threshold: BlendThreshold) -> Self {
        Self {
            area,
            threshold,
            start: 0,
            step: StepInfo::default(),
            mask: None,
        }
    }

    /// The same blend with another threshold.
    #[must_use]
    pub fn with_threshold(self, threshold: BlendThreshold) -> Self {
        Self { threshold, ..self }
    }

    /// The same blend, which lets the first steps, before `start`, change everything.
    #[must_use]
    pub fn beginning_at(self, start: usize) -> Self {
        Self { start, ..self }
    }

    /// The blend of the source and of some of the targets, which are counted from 0.
    pub(super) fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        let area = match &self.area {
            Area::Words(maps) => Area::Words(maps.of_targets(targets)?),
            Area::Difference(_) => Area::Difference(Difference::default()),
        };
        Ok(Self::by(area, self.threshold).beginning_at(self.start))
    }

    /// The mask of the last step (rows, 1, h, w): 1 where a row's latent could change, 0
    /// where it is the source's, as all of the first row is. `None` if nothing told where
    /// before it.
    pub fn mask(&self) -> Option<&Tensor> {
        self.mask.as_ref()
    }
}

impl AttentionControl for LocalBlend {
    fn intervention(&self, site: &Site) -> Intervention {
        match &self.area {
            Area::Words(maps) => maps.intervention(site, self.step.early),
            Area::Difference(_) => Intervention::None,
        }
    }

    /// Adds maps (rows, heads, queries, tokens) to the sum and returns them unchanged.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        if let Area::Words(sum) = &mut self.area {
            sum.add(site, &maps)?;
        }
        Ok(maps)
    }
}

impl WalkControl for LocalBlend {
    fn begin(&mut self, step: StepInfo) {
        self.step = step;
    }

    /// Replaces the latents with the first row's outside of the area of each row's edit. A step
    /// with an early prompt does not show it.
    fn finish(&mut self, x: &Tensor) -> Result<Option<Tensor>> {
        if let Area::Difference(sum) = &mut self.area
            && !self.step.early
        {
            sum.add(x, self.step.unevenly_guided)?;
        }
        if self.step.index < self.start {
            return Ok(None);
        }
        let (_, _, height, width) = x.dims4()?;
        let mask = match &self.area {
            Area::Words(maps) => maps.mask(self.threshold, (height, width))?,
            Area::Difference(sum) => sum.mask(self.threshold, (height, width))?,
        };
        let Some(mask) = mask else {
            if let Area::Difference(_) = self.area {
                // There were only early prompts: if it ends here, nothing is to be changed.
                self.mask = Some(x.narrow(1, 0, 1)?.zeros_like()?);
            }
            return Ok(None);
        };
        let mask = mask.pad_with_zeros(0, 1, 0)?.to_dtype(x.dtype())?;
        let blended = masked(x, &mask)?;
        self.mask = Some(mask);
        Ok(Some(blended))
    }

    fn reads_source(&self) -> bool {
        true
    }
}

/// 1 where coarse maps (rows, 1, h', w') or their neighbours exceed this fraction of the maximum
/// of their row, else 0, enlarged by repetition to (rows, 1, height, width). A row that is nowhere
/// above 0 is 0.
fn exceeding(
    maps: &Tensor,
    threshold: BlendThreshold,
    (height, width): (usize, usize),
) -> Result<Tensor> {
    let maps = channels_last(&dilated(&dilated(maps, 2)?, 3)?)?; // (rows, h', w', 1)
    let maps = channels_first(&upsample_nearest(&maps, height, width)?)?; // (rows, 1, h, w)
    let max = maps.max_keepdim(D::Minus1)?.max_keepdim(D::Minus2)?;
    // 0 / 0 is NaN, which does not exceed the threshold.
    let mask = maps.broadcast_div(&max)?.gt(threshold.0)?;
    Ok(mask.to_dtype(maps.dtype())?)
}

/// The maximum of each pixel and its two neighbours along an axis.
fn dilated(x: &Tensor, axis: usize) -> Result<Tensor> {
    let n = x.dim(axis)?;
    let padded = x.pad_with_same(axis, 1, 1)?;
    let shifted = |by| padded.narrow(axis, by, n);
    Ok(shifted(0)?.maximum(&shifted(1)?)?.maximum(&shifted(2)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::{
        control::WordSites,
        model::attention::{AttentionKind, BlockPlace},
    };

    const SITE: Site = Site {
        index: 0,
        place: BlockPlace::Down,
        kind: AttentionKind::CrossAttention,
        level: 2,
        height: 4,
        width: 4,
    };

    /// One row, one head, 16 queries, 2 tokens: token 1 attends at one pixel.
    fn maps(rows: &[Option<usize>]) -> Tensor {
        let row = |pixel: &Option<usize>| {
            let maps = move |q: usize| {
                if Some(q) == *pixel {
                    [0.2, 0.8]
                } else {
                    [0.9, 0.1f32]
                }
            };
            (0..16).flat_map(maps).collect::<Vec<_>>()
        };
        let values: Vec<f32> = rows.iter().flat_map(row).collect();
        Tensor::from_vec(values, (rows.len(), 1, 16, 2), &Device::Cpu).unwrap()
    }

    /// A blend over these source and target tokens of each target, of two.
    fn blend(source: &[[f32; 2]], target: &[[f32; 2]]) -> LocalBlend {
        let words = |rows: &[[f32; 2]]| {
            Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap()
        };
        let (source, target) = (words(source), words(target));
        LocalBlend::by_words(BlendWords { source, target }, &[0, 1, 2])
    }

    fn blended(rows: &[Option<usize>], side: usize) -> Vec<Vec<f32>> {
        let words = vec![[0., 1.]; rows.len() - 1];
        let mut blend = blend(&words, &words);
        blend.rewrite(&SITE, maps(rows)).unwrap();
        let x: Vec<f32> = (0..rows.len())
            .flat_map(|row| vec![row as f32; side * side])
            .collect();
        let x = Tensor::from_vec(x, (rows.len(), 1, side, side), &Device::Cpu).unwrap();
        blend
            .finish(&x)
            .unwrap()
            .unwrap()
            .flatten_from(1)
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn the_latent_changes_only_where_a_word_attends_and_beside() {
        // The source attends at pixel 0, the target at pixel 15, each dilated to its neighbours.
        let rows = blended(&[Some(0), Some(15)], 4);
        assert!(rows[0].iter().all(|&v| v == 0.0));
        let expected = [
            1., 1., 0., 0., 1., 1., 0., 0., 0., 0., 1., 1., 0., 0., 1., 1.,
        ];
        assert_eq!(rows[1], expected);
    }

    /// Words attend with 0.8 at one pixel and with 0.1 elsewhere.
    #[test]
    fn a_smaller_threshold_lets_more_change() {
        for (threshold, changed) in [("0.5", 4), ("0.13", 4), ("0.12", 16), ("0", 16)] {
            let blend = blend(&[[0., 1.]], &[[0., 1.]]);
            let mut blend = blend.with_threshold(threshold.parse().unwrap());
            blend.rewrite(&SITE, maps(&[Some(0), Some(0)])).unwrap();
            let x = Tensor::zeros((2, 4, 4, 4), DType::F32, &Device::Cpu).unwrap();
            blend.finish(&x).unwrap();
            let mask = blend.mask().unwrap().sum_all().unwrap();
            let count: f32 = mask.to_scalar().unwrap();
            assert_eq!(count, changed as f32, "{threshold}");
        }
    }

    #[test]
    fn before_its_start_everything_may_change() {
        let mut blend = blend(&[[0., 1.]], &[[0., 1.]]).beginning_at(1);
        let x = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let mut blends = |index| {
            let step = StepInfo {
                index,
                ..StepInfo::default()
            };
            blend.begin(step);
            blend.rewrite(&SITE, maps(&[Some(0), Some(15)])).unwrap();
            blend.finish(&x).unwrap().is_some()
        };
        assert!(!blends(0) && blends(1));
    }

    #[test]
    fn early_prompts_show_no_difference() {
        let mut blend = LocalBlend::by_difference();
        let mut finish = |early: bool| {
            blend.begin(StepInfo {
                early,
                ..StepInfo::default()
            });
            let x = Tensor::new(&[0f32, 1.], &Device::Cpu).unwrap();
            let x = x.reshape((2, 1, 1, 1)).unwrap();
            let blended = blend.finish(&x).unwrap().is_some();
            let mask = blend.mask().unwrap().flatten_all().unwrap();
            (blended, mask.to_vec1::<f32>().unwrap())
        };
        assert_eq!(finish(true), (false, vec![0., 0.]));
        assert_eq!(finish(false), (true, vec![0., 1.]));
    }

    #[test]
    fn the_mask_of_the_last_step_is_known() {
        let mut blend = blend(&[[0., 1.]], &[[0., 1.]]);
        let x = Tensor::zeros((2, 4, 4, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(blend.finish(&x).unwrap().is_none() && blend.mask().is_none());
        blend.rewrite(&SITE, maps(&[Some(0), Some(15)])).unwrap();
        blend.finish(&x).unwrap();
        let mask = blend.mask().unwrap().flatten_from(1).unwrap();
        let both = [
            1f32, 1., 0., 0., 1., 1., 0., 0., 0., 0., 1., 1., 0., 0., 1., 1.,
        ];
        assert_eq!(mask.to_vec2::<f32>().unwrap(), [[0.; 16], both]);
    }

    /// Of the source the first target has token 1, which attends at pixel 0, the second none;
    /// of their own the first has none, the second token 1.
    #[test]
    fn a_target_goes_by_its_own_words_of_the_source() {
        let mut blend = blend(&[[0., 1.], [0., 0.]], &[[0., 0.], [0., 1.]]);
        let rows = [Some(0), Some(15), Some(15)];
        blend.rewrite(&SITE, maps(&rows)).unwrap();
        let x = Tensor::zeros((3, 4, 4, 4), DType::F32, &Device::Cpu).unwrap();
        blend.finish(&x).unwrap();
        let mask = blend.mask().unwrap().flatten_from(1).unwrap();
        let mask: Vec<Vec<f32>> = mask.to_vec2().unwrap();
        let at = |pixels: [usize; 4]| {
            let at = |pixel| f32::from(u8::from(pixels.contains(&pixel)));
            (0..16).map(at).collect::<Vec<_>>()
        };
        assert_eq!(mask[1..], [at([0, 1, 4, 5]), at([10, 11, 14, 15])]);
    }

    #[test]
    fn the_mask_grows_to_the_latent_by_repetition() {
        let rows = blended(&[Some(0), Some(0)], 8);
        let changed: Vec<_> = (0..64).filter(|&i| rows[1][i] == 1.0).collect();
        let expected: Vec<_> = (0..64).filter(|i| i / 8 < 4 && i % 8 < 4).collect();
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_level_nearest_to_a_quarter_is_used_and_never_the_mid_block() {
        let level = |levels: &[usize]| WordSites::new(levels).level;
        assert_eq!(
            [level(&[0, 1, 2]), level(&[1, 3]), level(&[0]), level(&[3])],
            [2, 1, 0, 3]
        );
        let blend = blend(&[[0., 1.]], &[[0., 1.]]);
        let reads = |site: &Site| blend.intervention(site) == Intervention::Maps;
        assert!(reads(&SITE));
        assert!(!reads(&Site {
            place: BlockPlace::Mid,
            ..SITE
        }));
        assert!(!reads(&Site {
            kind: AttentionKind::SelfAttention,
            ..SITE
        }));
        assert!(!reads(&Site { level: 1, ..SITE }));
    }
}
