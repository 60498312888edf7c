//! A model folder's own word on its parts: `icd.toml`.

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    hub::Home,
};

/// What `icd.toml` may say; its paths start at the folder.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    pub(super) unet: Option<String>,
    pub(super) forward_adapter: Option<String>,
    pub(super) reverse_adapter: Option<String>,
    pub(super) forward_path: Option<Vec<u16>>,
    pub(super) reverse_path: Option<Vec<u16>>,
    pub(super) adapter_alpha: Option<f64>,
    pub(super) guidance: Option<f64>,
    pub(super) tau: Option<f64>,
}

impl Recipe {
    pub(super) fn read(home: &Home) -> Result<Self> {
        if !home.has("icd.toml") {
            return Ok(Self::default());
        }
        let file = home.file("icd.toml")?;
        toml::from_str(&file.text()?).map_err(|error| Error::config(&file, error))
    }
}
