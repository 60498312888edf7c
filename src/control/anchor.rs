//! Anchoring: the source of an edit stays on the way by which its picture was inverted (direct
//! inversion, arXiv 2310.01506, at the timesteps of a consistency model).

use candle_core::Tensor;
use clap::ValueEnum;

use crate::{
    diffusion::{StepInfo, Trajectory, WalkControl},
    error::Result,
    model::attention::AttentionControl,
    schedule::{Timestep, Timesteps},
};

/// Whether the source of an edit is anchored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Anchor {
    /// It is set back to the inversion's own latents after each step.
    On,
    /// It is what the walk reconstructs of it.
    #[default]
    Off,
}

/// Replaces the first row, the source, after each step by the latent that the inversion had at
/// the same timestep. So the maps that targets follow are those of the true picture, and what
/// is blended in from the source is the picture itself: its clean latent after the last step.
/// At a timestep that the inversion did not pass, the walk's own row stays.
#[derive(Clone, Debug)]
pub struct SourceAnchor {
    /// The latent after each step.
    latents: Vec<Option<Tensor>>,
    step: usize,
}

impl SourceAnchor {
    /// For a walk along `timesteps`; `None` if the inversion passed none of them.
    pub fn new(trajectory: &Trajectory, timesteps: &Timesteps) -> Option<Self> {
        let at = |timestep: Timestep| trajectory.at(timestep).cloned();
        let latents: Vec<_> = timesteps.jumps().map(|jump| at(jump.to)).collect();
        let is_known = latents.iter().any(Option::is_some);
        is_known.then_some(Self { latents, step: 0 })
    }
}

impl AttentionControl for SourceAnchor {}

impl WalkControl for SourceAnchor {
    fn begin(&mut self, step: StepInfo) {
        self.step = step.index;
    }

    fn finish(&mut self, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(Some(latent)) = self.latents.get(self.step) else {
            return Ok(None);
        };
        let targets = x.narrow(0, 1, x.dim(0)? - 1)?;
        let source = latent.to_dtype(x.dtype())?;
        Ok(Some(Tensor::cat(&[source, targets], 0)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn latents(values: &[f32]) -> Tensor {
        let rows = values.iter();
        let rows: Vec<_> = rows
            .map(|&value| Tensor::full(value, (1, 4, 1, 1), &Device::Cpu).unwrap())
            .collect();
        Tensor::cat(&rows, 0).unwrap()
    }

    fn firsts(x: &Tensor) -> Vec<f32> {
        let x = x.flatten_from(1).unwrap().narrow(1, 0, 1).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn at_step(index: usize) -> StepInfo {
        StepInfo {
            index,
            ..StepInfo::default()
        }
    }

    #[test]
    fn the_source_is_set_back_where_the_inversion_passed() {
        let known = [(0, 0.), (259, 2.), (779, 7.)];
        let known = known.map(|(at, value)| (Timestep(at), latents(&[value])));
        let timesteps = Timesteps::new(&[999, 779, 519, 0]).unwrap();
        let mut anchor = SourceAnchor::new(&Trajectory(known.into()), &timesteps).unwrap();
        let mut after = |step| {
            anchor.begin(at_step(step));
            let x = anchor.finish(&latents(&[5., 6., 8.])).unwrap();
            x.map(|x| firsts(&x))
        };
        assert_eq!(after(0), Some(vec![7., 6., 8.]));
        assert_eq!(after(1), None);
        assert_eq!(after(2), Some(vec![0., 6., 8.]));
    }

    #[test]
    fn without_a_trajectory_there_is_no_anchor() {
        let timesteps = Timesteps::new(&[999, 0]).unwrap();
        assert!(SourceAnchor::new(&Trajectory::default(), &timesteps).is_none());
    }
}
