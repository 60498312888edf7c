//! The losses of guidance distillation and of invertible consistency distillation
//! (arXiv 2406.14539, section 3).
//!
//! Every loss is the mean over all rows and values, and a pure function of
//! tensors: the rows' timesteps, guidance and noise are drawn by the caller.

use candle_core::Tensor;

use super::RowLevels;
use crate::{
    diffusion::classifier_free,
    error::Result,
    model::{
        attention::NoControl,
        unet::{PreparedText, Unet, UnetInput},
    },
    schedule::{NoiseSchedule, Timestep, Timesteps},
};

/// The constant of the pseudo-Huber distance.
pub const HUBER: f64 = 0.001;

/// A network with the texts of a batch.
#[derive(Clone, Copy)]
pub struct Net<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// The texts, prepared for this network.
    pub text: &'a PreparedText,
}

impl Net<'_> {
    /// Predicts the noise (b, c, h, w) in x of the same shape, at a timestep and guidance
    /// strength per row.
    pub fn eps(&self, x: &Tensor, times: &[Timestep], guidance: &[f64]) -> Result<Tensor> {
        let input = UnetInput {
            latent: x,
            times,
            guidance,
            text: self.text,
        };
        self.unet.forward(input, &mut NoControl)
    }

    fn unguided(&self, x: &Tensor, times: &[Timestep]) -> Result<Tensor> {
        self.eps(x, times, &vec![0.0; times.len()])
    }
}

/// Clean latents (b, c, h, w), the noise to add, and the timestep of each row.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// The latents.
    pub latent: &'a Tensor,
    /// Normal noise of the same shape.
    pub noise: &'a Tensor,
    /// The timesteps (b).
    pub times: &'a [Timestep],
}

/// mean(sqrt((a - b)^2 + c^2) - c), the distance of consistency training
/// (arXiv 2310.14189).
pub fn pseudo_huber(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let root = ((a - b)?.sqr()? + HUBER * HUBER)?.sqrt()?;
    Ok((root - HUBER)?.mean_all()?)
}

/// The squared error between a network with the guidance w as an input and the teacher's
/// classifier-free guidance `eps_0 + (w + 1) (eps_text - eps_0)` (arXiv 2210.03142).
/// `teacher` has the texts, `blank` is the teacher with empty texts.
pub fn guidance_loss(
    [student, teacher, blank]: [Net; 3],
    schedule: &NoiseSchedule,
    sample: Sample,
    guidance: &[f64],
) -> Result<Tensor> {
    let times = sample.times;
    let x = RowLevels::with_soft_end(schedule, times, sample.latent.device())?
        .mix(sample.latent, sample.noise)?;
    let (with_text, without) = (teacher.unguided(&x, times)?, blank.unguided(&x, times)?);
    let target = classifier_free(&with_text, &without, guidance)?.detach();
    let eps = student.eps(&x, times, guidance)?;
    Ok((eps - target)?.sqr()?.mean_all()?)
}

/// The four losses of one pair of students.
#[derive(Clone, Copy)]
pub struct Consistency<'a> {
    /// The noise schedule.
    pub schedule: &'a NoiseSchedule,
    /// The timesteps of the forward student, such as 19, 259, 519, 779, 999.
    pub forward_timesteps: &'a Timesteps,
    /// The timesteps of the reverse student, such as 999, 779, 519, 259, 0.
    pub reverse_timesteps: &'a Timesteps,
    /// Distance of the teacher's timesteps.
    pub stride: u16,
    /// The frozen guidance-distilled network.
    pub teacher: Net<'a>,
    /// The student of the forward process (inversion).
    pub forward: Net<'a>,
    /// The student of the reverse process (sampling).
    pub reverse: Net<'a>,
}

