//! Pictures of what has been learnt so far, by the weights as they are then:
//! their running mean, which is written in the end, draws better ones.

use std::{fs, path::Path as File};

use candle_core::{Device, Tensor};

use crate::{
    edit::{Denoiser, Rows, walk},
    error::{Error, Result},
    guidance::{Guidance, Tau},
    model::{Conditioning, attention::Untouched, unet::Unet, vae::Vae},
    noise::Noise,
    picture::{Picture, sheet::sheet},
    schedule::{Path, Schedule},
};

/// The first pictures of the dataset, their captions, and the same noise each time.
#[derive(Debug)]
pub struct Samples {
    /// The pictures' latents (n, c, h, w).
    latents: Tensor,
    /// Their captions.
    text: Conditioning,
    /// What new pictures start from (n, c, h, w).
    noise: Tensor,
    /// How strongly they are guided.
    strength: f64,
    vae: Vae,
}

impl Samples {
    /// Samples of latents (n, c, h, w) whose captions are `text`.
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

    /// New pictures' latents, guided at every step of the path.
    pub(super) fn drawn(&self, unet: &Unet, schedule: &Schedule, path: &Path) -> Result<Tensor> {
        let guidance = Guidance::new(self.strength, Tau::CONSTANT)?;
        self.walked((unet, path), schedule, self.noise.clone(), guidance)
    }

    /// The latents carried into noise and back, unguided.
    pub(super) fn returned(
        &self,
        schedule: &Schedule,
        [there, back]: [(&Unet, &Path); 2],
    ) -> Result<Tensor> {
        let x = schedule.add_noise(&self.latents, &self.noise, there.1.start())?;
        let x = self.walked(there, schedule, x, Guidance::NONE)?;
        self.walked(back, schedule, x, Guidance::NONE)
    }

    fn walked(
        &self,
        (unet, path): (&Unet, &Path),
        schedule: &Schedule,
        x: Tensor,
        guidance: Guidance,
    ) -> Result<Tensor> {
        let rows = Rows {
            text: self.text.clone(),
            early: None,
            guidance: vec![guidance; x.dim(0)?],
        };
        let net = Denoiser::new(unet, schedule, &rows)?;
        walk(&net, path, x, &mut Untouched, &mut |_| {})
    }

    /// Writes the pictures, and below them a row for each of `others`.
    pub(super) fn write(&self, others: &[Tensor], file: &File) -> Result<()> {
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
