//! Timesteps, the noise schedule and the DDIM step (here: jump).
//!
//! Inversion, generation, editing, the teacher's DDIM step and both training
//! losses all move a latent from timestep t to timestep s along the
//! probability-flow ODE (iCD, arXiv 2406.14539, equation 3; DDIM, arXiv
//! 2010.02502, equation 12).

mod ddim;

use std::{f64::consts::PI, fmt, str::FromStr};

use candle_core::Tensor;

pub use ddim::DdimSteps;

use crate::error::{Error, Result, Setting};

/// Number of timesteps the networks were trained on.
pub const TIMESTEPS: usize = 1000;

/// A timestep of the diffusion, 0 (clean) to 999 (noise).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestep(pub u16);

impl Timestep {
    /// The timestep as a fraction of the whole diffusion, 0 to 0.999.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / TIMESTEPS as f64
    }
}

impl fmt::Display for Timestep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One step of a sampler, of any length and in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The timestep of the latent.
    pub from: Timestep,
    /// The timestep of the result.
    pub to: Timestep,
}

/// The timesteps of a sampling loop, in order: those that a consistency model was
/// distilled on, or any of DDIM.
///
/// Those of the forward process (inversion) ascend (19, 259, 519, 779, 999), those of the
/// reverse process descend (999, 779, 519, 259, 0). They are not mirror images: inversion
/// starts from a latent that already has the noise of its first timestep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timesteps(Vec<Timestep>);

impl Timesteps {
    /// Creates a list of at least two timesteps from 0 to 999, in strictly ascending or
    /// descending order.
    pub fn new(timesteps: &[u16]) -> Result<Self> {
        let list = Self(timesteps.iter().copied().map(Timestep).collect());
        let reason = if let Some(t) = timesteps.iter().find(|&&t| usize::from(t) >= TIMESTEPS) {
            format!("{t} is greater than {}", TIMESTEPS - 1)
        } else if timesteps.len() < 2 {
            "at least two are needed".into()
        } else if timesteps.is_sorted_by(|a, b| a < b) || timesteps.is_sorted_by(|a, b| a > b) {
            return Ok(list);
        } else {
            "they must be in strictly ascending or descending order".into()
        };
        Err(Error::setting(format!("timesteps {list}: {reason}")))
    }

    /// Creates a list that ascends from the picture to noise.
    pub fn forward(timesteps: &[u16]) -> Result<Self> {
        Self::new(timesteps)?.ascending()
    }

    /// Creates a list that descends from noise to the picture.
    pub fn reverse(timesteps: &[u16]) -> Result<Self> {
        Self::new(timesteps)?.descending()
    }

    /// Returns an error unless the timesteps ascend, as inversion needs.
    pub fn ascending(self) -> Result<Self> {
        let reason = format!("{self} must be in ascending order, from the picture to noise");
        match self.start() < self.end() {
            true => Ok(self),
            false => Err(Error::of(Setting::ForwardTimesteps, reason)),
        }
    }

    /// Returns an error unless the timesteps descend, as sampling needs.
    pub fn descending(self) -> Result<Self> {
        let reason = format!("{self} must be in descending order, from noise to the picture");
        match self.start() > self.end() {
            true => Ok(self),
            false => Err(Error::of(Setting::ReverseTimesteps, reason)),
        }
    }

    /// All timesteps.
    pub fn as_slice(&self) -> &[Timestep] {
        &self.0
    }

    /// The first timestep.
    pub fn start(&self) -> Timestep {
        *self.0.first().expect("there are at least two timesteps")
    }

    /// The last timestep.
    pub fn end(&self) -> Timestep {
        *self.0.last().expect("there are at least two timesteps")
    }

    /// Number of jumps, which is the number of steps.
    pub fn count(&self) -> usize {
        self.0.len() - 1
    }

    /// The jumps in order.
    pub fn jumps(&self) -> impl Iterator<Item = Jump> + '_ {
        self.0.windows(2).map(|pair| Jump {
            from: pair[0],
            to: pair[1],
        })
    }
}

impl fmt::Display for Timesteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timesteps: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&timesteps.join(","))
    }
}

impl FromStr for Timesteps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let timesteps = text.split(',').map(|t| t.trim().parse());
        let timesteps: Result<Vec<_>, _> = timesteps.collect();
        let timesteps = timesteps.map_err(|_| {
            Error::setting(format!(
                "timesteps {text:?}: write numbers from 0 to 999 separated by commas, \
                 as in 999,779,519,259,0"
            ))
        })?;
        Self::new(&timesteps)
    }
}

/// The signal and noise levels at each timestep: `x_t = alpha_t x_0 + sigma_t noise`.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    /// The product of 1 - beta up to each timestep (diffusers' `alphas_cumprod`).
    alphas_cumprod: Vec<f32>,
}

