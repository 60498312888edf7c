//! Local blend: the latent changes only where the chosen words look
//! (prompt-to-prompt, arXiv 2208.01626, section 3).

use candle_core::{D, DType, Tensor};

use crate::{
    error::Result,
    model::attention::{Kind, Place, Site},
    nn::{channels_first, channels_last, upsample_nearest},
};

/// A pixel belongs to a word where its map exceeds this share of its maximum.
const THRESHOLD: f64 = 0.3;

/// Gathers the cross-attention maps of some words and keeps the source's
/// latent wherever none of them looks.
#[derive(Clone, Debug)]
pub struct LocalBlend {
    /// 1 for the chosen tokens of each row: (rows, 1, 1, tokens).
    words: Tensor,
    level: usize,
    /// The words' maps so far, summed over tokens, heads, layers and steps:
    /// (rows, 1, height, width).
    maps: Option<Tensor>,
}

impl LocalBlend {
    /// A blend over `words` (rows, tokens; 1 for the chosen tokens; on the device
    /// of the walk), which
    /// reads the level of `attentive` (counts of halvings) whose grid comes
    /// nearest to a quarter of the latent's sides, the finer one of two.
    pub fn new(words: &Tensor, attentive: &[usize]) -> Result<Self> {
        let words = words.unsqueeze(1)?.unsqueeze(1)?; // (rows, 1, 1, tokens)
        Ok(Self {
            words,
            level: quarter_level(attentive),
            maps: None,
        })
    }

    /// Whether it reads the maps of `site`; never those of the middle.
    pub fn reads(&self, site: &Site) -> bool {
        site.kind == Kind::Text && site.place != Place::Middle && site.level == self.level
    }

    /// Adds maps (rows, heads, queries, tokens) that arose at `site`.
    pub fn gather(&mut self, site: &Site, maps: &Tensor) -> Result<()> {
        let rows = maps.dim(0)?;
        let words = self.words.to_dtype(maps.dtype())?;
        let looks = maps.broadcast_mul(&words)?.sum(D::Minus1)?.sum_keepdim(1)?; // (rows, 1, queries)
        let looks = looks
            .to_dtype(DType::F32)?
            .reshape((rows, 1, site.height, site.width))?;
        self.maps = Some(match self.maps.take() {
            Some(sum) => (sum + looks)?,
            None => looks,
        });
        Ok(())
    }

    /// The latents (rows, 4, h, w), with the first row's wherever neither its
    /// words nor the row's own look.
    pub fn blend(&self, x: &Tensor) -> Result<Tensor> {
        let Some(maps) = &self.maps else {
            return Ok(x.clone());
        };
        let (_, _, height, width) = x.dims4()?;
        let looks = channels_last(&spread(maps)?)?; // (rows, coarse h, coarse w, 1)
        let looks = channels_first(&upsample_nearest(&looks, height, width)?)?; // (rows, 1, h, w)
        let most = looks.max_keepdim(D::Minus1)?.max_keepdim(D::Minus2)?;
        // Where no word looks anywhere the ratio is no number, and so no mask.
        let mask = looks
            .broadcast_div(&most)?
            .gt(THRESHOLD)?
            .to_dtype(x.dtype())?;
        let mask = mask.broadcast_maximum(&mask.narrow(0, 0, 1)?)?;
        let source = x.narrow(0, 0, 1)?;
        let change = x.broadcast_sub(&source)?.broadcast_mul(&mask)?;
        Ok(change.broadcast_add(&source)?)
    }
}

/// The level, of those that attend, whose grid comes nearest to a quarter of
/// the latent's sides, the finer one of two.
pub(super) fn quarter_level(attentive: &[usize]) -> usize {
    const QUARTER: usize = 2;
    let level = attentive
        .iter()
        .copied()
        .min_by_key(|&level| (level.abs_diff(QUARTER), level));
    level.unwrap_or(QUARTER)
}

/// The maximum over each pixel's neighbours, 3x3.
fn spread(maps: &Tensor) -> Result<Tensor> {
    let maps = over_neighbours(maps, 2)?;
    over_neighbours(&maps, 3)
}

fn over_neighbours(x: &Tensor, axis: usize) -> Result<Tensor> {
    let n = x.dim(axis)?;
    let padded = x.pad_with_same(axis, 1, 1)?;
    let shifted = |by| padded.narrow(axis, by, n);
    Ok(shifted(0)?.maximum(&shifted(1)?)?.maximum(&shifted(2)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const SITE: Site = Site {
        place: Place::Down,
        kind: Kind::Text,
        level: 2,
        height: 4,
        width: 4,
    };

    /// One row, one head, 16 queries, 2 tokens: token 1 looks at one pixel.
    fn maps(rows: &[Option<usize>]) -> Tensor {
        let row = |pixel: &Option<usize>| {
            let looks = move |q: usize| {
                if Some(q) == *pixel {
                    [0.2, 0.8]
                } else {
                    [0.9, 0.1f32]
                }
            };
            (0..16).flat_map(looks).collect::<Vec<_>>()
        };
        let values: Vec<f32> = rows.iter().flat_map(row).collect();
        Tensor::from_vec(values, (rows.len(), 1, 16, 2), &Device::Cpu).unwrap()
    }

    fn blended(rows: &[Option<usize>], side: usize) -> Vec<Vec<f32>> {
        let words = Tensor::new([0f32, 1.].repeat(rows.len()), &Device::Cpu).unwrap();
        let words = words.reshape((rows.len(), 2)).unwrap();
        let mut blend = LocalBlend::new(&words, &[0, 1, 2]).unwrap();
        blend.gather(&SITE, &maps(rows)).unwrap();
        let x: Vec<f32> = (0..rows.len())
            .flat_map(|row| vec![row as f32; side * side])
            .collect();
        let x = Tensor::from_vec(x, (rows.len(), 1, side, side), &Device::Cpu).unwrap();
        blend
            .blend(&x)
            .unwrap()
            .flatten_from(1)
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    #[test]
    fn only_where_a_word_looks_and_its_neighbours_does_the_latent_change() {
        // The source looks at pixel 0, the target at pixel 15; each spreads to its neighbours.
        let rows = blended(&[Some(0), Some(15)], 4);
        assert!(rows[0].iter().all(|&v| v == 0.0));
        let expected = [
            1., 1., 0., 0., 1., 1., 0., 0., 0., 0., 1., 1., 0., 0., 1., 1.,
        ];
        assert_eq!(rows[1], expected);
    }

    #[test]
    fn the_mask_grows_to_the_latent_by_repetition() {
        let rows = blended(&[Some(0), Some(0)], 8);
        let changed: Vec<_> = (0..64).filter(|&i| rows[1][i] == 1.0).collect();
        let expected: Vec<_> = (0..64).filter(|i| i / 8 < 4 && i % 8 < 4).collect();
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_level_nearest_to_a_quarter_is_read_and_the_middle_never() {
        let words = Tensor::new(&[[0f32, 1.]], &Device::Cpu).unwrap();
        let level = |levels: &[usize]| LocalBlend::new(&words, levels).unwrap().level;
        assert_eq!(
            [level(&[0, 1, 2]), level(&[1, 3]), level(&[0]), level(&[3])],
            [2, 1, 0, 3]
        );
        let blend = LocalBlend::new(&words, &[2]).unwrap();
        assert!(blend.reads(&SITE));
        assert!(!blend.reads(&Site {
            place: Place::Middle,
            ..SITE
        }));
        assert!(!blend.reads(&Site {
            kind: Kind::Itself,
            ..SITE
        }));
        assert!(!blend.reads(&Site { level: 1, ..SITE }));
    }
}
