//! The Hugging Face Hub files that a model requires.

use super::{
    files::{ADAPTER_FILES, ModelChoice, ModelFiles, home},
    presets::Preset,
};
use crate::{
    error::Result,
    hub::{FileTree, Location, RequiredFile},
    io::shard_names,
    layout::Network,
    lora,
};

/// The index of a model folder.
const INDEX: &str = "model_index.json";

/// The Hub files that a model requires, as far as is known: some files list others,
/// so call again after fetching them.
pub fn required_files(choice: &ModelChoice) -> Result<Vec<RequiredFile>> {
    if Preset::named(&choice.model).is_none() {
        let home = home(&choice.model, &choice.cache())?;
        if matches!(home, FileTree::Hub(..)) && !home.has(INDEX) {
            let wanted = [(INDEX, false), ("icd.toml", true)];
            let needs = wanted.map(|(name, optional)| need(&home, &[name], optional));
            return Ok(needs.into_iter().flatten().collect());
        }
    }
    let parts = ModelFiles::find(choice)?;
    let mut needs = parts.networks()?;
    needs.extend(parts.settings());
    needs.extend(parts.adapters());
    Ok(needs)
}

impl ModelFiles {
    /// The networks' weights.
    fn networks(&self) -> Result<Vec<RequiredFile>> {
        let mut needs = Vec::new();
        for network in self.all() {
            let (place, names) = self.place(network);
            needs.extend(place.need(names, false));
            if let Ok(file) = place.file(names) {
                let (folder, shards) = (place.folder(), shard_names(file.name())?);
                let shards = shards.iter();
                needs.extend(shards.filter_map(|shard| need(&folder, &[shard], false)));
            }
        }
        Ok(needs)
    }

    /// Configurations and tokenizers.
    fn settings(&self) -> Vec<RequiredFile> {
        let mut needs = vec![
            need(&self.home, &["scheduler/scheduler_config.json"], true),
            need(&self.home, &["vae/config.json"], false),
        ];
        for encoder in self.family.text_encoders() {
            let tokenizer = self.home.within(encoder.tokenizer);
            let encoder = encoder.folder;
            needs.push(need(&self.home.within(encoder), &["config.json"], true));
            needs.push(need(&tokenizer, &["vocab.json", "tokenizer.json"], false));
            needs.push(need(&tokenizer, &["merges.txt"], true));
            needs.push(need(&tokenizer, &["tokenizer_config.json"], true));
        }
        if matches!(
            self.place(Network::Unet).0,
            Location::Folder(FileTree::Hub(..))
        ) {
            needs.push(self.unet.need(&["config.json"], false));
        }
        needs.into_iter().flatten().collect()
    }

    fn adapters(&self) -> Vec<RequiredFile> {
        let directions = [&self.forward, &self.reverse];
        let adapters = directions
            .into_iter()
            .filter_map(|direction| direction.adapter.as_ref());
        let loras = self.loras.iter().map(|lora| &lora.file);
        let needs = |adapter: &Location| {
            let beside = Location::Folder(adapter.folder()).need(&[lora::CONFIG], true);
            [adapter.need(&ADAPTER_FILES, false), beside]
        };
        adapters.chain(loras).flat_map(needs).flatten().collect()
    }
}

/// The requirement of a file in a folder, if that is on the Hub.
fn need(home: &FileTree, names: &[&str], optional: bool) -> Option<RequiredFile> {
    Location::Folder(home.clone()).need(names, optional)
}
