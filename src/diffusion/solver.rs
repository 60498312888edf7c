//! How a sampling loop follows the probability-flow ODE.

use candle_core::Tensor;

use crate::{
    error::Result,
    schedule::{Jump, NoiseSchedule, Timestep},
};

/// How noise is predicted and a latent moved in each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Solver {
    /// As consistency models are distilled: the noise is predicted where the jump begins, and
    /// timestep 0 is the clean latent without any noise.
    #[default]
    Consistency,
    /// DDIM in both directions as the authors of null-text inversion do it (and diffusers'
    /// `DDIMScheduler` and `DDIMInverseScheduler`): the noise is predicted for the noisier end
    /// of the step, so on the way up the latent of t - 20 is evaluated at t, and timestep 0 has
    /// the levels of the first beta (`set_alpha_to_one` false).
    Ddim,
}

impl Solver {
    /// The timestep at which the noise for a jump is predicted.
    pub fn predicted_at(self, jump: Jump) -> Timestep {
        match self {
            Self::Consistency => jump.from,
            Self::Ddim => jump.from.max(jump.to),
        }
    }

    /// Moves `x` with the predicted noise `eps` of the same shape.
    pub fn jump(
        self,
        schedule: &NoiseSchedule,
        x: &Tensor,
        eps: &Tensor,
        jump: Jump,
    ) -> Result<Tensor> {
        match self {
            Self::Consistency => schedule.jump(x, eps, jump),
            Self::Ddim => schedule.ddim_jump(x, eps, jump),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn jump(from: u16, to: u16) -> Jump {
        Jump {
            from: Timestep(from),
            to: Timestep(to),
        }
    }

    #[test]
    fn ddim_predicts_for_the_noisier_end() {
        let at = |solver: Solver, from, to| solver.predicted_at(jump(from, to)).0;
        assert_eq!(at(Solver::Ddim, 961, 981), 981);
        assert_eq!(at(Solver::Ddim, 981, 961), 981);
        assert_eq!(at(Solver::Consistency, 19, 259), 19);
    }

    #[test]
    fn ddim_ends_at_the_level_of_the_first_beta() {
        let schedule = NoiseSchedule::default();
        let tensor = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
        let end = |solver: Solver| {
            let x = solver.jump(&schedule, &tensor(1.0), &tensor(1.0), jump(1, 0));
            x.unwrap().to_vec1::<f32>().unwrap()[0]
        };
        let (alpha, sigma) = schedule.alpha_sigma(Timestep(1));
        let origin = (1.0 - sigma) / alpha;
        let beta = 0.00085f64;
        let expected = (1.0 - beta).sqrt() * origin + beta.sqrt();
        assert!((f64::from(end(Solver::Ddim)) - expected).abs() < 1e-6);
        assert!((f64::from(end(Solver::Consistency)) - origin).abs() < 1e-6);
    }
}
