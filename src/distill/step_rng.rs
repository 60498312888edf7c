//! The random numbers of a training step.

use candle_core::Device;

use crate::{
    error::Result,
    noise::{Noise, mixed},
};

/// Random numbers derived from a run's seed and a step's number.
#[derive(Clone, Debug)]
pub struct StepRng(Noise);

impl StepRng {
    /// Creates the generator of a step.
    pub fn new(seed: u64, step: usize) -> Self {
        let next = |state: u64| mixed(state.wrapping_add(0x9E37_79B9_7F4A_7C15)); // SplitMix64
        Self(Noise::new(next(next(seed) ^ step as u64)))
    }

    /// Draws `count` numbers from 0 to below `end`.
    pub fn indices(&mut self, count: usize, end: usize) -> Result<Vec<usize>> {
        let shares = self.0.uniform(count, &Device::Cpu)?.to_vec1::<f32>()?;
        let index = |share: f32| (f64::from(share) * end as f64) as usize;
        Ok(shares.into_iter().map(index).collect())
    }

    /// Draws `count` of `values`.
    pub fn among<T: Copy>(&mut self, count: usize, values: &[T]) -> Result<Vec<T>> {
        let picked = self.indices(count, values.len())?;
        Ok(picked.into_iter().map(|i| values[i]).collect())
    }

    /// The underlying generator of noise.
    pub fn stream(&mut self) -> &mut Noise {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_draws_the_same_again_and_another_step_does_not() {
        let draw = |seed, step| StepRng::new(seed, step).indices(64, 1000).unwrap();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn indices_cover_their_range_evenly() {
        let drawn = StepRng::new(7, 0).indices(30_000, 10).unwrap();
        for value in 0..10 {
            let count = drawn.iter().filter(|&&i| i == value).count();
            assert!((2700..3300).contains(&count), "{value}: {count}");
        }
    }
}
