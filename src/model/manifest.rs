//! A model folder's manifest: `icd.toml`.

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    hub::FileTree,
};

/// The contents of `icd.toml`; its paths are relative to the folder.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) unet: Option<String>,
    pub(super) forward_adapter: Option<String>,
    pub(super) reverse_adapter: Option<String>,
    #[serde(alias = "forward_path")]
    pub(super) forward_timesteps: Option<Vec<u16>>,
    #[serde(alias = "reverse_path")]
    pub(super) reverse_timesteps: Option<Vec<u16>>,
    pub(super) adapter_alpha: Option<f64>,
    pub(super) guidance: Option<f64>,
    pub(super) tau: Option<f64>,
}

impl Manifest {
    pub(super) fn read(home: &FileTree) -> Result<Self> {
        if !home.has("icd.toml") {
            return Ok(Self::default());
        }
        let file = home.file("icd.toml")?;
        toml::from_str(&file.text()?).map_err(|error| Error::config(&file, error))
    }
}
