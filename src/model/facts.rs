//! What can be told of a model without loading its networks.

use super::{
    Family, Model,
    config::{self, ConfigKind},
    text::{self, notes_of_loras},
};
use crate::{
    error::{Error, Result},
    io::Source,
    layout::Network,
    lora::AdapterFile,
};

impl Model {
    /// What a user should know of the model's files: fields that are passed over, and
    /// networks that a single-file checkpoint lacks.
    pub fn notes(&self) -> Result<Vec<String>> {
        let home = &self.parts.home;
        let mut notes = Vec::new();
        for network in self.parts.taken_from_folder() {
            notes.push(format!(
                "the checkpoint holds no {network}: that of {} is used",
                home.path().display()
            ));
        }
        let mut add = |file: Option<Source>, kind| -> Result<()> {
            if let Some(file) = file {
                notes.extend(config::unknown_fields(&file, kind)?);
            }
            Ok(())
        };
        let scheduler = home.file("scheduler/scheduler_config.json").ok();
        add(scheduler, ConfigKind::Scheduler)?;
        add(home.file("vae/config.json").ok(), ConfigKind::Vae)?;
        add(self.parts.unet_config_file()?, ConfigKind::Unet)?;
        for file in text::encoder_configs(home, self.family()) {
            add(file, ConfigKind::Text)?;
        }
        Ok(notes)
    }

    /// The bytes of each network's weights in memory.
    pub fn weight_bytes(&self) -> Result<Vec<(Network, usize)>> {
        let bytes = |part| {
            let dtype = match part {
                Network::Vae => self.vae_dtype(),
                _ => self.placement.dtype,
            };
            Ok((
                part,
                self.parts.open(part)?.values() * dtype.size_in_bytes(),
            ))
        };
        self.parts.all().into_iter().map(bytes).collect()
    }

    /// Number of parameters of each network, by name.
    pub fn parameter_counts(&self) -> Result<Vec<(String, usize)>> {
        let parts = self.parts.all().into_iter();
        parts
            .map(|part| Ok((part.to_string(), self.parts.open(part)?.values())))
            .collect()
    }

    /// What a user should know of the adapters: scales that their files do not state, and
    /// tensors that are left out. A style LoRA that changes nothing is an error; the errors
    /// of the two other adapters come when they are used.
    pub fn notes_of_adapters(&self) -> Result<Vec<String>> {
        let mut notes = notes_of_loras(&self.parts)?;
        for direction in [&self.parts.forward, &self.parts.reverse] {
            // Of the bundled ones there is nothing to know, and they are quickly used.
            if let Ok(Some(file)) = direction.adapter_file()
                && file.in_program().is_none()
            {
                notes.extend(self.notes_of(&file).unwrap_or_default());
            }
        }
        Ok(notes)
    }

    fn notes_of(&self, adapter: &Source) -> Result<Vec<String>> {
        let unet = self.unet_checkpoint()?;
        let file = AdapterFile::open(adapter, self.parts.adapter_alpha)?;
        file.placed(&[(Network::Unet, &unet)])?.notes()
    }

    /// The bytes of a decoder's activations at once, where a channel at full resolution takes
    /// `channel` bytes: five feature maps, or little more than one in strips.
    pub(crate) fn decoder_bytes(&self, channel: usize) -> Result<usize> {
        let [map, largest] = self.vae_config()?.finest().map(|count| count * channel);
        Ok(match self.tiling.cuts([map, largest]) {
            true => map + map / 3,
            false => 5 * map,
        })
    }

    /// The UNet's config.json.
    pub fn unet_settings(&self) -> Result<serde_json::Value> {
        match self.parts.unet_config_file()? {
            Some(file) => config::read_json(&file),
            None => Err(Error::config(
                &self.unet_file,
                "it has no config.json beside it",
            )),
        }
    }

    /// Whether no prompt stands for zeros and not for the states of the empty one: of SDXL,
    /// unless its index says otherwise (`force_zeros_for_empty_prompt`).
    pub fn zeroes_empty_prompt(&self) -> Result<bool> {
        if self.family() == Family::Sd15 {
            return Ok(false);
        }
        let Ok(index) = self.parts.home.file("model_index.json") else {
            return Ok(true);
        };
        let index: serde_json::Value = config::read_json(&index)?;
        let stated = index.get("force_zeros_for_empty_prompt");
        Ok(stated.and_then(serde_json::Value::as_bool).unwrap_or(true))
    }

    /// Whether style LoRAs are configured.
    pub fn has_loras(&self) -> bool {
        !self.parts.loras.is_empty()
    }
}
