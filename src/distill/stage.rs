//! Reading of the training data, and writing of the results of both stages.

use std::{collections::HashMap, fs, path::PathBuf};

use candle_core::DType;

use super::{
    ConsistencyStage, Dataset, DistillConfig, GuidanceStage, Samples, Student, TrainingData,
    captioned, guidance::GUIDANCE_WIDTH, run::UNET,
};
use crate::{
    error::{Error, Result},
    io::{Existing, write_file, write_tensors},
    model::Model,
    noise::Noise,
    picture::{Size, fit::STEP},
    schedule::Timesteps,
};

/// Pictures per row of a sample sheet.
const SHOWN: usize = 6;

impl TrainingData {
    /// Reads the pictures and the text encoders. `watch` is called with the number of
    /// encoded pictures and of all pictures.
    pub fn open(
        model: &Model,
        config: &DistillConfig,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let pictures = captioned(&config.data)?;
        let side = match config.size {
            Some(side) => side,
            None => model.side()?,
        };
        if !side.is_multiple_of(STEP) {
            let reason = format!("size = {side}: it must be a multiple of {STEP}");
            return Err(Error::setting(reason));
        }
        model.latent_size(Size::new(side, side))?;
        let cache = config.out.join("latents.safetensors");
        fs::create_dir_all(&config.out).map_err(|error| Error::io(&config.out, error))?;
        let count = pictures.len();
        let mut watch = |done| watch(done, count);
        let dataset = Dataset::open(&pictures, model, side, &cache, &mut watch)?;
        let data = Self {
            dataset,
            text: model.text()?,
            samples: None,
        };
        Ok(Self {
            samples: match config.sample_every {
                0 => None,
                _ => Some(data.first(model, config)?),
            },
            ..data
        })
    }

    /// The first pictures, as samples.
    fn first(&self, model: &Model, config: &DistillConfig) -> Result<Samples> {
        let rows: Vec<_> = (0..self.dataset.len().min(SHOWN)).collect();
        let latents = self.dataset.sample(&rows, &mut Noise::new(config.seed))?;
        let strength = config.guidance.iter().copied().fold(0.0, f64::max) / 2.0;
        Samples::new(latents, self.read(&rows)?, strength, model.vae()?)
    }
}

impl GuidanceStage {
    /// Writes the student as `unet/` in the output folder.
    pub fn write(&self, model: &Model, config: &DistillConfig) -> Result<PathBuf> {
        let folder = config.out.join(UNET);
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        let mut settings = model.unet_settings()?;
        if settings["time_cond_proj_dim"].is_null() {
            settings["time_cond_proj_dim"] = GUIDANCE_WIDTH.into();
        }
        write_file(
            &folder.join("config.json"),
            format!("{settings:#}\n").as_bytes(),
            Existing::Replace,
        )?;
        let file = folder.join("diffusion_pytorch_model.safetensors");
        write_tensors(&file, &self.weights(), pytorch(), Existing::Replace)?;
        Ok(folder)
    }
}

impl ConsistencyStage {
    /// Writes the forward and the reverse adapter into the output folder.
    pub fn write(&self, config: &DistillConfig) -> Result<[PathBuf; 2]> {
        let [forward, reverse] = self.students();
        let write = |student: &Student, name| -> Result<PathBuf> {
            let file = config.out.join(released_name(name, &student.path));
            let weights = student.optimiser.averages();
            student
                .adapter
                .write(&file, weights, &student.path, DType::F32)?;
            Ok(file)
        };
        Ok([write(forward, "forward")?, write(reverse, "reverse")?])
    }
}

/// The file name in the scheme of the released adapters: ascending timesteps, without the
/// last one of the direction.
fn released_name(direction: &str, path: &Timesteps) -> String {
    let mut steps: Vec<_> = path.jumps().map(|jump| jump.from.0).collect();
    steps.sort_unstable();
    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
    format!("{direction}-{}.safetensors", steps.join("-"))
}

fn pytorch() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}
