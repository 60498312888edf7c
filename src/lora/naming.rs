//! Naming conventions for the tensors of adapter files.

use super::Factor;
use clap::ValueEnum;

use crate::layout::Network;

/// The naming convention of an adapter file's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Naming {
    /// PEFT's, as in the published adapters.
    Peft,
    /// diffusers', with alpha in the metadata.
    Diffusers,
    /// kohya-ss', with an alpha for each layer.
    Kohya,
}

impl Naming {
    /// The tensor name of a factor of a module; `encoders` is the number of text
    /// encoders that the adapter modifies.
    pub(crate) fn tensor(
        self,
        (network, module): (Network, &str),
        factor: Factor,
        encoders: usize,
    ) -> String {
        let module = match self {
            Self::Peft => format!("{}.base_model.model.{module}", network.folder()),
            Self::Diffusers => format!("{}.{module}", network.folder()),
            Self::Kohya => format!("{}_{}", short(network, encoders), module.replace('.', "_")),
        };
        let factor = match (self, factor) {
            (_, Factor::Alpha) => "alpha",
            (Self::Kohya, Factor::Down) => "lora_down.weight",
            (Self::Kohya, Factor::Up) => "lora_up.weight",
            (_, Factor::Down) => "lora_A.weight",
            (_, Factor::Up) => "lora_B.weight",
            (_, other) => other.name(),
        };
        format!("{module}.{factor}")
    }
}

/// kohya's prefix for a network; text encoders are numbered if there are two.
fn short(network: Network, encoders: usize) -> &'static str {
    match (network, encoders) {
        (Network::Unet, _) => "lora_unet",
        (Network::Vae, _) => "lora_vae",
        (Network::TextEncoder(0), 0 | 1) => "lora_te",
        (Network::TextEncoder(0), _) => "lora_te1",
        (Network::TextEncoder(_), _) => "lora_te2",
    }
}
