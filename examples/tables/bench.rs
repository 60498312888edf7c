//! The model with all its networks, and the ways between pictures and noise
//! that are compared.

use anyhow::Result;
use candle_core::{Device, Tensor};
use icd::{
    edit::{ControlPlan, Denoiser, Rows, Stage, Steer, walk},
    guidance::Guidance,
    model::{Model, ModelChoice, Text, TextReader, attention::Untouched, unet::Unet, vae::Vae},
    nn::Storage,
    noise::Noise,
    picture::Picture,
    schedule::Path,
};

/// The seed of the noise that scene `index` starts from.
pub(crate) fn noise_seed(index: u64) -> u64 {
    0xD1CE + index
}

/// A model with everything in memory.
pub(crate) struct Bench {
    pub(crate) model: Model,
    vae: Vae,
    text: TextReader,
    /// The consistency models.
    pub(crate) few: Way,
    /// Their teacher, in fifty steps of DDIM either way, from the clean latent.
    pub(crate) many: Way,
    /// The same from the little noise that the consistency models start from.
    pub(crate) noisy: Way,
}

/// Two networks, one for each direction, and their paths.
pub(crate) struct Way {
    forward: (Unet, Path),
    reverse: (Unet, Path),
}

/// The timesteps of the teacher, downwards.
fn teacher_steps() -> impl DoubleEndedIterator<Item = u16> {
    (0..50).map(|i| 19 + 20 * i).rev()
}

impl Bench {
    pub(crate) fn open(name: &str) -> Result<Self> {
        let model = open(ModelChoice::named(name))?;
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

    pub(crate) fn encode(&self, picture: &Picture) -> Result<Tensor> {
        Ok(self.vae.encode(&picture.to_tensor(&Device::Cpu)?)?.mean()?)
    }

    pub(crate) fn decode(&self, latent: &Tensor) -> Result<Picture> {
        Ok(Picture::from_tensor(&self.vae.decode(latent)?)?)
    }

    pub(crate) fn read(&self, prompts: &[&str]) -> Result<Text> {
        Ok(self.text.read(prompts)?)
    }

    /// Carries a picture into noise under its caption.
    pub(crate) fn invert(
        &self,
        way: &Way,
        picture: &Picture,
        caption: &str,
        seed: u64,
    ) -> Result<Tensor> {
        let (unet, path) = &way.forward;
        let latent = self.encode(picture)?;
        let noise = Noise::new(seed).normal(latent.shape(), &Device::Cpu)?;
        let start = self
            .model
            .schedule()
            .add_noise(&latent, &noise, path.start())?;
        let rows = Rows::one(self.read(&[caption])?.states, Guidance::NONE);
        self.go(unet, path, &rows, start, &mut Untouched)
    }

    /// Carries noise back under one caption.
    pub(crate) fn back(
        &self,
        way: &Way,
        noise: &Tensor,
        caption: &str,
        guidance: Guidance,
    ) -> Result<Picture> {
        let (unet, path) = &way.reverse;
        let rows = Rows::one(self.read(&[caption])?.states, guidance);
        self.decode(&self.go(unet, path, &rows, noise.clone(), &mut Untouched)?)
    }

    /// Carries noise back under a second caption while attention follows the
    /// first.
    pub(crate) fn edit(
        &self,
        way: &Way,
        noise: &Tensor,
        captions: [&str; 2],
        (plan, guidance): (&ControlPlan, Guidance),
    ) -> Result<Picture> {
        let (unet, path) = &way.reverse;
        let text = self.read(&captions)?;
        let stage = Stage {
            steps: path.jumps(),
            early_steps: 0,
            attentive_levels: self.model.unet_config().attentive_levels(),
            device: self.model.device().clone(),
        };
        let control = plan.control(&text.prompts, &stage)?;
        let (first, mut steer): (usize, Box<dyn Steer>) = match control {
            Some(control) => (0, Box::new(control)),
            None => (1, Box::new(Untouched)), // nothing reads the source
        };
        let rows = Rows {
            text: text.states.rows(first..2)?,
            early: None,
            guidance: [Guidance::NONE, guidance][first..].to_vec(),
        };
        let x = noise.repeat((rows.count(), 1, 1, 1))?;
        let x = self.go(unet, path, &rows, x, steer.as_mut())?;
        self.decode(&x.narrow(0, rows.count() - 1, 1)?)
    }

    fn go(
        &self,
        unet: &Unet,
        path: &Path,
        rows: &Rows,
        x: Tensor,
        steer: &mut dyn Steer,
    ) -> Result<Tensor> {
        let net = Denoiser::new(unet, self.model.schedule(), rows)?;
        Ok(walk(&net, path, x, steer, &mut |_| {})?)
    }
}

impl Way {
    /// The consistency models of a model.
    pub(crate) fn of(model: &Model) -> Result<Self> {
        Ok(Self {
            forward: (model.forward_unet()?, model.forward_path()?),
            reverse: (model.reverse_unet()?, model.reverse_path()?),
        })
    }

    /// Their teacher, step by step, up from `start` and down to 0.
    fn teacher(model: &Model, start: &[u16]) -> Result<Self> {
        let up: Vec<_> = start.iter().copied().chain(teacher_steps().rev()).collect();
        let down: Vec<_> = teacher_steps().chain([0]).collect();
        Ok(Self {
            forward: (model.plain_unet()?, Path::forward(&up)?),
            reverse: (model.plain_unet()?, Path::reverse(&down)?),
        })
    }

    /// Steps there and back.
    pub(crate) fn steps(&self) -> String {
        format!("{} + {}", self.forward.1.jumps(), self.reverse.1.jumps())
    }

    /// The path from noise to a picture.
    pub(crate) fn path(&self) -> &Path {
        &self.reverse.1
    }
}

pub(crate) fn open(choice: ModelChoice) -> Result<Model> {
    let storage = Storage::plain();
    Ok(Model::open(&choice, storage)?)
}
