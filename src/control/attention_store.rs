//! A record of cross-attention maps (prompt-to-prompt's AttentionStore), to show where
//! words attend.

use candle_core::{D, DType, Tensor};

use super::{WordSites, add_to, join_rows};
use crate::{
    diffusion::{StepInfo, WalkControl},
    error::Result,
    model::attention::{AttentionControl, Intervention, Site},
};

/// Sums up the cross-attention maps at the level that local blend uses, except in steps
/// with early prompts.
#[derive(Clone, Debug)]
pub struct AttentionStore {
    sites: WordSites,
    early: bool,
    /// Summed over heads, layers and steps: (rows, height, width, tokens).
    sum: Option<Tensor>,
}

impl AttentionStore {
    /// Creates a store for a network with attention at these levels (number of times the
    /// side is halved).
    pub fn new(attentive: &[usize]) -> Self {
        Self {
            sites: WordSites::new(attentive),
            early: false,
            sum: None,
        }
    }

    /// Adds maps (rows, heads, queries, tokens).
    fn add(&mut self, site: &Site, maps: &Tensor) -> Result<()> {
        let (rows, _, _, tokens) = maps.dims4()?;
        let heads = maps.to_dtype(DType::F32)?.sum(1)?; // (rows, queries, tokens)
        let own = heads.reshape((rows, site.height, site.width, tokens))?;
        add_to(&mut self.sum, own)
    }

    /// One store of the rows of several, each of which begins with as many `sources`.
    pub(crate) fn joined(stores: &[Self], sources: usize) -> Result<Option<Self>> {
        let Some(first) = stores.first() else {
            return Ok(None);
        };
        let sums = stores.iter().filter_map(|store| store.sum.clone());
        let sums: Vec<_> = sums.collect();
        let sum = (!sums.is_empty()).then(|| join_rows(&sums, sources));
        Ok(Some(Self {
            sum: sum.transpose()?,
            ..first.clone()
        }))
    }

    /// The mean map (height, width) of some tokens of a row; `None` if nothing was
    /// stored.
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

impl AttentionControl for AttentionStore {
    fn intervention(&self, site: &Site) -> Intervention {
        self.sites.intervention(site, self.early)
    }

    /// Stores maps (rows, heads, queries, tokens) and returns them unchanged.
    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        self.add(site, &maps)?;
        Ok(maps)
    }
}

impl WalkControl for AttentionStore {
    fn begin(&mut self, step: StepInfo) {
        self.early = step.early;
    }
}

/// A store of the maps that other controls ask for; it asks for none, and so changes nothing.
#[derive(Clone, Debug)]
pub struct Onlooker(pub AttentionStore);

impl AttentionControl for Onlooker {
    fn seen(&mut self, site: &Site, maps: &Tensor) -> Result<()> {
        match self.0.intervention(site) {
            Intervention::Maps => self.0.add(site, maps),
            _ => Ok(()),
        }
    }
}

impl WalkControl for Onlooker {
    fn begin(&mut self, step: StepInfo) {
        self.0.begin(step);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::attention::{AttentionKind, BlockPlace};

    #[test]
    fn maps_are_summed_over_heads_and_sites() {
        let site = |place| Site {
            index: 0,
            place,
            kind: AttentionKind::CrossAttention,
            level: 1,
            height: 1,
            width: 2,
        };
        let mut store = AttentionStore::new(&[0, 1]);
        let wanted = |place| store.intervention(&site(place));
        assert_eq!(wanted(BlockPlace::Up), Intervention::Maps);
        assert_eq!(wanted(BlockPlace::Mid), Intervention::None);
        assert!(store.at(0, &[0]).unwrap().is_none());
        // (1 row, 2 heads, 2 queries, 3 tokens)
        let maps = Tensor::new(
            &[[
                [[0.5f32, 0.25, 0.25], [1., 0., 0.]],
                [[0.5, 0.5, 0.], [0., 0.5, 0.5]],
            ]],
            &Device::Cpu,
        );
        let maps = maps.unwrap();
        store
            .rewrite(&site(BlockPlace::Down), maps.clone())
            .unwrap();
        store.rewrite(&site(BlockPlace::Up), maps).unwrap();
        let seen = store.at(0, &[1, 2]).unwrap().unwrap();
        // Twice the sum over heads, the mean of both tokens.
        assert_eq!(seen.to_vec2::<f32>().unwrap(), [[1.0, 1.0]]);
        let seen = store.at(0, &[0]).unwrap().unwrap();
        assert_eq!(seen.to_vec2::<f32>().unwrap(), [[2.0, 2.0]]);
    }
}
