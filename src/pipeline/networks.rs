//! The networks of a model that are in memory.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::DType;
use clap::ValueEnum;

use super::Method;
use crate::{
    error::{Error, Result},
    model::{Adapters, Model, TextEncoders, unet::Unet, vae::Vae},
    nn::{SharedLayers, device_memory},
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
            false => self
                .loaded(|| self.model.differentiable_unet())
                .map(Arc::new),
        }
    }

    fn unet(&self, slot: &Slot<Unet>, adapters: Adapters) -> Result<Arc<Unet>> {
        self.held(slot, || match self.residency {
            Residency::Shared => self.model.unet_on(&self.layers, adapters),
            Residency::OneAtATime | Residency::All => self.model.unet(adapters),
        })
    }

    /// The network in a slot, else a loaded one, which is kept if the residency allows.
    fn held<T>(&self, slot: &Slot<T>, load: impl Fn() -> Result<T>) -> Result<Arc<T>> {
        if self.residency == Residency::OneAtATime {
            return self.loaded(load).map(Arc::new);
        }
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = &*slot {
            return Ok(network.clone());
        }
        let network = Arc::new(self.loaded(load)?);
        *slot = Some(network.clone());
        Ok(network)
    }

    /// A loaded network; where a GPU has no memory for it, it is loaded once more without the
    /// networks that are not in use.
    fn loaded<T>(&self, load: impl Fn() -> Result<T>) -> Result<T> {
        let loaded = match load() {
            Err(Error::OutOfMemory { .. }) => {
                self.free();
                load()
            }
            loaded => loaded,
        };
        self.with_device_memory(loaded)
    }

    /// Frees the networks that are kept and not in use.
    pub(super) fn free(&self) {
        fn free<T>(slot: &Slot<T>) {
            // Whoever loads a network holds its lock.
            if let Ok(mut slot) = slot.try_lock() {
                slot.take_if(|network| Arc::strong_count(network) == 1);
            }
        }
        free(&self.vae);
        free(&self.text);
        free(&self.text_with_loras);
        let unets = [
            &self.forward,
            &self.reverse,
            &self.reverse_with_loras,
            &self.base,
            &self.base_with_loras,
        ];
        for slot in unets {
            free(slot);
        }
        let is_free = |slot: &&Slot<Unet>| slot.try_lock().is_ok_and(|slot| slot.is_none());
        if unets.iter().all(is_free) {
            self.layers.clear();
        }
    }

    /// A result; the error of a device that is out of memory says how much it has.
    pub(super) fn with_device_memory<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.with_memory(|| device_memory(self.model.device())))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{model::ModelChoice, nn::Placement};

    fn networks(residency: Residency) -> Networks {
        let model = Model::open(&ModelChoice::named("tests/data/sd"), Placement::cpu_f32());
        Networks::new(model.unwrap(), residency)
    }

    fn full() -> Error {
        candle_core::Error::Cuda("CUDA_ERROR_OUT_OF_MEMORY".into()).into()
    }

    #[test]
    fn a_network_without_room_is_loaded_once_more_without_those_that_nobody_uses() {
        for residency in [Residency::All, Residency::Shared] {
            let networks = networks(residency);
            let vae = networks.vae().unwrap();
            networks.forward_unet(&Method::Icd).unwrap();
            let tries = Cell::new(0);
            let load = || {
                tries.set(tries.get() + 1);
                match tries.get() {
                    1 => Err(full()),
                    _ => networks.model.text(),
                }
            };
            networks.held(&networks.text, load).unwrap();
            assert_eq!(tries.get(), 2);
            assert!(networks.text.lock().unwrap().is_some());
            // The UNet was not in use, nor are the layers that it shares.
            assert!(networks.forward.lock().unwrap().is_none());
            assert!(networks.layers.is_empty());
            // The autoencoder is, and is not loaded again beside itself.
            assert!(Arc::ptr_eq(&vae, &networks.vae().unwrap()));
        }
    }

    #[test]
    fn layers_stay_as_long_as_a_network_shares_them() {
        let networks = networks(Residency::Shared);
        let unet = networks.forward_unet(&Method::Icd).unwrap();
        networks.reverse_unet(&Method::Icd).unwrap();
        networks.free();
        assert!(networks.reverse.lock().unwrap().is_none());
        assert!(networks.forward.lock().unwrap().is_some() && !networks.layers.is_empty());
        drop(unet);
        networks.free();
        assert!(networks.forward.lock().unwrap().is_none() && networks.layers.is_empty());
    }

    #[test]
    fn other_failures_and_a_second_one_are_final() {
        let networks = networks(Residency::OneAtATime);
        let tries = Cell::new(0);
        let count = |error: fn() -> Error| {
            tries.set(0);
            let load = || {
                tries.set(tries.get() + 1);
                Err(error())
            };
            let failed: Result<Arc<Vae>> = networks.held(&networks.vae, load);
            (tries.get(), failed.unwrap_err().to_string())
        };
        let (tries, reason) = count(full);
        assert!(
            tries == 2 && reason.starts_with("the GPU is out of memory"),
            "{reason}"
        );
        assert_eq!(count(|| Error::setting("no")), (1, "no".into()));
    }
}
