//! The loading of networks, with adapters merged in or beside them.

use candle_core::DType;

use super::{
    Model, tensors,
    text::{TextEncoders, lora_deltas},
    unet::Unet,
    vae::Vae,
};
use crate::{
    error::{Error, Result},
    io::Checkpoint,
    layout::Network,
    lora::AdapterFile,
    nn::{GradientSink, LoraDeltas, Placement, SharedLayers, Taken, Weights, sum_of},
};

/// The adapters of a UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// None: the base model.
    None,
    /// The style LoRAs alone.
    Loras,
    /// The forward consistency adapter: picture to noise, for inversions.
    Forward,
    /// The reverse consistency adapter: noise to picture, for reconstructions.
    Reverse,
    /// The reverse one and the style LoRAs, for edits and generations.
    ReverseWithLoras,
}

impl Model {
    /// The text encoders with their tokenizers, without style LoRAs.
    pub fn text(&self) -> Result<TextEncoders> {
        TextEncoders::open(self.tokenizers()?, &self.parts, (&self.placement, &[]))
    }

    /// The text encoders for edits and generations, with the style LoRAs merged in.
    pub fn text_with_loras(&self) -> Result<TextEncoders> {
        let loras = self.parts.loras()?;
        TextEncoders::open(self.tokenizers()?, &self.parts, (&self.placement, &loras))
    }

    /// The type of the autoencoder's weights.
    pub fn vae_dtype(&self) -> DType {
        self.family().vae_dtype(&self.placement)
    }

    /// The autoencoder.
    pub fn vae(&self) -> Result<Vae> {
        let checkpoint = self.parts.open(Network::Vae)?;
        let placement = Placement {
            dtype: self.vae_dtype(),
            ..self.placement.clone()
        };
        let taken = Taken::default();
        let weights = Weights::new(&checkpoint, &placement).noting(&taken);
        let vae = Vae::new(&weights, self.vae_config()?)?;
        tensors::check_taken(&checkpoint, &taken, Network::Vae)?;
        Ok(vae.with_tiling(self.tiling))
    }

    /// The UNet with these adapters merged in.
    pub fn unet(&self, adapters: Adapters) -> Result<Unet> {
        self.changed_unet(adapters, None)
    }

    /// As [`unet`](Self::unet), on base layers shared with other UNets, adapters unmerged.
    pub fn unet_on(&self, layers: &SharedLayers, adapters: Adapters) -> Result<Unet> {
        self.changed_unet(adapters, Some(layers))
    }

    /// The UNet without adapters, in f32, for gradients of its inputs: the activations of its
    /// blocks are computed anew in the backward pass, which saves memory.
    pub fn differentiable_unet(&self) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        tensors::check_unet(&checkpoint, &self.unet_config)?;
        let placement = self.placement.in_f32();
        let weights = Weights::new(&checkpoint, &placement);
        let unet = Unet::new(&weights, self.unet_config.clone())?;
        Ok(unet.with_gradient_checkpointing(&GradientSink::default()))
    }

    /// The UNet changed by adapters. What is wrong with the UNet itself is told first: the
    /// adapters would not fit it either.
    fn changed_unet(&self, adapters: Adapters, layers: Option<&SharedLayers>) -> Result<Unet> {
        let checkpoint = self.unet_checkpoint()?;
        tensors::check_unet(&checkpoint, &self.unet_config)?;
        let taken = Taken::default();
        let weights = Weights::new(&checkpoint, &self.placement).noting(&taken);
        let build = |weights: &Weights| Unet::new(weights, self.unet_config.clone());
        let deltas = self.deltas(&checkpoint, adapters);
        let deltas = deltas.map_err(|error| match build(&weights) {
            Err(of_unet) => of_unet,
            Ok(_) => self.with_unet_named(error),
        })?;
        let weights = match layers {
            Some(layers) => weights.with_shared_layers(layers).with_lora(&deltas),
            None => weights.with_merged_lora(&deltas),
        };
        let unet = build(&weights)?;
        tensors::check_taken(&checkpoint, &taken, Network::Unet)?;
        Ok(unet)
    }

    /// An adapter that does not fit a UNet that replaces the model's may be right.
    fn with_unet_named(&self, error: Error) -> Error {
        match (error, self.parts.unet_is_replaced()) {
            (Error::Adapter { file, reason }, true) => {
                let unet = self.unet_file.name().display();
                Error::adapter(file, format!("{reason}; the UNet is {unet}"))
            }
            (error, _) => error,
        }
    }

    /// The sum of the adapters' weight deltas for the UNet.
    fn deltas(&self, checkpoint: &Checkpoint, adapters: Adapters) -> Result<LoraDeltas> {
        let parts = &self.parts;
        let (adapter, loras) = match adapters {
            Adapters::None => return Ok(LoraDeltas::new()),
            Adapters::Loras => return lora_deltas(parts, &parts.loras()?, Network::Unet),
            Adapters::Forward => (&parts.forward, Vec::new()),
            Adapters::Reverse => (&parts.reverse, Vec::new()),
            Adapters::ReverseWithLoras => (&parts.reverse, parts.loras()?),
        };
        let mut layers = vec![lora_deltas(parts, &loras, Network::Unet)?];
        if let Some(file) = adapter.adapter_file()? {
            let file = AdapterFile::open(&file, parts.adapter_alpha)?;
            let networks = [(Network::Unet, checkpoint)];
            let rounding = self.family().adapter_rounding();
            let placed = file.placed(&networks)?;
            layers.push(placed.deltas(Network::Unet, 1.0, rounding)?);
        }
        Ok(sum_of(layers)?)
    }

    /// Opens the UNet's weight file.
    pub fn unet_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Network::Unet)
    }

    /// Opens the autoencoder's weight file.
    pub(crate) fn vae_checkpoint(&self) -> Result<Checkpoint> {
        self.parts.open(Network::Vae)
    }
}
