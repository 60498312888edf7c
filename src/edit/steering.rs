//! All that has a say in the walk of an edit.

use candle_core::Tensor;

use super::{Confine, Looks, PromptToPrompt, Steer};
use crate::{
    error::Result,
    model::attention::{AttentionControl, Site, Wish},
};

/// Control, mask and record of an edit, each where it is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Steering {
    pub(super) control: Option<PromptToPrompt>,
    pub(super) confine: Option<Confine>,
    pub(super) looks: Option<Looks>,
    /// The first step in which the targets read their own prompts.
    pub(super) first_own_step: usize,
    pub(super) step: usize,
}

impl Steering {
    /// Whether the walk needs the source's row.
    pub(super) fn reads_source(&self) -> bool {
        self.control.is_some() || self.confine.is_some()
    }

    fn controls(&self, site: &Site) -> Wish {
        let control = self.control.as_ref();
        control.map_or(Wish::Untouched, |control| control.wish(site))
    }

    fn records(&self, site: &Site) -> bool {
        let own = self.step >= self.first_own_step;
        own && self.looks.as_ref().is_some_and(|looks| looks.reads(site))
    }
}

impl AttentionControl for Steering {
    fn wish(&self, site: &Site) -> Wish {
        match self.controls(site) {
            Wish::Untouched if self.records(site) => Wish::Maps,
            wish => wish,
        }
    }

    fn rewrite(&mut self, site: &Site, maps: Tensor) -> Result<Tensor> {
        let (controls, records) = (self.controls(site), self.records(site));
        let maps = match self.control.as_mut() {
            Some(control) if controls == Wish::Maps => control.rewrite(site, maps)?,
            _ => maps,
        };
        if let Some(looks) = self.looks.as_mut().filter(|_| records) {
            looks.gather(site, &maps)?;
        }
        Ok(maps)
    }
}

impl Steer for Steering {
    fn begin(&mut self, step: usize, latent: &Tensor) -> Result<()> {
        self.step = step;
        match &mut self.control {
            Some(control) => control.begin(step, latent),
            None => Ok(()),
        }
    }

    fn finish(&mut self, latent: Tensor) -> Result<Tensor> {
        let latent = match &mut self.control {
            Some(control) => control.finish(latent)?,
            None => latent,
        };
        match &self.confine {
            Some(confine) => confine.confined(&latent),
            None => Ok(latent),
        }
    }
}
