//! The model with all its networks, and the ways between pictures and noise
//! that are compared.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
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
    /// Their teacher, in fifty steps of DDIM either way.
    pub(crate) many: Way,
}

/// Two networks, one for each direction, and their paths.
pub(crate) struct Way {
    forward: (Unet, Path),
    reverse: (Unet, Path),
}

/// Steps of the teacher, each way.
pub(crate) const TEACHER_STEPS: u16 = 50;

impl Bench {
    pub(crate) fn open(name: &str) -> Result<Self> {
        let model = open(ModelChoice {
            model: name.into(),
            ..ModelChoice::default()
        })?;
        Ok(Self {
            vae: model.vae()?,
            text: model.text()?,
            few: Way::of(&model)?,
            many: Way::teacher(&model)?,
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
        };
        let rows = Rows {
            text: text.states,
            early: None,
            guidance: vec![Guidance::NONE, guidance],
        };
        let mut steer: Box<dyn Steer> = match plan.control(&text.prompts, &stage)? {
            Some(control) => Box::new(control),
            None => Box::new(Untouched),
        };
        let both = noise.repeat((2, 1, 1, 1))?;
        let x = self.go(unet, path, &rows, both, steer.as_mut())?;
        self.decode(&x.narrow(0, 1, 1)?)
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

    /// Their teacher, step by step.
    fn teacher(model: &Model) -> Result<Self> {
        let mut steps: Vec<u16> = (0..TEACHER_STEPS).map(|i| 19 + 20 * i).collect();
        let forward = Path::forward(&steps)?;
        steps.insert(0, 0);
        steps.reverse();
        Ok(Self {
            forward: (model.plain_unet()?, forward),
            reverse: (model.plain_unet()?, Path::reverse(&steps)?),
        })
    }

    /// Steps from noise to a picture.
    pub(crate) fn steps(&self) -> usize {
        self.reverse.1.jumps()
    }

    /// The path from noise to a picture.
    pub(crate) fn path(&self) -> &Path {
        &self.reverse.1
    }
}

pub(crate) fn open(choice: ModelChoice) -> Result<Model> {
    let storage = Storage {
        dtype: DType::F32,
        device: Device::Cpu,
    };
    Ok(Model::open(&choice, storage)?)
}
