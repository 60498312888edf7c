//! An edit: its settings, rows, controls and walk.

use std::ops::Range;

use candle_core::Tensor;

use super::{Pipeline, encode_prompts, while_loading};
use crate::{
    control::{AttentionStore, Chain, ControlPlan, Controls, LatentMask, LocalBlend, WalkInfo},
    diffusion::{BatchConditioning, EmbeddedGuidance, Event, Observer, WalkControl},
    error::Result,
    guidance::Guidance,
    model::{Conditioning, Model},
    prompt::Prompt,
};

/// The settings of an edit.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What the picture shows.
    pub source: String,
    /// What it should show, one prompt for each edit.
    pub targets: Vec<String>,
    /// The guidance of the targets.
    pub guidance: Guidance,
    /// The prompt of the targets while their guidance is reduced; their own by default.
    pub early_prompt: Option<String>,
    /// What preserves the source.
    pub control: ControlPlan,
    /// Where the latent may change, (1, 1, h, w) from 0 to 1; everywhere by default.
    pub mask: Option<Tensor>,
    /// What to return besides the targets.
    pub outputs: Outputs,
}

/// What an edit returns besides its targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    /// The reconstructed source, even if no control reads it.
    pub source: bool,
    /// Cross-attention maps of words.
    pub attention: bool,
}

/// The latents of an edit.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The reconstructed source (1, 4, h, w), if it was needed.
    pub source: Option<Tensor>,
    /// The targets (targets, 4, h, w).
    pub targets: Tensor,
    /// The source prompt and those of the targets.
    pub prompts: Vec<Prompt>,
    /// Where local blend let the targets change in the last step, 1 or else 0
    /// (targets, 1, h, w), if it acted.
    pub blend_mask: Option<Tensor>,
    /// Cross-attention maps, a row for each latent above, if they were asked for.
    pub attention: Option<AttentionStore>,
}

impl Pipeline {
    /// Denoises an inverted latent (1, 4, h, w) under the source prompt, unguided, and
    /// under the target prompts, all rows together.
    pub fn edit(
        &self,
        inverted: &Tensor,
        edit: &Edit,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        let prompts = self.named_prompts(edit);
        let prepare = |observer: &mut dyn Observer| {
            let text = self.networks.text_with_loras()?;
            let mut text = encode_prompts(&text, &prompts, observer)?;
            text.prompts.truncate(1 + edit.targets.len());
            let controls = EditControls::new(edit, self.model(), &text.prompts)?;
            Ok((text, controls))
        };
        let load = || self.networks.reverse_unet_with_loras();
        let waiting = "loading the reverse network";
        let ((text, mut controls), unet) = while_loading(prepare, load, waiting, observer)?;
        observer.observe(Event::Begins("editing"));
        let sources = usize::from(edit.walks_source(&mut controls));
        let rows = edit.rows(&text.states, 1 - sources..text.prompts.len())?;
        let x = inverted.repeat((rows.count(), 1, 1, 1))?;
        let timesteps = self.model().reverse_timesteps()?;
        let predictor = EmbeddedGuidance::new(&unet, &rows)?;
        let walk = self.walk(&predictor, &timesteps);
        let x = walk.run(x, &mut controls.chain(), observer)?;
        observer.observe(Event::Value("latent", &x));
        let targets = |rows: &Tensor| rows.narrow(0, sources, edit.targets.len());
        let blend_mask = controls.plan.blend.as_ref().and_then(LocalBlend::mask);
        Ok(Edited {
            source: (sources == 1).then(|| x.narrow(0, 0, 1)).transpose()?,
            targets: targets(&x)?,
            blend_mask: blend_mask.map(targets).transpose()?,
            prompts: text.prompts,
            attention: controls.store,
        })
    }