impl Consistency<'_> {
    /// Self-consistency of the reverse student at t and one teacher step below, both
    /// jumping to the boundary below.
    pub fn reverse_consistency(&self, sample: Sample, guidance: &[f64]) -> Result<Tensor> {
        let down = |t: &Timestep| Timestep(t.0.saturating_sub(self.stride));
        let next: Vec<_> = sample.times.iter().map(down).collect();
        let ends: Vec<_> = next.iter().map(|&t| self.boundary_below(t)).collect();
        self.consistency(self.reverse, sample, guidance, [&next, &ends])
    }

    /// Unguided self-consistency of the forward student at t and one teacher step above,
    /// both jumping to the boundary above.
    pub fn forward_consistency(&self, sample: Sample) -> Result<Tensor> {
        let up = |t: &Timestep| Timestep(t.0 + self.stride);
        let next: Vec<_> = sample.times.iter().map(up).collect();
        let ends: Vec<_> = next.iter().map(|&t| self.boundary_above(t)).collect();
        let unguided = vec![0.0; next.len()];
        self.consistency(self.forward, sample, &unguided, [&next, &ends])
    }

    /// The distance of the student's jumps to `ends`, directly and from the teacher's step
    /// to `next`.
    fn consistency(
        &self,
        student: Net,
        sample: Sample,
        guidance: &[f64],
        [next, ends]: [&[Timestep]; 2],
    ) -> Result<Tensor> {
        let times = sample.times;
        let levels = self.levels(times, &sample)?;
        let x = levels.mix(sample.latent, sample.noise)?;
        let soft = RowLevels::with_soft_end(self.schedule, next, x.device())?;
        let eps = self.teacher.eps(&x, times, guidance)?;
        let moved = levels.jump(&x, &eps, &soft)?.detach();
        let ends = self.levels(ends, &sample)?;
        let jump = |x: &Tensor, from: &[Timestep]| -> Result<Tensor> {
            let eps = student.eps(x, from, guidance)?;
            self.levels(from, &sample)?.jump(x, &eps, &ends)
        };
        // If the teacher has reached the boundary, this jump has length zero.
        let target = jump(&moved, next)?.detach();
        pseudo_huber(&jump(&x, times)?, &target)
    }

    /// The forward student must invert the reverse student's jump down from the boundaries
    /// of the sample, unguided. Only the forward student is trained.
    pub fn forward_preservation(&self, sample: Sample) -> Result<Tensor> {
        let low: Vec<_> = sample
            .times
            .iter()
            .map(|&t| self.neighbour_below(t))
            .collect();
        self.preservation([self.reverse, self.forward], sample, &low)
    }

    /// The reverse student must invert the forward student's jump up from the boundaries
    /// of the sample, unguided. Only the reverse student is trained.
    pub fn reverse_preservation(&self, sample: Sample) -> Result<Tensor> {
        let above = |t: &Timestep| self.boundary_above(Timestep(t.0 + 1));
        let high: Vec<_> = sample.times.iter().map(above).collect();
        self.preservation([self.forward, self.reverse], sample, &high)
    }

    fn preservation(
        &self,
        [there, back]: [Net; 2],
        sample: Sample,
        away: &[Timestep],
    ) -> Result<Tensor> {
        let times = sample.times;
        let (here, far) = (self.levels(times, &sample)?, self.levels(away, &sample)?);
        let x = here.mix(sample.latent, sample.noise)?;
        let moved = here.jump(&x, &there.unguided(&x, times)?, &far)?.detach();
        let returned = far.jump(&moved, &back.unguided(&moved, away)?, &here)?;
        pseudo_huber(&returned, &x)
    }

    fn levels(&self, times: &[Timestep], sample: &Sample) -> Result<RowLevels> {
        RowLevels::at(self.schedule, times, sample.latent.device())
    }

    /// The largest boundary of the reverse timesteps not above t.
    fn boundary_below(&self, t: Timestep) -> Timestep {
        let ends = self.reverse_timesteps.jumps().map(|jump| jump.to);
        ends.filter(|&end| end <= t)
            .max()
            .unwrap_or(self.reverse_timesteps.end())
    }

    /// The smallest boundary of the forward timesteps not below t.
    fn boundary_above(&self, t: Timestep) -> Timestep {
        let ends = self.forward_timesteps.jumps().map(|jump| jump.to);
        ends.filter(|&end| end >= t)
            .min()
            .unwrap_or(self.forward_timesteps.end())
    }

    /// The next boundary of the reverse timesteps below t, but not below the start of the
    /// forward timesteps.
    fn neighbour_below(&self, t: Timestep) -> Timestep {
        let below = self.boundary_below(Timestep(t.0.saturating_sub(1)));
        below.max(self.forward_timesteps.start())
    }
}
