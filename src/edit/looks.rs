//! Where words look: the cross-attention of a walk, for people to see.

use candle_core::{D, DType, Tensor};

use super::blend::quarter_level;
use crate::{
    error::Result,
    model::attention::{Kind, Place, Site},
};

/// Sums up the cross-attention maps of a walk, as they are used, at the level
/// that local blend reads.
#[derive(Clone, Debug)]
pub struct Looks {
    level: usize,
    /// Summed over heads, layers and steps: (rows, height, width, tokens).
    sum: Option<Tensor>,
}

impl Looks {
    /// For a network with attention at these levels (counts of halvings).
    pub fn new(attentive: &[usize]) -> Self {
        Self {
            level: quarter_level(attentive),
            sum: None,
        }
    }

    /// Whether it reads the maps of `site`.
    pub fn reads(&self, site: &Site) -> bool {
        site.kind == Kind::Text && site.place != Place::Middle && site.level == self.level
    }

    /// Adds maps (rows, heads, queries, tokens) that arose at `site`.
    pub fn gather(&mut self, site: &Site, maps: &Tensor) -> Result<()> {
        let (rows, _, _, tokens) = maps.dims4()?;
        let maps = maps.to_dtype(DType::F32)?.sum(1)?; // (rows, queries, tokens)
        let maps = maps.reshape((rows, site.height, site.width, tokens))?;
        self.sum = Some(match self.sum.take() {
            Some(sum) => (sum + maps)?,
            None => maps,
        });
        Ok(())
    }

    /// How much each place looks at some tokens of a row, (height, width);
    /// none where nothing was gathered.
    pub fn at(&self, row: usize, tokens: &[usize]) -> Result<Option<Tensor>> {
        let Some(sum) = &self.sum else {
            return Ok(None);
        };
        let tokens: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        let tokens = Tensor::new(tokens, sum.device())?;
        let own = sum.get(row)?.index_select(&tokens, 2)?; // (height, width, tokens)
        Ok(Some(own.mean(D::Minus1)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn maps_are_summed_over_heads_and_sites() {
        let site = |place| Site {
            place,
            kind: Kind::Text,
            level: 1,
            height: 1,
            width: 2,
        };
        let mut looks = Looks::new(&[0, 1]);
        assert!(looks.reads(&site(Place::Up)) && !looks.reads(&site(Place::Middle)));
        assert!(looks.at(0, &[0]).unwrap().is_none());
        // (1 row, 2 heads, 2 queries, 3 tokens)
        let maps = Tensor::new(
            &[[
                [[0.5f32, 0.25, 0.25], [1., 0., 0.]],
                [[0.5, 0.5, 0.], [0., 0.5, 0.5]],
            ]],
            &Device::Cpu,
        );
        let maps = maps.unwrap();
        looks.gather(&site(Place::Down), &maps).unwrap();
        looks.gather(&site(Place::Up), &maps).unwrap();
        let seen = looks.at(0, &[1, 2]).unwrap().unwrap();
        // Twice the sum over heads, the mean of both tokens.
        assert_eq!(seen.to_vec2::<f32>().unwrap(), [[1.0, 1.0]]);
        let seen = looks.at(0, &[0]).unwrap().unwrap();
        assert_eq!(seen.to_vec2::<f32>().unwrap(), [[2.0, 2.0]]);
    }
}
