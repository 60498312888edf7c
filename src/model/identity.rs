//! What a model's results depend on, as hashes of whole files.

use sha2::{Digest as _, Sha256};

use super::{
    Model, once,
    text::{encoder_configs, tokenizer_files},
};
use crate::{
    error::Result,
    io::{Source, shard_names},
    kernel::{Arithmetic, instruction_set},
    layout::Network,
    lora,
    nn::Placement,
};

/// Digits of an identity.
const DIGITS: usize = 16;

impl Model {
    /// A short identifier of the model: of its networks, their configurations, the noise
    /// schedule and the tokenizers, by content. Its adapters are no part of it.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.described()?);
        let digest = format!("{:x}", hash.finalize());
        Ok(format!("{} {}", self.family(), &digest[..DIGITS]))
    }

    /// Everything an inversion depends on besides its picture, prompt, seed and timesteps:
    /// the model, the forward adapter, dtypes, device, and the instruction set and the
    /// arithmetic of the CPU kernels.
    pub fn inversion_key(&self) -> Result<String> {
        let mut adapter = Vec::new();
        if let Some(file) = self.parts.forward.adapter_file()? {
            adapter.push(self.digests.of(&file)?);
            if let Some(config) = lora::config_beside(&file) {
                adapter.push(self.digests.of(&config)?);
            }
        }
        let Placement {
            dtype,
            device,
            backend,
        } = &self.placement;
        let products = match self.placement.arithmetic() {
            Arithmetic::F32 => "",
            rounded @ Arithmetic::Bf16(_) => rounded.name(),
        };
        Ok(format!(
            "{} {adapter:?} {:?} {:?} {dtype:?} {backend:?} {:?} {}{products}",
            self.described()?,
            self.parts.adapter_alpha,
            self.tiling,
            device.location(),
            instruction_set()
        ))
    }

    /// What the latents of pictures depend on before any noise: the autoencoder.
    pub fn vae_identity(&self) -> Result<String> {
        let config = self.parts.home.file("vae/config.json")?;
        let files = self.weights_of(Network::Vae)?;
        let files = files.iter().chain([&config]);
        let digests: Vec<_> = files
            .map(|file| self.digests.of(file))
            .collect::<Result<_>>()?;
        Ok(format!("{:x}", Sha256::digest(digests.concat())))
    }

    /// The family and the hash of every file, by what it is for. A file that is missing, and
    /// so has a default, is told from any other.
    fn described(&self) -> Result<String> {
        once(&self.known.described, || self.files_described())
    }

    fn files_described(&self) -> Result<String> {
        let mut parts = vec![self.family().to_string()];
        for network in self.parts.all() {
            for file in self.weights_of(network)? {
                parts.push(format!("{network}={}", self.digests.of(&file)?));
            }
        }
        let home = &self.parts.home;
        let mut settings = vec![
            (
                "scheduler",
                home.file("scheduler/scheduler_config.json").ok(),
            ),
            ("vae", home.file("vae/config.json").ok()),
            ("unet", self.parts.unet_config_file()?),
        ];
        let encoders = encoder_configs(home, self.family()).into_iter();
        settings.extend(encoders.map(|file| ("text", file)));
        for (part, file) in settings {
            let digest = file.map(|file| self.digests.of(&file)).transpose()?;
            parts.push(format!("{part}={}", digest.unwrap_or_default()));
        }
        for file in tokenizer_files(home, self.family()) {
            let name = file.name().file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            parts.push(format!("{name}={}", self.digests.of(&file)?));
        }
        Ok(parts.join("\n"))
    }

    /// The file of a network's weights, and its shards.
    fn weights_of(&self, network: Network) -> Result<Vec<Source>> {
        let file = self.parts.file(network)?;
        let shards = shard_names(file.name())?.into_iter();
        let shards: Vec<Source> = shards
            .map(|shard| file.name().with_file_name(shard).into())
            .collect();
        Ok([vec![file], shards].concat())
    }
}
