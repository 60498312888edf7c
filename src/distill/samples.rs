//! Sample pictures during the training, by the current weights; their EMA, which is
//! written in the end, gives better ones.

use std::{fs, path::Path};

use candle_core::{Device, Tensor};

use crate::{
    diffusion::{BatchConditioning, EmbeddedGuidance, Silent, Solver, Walk},
    error::{Error, Result},
    guidance::{Guidance, Tau},
    model::{Conditioning, attention::NoControl, unet::Unet, vae::Vae},
    noise::Noise,
    picture::{Picture, sheet::sheet},
    schedule::{NoiseSchedule, Timesteps},
};

/// The first pictures of the dataset, their captions, and fixed noise.
#[derive(Debug)]
pub struct Samples {
    /// The pictures' latents (n, c, h, w).
    latents: Tensor,
    /// The captions.
    text: Conditioning,
    /// The initial noise of new pictures (n, c, h, w).
    noise: Tensor,
    /// Guidance strength of new pictures.
    strength: f64,
    vae: Vae,
}

impl Samples {
    /// Creates samples for latents (n, c, h, w) with captions `text`.
    pub fn new(latents: Tensor, text: Conditioning, strength: f64, vae: Vae) -> Result<Self> {
        let noise = Noise::new(0).normal(latents.shape(), &Device::Cpu)?;
        Ok(Self {
            noise: noise.to_device(latents.device())?,
            latents,
            text,
            strength,
            vae,
        })
    }

    /// Generates latents of new pictures, guided at every step.
    pub(super) fn drawn(
        &self,
        unet: &Unet,
        schedule: &NoiseSchedule,
        timesteps: &Timesteps,
    ) -> Result<Tensor> {
        let guidance = Guidance::new(self.strength, Tau::CONSTANT)?;
        self.walked((unet, timesteps), schedule, self.noise.clone(), guidance)
    }

    /// Inverts and reconstructs the latents, unguided.
    pub(super) fn returned(
        &self,
        schedule: &NoiseSchedule,
        [there, back]: [(&Unet, &Timesteps); 2],
    ) -> Result<Tensor> {
        let x = schedule.add_noise(&self.latents, &self.noise, there.1.start())?;
        let x = self.walked(there, schedule, x, Guidance::NONE)?;
        self.walked(back, schedule, x, Guidance::NONE)
    }

    fn walked(
        &self,
        (unet, timesteps): (&Unet, &Timesteps),
        schedule: &NoiseSchedule,
        x: Tensor,
        guidance: Guidance,
    ) -> Result<Tensor> {
        let rows = BatchConditioning {
            text: self.text.clone(),
            early: None,
            guidance: vec![guidance; x.dim(0)?],
        };
        let walk = Walk {
            predictor: &EmbeddedGuidance::new(unet, &rows)?,
            schedule,
            timesteps,
            solver: Solver::Consistency,
        };
        walk.run(x, &mut NoControl, &mut Silent)
    }

    /// Writes a sheet of the pictures and a row for each of `others`.
    pub(super) fn write(&self, others: &[Tensor], file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        }
        let rows = [&self.latents].into_iter().chain(others);
        let rows: Vec<_> = rows.map(|x| self.pictures(x)).collect::<Result<_>>()?;
        sheet(&rows)?.write(file)
    }

    fn pictures(&self, latents: &Tensor) -> Result<Vec<Picture>> {
        let decoded = |i| Picture::from_tensor(&self.vae.decode(&latents.narrow(0, i, 1)?)?);
        (0..latents.dim(0)?).map(decoded).collect()
    }
}
