//! The latents that an inversion passes through.

use candle_core::{Device, Tensor};

use super::{NullEmbeddings, WalkControl};
use crate::{
    error::Result,
    model::attention::AttentionControl,
    schedule::{Timestep, Timesteps},
};

/// An inverted picture, with the latents on its way into noise as far as they are known.
#[derive(Clone, Debug)]
pub struct Inverted {
    /// The noise that the walk ends in (1, 4, h, w).
    pub latent: Tensor,
    /// What came before it.
    pub trajectory: Trajectory,
    /// What null-text inversion optimised; else empty.
    pub null_embeddings: NullEmbeddings,
}

impl Inverted {
    /// The same on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved =
            |(timestep, latent): &(Timestep, Tensor)| Ok((*timestep, latent.to_device(device)?));
        let trajectory = self.trajectory.0.iter().map(moved);
        Ok(Self {
            latent: self.latent.to_device(device)?,
            trajectory: Trajectory(trajectory.collect::<Result<_>>()?),
            null_embeddings: self.null_embeddings.to_device(device)?,
        })
    }
}

/// A noise whose way is not known.
impl From<Tensor> for Inverted {
    fn from(latent: Tensor) -> Self {
        Self {
            latent,
            trajectory: Trajectory::default(),
            null_embeddings: NullEmbeddings::default(),
        }
    }
}

/// The latents (1, 4, h, w) of an inversion by their timesteps, without the last: the clean
/// one at 0, the noised one from which the walk starts, and those of its steps. Empty if
/// nothing is known of it.
#[derive(Clone, Debug, Default)]
pub struct Trajectory(pub Vec<(Timestep, Tensor)>);

impl Trajectory {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latent at a timestep, if the inversion passed it.
    pub fn at(&self, timestep: Timestep) -> Option<&Tensor> {
        let mut latents = self.0.iter();
        latents
            .find(|(at, _)| *at == timestep)
            .map(|(_, latent)| latent)
    }
}

/// Records the latents of an inversion; changes nothing.
pub(crate) struct Recorder {
    latents: Vec<(Timestep, Tensor)>,
    /// The timesteps that the walk still has to pass.
    ahead: std::vec::IntoIter<Timestep>,
}

impl Recorder {
    /// For a walk along `timesteps` from `start`, the noised form of the `clean` latent; or, if
    /// the timesteps begin at 0, that latent itself.
    pub(crate) fn new(clean: Tensor, start: Tensor, timesteps: &Timesteps) -> Self {
        let jumps: Vec<_> = timesteps.jumps().map(|jump| jump.to).collect();
        let mut latents = vec![(Timestep(0), clean), (timesteps.start(), start)];
        latents.dedup_by_key(|(at, _)| *at);
        Self {
            latents,
            ahead: jumps.into_iter(),
        }
    }

    /// What was recorded of a walk that ended in `latent`.
    pub(crate) fn inverted(mut self, latent: Tensor) -> Inverted {
        self.latents.pop(); // that of the last step is `latent`
        Inverted {
            latent,
            trajectory: Trajectory(self.latents),
            null_embeddings: NullEmbeddings::default(),
        }
    }
}

impl AttentionControl for Recorder {}

impl WalkControl for Recorder {
    fn finish(&mut self, latent: &Tensor) -> Result<Option<Tensor>> {
        let passed = self.ahead.next().map(|timestep| (timestep, latent.clone()));
        self.latents.extend(passed);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_recorded_up_to_its_last_step() {
        let x = |value: f32| Tensor::full(value, (1, 4, 1, 1), &Device::Cpu).unwrap();
        let timesteps = Timesteps::new(&[19, 259, 999]).unwrap();
        let mut recorder = Recorder::new(x(0.), x(1.), &timesteps);
        for value in [2., 3.] {
            assert!(recorder.finish(&x(value)).unwrap().is_none());
        }
        let inverted = recorder.inverted(x(3.));
        let first = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        let passed = inverted.trajectory.0.iter();
        let passed: Vec<_> = passed.map(|(at, x)| (at.0, first(x))).collect();
        assert_eq!(passed, [(0, 0.), (19, 1.), (259, 2.)]);
        assert_eq!(first(&inverted.latent), 3.);
        let at = |timestep| inverted.trajectory.at(Timestep(timestep)).map(first);
        assert_eq!([at(259), at(260), at(999)], [Some(2.), None, None]);
    }
}
