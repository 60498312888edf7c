//! Whole model folders whose configurations were changed.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use anyhow::{Context, Result};
use icd::{
    diffusion::Silent,
    guidance::{Guidance, Tau},
    model::{Model, ModelChoice},
    nn::Placement,
    picture::{Picture, Size},
    pipeline::{Edit, Pipeline, Residency},
};
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

use crate::targets::{Feed, data};

/// The configurations that are changed.
const CONFIGS: [&str; 5] = [
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
];

/// An input is only dice: what they decide is changed.
pub(crate) fn open() -> Result<(Vec<Vec<u8>>, Feed)> {
    let photo = Picture::read(&data("square.png"))?.resized(Size::new(16, 16));
    let mut models = Vec::new();
    for name in ["sd", "sdxl"] {
        let folder = tempfile::tempdir()?;
        copy(&data(name), folder.path())?;
        models.push((folder, configs(&data(name))));
    }
    let feed = move |input: &[u8]| {
        let mut hash = DefaultHasher::new();
        input.hash(&mut hash);
        let mut dice = ChaCha8Rng::seed_from_u64(hash.finish());
        let (folder, configs) = models.choose(&mut dice).expect("two models");
        change(folder.path(), configs, &mut dice).expect("a folder that can be written");
        edit(folder.path(), &photo).is_ok()
    };
    Ok((vec![b"configurations".to_vec()], Box::new(feed)))
}

/// The configurations that a model has.
fn configs(model: &Path) -> Vec<(&'static str, Value)> {
    let read = |name: &'static str| {
        let text = fs::read_to_string(model.join(name)).ok()?;
        Some((name, serde_json::from_str(&text).ok()?))
    };
    CONFIGS.into_iter().filter_map(read).collect()
}

/// Writes all configurations, of which one to three fields are changed.
fn change(folder: &Path, configs: &[(&str, Value)], dice: &mut ChaCha8Rng) -> Result<()> {
    let mut changed = configs.to_vec();
    for _ in 0..dice.random_range(1..=3) {
        let index = dice.random_range(0..changed.len());
        let fields = changed[index].1.as_object_mut().context("an object")?;
        let names: Vec<_> = fields.keys().cloned().collect();
        let name = names.choose(dice).context("a field")?;
        let value = damaged(&fields[name], dice);
        fields.insert(name.clone(), value);
    }
    for (name, config) in changed {
        fs::write(folder.join(name), config.to_string())?;
    }
    Ok(())
}

fn damaged(value: &Value, dice: &mut ChaCha8Rng) -> Value {
    let number = value.as_u64().unwrap_or(2);
    let hostile = [
        json!(number + 1),
        json!(number * 2),
        json!(number / 2),
        json!(0),
        json!(1),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(1e-30),
        json!(1e300),
        json!(4096),
        json!(65_536),
        json!(1_u64 << 40),
        json!(u64::MAX),
        json!(null),
        json!(true),
        json!("x"),
        json!([]),
        json!([4, 4]),
        json!([4, 8, 8]),
        json!([4, 4, 8, 8]),
        vec![number; 300].into(),
        json!([[1, 1], [1, 1], [1, 1], [1, 1]]),
        json!({}),
    ];
    match (value, dice.random_bool(0.3)) {
        (Value::Array(values), true) if !values.is_empty() => {
            let mut values = values.clone();
            let index = dice.random_range(0..values.len());
            values[index] = damaged(&values[index], dice);
            values.into()
        }
        _ => hostile.choose(dice).cloned().unwrap_or_default(),
    }
}

/// Loads the model and edits a picture with it.
fn edit(folder: &Path, photo: &Picture) -> Result<()> {
    let choice = ModelChoice::named(folder.to_string_lossy());
    let model = Model::open(&choice, Placement::cpu_f32())?;
    let pipeline = Pipeline::new(model, Residency::All);
    let photo = photo.to_tensor(pipeline.model().device())?;
    let inverted = pipeline.invert(&photo, "a bird", 0, &mut Silent)?;
    let guidance = Guidance::new(7.0, Tau::step(0.8)?)?;
    let edit = Edit::new("a bird", "a dog", guidance);
    let edited = pipeline.edit(&inverted, &edit, &mut Silent)?;
    pipeline.decode(&edited.targets, &mut Silent)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
