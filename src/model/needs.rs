//! What a model needs of the hub.

use std::collections::BTreeSet;

use super::{
    parts::{ADAPTER_FILES, ModelChoice, Parts, home},
    presets::Preset,
    single::Part,
};
use crate::{
    error::Result,
    hub::{Home, Need, Reference},
    nn::shard_names,
    source::Source,
};

/// The file that tells what a model folder holds.
const INDEX: &str = "model_index.json";

/// The files of the hub that a choice of model needs, as far as is known: some
/// of them name more, so whoever has fetched these asks again.
pub fn needs(choice: &ModelChoice) -> Result<Vec<Need>> {
    if Preset::named(&choice.model).is_none() {
        let home = home(&choice.model)?;
        if matches!(home, Home::Hub(..)) && !home.has(INDEX) {
            let wanted = [(INDEX, false), ("icd.toml", true)];
            let needs = wanted.map(|(name, optional)| need(&home, &[name], optional));
            return Ok(needs.into_iter().flatten().collect());
        }
    }
    let parts = Parts::find(choice)?;
    let mut needs = parts.networks()?;
    needs.extend(parts.settings());
    needs.extend(parts.adapters());
    Ok(needs)
}

impl Parts {
    /// The weights of the networks.
    fn networks(&self) -> Result<Vec<Need>> {
        let mut needs = Vec::new();
        for part in self.all() {
            let (place, names) = self.place(part);
            needs.extend(place.need(names, false));
            if let Ok(file) = place.file(names) {
                let shards = shards(&file)?;
                let home = beside(&place);
                needs.extend(
                    shards
                        .iter()
                        .filter_map(|shard| need(&home, &[shard], false)),
                );
            }
        }
        Ok(needs)
    }

    /// Configurations and tokenizers.
    fn settings(&self) -> Vec<Need> {
        let mut needs = vec![
            need(&self.home, &["scheduler/scheduler_config.json"], true),
            need(&self.home, &["vae/config.json"], false),
        ];
        for (tokenizer, encoder, _) in self.family.text_encoders() {
            let tokenizer = self.home.within(tokenizer);
            needs.push(need(&self.home.within(encoder), &["config.json"], true));
            needs.push(need(&tokenizer, &["vocab.json", "tokenizer.json"], false));
            needs.push(need(&tokenizer, &["merges.txt"], true));
            needs.push(need(&tokenizer, &["tokenizer_config.json"], true));
        }
        if matches!(self.place(Part::Unet).0, Reference::Folder(Home::Hub(..))) {
            needs.push(self.unet.need(&["config.json"], false));
        }
        needs.into_iter().flatten().collect()
    }

    fn adapters(&self) -> Vec<Need> {
        let walkers = [&self.forward, &self.reverse];
        let adapters = walkers
            .into_iter()
            .filter_map(|walker| walker.adapter.as_ref());
        let styles = self.styles.iter().map(|(style, _)| style);
        let all = adapters.chain(styles);
        all.filter_map(|adapter| adapter.need(&ADAPTER_FILES, false))
            .collect()
    }
}

/// The need of a file in a folder, where that is on the hub.
fn need(home: &Home, names: &[&str], optional: bool) -> Option<Need> {
    Reference::Folder(home.clone()).need(names, optional)
}

/// The folder of a network's file.
fn beside(place: &Reference) -> Home {
    match place {
        Reference::File(home, name) => match name.rsplit_once('/') {
            Some((folder, _)) => home.within(folder),
            None => home.clone(),
        },
        Reference::Folder(home) => home.clone(),
    }
}

/// The files that a checkpoint names which is an index; none for others.
fn shards(file: &Source) -> Result<BTreeSet<String>> {
    let ending = file.name().extension();
    match ending.is_some_and(|ending| ending == "json") {
        true => shard_names(file.name()),
        false => Ok(BTreeSet::new()),
    }
}
