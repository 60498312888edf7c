//! `icd inspect`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use candle_core::DType;
use clap::Args;
use icd::{
    error::abridged,
    hub::Location,
    io::{Checkpoint, KnownFile, Role, Source, safetensors_metadata},
    lora::{Summary, timesteps},
    model::{Model, ModelChoice, PRESETS},
    nn::Placement,
    picture::Picture,
    pipeline::Latents,
};
use serde_json::{Map, Value, json};

use crate::cli::{
    args::model::digests,
    settings::Settings,
    ui::lines::{print_fact, print_line},
};

/// Describes a picture and its settings, a file of latents, weights, an adapter or a
/// model.
///
/// Of what a file states about itself, texts are cut after 4096 bytes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// A picture, a file of weights (safetensors or PyTorch), a model folder, or a model's name.
    #[arg(value_name = "FILE|DIR|NAME")]
    what: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  icd inspect bird.edited.png
  icd inspect tabletop --json";

/// The key of the settings alone: those of the same names as facts of a file are with these.
pub(crate) const SETTINGS: &str = "settings";

/// Facts by name.
type Facts = Map<String, Value>;

impl InspectArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let mut facts = facts(&self.what)?;
        facts.values_mut().for_each(cut);
        if self.json {
            let plain = |(name, value): (String, Value)| (name.replace(' ', "_"), value);
            let mut facts: Facts = facts.into_iter().map(plain).collect();
            if let Ok(settings) = Settings::read(&self.what) {
                let mut settings = settings.facts();
                settings.values_mut().for_each(cut);
                facts.insert(SETTINGS.into(), settings.into());
            }
            return print_line(&Value::Object(facts).to_string());
        }
        let mut facts = facts.iter();
        facts.try_for_each(|(name, value)| print_fact(name, value))
    }
}

fn facts(what: &Path) -> Result<Facts> {
    match what {
        file if file.is_file() => facts_of_file(file),
        _ if what.is_dir() || is_model_name(what) => model(what),
        _ => bail!(
            "{}: there is no such file or folder, nor a model of this name ({} or hub:owner/name)",
            what.display(),
            PRESETS.join(", ")
        ),
    }
}

/// The facts of a file by its content; what cannot be told from that is by its name.
fn facts_of_file(file: &Path) -> Result<Facts> {
    let ending = file.extension().unwrap_or_default().to_ascii_lowercase();
    let by_name = match WEIGHTS.iter().any(|known| ending == *known) {
        true => Role::Weights,
        false => Role::Picture,
    };
    let kind = KnownFile::at(file);
    match kind.map_or(by_name, |kind| kind.role) {
        Role::Weights => weights(file),
        Role::Picture => picture(file),
        Role::Other => bail!(
            "{}: {}",
            file.display(),
            kind.map(KnownFile::told).unwrap_or_default()
        ),
    }
}

/// Endings of weights, and of the indices of their shards.
const WEIGHTS: [&str; 6] = ["safetensors", "pt", "pth", "bin", "ckpt", "json"];

fn is_model_name(what: &Path) -> bool {
    let named = |name: &str| PRESETS.contains(&name) || Location::on_hub(name).is_some();
    what.to_str().is_some_and(named)
}

fn picture(file: &Path) -> Result<Facts> {
    let size = Picture::read(file)?.size();
    let mut facts = object(json!({ "kind": "picture", "size": size.to_string() }));
    if let Ok(settings) = Settings::read(file) {
        add_stated(&mut facts, settings.facts());
    }
    Ok(facts)
}

fn weights(file: &Path) -> Result<Facts> {
    let checkpoint = Checkpoint::open(file)?;
    let names = checkpoint.names();
    let values =
        |name: &String| -> usize { checkpoint.shape(name).unwrap_or_default().iter().product() };
    let adapter = Summary::of(&checkpoint);
    let mut facts = object(json!({
        "kind": match &adapter {
            Some(_) => "adapter",
            None if Latents::are_all(&names) => "inverted picture",
            _ => "weights",
        },
        "tensors": names.len(),
        "values": names.iter().map(values).sum::<usize>(),
    }));
    let main = match &names[..] {
        [only] => Some(&only[..]),
        _ => Latents::are_all(&names).then_some("latent"),
    };
    if let Some(main) = main {
        facts.insert("shape".into(), json!(checkpoint.shape(main)));
    }
    if let Some(Summary { kinds, ranks }) = adapter {
        facts.insert("adapter".into(), json!(kinds.join(", ")));
        let source = Source::from(file);
        if let Some(list) = timesteps(&source)? {
            let list: Vec<_> = list.as_slice().iter().map(|t| t.0).collect();
            facts.insert("timesteps".into(), json!(list));
        }
        facts.insert("ranks".into(), json!(ranks));
    }
    let notes: BTreeMap<_, _> = safetensors_metadata(&Source::from(file))?
        .into_iter()
        .collect();
    add_stated(
        &mut facts,
        notes.into_iter().map(|(name, text)| (name, text.into())),
    );
    Ok(facts)
}

/// Most facts that are taken from the text of a file.
const MAX_STATED: usize = 200;
/// Most bytes of a fact, and of its name.
const MAX_TEXT: usize = 4096;

/// Adds what a file states about itself: at most [`MAX_STATED`] facts, and none in place of
/// one that was found out.
fn add_stated(facts: &mut Facts, stated: impl IntoIterator<Item = (String, Value)>) {
    let mut stated = stated.into_iter();
    for (name, value) in stated.by_ref().take(MAX_STATED) {
        let name = abridged(&name, MAX_TEXT).into_owned();
        facts.entry(name).or_insert(value);
    }
    let left_out = stated.count();
    if left_out > 0 {
        facts.insert("…".into(), format!("({left_out} more entries)").into());
    }
}

/// A fact of at most [`MAX_TEXT`] bytes; a longer list becomes a text.
fn cut(fact: &mut Value) {
    let text = match &*fact {
        Value::String(text) => abridged(text, MAX_TEXT).into_owned(),
        other => match abridged(&other.to_string(), MAX_TEXT) {
            Cow::Borrowed(_) => return,
            Cow::Owned(text) => text,
        },
    };
    *fact = text.into();
}

fn model(what: &Path) -> Result<Facts> {
    let placement = Placement::new(DType::F32, candle_core::Device::Cpu);
    let choice = ModelChoice {
        digests: digests(),
        ..ModelChoice::named(what.display().to_string())
    };
    let model = Model::open(&choice, placement)?;
    let config = model.unet_config();
    let unet = model.unet_checkpoint()?;
    let guided = unet
        .names()
        .iter()
        .any(|name| name.ends_with("cond_proj.weight"));
    let path = |path: icd::Result<icd::schedule::Timesteps>| match path {
        Ok(path) => path.to_string(),
        Err(_) => "unknown".into(),
    };
    Ok(object(json!({
        "kind": "model",
        "family": match model.has_size_of_family() {
            true => model.family().to_string(),
            false => format!("{} in structure, of other sizes", model.family()),
        },
        "identity": model.identity()?,
        "side": model.side()?,
        "channels": config.levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "guidance as an input": guided,
        "default guidance": model.edit_guidance(),
        "default blend": model.stated_blend(model.method().0).to_string(),
        "default tau": model.edit_tau().map_or("unknown".into(), |tau| tau.to_string()),
        "forward timesteps": path(model.forward_timesteps()),
        "reverse timesteps": path(model.reverse_timesteps()),
    })))
}

fn object(value: Value) -> Facts {
    match value {
        Value::Object(facts) => facts,
        other => [("value".to_owned(), other)].into_iter().collect(),
    }
}
