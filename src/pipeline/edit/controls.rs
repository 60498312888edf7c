//! The controls of an edit's walk, in order.

use std::ops::Range;

use super::Edit;
use crate::{
    control::{AttentionStore, Chain, Controls, LatentMask, Onlooker, SourceAnchor, WalkInfo},
    diffusion::WalkControl,
    error::Result,
    model::Model,
    prompt::Prompt,
};

/// The controls of an edit's walk.
pub(super) struct EditControls {
    pub(super) anchor: Option<SourceAnchor>,
    pub(super) plan: Controls,
    pub(super) mask: Option<LatentMask>,
    pub(super) store: Option<AttentionStore>,
    pub(super) onlooker: Onlooker,
}

impl EditControls {
    pub(super) fn new(edit: &Edit, model: &Model, prompts: &[Prompt]) -> Result<Self> {
        let walk = WalkInfo {
            steps: edit.method.reverse_timesteps(model)?.count(),
            blend_from: edit.method.blend_from(),
            attentive_levels: model.unet_config().attentive_levels(),
            transformer_blocks: model.unet_config().transformer_blocks(),
            device: model.device().clone(),
        };
        let mask = edit.mask.as_ref().map(|mask| mask.to_device(&walk.device));
        Ok(Self {
            anchor: None, // the inversion is not known here
            plan: edit.control.controls(prompts, &walk)?,
            mask: mask.transpose()?.map(LatentMask::new),
            store: (edit.outputs.attention).then(|| AttentionStore::new(&walk.attentive_levels)),
            onlooker: Onlooker(AttentionStore::new(&walk.attentive_levels)),
        })
    }

    /// The controls of the source and of some of the targets, which are counted from 0.
    pub(super) fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        Ok(Self {
            anchor: self.anchor.clone(),
            plan: self.plan.of_targets(targets)?,
            mask: self.mask.clone(),
            store: self.store.clone(),
            onlooker: self.onlooker.clone(),
        })
    }

    /// In order: what blends in the source comes after its anchor; the store comes last and
    /// sees the maps as they are used.
    pub(super) fn chain(&mut self) -> Chain<'_> {
        let mut controls: Vec<&mut dyn WalkControl> = Vec::new();
        if let Some(anchor) = &mut self.anchor {
            controls.push(anchor);
        }
        if let Some(control) = &mut self.plan.prompt_to_prompt {
            controls.push(control);
        }
        if let Some(control) = &mut self.plan.mutual_self_attention {
            controls.push(control);
        }
        if let Some(control) = &mut self.plan.masked_self_attention {
            controls.push(control);
        }
        if let Some(blend) = &mut self.plan.blend {
            controls.push(blend);
        }
        if let Some(mask) = &mut self.mask {
            controls.push(mask);
        }
        if let Some(store) = &mut self.store {
            controls.push(store);
        }
        controls.push(&mut self.onlooker);
        Chain(controls)
    }
}
