//! How tensors of adapter files are named.

use super::names::{Factor, Network};

/// Whose names the tensors of an adapter file have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// PEFT's, as in the released adapters.
    Peft,
    /// Those of diffusers.
    Diffusers,
    /// Those of kohya's scripts.
    Kohya,
}

impl Naming {
    /// The name of a factor of a module of a network, where so many text
    /// encoders are changed.
    pub(crate) fn tensor(
        self,
        (network, module): (Network, &str),
        factor: Factor,
        encoders: usize,
    ) -> String {
        let module = match self {
            Self::Peft => format!("{}.base_model.model.{module}", prefix(network)),
            Self::Diffusers => format!("{}.{module}", prefix(network)),
            Self::Kohya => format!("{}_{}", short(network, encoders), module.replace('.', "_")),
        };
        let factor = match (self, factor) {
            (_, Factor::Alpha) => "alpha",
            (Self::Kohya, Factor::Down) => "lora_down.weight",
            (Self::Kohya, Factor::Up) => "lora_up.weight",
            (_, Factor::Down) => "lora_A.weight",
            (_, Factor::Up) => "lora_B.weight",
        };
        format!("{module}.{factor}")
    }
}

/// What diffusers calls a network.
pub(crate) fn prefix(network: Network) -> &'static str {
    match network {
        Network::Unet => "unet",
        Network::Text(0) => "text_encoder",
        Network::Text(_) => "text_encoder_2",
    }
}

/// What kohya's scripts call it; they number text encoders where there are two.
fn short(network: Network, encoders: usize) -> &'static str {
    match (network, encoders) {
        (Network::Unet, _) => "lora_unet",
        (Network::Text(0), 0 | 1) => "lora_te",
        (Network::Text(0), _) => "lora_te1",
        (Network::Text(_), _) => "lora_te2",
    }
}