impl NoiseSchedule {
    /// Creates the schedule of betas, one for each timestep, from 0 to below 1.
    pub fn from_betas(betas: &[f32]) -> Result<Self> {
        let fault = |reason: String| Err(Error::setting(reason));
        if betas.len() != TIMESTEPS {
            return fault(format!("{} betas for {TIMESTEPS} timesteps", betas.len()));
        }
        if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return fault(format!("a beta is {beta}, but must be from 0 to below 1"));
        }
        let mut product = 1f64;
        let alphas_cumprod = betas.iter().map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        });
        let alphas_cumprod: Vec<_> = alphas_cumprod.collect();
        match alphas_cumprod.last().is_some_and(|last| last.is_normal()) {
            true => Ok(Self { alphas_cumprod }),
            false => fault("the betas leave no signal at the last timestep".into()),
        }
    }

    /// Creates the `scaled_linear` schedule of Stable Diffusion: the square roots of
    /// the betas are evenly spaced from that of `beta_start` to that of `beta_end`.
    pub fn scaled_linear(beta_start: f64, beta_end: f64) -> Result<Self> {
        let mut betas = linspace(beta_start.sqrt(), beta_end.sqrt());
        for root in &mut betas {
            *root *= *root;
        }
        Self::from_betas(&betas)
    }

    /// Creates the `linear` schedule of DDPM (arXiv 2006.11239): the betas are evenly spaced.
    pub fn linear(beta_start: f64, beta_end: f64) -> Result<Self> {
        Self::from_betas(&linspace(beta_start, beta_end))
    }

    /// Creates the cosine schedule (`squaredcos_cap_v2`; arXiv 2102.09672).
    pub fn cosine() -> Result<Self> {
        let alpha_bar = |t: usize| {
            let t = t as f64 / TIMESTEPS as f64;
            ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2)
        };
        let beta = |t| (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(0.999) as f32;
        Self::from_betas(&(0..TIMESTEPS).map(beta).collect::<Vec<_>>())
    }

    /// The signal level alpha_t and the noise level sigma_t. Those of timestep 0 are
    /// (1, 0), the clean latent: the boundary condition of consistency models.
    pub fn alpha_sigma(&self, t: Timestep) -> (f64, f64) {
        match t.0 {
            0 => (1.0, 0.0),
            _ => self.alpha_sigma_unclamped(t),
        }
    }

    /// The levels given by the betas, also at timestep 0: the end of the last DDIM step
    /// of a distillation's teacher (diffusers' `set_alpha_to_one=False`).
    pub fn alpha_sigma_unclamped(&self, t: Timestep) -> (f64, f64) {
        let alpha_cumprod = self.alphas_cumprod[usize::from(t.0)];
        (
            f64::from(alpha_cumprod.sqrt()),
            f64::from((1.0 - alpha_cumprod).sqrt()),
        )
    }

    /// Moves `x` from `jump.from` to `jump.to` with the predicted noise `eps` of the
    /// same shape (iCD, equation 3).
    pub fn jump(&self, x: &Tensor, eps: &Tensor, jump: Jump) -> Result<Tensor> {
        let levels = [jump.from, jump.to].map(|t| self.alpha_sigma(t));
        jumped(x, eps, levels)
    }

    /// As [`jump`](Self::jump), with the levels of the betas at timestep 0, too: a DDIM step
    /// with diffusers' `set_alpha_to_one=False`.
    pub fn ddim_jump(&self, x: &Tensor, eps: &Tensor, jump: Jump) -> Result<Tensor> {
        let levels = [jump.from, jump.to].map(|t| self.alpha_sigma_unclamped(t));
        jumped(x, eps, levels)
    }

    /// Adds `noise` to the clean latent `x` at the level of timestep `t`.
    pub fn add_noise(&self, x: &Tensor, noise: &Tensor, t: Timestep) -> Result<Tensor> {
        mixed(x, noise, self.alpha_sigma(t))
    }
}

/// Moves `x` between two levels (alpha, sigma) with the predicted noise `eps`.
fn jumped(x: &Tensor, eps: &Tensor, [from, to]: [(f64, f64); 2]) -> Result<Tensor> {
    let (alpha, sigma) = from;
    let origin = ((x - (eps * sigma)?)? / alpha)?;
    mixed(&origin, eps, to)
}

/// The latent and the noise at a level.
fn mixed(x: &Tensor, noise: &Tensor, (alpha, sigma): (f64, f64)) -> Result<Tensor> {
    Ok(((x * alpha)? + (noise * sigma)?)?)
}

/// Evenly spaced from both ends, in f32, as PyTorch's linspace is.
fn linspace(start: f64, end: f64) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (TIMESTEPS - 1) as f32;
    let value = |i: usize| match i < TIMESTEPS / 2 {
        true => start + step * i as f32,
        false => end - step * (TIMESTEPS - 1 - i) as f32,
    };
    (0..TIMESTEPS).map(value).collect()
}

impl Default for NoiseSchedule {
    /// The schedule of Stable Diffusion: betas from 0.00085 to 0.012.
    fn default() -> Self {
        Self::scaled_linear(0.00085, 0.012).expect("betas below 1")
    }
}

#[cfg(test)]
mod tests;
