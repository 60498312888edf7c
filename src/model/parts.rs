//! The files of each network of a located model.

use super::{
    config,
    files::{ADAPTER_FILES, ModelFiles},
    single,
    unet::{UnetConfig, embedding::TimeCondProj},
    weight_files::{self, ENCODER_FILES, NETWORK_FILES},
};
use crate::{
    error::Result,
    hub::{FileTree, Location},
    io::{Checkpoint, Source},
    layout::Network,
    lora::WeightedLora,
};

impl ModelFiles {
    /// A network's weight file.
    pub(super) fn file(&self, network: Network) -> Result<Source> {
        let (place, names) = self.place(network);
        weight_files::find(&place, names)
    }

    /// The location of a network's weights, and their possible file names in a folder.
    pub(super) fn place(&self, network: Network) -> (Location, &'static [&'static str]) {
        if let Some(single) = self.single_with(network) {
            return (single.clone(), &[]);
        }
        let folder = || Location::Folder(self.home.within(network.folder()));
        match network {
            Network::Unet => (self.unet.clone(), &NETWORK_FILES),
            Network::Vae => (folder(), &NETWORK_FILES),
            Network::TextEncoder(_) => (folder(), &ENCODER_FILES),
        }
    }

    /// The single-file checkpoint, if the network is taken from it: unless the user named
    /// another one, or it lacks the network, which is then the folder's.
    fn single_with(&self, network: Network) -> Option<&Location> {
        let single = self.single.as_ref()?;
        let lacks = || {
            single
                .file(&[])
                .and_then(|file| single::lacks(&file, network))
        };
        let is_named = network == Network::Unet && self.unet_is_named;
        // A file that cannot be read is an error of the one who opens it.
        (!is_named && !lacks().unwrap_or(false)).then_some(single)
    }

    /// Whether the user replaced the model's own UNet.
    pub(super) fn unet_is_replaced(&self) -> bool {
        self.unet_is_named || self.single_with(Network::Unet).is_some()
    }

    /// The networks that the single-file checkpoint lacks.
    pub(super) fn taken_from_folder(&self) -> Vec<Network> {
        let networks = self.all().into_iter();
        let elsewhere = |network: &Network| self.single_with(*network).is_none();
        let is_named = |network: &Network| *network == Network::Unet && self.unet_is_named;
        match self.single {
            Some(_) => networks.filter(|n| elsewhere(n) && !is_named(n)).collect(),
            None => Vec::new(),
        }
    }

    /// Opens a network's weights.
    pub(super) fn open(&self, network: Network) -> Result<Checkpoint> {
        single::open(self.file(network)?, network)
    }

    /// All networks.
    pub(super) fn all(&self) -> Vec<Network> {
        let encoders = self.family.text_encoders().len();
        let encoders = (0..encoders).map(Network::TextEncoder);
        let others = [Network::Unet, Network::Vae];
        others.into_iter().chain(encoders).collect()
    }

    /// The weights of the networks that style LoRAs may modify.
    pub(super) fn open_for_loras(&self) -> Result<Vec<(Network, Checkpoint)>> {
        let networks = self.all().into_iter();
        let networks = networks.filter(|network| *network != Network::Vae);
        networks
            .map(|network| Ok((network, self.open(network)?)))
            .collect()
    }

    /// The located style LoRAs.
    pub(super) fn loras(&self) -> Result<Vec<WeightedLora<Source>>> {
        let located = |lora: &WeightedLora<Location>| {
            Ok(WeightedLora {
                file: lora.file.file(&ADAPTER_FILES)?,
                weight: lora.weight,
            })
        };
        self.loras.iter().map(located).collect()
    }

    /// The UNet's configuration from its config.json, else the family's default. The
    /// config.json of another UNet says nothing of the guidance embedding of this one.
    pub(super) fn unet_config(&self) -> Result<UnetConfig> {
        let Some(file) = self.unet_config_file()? else {
            return Ok(self.family.unet_config());
        };
        let config = config::unet_config(&file)?;
        let is_its_own =
            self.place(Network::Unet).0 == self.unet && self.unet_config_beside()?.is_some();
        Ok(match is_its_own {
            true => config,
            false => UnetConfig {
                time_cond_proj: TimeCondProj::AsStored,
                ..config
            },
        })
    }

    /// The config.json next to the UNet's weights, else the one in the model folder.
    pub(super) fn unet_config_file(&self) -> Result<Option<Source>> {
        let beside = self.unet_config_beside()?;
        Ok(beside.or_else(|| self.home.file("unet/config.json").ok()))
    }

    /// The config.json in the folder of the model's UNet.
    fn unet_config_beside(&self) -> Result<Option<Source>> {
        match &self.unet {
            Location::Folder(home @ FileTree::Hub(..)) => Ok(Some(home.file("config.json")?)),
            other => Ok(other.folder().file("config.json").ok()),
        }
    }
}
