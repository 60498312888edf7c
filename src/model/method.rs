//! The names of methods, which a model's `icd.toml` may state.

use clap::ValueEnum;
use serde::Deserialize;

/// How pictures are carried into noise and back, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// By consistency models, in three or four steps.
    #[default]
    Icd,
    /// DDIM inversion: the base model, in many steps.
    Ddim,
    /// Negative-prompt inversion: DDIM, and guidance away from the source prompt.
    Npi,
    /// Null-text inversion: DDIM, and an embedding optimised for each step.
    Nti,
}

impl MethodName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Icd, Self::Ddim, Self::Npi, Self::Nti];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Icd => "icd",
            Self::Ddim => "ddim",
            Self::Npi => "npi",
            Self::Nti => "nti",
        }
    }

    /// The one that is written so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }
}
