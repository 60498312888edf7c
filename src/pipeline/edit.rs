//! An edit: its settings, rows, controls and walk.

mod controls;
mod group;

use std::ops::Range;

use candle_core::Tensor;

use super::{
    Hint, Method, Pipeline, encode_prompts,
    groups::{Gathered, groups},
    predictor, while_loading,
};
use crate::{
    control::{Anchor, AttentionStore, ControlPlan, LocalBlend, SourceAnchor},
    diffusion::{Event, Inverted, Observer, WalkControl},
    error::{Error, Result, Setting},
    guidance::Guidance,
    model::{EncodedPrompts, Model, unet::Unet},
    prompt::Prompt,
};
use controls::EditControls;
use group::{Group, Walked, joined};

/// The settings of an edit.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What the picture shows.
    pub source: String,
    /// What it should show, one prompt for each edit.
    pub targets: Vec<String>,
    /// How noise becomes a picture; that of the inversion, or one that it
    /// [serves](Method::serves).
    pub method: Method,
    /// The guidance of the targets, and with other methods than consistency models of the
    /// source, too.
    pub guidance: Guidance,
    /// What classifier-free guidance leads away from; by default the empty prompt. None with
    /// negative-prompt inversion, where it is the source prompt.
    pub negative_prompt: Option<String>,
    /// The prompt of the targets while their guidance is reduced; their own by default.
    pub early_prompt: Option<String>,
    /// What preserves the source.
    pub control: ControlPlan,
    /// Where the latent may change, (1, 1, h, w) from 0 to 1; everywhere by default.
    pub mask: Option<Tensor>,
    /// What to return besides the targets.
    pub outputs: Outputs,
}

/// What is told once only the network of the edits is missing.
const LOADING: &str = "loading the reverse network";

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
    /// For each target what to try next, if what the edit computed shows that it failed.
    pub hints: Vec<Option<Hint>>,
}

impl Edited {
    /// The results of some of the targets, which are counted from 0; without attention maps.
    pub fn of_targets(&self, targets: &Range<usize>) -> Result<Self> {
        let rows = |x: &Tensor| x.narrow(0, targets.start, targets.len());
        let own = self.prompts.iter().skip(1 + targets.start);
        let own = own.take(targets.len());
        Ok(Self {
            source: self.source.clone(),
            targets: rows(&self.targets)?,
            prompts: self.prompts.iter().take(1).chain(own).cloned().collect(),
            blend_mask: self.blend_mask.as_ref().map(rows).transpose()?,
            hints: self.hints[targets.clone()].to_vec(),
            attention: None,
        })
    }
}

impl Pipeline {
    /// Denoises an inverted picture under the source prompt, unguided, and
    /// under the target prompts: side by side, in groups if they are many.
    pub fn edit(
        &self,
        inverted: &Inverted,
        edit: &Edit,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        let prepare = |observer: &mut dyn Observer| {
            let text = self.networks.text_with_loras()?;
            let text = encode_prompts(&text, &self.named_prompts(edit), observer)?;
            self.encoded(edit, text)
        };
        let load = || self.networks.reverse_unet_with_loras(&edit.method);
        let (encoded, unet) = while_loading(prepare, load, LOADING, observer)?;
        observer.observe(Event::Begins("editing"));
        self.walked(inverted, (edit, encoded), &unet, observer)
    }