    /// The prompts of the rows and the early prompt, with the names of their states.
    fn named_prompts<'a>(&self, edit: &'a Edit) -> Vec<(String, &'a str)> {
        let name = |row| match row {
            // An inversion reports the source's states without LoRAs as `text_src`.
            0 if self.model().has_loras() => "src.lora".into(),
            0 => "src".into(),
            1 => "tgt".into(),
            _ => format!("tgt{row}"),
        };
        let early = edit.early_prompt.as_deref();
        let early = early.map(|prompt| ("early".into(), prompt));
        let rows = edit.prompts().enumerate();
        rows.map(|(row, prompt)| (name(row), prompt))
            .chain(early)
            .collect()
    }
}

/// The controls of an edit's walk.
struct EditControls {
    plan: Controls,
    mask: Option<LatentMask>,
    store: Option<AttentionStore>,
}

impl EditControls {
    fn new(edit: &Edit, model: &Model, prompts: &[Prompt]) -> Result<Self> {
        let walk = WalkInfo {
            steps: model.reverse_timesteps()?.count(),
            attentive_levels: model.unet_config().attentive_levels(),
            device: model.device().clone(),
        };
        let mask = edit.mask.as_ref().map(|mask| mask.to_device(&walk.device));
        Ok(Self {
            plan: edit.control.controls(prompts, &walk)?,
            mask: mask.transpose()?.map(LatentMask::new),
            store: (edit.outputs.attention).then(|| AttentionStore::new(&walk.attentive_levels)),
        })
    }

    /// In order; the store comes last and sees the maps as they are used.
    fn chain(&mut self) -> Chain<'_> {
        let mut controls: Vec<&mut dyn WalkControl> = Vec::new();
        if let Some(control) = &mut self.plan.prompt_to_prompt {
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
        Chain(controls)
    }
}

impl Edit {
    /// An edit with the default controls.
    pub fn new(source: impl Into<String>, target: impl Into<String>, guidance: Guidance) -> Self {
        Self {
            source: source.into(),
            targets: vec![target.into()],
            guidance,
            early_prompt: None,
            control: ControlPlan::default(),
            mask: None,
            outputs: Outputs::default(),
        }
    }

    fn walks_source(&self, controls: &mut EditControls) -> bool {
        self.outputs.source || controls.chain().reads_source()
    }

    /// The tokens of the source prompt and of those of the targets.
    pub fn tokenize(&self, model: &Model) -> Result<Vec<Prompt>> {
        let tokenizers = model.tokenizers()?;
        let prompts = self.prompts().map(|prompt| tokenizers.tokenize(prompt));
        prompts.collect()
    }

    /// The number of rows that each step evaluates, for the tokenized
    /// [`prompts`](Self::tokenize). Fails on words that they do not have; loads nothing.
    pub fn rows_evaluated(&self, model: &Model, prompts: &[Prompt]) -> Result<usize> {
        let mut controls = EditControls::new(self, model, prompts)?;
        Ok(usize::from(self.walks_source(&mut controls)) + self.targets.len())
    }

    /// The prompts of all rows, the source first.
    pub fn prompts(&self) -> impl Iterator<Item = &str> {
        [&self.source]
            .into_iter()
            .chain(&self.targets)
            .map(String::as_str)
    }

    /// The conditioning of the rows of these prompts. The early prompt's states are the
    /// last of `states`; the pooled embedding stays each row's own.
    fn rows(&self, states: &Conditioning, prompts: Range<usize>) -> Result<BatchConditioning> {
        let guidance = |prompt| {
            if prompt == 0 {
                Guidance::NONE
            } else {
                self.guidance
            }
        };
        let early_row = self.targets.len() + 1;
        let pick = |prompt| if prompt == 0 { 0 } else { early_row };
        let text = states.rows(prompts.clone())?;
        let early = match self.early_prompt {
            Some(_) => Some(states.rows(prompts.clone().map(pick))?.pooled_as(&text)),
            None => None,
        };
        Ok(BatchConditioning {
            text,
            early,
            guidance: prompts.map(guidance).collect(),
        })
    }
}
