//! The two stages as a file describes them: from a model and a folder of
//! pictures to a learner, and from what it learnt to files.

use std::{collections::HashMap, fs, path::PathBuf};

use candle_core::DType;

use super::{
    ConsistencyStage, Dataset, DistilConfig, GuidanceStage, Material, Samples, Student, captioned,
};
use crate::{
    error::{Error, Result},
    file::write_beside,
    latents::{Tensors, write_tensors},
    lora::TrainableAdapter,
    model::{Model, unet::Unet},
    nn::{Fresh, Shelf, Weights},
    noise::Noise,
    schedule::Path,
};

/// Pictures in a row of a sheet of samples.
const SHOWN: usize = 6;
/// Width of the embedding of the guidance, as in the released models.
const GUIDANCE_WIDTH: usize = 512;
/// The projection of that embedding, which the teacher of guidance lacks.
const PROJECTION: &str = "time_embedding.cond_proj.weight";

impl Material {
    /// Reads the pictures and the text encoders that `config` names. `watch`
    /// sees how many pictures of how many are encoded.
    pub fn open(
        model: &Model,
        config: &DistilConfig,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let pictures = captioned(&config.data)?;
        let side = match config.size {
            Some(side) => side,
            None => model.unet_config().side * model.latent_factor()?,
        };
        let cache = config.out.join("latents.safetensors");
        fs::create_dir_all(&config.out).map_err(|error| Error::io(&config.out, error))?;
        let count = pictures.len();
        let mut watch = |done| watch(done, count);
        let dataset = Dataset::open(
            &pictures,
            &|| model.vae(),
            side,
            &cache,
            model.device(),
            &mut watch,
        )?;
        let material = Self {
            dataset,
            text: model.text()?,
            samples: None,
        };
        Ok(Self {
            samples: match config.sample_every {
                0 => None,
                _ => Some(material.first(model, config)?),
            },
            ..material
        })
    }

    /// The first pictures, to be drawn on the way.
    fn first(&self, model: &Model, config: &DistilConfig) -> Result<Samples> {
        let rows: Vec<_> = (0..self.dataset.len().min(SHOWN)).collect();
        let latents = self.dataset.sample(&rows, &mut Noise::new(config.seed))?;
        let strength = config.guidance.iter().copied().fold(0.0, f64::max) / 2.0;
        Samples::new(latents, self.read(&rows)?, strength, model.vae()?)
    }
}

/// The stage that distils guidance.
pub fn guidance_stage(
    model: &Model,
    config: &DistilConfig,
    material: Material,
) -> Result<GuidanceStage> {
    let width = model.unet_config().levels[0].channels;
    let fresh = Fresh::new(config.seed)
        .starting_from(model.unet_checkpoint()?)
        .with(PROJECTION, &[width, GUIDANCE_WIDTH])
        .trainable();
    let storage = model.storage().exact();
    let student = Unet::new(
        &Weights::fresh(&fresh, &storage),
        model.unet_config().clone(),
    )?;
    let schedule = model.schedule().clone();
    GuidanceStage::new(
        material,
        schedule,
        model.plain_unet()?,
        (student, &fresh),
        config.lessons(),
    )
}

/// The stage that distils the two adapters.
pub fn consistency_stage(
    model: &Model,
    config: &DistilConfig,
    material: Material,
) -> Result<ConsistencyStage> {
    let checkpoint = model.unet_checkpoint()?;
    let (shelf, storage) = (Shelf::default(), model.storage());
    let weights = Weights::new(&checkpoint, storage).shared_on(&shelf);
    let measures = model.unet_config();
    let teacher = Unet::new(&weights, measures.clone())?;
    if !teacher.takes_guidance() {
        return Err(checkpoint.fault(
            "it was not distilled on guidance: run `icd distill guidance` first and name its unet",
        ));
    }
    let student = |path: Path, seed: u64| -> Result<Student> {
        let adapter = TrainableAdapter::new(&checkpoint, config.adapter(), seed, &storage.device)?;
        let changes = adapter.changes();
        Ok(Student {
            unet: Unet::new(&weights.clone().changed_by(&changes), measures.clone())?,
            adapter,
            path,
        })
    };
    let [forward, reverse] = config.paths()?;
    let students = [
        student(forward, config.seed)?,
        student(reverse, config.seed.wrapping_add(1))?,
    ];
    ConsistencyStage::new(
        material,
        model.schedule().clone(),
        teacher,
        students,
        config.preservation(),
        config.lessons(),
    )
}

impl GuidanceStage {
    /// Writes the student as `unet/` in the output folder.
    pub fn write(&self, model: &Model, config: &DistilConfig) -> Result<PathBuf> {
        let folder = config.out.join("unet");
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        let mut settings = model.unet_settings()?;
        if settings["time_cond_proj_dim"].is_null() {
            settings["time_cond_proj_dim"] = GUIDANCE_WIDTH.into();
        }
        write_beside(
            &folder.join("config.json"),
            format!("{settings:#}\n").as_bytes(),
        )?;
        let file = folder.join("diffusion_pytorch_model.safetensors");
        write_tensors(&file, &self.weights(), pytorch())?;
        Ok(folder)
    }
}

impl ConsistencyStage {
    /// Writes the forward and the reverse adapter into the output folder.
    pub fn write(&self, config: &DistilConfig) -> Result<[PathBuf; 2]> {
        let [forward, reverse] = self.students();
        let write = |(student, tensors): (&Student, Tensors), name| -> Result<PathBuf> {
            let file = config.out.join(released_name(name, &student.path));
            let Student { adapter, path, .. } = student;
            adapter.write(&file, tensors, path, DType::F32)?;
            Ok(file)
        };
        Ok([write(forward, "forward")?, write(reverse, "reverse")?])
    }
}

/// The name that the released adapters would have: ascending timesteps, without
/// the first or last one that all paths of the direction share.
fn released_name(direction: &str, path: &Path) -> String {
    let mut steps: Vec<_> = path.segments().map(|segment| segment.from.0).collect();
    steps.sort_unstable();
    let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
    format!("{direction}-{}.safetensors", steps.join("-"))
}

fn pytorch() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}
