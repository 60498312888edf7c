//! Several controls of one sampling loop.

use candle_core::Tensor;

use crate::{
    diffusion::{StepInfo, WalkControl},
    error::Result,
    model::attention::{Attend, AttentionControl, Intervention, Site},
};

/// Controls that are applied in order. If any replaces the maps of an attention layer
/// with the first row's, or its keys and values, or computes what is read, only this happens;
/// otherwise all controls that ask for the maps rewrite them in turn. Each changes the latents as left by the one before. Controls
/// that only observe belong at the end.
pub struct Chain<'a>(pub Vec<&'a mut dyn WalkControl>);

impl AttentionControl for Chain<'_> {
    fn intervention(&self, site: &Site) -> Intervention {
        let controls = self.0.iter();
        first_ranked(controls.map(|control| control.intervention(site)))
    }

    fn unconditional_intervention(&self, site: &Site) -> Intervention {
        let controls = self.0.iter();
        first_ranked(controls.map(|control| control.unconditional_intervention(site)))
    }

    fn rewrite(&mut self, site: &Site, mut maps: Tensor) -> Result<Tensor> {
        for control in &mut self.0 {
            if control.intervention(site) == Intervention::Maps {
                maps = control.rewrite(site, maps)?;
            }
        }
        for control in &mut self.0 {
            control.seen(site, &maps)?;
        }
        Ok(maps)
    }

    fn attend(&mut self, site: &Site, qkv: [&Tensor; 3], attend: Attend) -> Result<Tensor> {
        let mut controls = self.0.iter_mut();
        match controls.find(|control| control.intervention(site) == Intervention::Attention) {
            Some(control) => control.attend(site, qkv, attend),
            None => attend(qkv),
        }
    }
}

/// The intervention that excludes the others, else maps, which several can rewrite.
fn first_ranked(asked: impl Iterator<Item = Intervention>) -> Intervention {
    let rank = |asked: &Intervention| match asked {
        Intervention::None => 0,
        Intervention::Maps => 1,
        Intervention::Attention => 2,
        Intervention::FirstRowsKeysValues => 3,
        Intervention::FirstRowsMaps => 4,
    };
    asked.max_by_key(rank).unwrap_or(Intervention::None)
}

impl WalkControl for Chain<'_> {
    fn begin(&mut self, step: StepInfo) {
        for control in &mut self.0 {
            control.begin(step);
        }
    }

    fn finish(&mut self, latent: &Tensor) -> Result<Option<Tensor>> {
        let mut changed = None;
        for control in &mut self.0 {
            let x = changed.as_ref().unwrap_or(latent);
            changed = control.finish(x)?.or(changed);
        }
        Ok(changed)
    }

    fn reads_source(&self) -> bool {
        self.0.iter().any(|control| control.reads_source())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::attention::{AttentionKind, BlockPlace};

    const SITE: Site = Site {
        index: 0,
        place: BlockPlace::Up,
        kind: AttentionKind::CrossAttention,
        level: 1,
        height: 1,
        width: 1,
    };

    /// One intervention everywhere, which multiplies maps and latents; counts calls.
    struct Times(Intervention, f64, usize);

    impl AttentionControl for Times {
        fn intervention(&self, _: &Site) -> Intervention {
            self.0
        }

        fn rewrite(&mut self, _: &Site, maps: Tensor) -> Result<Tensor> {
            self.2 += 1;
            Ok(((maps + 1.0)? * self.1)?)
        }
    }

    impl WalkControl for Times {
        fn finish(&mut self, latent: &Tensor) -> Result<Option<Tensor>> {
            match self.0 {
                Intervention::Maps => Ok(Some(((latent + 1.0)? * self.1)?)),
                _ => Ok(None),
            }
        }
    }

    fn scalar(x: &Tensor) -> f32 {
        x.to_scalar().unwrap()
    }

    #[test]
    fn maps_and_latents_pass_through_all_in_order() {
        let x = Tensor::new(1f32, &Device::Cpu).unwrap();
        let mut idle = Times(Intervention::None, 9.0, 0);
        let (mut first, mut second) = (
            Times(Intervention::Maps, 2.0, 0),
            Times(Intervention::Maps, 3.0, 0),
        );
        let mut chain = Chain(vec![&mut first, &mut idle, &mut second]);
        assert_eq!(chain.intervention(&SITE), Intervention::Maps);
        assert_eq!(scalar(&chain.rewrite(&SITE, x.clone()).unwrap()), 15.0);
        assert_eq!(scalar(&chain.finish(&x).unwrap().unwrap()), 15.0);
        assert_eq!((first.2, idle.2, second.2), (1, 0, 1));
    }

    #[test]
    fn first_rows_maps_take_precedence() {
        let mut maps = Times(Intervention::Maps, 2.0, 0);
        let mut route = Times(Intervention::FirstRowsMaps, 2.0, 0);
        let chain = Chain(vec![&mut maps, &mut route]);
        assert_eq!(chain.intervention(&SITE), Intervention::FirstRowsMaps);
    }

    #[test]
    fn without_interventions_nothing_changes() {
        let x = Tensor::new(1f32, &Device::Cpu).unwrap();
        let mut idle = Times(Intervention::None, 2.0, 0);
        let mut chain = Chain(vec![&mut idle]);
        assert_eq!(chain.intervention(&SITE), Intervention::None);
        assert!(chain.finish(&x).unwrap().is_none());
    }
}
