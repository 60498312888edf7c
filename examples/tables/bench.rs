//! The model with all its networks, and the ways between pictures and noise
//! that are compared.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use icd::{
    control::{Blend, Chain, ControlPlan, LocalBlend, WalkInfo},
    diffusion::{BatchConditioning, EmbeddedGuidance, Silent, Solver, Walk, WalkControl},
    guidance::Guidance,
    model::{
        Adapters, EncodedPrompts, MethodName, Model, ModelChoice, TextEncoders,
        attention::NoControl, unet::Unet, vae::Vae,
    },
    nn::Placement,
    noise::Noise,
    picture::{Picture, matte::Matte, window::Extent},
    schedule::Timesteps,
};

/// The seed of the noise that scene `index` starts from.
pub(crate) fn noise_seed(index: u64) -> u64 {
    0xD1CE + index
}

/// A model with everything in memory.
pub(crate) struct Bench {
    pub(crate) model: Model,
    vae: Vae,
    text: TextEncoders,
    /// The consistency models.
    pub(crate) few: Way,
    /// Their teacher, in fifty steps of DDIM either way, from the clean latent.
    pub(crate) many: Way,
    /// The same from the little noise that the consistency models start from.
    pub(crate) noisy: Way,
}

/// Two networks, one for each direction, and their paths.
pub(crate) struct Way {
    forward: (Unet, Timesteps),
    reverse: (Unet, Timesteps),
}

/// The timesteps of the teacher, downwards.
fn teacher_steps() -> impl DoubleEndedIterator<Item = u16> {
    (0..50).map(|i| 19 + 20 * i).rev()
}

impl Bench {
    pub(crate) fn open(name: &str, dtype: DType) -> Result<Self> {
        let model = open(ModelChoice::named(name), dtype)?;
        Ok(Self {
            vae: model.vae()?,
            text: model.text()?,
            few: Way::of(&model)?,
            many: Way::teacher(&model, &[0])?,
            noisy: Way::teacher(&model, &[])?,
            model,
        })
    }

    /// The model's usual guidance strength.
    pub(crate) fn strength(&self) -> f64 {
        self.model.edit_guidance()
    }

    /// The control of edits where nothing else is asked for.
    pub(crate) fn usual_control(&self) -> ControlPlan {
        ControlPlan {
            blend: Blend::by_default(self.model.stated_blend(MethodName::Icd)),
            ..ControlPlan::default()
        }
    }

    pub(crate) fn encode(&self, picture: &Picture) -> Result<Tensor> {
        Ok(self.vae.encode(&picture.to_tensor(&Device::Cpu)?)?.mean()?)
    }

    pub(crate) fn decode(&self, latent: &Tensor) -> Result<Picture> {
        Ok(Picture::from_tensor(&self.vae.decode(latent)?)?)
    }

    pub(crate) fn read(&self, prompts: &[&str]) -> Result<EncodedPrompts> {
        Ok(self.text.encode(prompts)?)
    }

    /// Carries a picture into noise under its caption.
    pub(crate) fn invert(
        &self,
        way: &Way,
        picture: &Picture,
        caption: &str,
        seed: u64,
    ) -> Result<Tensor> {
        let (unet, timesteps) = &way.forward;
        let latent = self.encode(picture)?;
        let noise = Noise::new(seed).normal(latent.shape(), &Device::Cpu)?;
        let start = self
            .model
            .schedule()
            .add_noise(&latent, &noise, timesteps.start())?;
        let rows = BatchConditioning::one(self.read(&[caption])?.states, Guidance::NONE);
        self.walk((unet, timesteps, start), &rows, &mut NoControl)
    }

    /// Carries noise back under one caption.
    pub(crate) fn back(
        &self,
        way: &Way,
        noise: &Tensor,
        caption: &str,
        guidance: Guidance,
    ) -> Result<Picture> {
        let (unet, timesteps) = &way.reverse;
        let rows = BatchConditioning::one(self.read(&[caption])?.states, guidance);
        self.decode(&self.walk((unet, timesteps, noise.clone()), &rows, &mut NoControl)?)
    }

