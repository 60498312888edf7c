//! `icd inspect`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use candle_core::DType;
use clap::Args;
use icd::{
    lora::{forward_steps, reverse_steps},
    model::{Model, ModelChoice},
    nn::{Checkpoint, Storage, checkpoint_metadata},
    picture::Picture,
    source::Source,
};
use serde_json::{Map, Value, json};

use super::{console::tell, settings::Settings};

/// Tells what a file is: the settings of a PNG, a latent dump, weights, an
/// adapter, or a model folder.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    /// A picture, a .safetensors or .pt file, a model folder, or a model's name.
    #[arg(value_name = "FILE|DIR|NAME")]
    what: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd inspect bird.edited.png
  icd inspect shapes --json";

/// What namings call the first factor of an adapter's change; its rows are the rank.
const DOWN: [&str; 3] = ["lora_A", "lora.down", "lora_down"];

/// What is told, by name.
type Facts = Map<String, Value>;

impl InspectArgs {
    pub(super) fn run(&self) -> Result<()> {
        let facts = facts(&self.what)?;
        if self.json {
            return tell(&Value::Object(facts).to_string());
        }
        facts.iter().try_for_each(|(name, value)| match value {
            Value::String(text) => tell(&format!("{name}: {text}")),
            other => tell(&format!("{name}: {other}")),
        })
    }
}

fn facts(what: &Path) -> Result<Facts> {
    let ending = what.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("safetensors" | "pt" | "bin") if !what.is_dir() => weights(what),
        _ if what.is_file() => picture(what),
        _ => model(what),
    }
}

fn picture(file: &Path) -> Result<Facts> {
    let size = Picture::read(file)?.size();
    let mut facts = object(json!({ "kind": "picture", "size": size.to_string() }));
    if let Ok(settings) = Settings::read(file) {
        facts.extend(settings.facts());
    }
    Ok(facts)
}

fn weights(file: &Path) -> Result<Facts> {
    let checkpoint = Checkpoint::open(file)?;
    let names = checkpoint.names();
    let values =
        |name: &String| -> usize { checkpoint.shape(name).unwrap_or_default().iter().product() };
    let is_adapter = names.iter().any(|name| name.contains("lora"));
    let mut facts = object(json!({
        "kind": match (is_adapter, &names[..]) {
            (true, _) => "adapter",
            (false, [only]) if only == "latent" => "inverted picture",
            _ => "weights",
        },
        "tensors": names.len(),
        "values": names.iter().map(values).sum::<usize>(),
    }));
    if let [only] = &names[..] {
        facts.insert("shape".into(), json!(checkpoint.shape(only)));
    }
    if is_adapter {
        let source = Source::from(file);
        let told = file.file_name().unwrap_or_default().to_string_lossy();
        let path = match (told.contains("forward"), told.contains("reverse")) {
            (true, false) => forward_steps(&source)?,
            (false, true) => reverse_steps(&source)?,
            _ => None,
        };
        if let Some(steps) = path {
            facts.insert("path".into(), json!(steps.0));
        }
        let ranks = names
            .iter()
            .filter(|name| DOWN.iter().any(|factor| name.contains(factor)));
        let mut ranks: Vec<_> = ranks
            .filter_map(|name| checkpoint.shape(name)?.first().copied())
            .collect();
        ranks.sort_unstable();
        ranks.dedup();
        facts.insert("ranks".into(), json!(ranks));
    }
    let notes: BTreeMap<_, _> = checkpoint_metadata(&Source::from(file))?
        .into_iter()
        .collect();
    facts.extend(notes.into_iter().map(|(name, text)| (name, text.into())));
    Ok(facts)
}

fn model(what: &Path) -> Result<Facts> {
    let storage = Storage {
        dtype: DType::F32,
        device: candle_core::Device::Cpu,
    };
    let choice = ModelChoice::named(what.display().to_string());
    let model =
        Model::open(&choice, storage).with_context(|| format!("model {}", what.display()))?;
    let config = model.unet_config();
    let unet = model.unet_checkpoint()?;
    let guided = unet
        .names()
        .iter()
        .any(|name| name.ends_with("cond_proj.weight"));
    let path = |path: icd::Result<icd::schedule::Path>| match path {
        Ok(path) => path.to_string(),
        Err(_) => "none is told".into(),
    };
    Ok(object(json!({
        "kind": "model",
        "family": model.family().to_string(),
        "identity": model.identity()?,
        "side": config.side * model.latent_factor()?,
        "channels": config.levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "takes guidance": guided,
        "usual guidance": model.edit_guidance(),
        "usual tau": model.edit_tau().map_or("none is told".into(), |tau| tau.to_string()),
        "forward path": path(model.forward_path()),
        "reverse path": path(model.reverse_path()),
    })))
}

fn object(value: Value) -> Facts {
    match value {
        Value::Object(facts) => facts,
        other => [("value".to_owned(), other)].into_iter().collect(),
    }
}