    /// Makes several edits of one inverted picture, one after another with the same networks:
    /// each is what [`edit`](Self::edit) makes of it alone. They have the method of the first.
    /// Prompts that several have are encoded once.
    pub fn edits(
        &self,
        inverted: &Inverted,
        edits: &[Edit],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Edited>> {
        let prepare = |observer: &mut dyn Observer| -> Result<Vec<_>> {
            let text = self.networks.text_with_loras()?;
            let mut known: Vec<(Vec<_>, EncodedPrompts)> = Vec::new();
            let one = |edit| {
                let prompts = self.named_prompts(edit);
                let found = known.iter().find(|(named, _)| *named == prompts);
                if let Some((_, text)) = found {
                    return self.encoded(edit, text.clone());
                }
                let text = encode_prompts(&text, &prompts, observer)?;
                known.push((prompts, text.clone()));
                self.encoded(edit, text)
            };
            edits.iter().map(one).collect()
        };
        let method = edits.first().map(|edit| edit.method.clone());
        let method = method.unwrap_or_default();
        if let Some(other) = edits.iter().find(|edit| edit.method != method) {
            return Err(differing(&method, &other.method));
        }
        let load = || self.networks.reverse_unet_with_loras(&method);
        let (encoded, unet) = while_loading(prepare, load, LOADING, observer)?;
        observer.observe(Event::Begins("editing"));
        let pairs = edits.iter().zip(encoded);
        pairs
            .map(|pair| self.walked(inverted, pair, &unet, observer))
            .collect()
    }

    /// The prompts' states and the controls of an edit.
    fn encoded(&self, edit: &Edit, mut text: EncodedPrompts) -> Result<Encoded> {
        text.prompts.truncate(1 + edit.targets.len());
        let controls = EditControls::new(edit, self.model(), &text.prompts)?;
        Ok(Encoded { text, controls })
    }

    /// Walks all rows of an edit.
    fn walked(
        &self,
        inverted: &Inverted,
        (edit, encoded): (&Edit, Encoded),
        unet: &Unet,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        let Encoded { text, mut controls } = encoded;
        edit.check()?;
        let sources = usize::from(edit.walks_source(&mut controls));
        if sources == 1 && edit.control.anchor == Anchor::On {
            let timesteps = edit.method.reverse_timesteps(self.model())?;
            controls.anchor = SourceAnchor::new(&inverted.trajectory, &timesteps);
        }
        let mut gathered = Gathered::new(observer, sources);
        let group = |targets: Range<usize>| {
            let group = Group {
                edit,
                prompts: &text.prompts,
                states: &text.states,
                controls: controls.of_targets(&targets)?,
                rows: 1 - sources..1,
                targets,
            };
            self.edit_group(inverted, group, unet, &mut gathered)
        };
        let groups = groups(edit.targets.len(), sources, self.max_rows);
        let walked: Vec<_> = groups.into_iter().map(group).collect::<Result<_>>()?;
        gathered.report()?;
        joined(walked, sources, text.prompts)
    }

    /// Walks the source, if it is needed, and some of the targets.
    fn edit_group(
        &self,
        inverted: &Inverted,
        mut group: Group,
        unet: &Unet,
        observer: &mut dyn Observer,
    ) -> Result<Walked> {
        let rows = group.conditioning()?;
        let unconditional = group.unconditional(self.model(), inverted)?;
        let x = inverted.latent.repeat((rows.count(), 1, 1, 1))?;
        let method = &group.edit.method;
        let timesteps = method.reverse_timesteps(self.model())?;
        let predictor = predictor(unet, &rows, unconditional.as_ref())?;
        let walk = self.walk(&*predictor, (&timesteps, method.solver()));
        let latents = walk.run(x, &mut group.controls.chain(), observer);
        let latents = self.networks.with_device_memory(latents)?;
        observer.observe(Event::Value("latent", &latents));
        let blend = group.controls.plan.blend.as_ref();
        Ok(Walked {
            hints: group.hints(&latents)?,
            latents,
            blend_mask: blend.and_then(LocalBlend::mask).cloned(),
            attention: group.controls.store,
        })
    }

    /// The number of rows of each evaluation, given the tokenized [`prompts`](Edit::tokenize).
    /// Fails on words that they do not have; loads nothing.
    pub fn rows_evaluated(&self, edit: &Edit, prompts: &[Prompt]) -> Result<Vec<usize>> {
        edit.check()?;
        let mut controls = EditControls::new(edit, self.model(), prompts)?;
        let sources = usize::from(edit.walks_source(&mut controls));
        let groups = groups(edit.targets.len(), sources, self.max_rows).into_iter();
        let each = edit.method.evaluations(self.model(), edit.guidance)?;
        let rows = groups.flat_map(|own| vec![sources + own.len(); each]);
        Ok(rows.collect())
    }

    /// The prompts of the rows, the early prompt and the negative one, with the names of their
    /// states.
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
        let negative = edit.negative_row();
        let negative = negative.map(|prompt| ("negative".into(), prompt));
        let rows = edit.prompts().enumerate();
        rows.map(|(row, prompt)| (name(row), prompt))
            .chain(early)
            .chain(negative)
            .collect()
    }
}

/// The error of edits of one inversion by two methods.
fn differing(first: &Method, other: &Method) -> Error {
    match first.told() == other.told() {
        true => Error::of(
            Setting::Guidance,
            "the method nti optimises its embeddings for one guidance: edits of one inversion \
             have the same",
        ),
        false => Error::of(
            Setting::Method,
            format!("{}: the first edit is by {}", other.told(), first.told()),
        ),
    }
}

/// An edit whose prompts are encoded.
struct Encoded {
    text: EncodedPrompts,
    controls: EditControls,
}

impl Edit {
    /// An edit with the default controls.
    pub fn new(source: impl Into<String>, target: impl Into<String>, guidance: Guidance) -> Self {
        Self {
            source: source.into(),
            targets: vec![target.into()],
            method: Method::Icd,
            guidance,
            negative_prompt: None,
            early_prompt: None,
            control: ControlPlan::default(),
            mask: None,
            outputs: Outputs::default(),
        }
    }

    /// Fails on settings that its method has no use for.
    fn check(&self) -> Result<()> {
        let reason = match (&self.method, &self.negative_prompt) {
            (Method::Icd, Some(_)) => {
                "consistency models are guided without one: it is for the methods ddim and nti"
            }
            (Method::Npi(_), Some(_)) => {
                "the method npi leads away from the source prompt: it is for ddim and nti"
            }
            _ => return Ok(()),
        };
        Err(Error::of(Setting::NegativePrompt, reason))
    }

    /// The prompt whose states are the last, if the method reads it.
    fn negative_row(&self) -> Option<&str> {
        match &self.method {
            Method::Icd | Method::Npi(_) => None,
            Method::Ddim(_) => Some(self.negative_prompt.as_deref().unwrap_or_default()),
            Method::Nti(_, null_text) => Some(&null_text.begin),
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

    /// The prompts of all rows, the source first.
    pub fn prompts(&self) -> impl Iterator<Item = &str> {
        [&self.source]
            .into_iter()
            .chain(&self.targets)
            .map(String::as_str)
    }
}
