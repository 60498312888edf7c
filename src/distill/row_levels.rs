//! The noise schedule for batches with a timestep per row.

use candle_core::{Device, Tensor};

use crate::{
    error::Result,
    schedule::{NoiseSchedule, Timestep},
};

/// The signal level alpha and the noise level sigma of each row.
#[derive(Clone, Debug)]
pub struct RowLevels {
    signal: Tensor,
    noise: Tensor,
}

impl RowLevels {
    /// The levels at these timesteps; timestep 0 is the clean latent.
    pub fn at(schedule: &NoiseSchedule, times: &[Timestep], device: &Device) -> Result<Self> {
        Self::of(times.iter().map(|&t| schedule.alpha_sigma(t)), device)
    }

    /// The levels at these timesteps; timestep 0 has the schedule's noise, as the end of
    /// the last DDIM step.
    pub fn with_soft_end(
        schedule: &NoiseSchedule,
        times: &[Timestep],
        device: &Device,
    ) -> Result<Self> {
        let levels = |&t| schedule.alpha_sigma_unclamped(t);
        Self::of(times.iter().map(levels), device)
    }

    fn of(levels: impl Iterator<Item = (f64, f64)>, device: &Device) -> Result<Self> {
        let (signal, noise): (Vec<f32>, Vec<f32>) =
            levels.map(|(a, s)| (a as f32, s as f32)).unzip();
        let column = |values: Vec<f32>| Tensor::from_vec(values, ((), 1, 1, 1), device);
        Ok(Self {
            signal: column(signal)?, // (b, 1, 1, 1)
            noise: column(noise)?,
        })
    }

    /// alpha x + sigma noise for latents and noise (b, c, h, w).
    pub fn mix(&self, x: &Tensor, noise: &Tensor) -> Result<Tensor> {
        Ok((x.broadcast_mul(&self.signal)? + noise.broadcast_mul(&self.noise)?)?)
    }

    /// x without the noise `eps`: (x - sigma eps) / alpha.
    pub fn origin(&self, x: &Tensor, eps: &Tensor) -> Result<Tensor> {
        let clean = (x - eps.broadcast_mul(&self.noise)?)?;
        Ok(clean.broadcast_div(&self.signal)?)
    }

    /// The noise in x given x without noise: (x - alpha origin) / sigma. Infinite at
    /// timestep 0.
    pub fn noise_in(&self, x: &Tensor, origin: &Tensor) -> Result<Tensor> {
        let rest = (x - origin.broadcast_mul(&self.signal)?)?;
        Ok(rest.broadcast_div(&self.noise)?)
    }

    /// Moves x to the levels `to` with the predicted noise `eps` (iCD, equation 3), as
    /// [`NoiseSchedule::jump`](crate::schedule::NoiseSchedule::jump) for one timestep.
    pub fn jump(&self, x: &Tensor, eps: &Tensor, to: &Self) -> Result<Tensor> {
        to.mix(&self.origin(x, eps)?, eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{noise::Noise, schedule::Jump};

    #[test]
    fn rows_jump_as_each_would_alone() {
        let (schedule, device) = (NoiseSchedule::default(), Device::Cpu);
        let mut noise = Noise::new(3);
        let x = noise.normal((3, 4, 2, 5), &device).unwrap();
        let eps = noise.normal((3, 4, 2, 5), &device).unwrap();
        let (from, to) = ([999, 259, 519], [779, 0, 999]);
        let levels =
            |times: [u16; 3]| RowLevels::at(&schedule, &times.map(Timestep), &device).unwrap();
        let jumped = levels(from).jump(&x, &eps, &levels(to)).unwrap();
        for row in 0..3 {
            let jump = Jump {
                from: Timestep(from[row]),
                to: Timestep(to[row]),
            };
            let alone = schedule.jump(&x.get(row).unwrap(), &eps.get(row).unwrap(), jump);
            let gap = (jumped.get(row).unwrap() - alone.unwrap()).unwrap();
            let gap = gap.abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
        }
    }

    #[test]
    fn noise_in_recovers_the_mixed_noise() {
        let (schedule, device) = (NoiseSchedule::default(), Device::Cpu);
        let mut noise = Noise::new(3);
        let [x, eps] = [(); 2].map(|()| noise.normal((2, 4, 2, 5), &device).unwrap());
        let levels = RowLevels::at(&schedule, &[Timestep(999), Timestep(259)], &device).unwrap();
        let found = levels.noise_in(&levels.mix(&x, &eps).unwrap(), &x).unwrap();
        let gap = (found - eps).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn the_soft_end_keeps_the_noise_of_the_first_timestep() {
        let (schedule, device) = (NoiseSchedule::default(), Device::Cpu);
        let x = Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &device).unwrap();
        let one = x.ones_like().unwrap();
        let noise = |levels: RowLevels| {
            let mixed = levels.mix(&x, &one).unwrap().flatten_all().unwrap();
            mixed.to_vec1::<f32>().unwrap()[0]
        };
        let times = [Timestep(0)];
        assert_eq!(
            noise(RowLevels::at(&schedule, &times, &device).unwrap()),
            0.0
        );
        // sqrt(0.00085), the first beta
        let soft = noise(RowLevels::with_soft_end(&schedule, &times, &device).unwrap());
        assert!((soft - 0.029_155).abs() < 1e-5);
    }
}
