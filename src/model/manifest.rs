//! A model folder's manifest: `icd.toml`.

use serde::{Deserialize, Deserializer, de};

use super::{DefaultBlend, MethodName, TrainedOn};
use crate::{
    error::{Error, Result},
    guidance::{Guidance, Tau},
    hub::FileTree,
    lora::finite_alpha,
    schedule::{DdimSteps, Timesteps},
};

/// The contents of `icd.toml`; its paths are relative to the folder.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) unet: Option<String>,
    pub(super) forward_adapter: Option<String>,
    pub(super) reverse_adapter: Option<String>,
    #[serde(alias = "forward_path", deserialize_with = "forward")]
    pub(super) forward_timesteps: Option<Timesteps>,
    #[serde(alias = "reverse_path", deserialize_with = "reverse")]
    pub(super) reverse_timesteps: Option<Timesteps>,
    #[serde(deserialize_with = "alpha")]
    pub(super) adapter_alpha: Option<f64>,
    #[serde(deserialize_with = "guidance")]
    pub(super) guidance: Option<f64>,
    #[serde(deserialize_with = "tau")]
    pub(super) tau: Option<Tau>,
    #[serde(deserialize_with = "blend")]
    pub(super) blend: DefaultBlend,
    pub(super) method: MethodName,
    #[serde(deserialize_with = "steps")]
    pub(super) steps: DdimSteps,
    pub(super) trained_on: TrainedOn,
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

fn forward<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Timesteps>, D::Error> {
    checked(file, |list: Vec<u16>| Timesteps::forward(&list))
}

fn reverse<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Timesteps>, D::Error> {
    checked(file, |list: Vec<u16>| Timesteps::reverse(&list))
}

fn alpha<'de, D: Deserializer<'de>>(file: D) -> Result<Option<f64>, D::Error> {
    checked(file, finite_alpha)
}

fn guidance<'de, D: Deserializer<'de>>(file: D) -> Result<Option<f64>, D::Error> {
    checked(file, |w| Ok(Guidance::new(w, Tau::CONSTANT)?.strength()))
}

fn tau<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Tau>, D::Error> {
    checked(file, Tau::step)
}

fn blend<'de, D: Deserializer<'de>>(file: D) -> Result<DefaultBlend, D::Error> {
    let text = String::deserialize(file)?;
    text.parse()
        .map_err(|error: Error| de::Error::custom(error))
}

fn steps<'de, D: Deserializer<'de>>(file: D) -> Result<DdimSteps, D::Error> {
    DdimSteps::new(usize::deserialize(file)?).map_err(de::Error::custom)
}

/// The value that `check` makes of the file's; its error names the line of the file.
fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de>, U>(
    file: D,
    check: impl Fn(T) -> Result<U>,
) -> Result<Option<U>, D::Error> {
    let value = check(T::deserialize(file)?);
    value.map(Some).map_err(de::Error::custom)
}