    /// Carries the noise of a photo back under a second caption while attention follows the
    /// first. Outside of a local blend the photo's pixels are kept, as the program does.
    pub(crate) fn edit(
        &self,
        way: &Way,
        (photo, noise): (&Picture, &Tensor),
        captions: [&str; 2],
        (plan, guidance): (&ControlPlan, Guidance),
    ) -> Result<Picture> {
        let (unet, timesteps) = &way.reverse;
        let text = self.read(&captions)?;
        let info = WalkInfo {
            steps: timesteps.count(),
            blend_from: 0,
            attentive_levels: self.model.unet_config().attentive_levels(),
            transformer_blocks: self.model.unet_config().transformer_blocks(),
            device: self.model.device().clone(),
        };
        let mut controls = plan.controls(&text.prompts, &info)?;
        let attention = controls.prompt_to_prompt.iter_mut();
        let attention = attention.map(|control| control as &mut dyn WalkControl);
        let blend = controls.blend.iter_mut();
        let blend = blend.map(|control| control as &mut dyn WalkControl);
        let mut chain = Chain(attention.chain(blend).collect());
        let first = usize::from(!chain.reads_source());
        let rows = BatchConditioning {
            text: text.states.rows(first..2)?,
            early: None,
            guidance: [Guidance::NONE, guidance][first..].to_vec(),
        };
        let x = noise.repeat((rows.count(), 1, 1, 1))?;
        let x = self.walk((unet, timesteps, x), &rows, &mut chain)?;
        let edited = self.decode(&x.narrow(0, rows.count() - 1, 1)?)?;
        match controls.blend.as_ref().and_then(LocalBlend::mask) {
            Some(mask) => {
                let blend = Matte::from_tensor(&mask.narrow(0, 1, 1)?)?;
                let blend = blend.scaled(Extent::WHOLE, photo.size()).softened();
                Ok(photo.composite(&edited, &blend)?)
            }
            None => Ok(edited),
        }
    }

    fn walk(
        &self,
        (unet, timesteps, x): (&Unet, &Timesteps, Tensor),
        rows: &BatchConditioning,
        control: &mut dyn WalkControl,
    ) -> Result<Tensor> {
        let walk = Walk {
            predictor: &EmbeddedGuidance::new(unet, rows)?,
            schedule: self.model.schedule(),
            timesteps,
            solver: Solver::Consistency,
        };
        Ok(walk.run(x, control, &mut Silent)?)
    }
}

impl Way {
    /// The consistency models of a model.
    pub(crate) fn of(model: &Model) -> Result<Self> {
        Ok(Self {
            forward: (model.unet(Adapters::Forward)?, model.forward_timesteps()?),
            reverse: (
                model.unet(Adapters::ReverseWithLoras)?,
                model.reverse_timesteps()?,
            ),
        })
    }

    /// Their teacher, step by step, up from `start` and down to 0.
    fn teacher(model: &Model, start: &[u16]) -> Result<Self> {
        let up: Vec<_> = start.iter().copied().chain(teacher_steps().rev()).collect();
        let down: Vec<_> = teacher_steps().chain([0]).collect();
        Ok(Self {
            forward: (model.unet(Adapters::None)?, Timesteps::forward(&up)?),
            reverse: (model.unet(Adapters::None)?, Timesteps::reverse(&down)?),
        })
    }

    /// Steps there and back.
    pub(crate) fn steps(&self) -> String {
        format!("{} + {}", self.forward.1.count(), self.reverse.1.count())
    }

    /// The path from noise to a picture.
    pub(crate) fn path(&self) -> &Timesteps {
        &self.reverse.1
    }
}

pub(crate) fn open(choice: ModelChoice, dtype: DType) -> Result<Model> {
    let storage = Placement::new(dtype, Device::Cpu);
    Ok(Model::open(&choice, storage)?)
}
