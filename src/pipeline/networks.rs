//! The networks of a model that are in memory.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::DType;
use clap::ValueEnum;

use super::Method;
use crate::{
    error::Result,
    model::{Adapters, Model, TextEncoders, unet::Unet, vae::Vae},
    nn::SharedLayers,
};

/// How long networks stay in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Residency {
    /// Load each network when needed and free it afterwards: least memory.
    #[default]
    #[value(name = "one")]
    OneAtATime,
    /// Keep each network after its first use.
    All,
    /// Like all, with one UNet for both directions, its adapters applied at each step.
    Shared,
}

/// A network that may be in memory.
type Slot<T> = Mutex<Option<Arc<T>>>;

/// A model's networks, each loaded on demand.
#[derive(Debug)]
pub(super) struct Networks {
    model: Model,
    residency: Residency,
    vae: Slot<Vae>,
    text: Slot<TextEncoders>,
    text_with_loras: Slot<TextEncoders>,
    forward: Slot<Unet>,
    reverse: Slot<Unet>,
    reverse_with_loras: Slot<Unet>,
    base: Slot<Unet>,
    base_with_loras: Slot<Unet>,
    layers: SharedLayers,
}

impl Networks {
    pub(super) fn new(model: Model, residency: Residency) -> Self {
        Self {
            model,
            residency,
            vae: Slot::default(),
            text: Slot::default(),
            text_with_loras: Slot::default(),
            forward: Slot::default(),
            reverse: Slot::default(),
            reverse_with_loras: Slot::default(),
            base: Slot::default(),
            base_with_loras: Slot::default(),
            layers: SharedLayers::default(),
        }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn residency(&self) -> Residency {
        self.residency
    }

    pub(super) fn vae(&self) -> Result<Arc<Vae>> {
        self.held(&self.vae, || self.model.vae())
    }

    /// The text encoders without style LoRAs, for inversions.
    pub(super) fn text(&self) -> Result<Arc<TextEncoders>> {
        self.held(&self.text, || self.model.text())
    }

    /// The text encoders of edits and generations.
    pub(super) fn text_with_loras(&self) -> Result<Arc<TextEncoders>> {
        match self.model.has_loras() {
            true => self.held(&self.text_with_loras, || self.model.text_with_loras()),
            false => self.text(),
        }
    }

    /// The UNet of inversions by a method.
    pub(super) fn forward_unet(&self, method: &Method) -> Result<Arc<Unet>> {
        match method {
            Method::Icd => self.unet(&self.forward, Adapters::Forward),
            Method::Ddim(_) | Method::Npi(_) | Method::Nti(..) => self.base_unet(),
        }
    }

    /// The UNet of reconstructions.
    pub(super) fn reverse_unet(&self, method: &Method) -> Result<Arc<Unet>> {
        match method {
            Method::Icd => self.unet(&self.reverse, Adapters::Reverse),
            Method::Ddim(_) | Method::Npi(_) | Method::Nti(..) => self.base_unet(),
        }
    }

    /// The UNet of edits and generations.
    pub(super) fn reverse_unet_with_loras(&self, method: &Method) -> Result<Arc<Unet>> {
        match (self.model.has_loras(), method) {
            (false, _) => self.reverse_unet(method),
            (true, Method::Icd) => self.unet(&self.reverse_with_loras, Adapters::ReverseWithLoras),
            (true, _) => self.unet(&self.base_with_loras, Adapters::Loras),
        }
    }

    fn base_unet(&self) -> Result<Arc<Unet>> {
        self.unet(&self.base, Adapters::None)
    }

    /// The UNet without adapters, for gradients: in f32, which half precision is too coarse for.
    /// Where that is not its usual form, it is not kept, and its activations are not either.
    pub(super) fn differentiable_unet(&self) -> Result<Arc<Unet>> {
        let is_exact = self.model.placement().dtype == DType::F32;
        match is_exact {
            true => self.base_unet(),
            false => self.model.differentiable_unet().map(Arc::new),
        }
    }

    fn unet(&self, slot: &Slot<Unet>, adapters: Adapters) -> Result<Arc<Unet>> {
        self.held(slot, || match self.residency {
            Residency::Shared => self.model.unet_on(&self.layers, adapters),
            Residency::OneAtATime | Residency::All => self.model.unet(adapters),
        })
    }

    /// The network in a slot, else a loaded one, which is kept if the residency allows.
    fn held<T>(&self, slot: &Slot<T>, load: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        if self.residency == Residency::OneAtATime {
            return load().map(Arc::new);
        }
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = &*slot {
            return Ok(network.clone());
        }
        let network = Arc::new(load()?);
        *slot = Some(network.clone());
        Ok(network)
    }
}
