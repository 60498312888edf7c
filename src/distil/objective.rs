//! What the networks learn from: the distillation of guidance and the four
//! losses of invertible consistency distillation (arXiv 2406.14539, section 3).
//!
//! Every loss is the mean over all rows and values, and a pure function of
//! tensors: the rows' timesteps, guidance and noise are drawn by the caller.

use candle_core::Tensor;

use super::Levels;
use crate::{
    error::Result,
    model::{
        attention::Untouched,
        unet::{Input, ReadText, Unet},
    },
    schedule::{Path, Schedule, Timestep},
};

/// The constant of the pseudo-Huber distance.
pub const HUBER: f64 = 0.001;

/// A network together with the texts of a batch.
#[derive(Clone, Copy)]
pub struct Net<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// The texts, as this network reads them.
    pub text: &'a ReadText,
}

impl Net<'_> {
    /// The noise (b, c, h, w) in x of the same shape, each row at its timestep
    /// and under its guidance.
    pub fn eps(&self, x: &Tensor, times: &[Timestep], guidance: &[f64]) -> Result<Tensor> {
        let input = Input {
            latent: x,
            times,
            guidance,
            text: self.text,
        };
        self.unet.forward(input, &mut Untouched)
    }

    fn unguided(&self, x: &Tensor, times: &[Timestep]) -> Result<Tensor> {
        self.eps(x, times, &vec![0.0; times.len()])
    }
}

/// A clean latent (b, c, h, w) and the noise that is to be mixed into it.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// The latents.
    pub latent: &'a Tensor,
    /// Normal noise of the same shape.
    pub noise: &'a Tensor,
}

/// mean(sqrt((a - b)^2 + c^2) - c), the distance of consistency training
/// (arXiv 2310.14189).
pub fn pseudo_huber(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let root = ((a - b)?.sqr()? + HUBER * HUBER)?.sqrt()?;
    Ok((root - HUBER)?.mean_all()?)
}

/// The squared error of a network that takes the guidance w as an input, to
/// its teacher's noise `eps_0 + (w + 1) (eps_text - eps_0)` (arXiv 2210.03142).
/// `teacher` reads the texts, `blank` is the teacher without them.
pub fn guidance_loss(
    [student, teacher, blank]: [Net; 3],
    schedule: &Schedule,
    sample: Sample,
    times: &[Timestep],
    guidance: &[f64],
) -> Result<Tensor> {
    let x = Levels::with_soft_end(schedule, times, sample.latent.device())?
        .mix(sample.latent, sample.noise)?;
    let (told, untold) = (teacher.unguided(&x, times)?, blank.unguided(&x, times)?);
    let strengths: Vec<_> = guidance.iter().map(|w| (w + 1.0) as f32).collect();
    let strengths = Tensor::from_vec(strengths, ((), 1, 1, 1), x.device())?;
    let target = (&untold + (told - &untold)?.broadcast_mul(&strengths)?)?.detach();
    let eps = student.eps(&x, times, guidance)?;
    Ok((eps - target)?.sqr()?.mean_all()?)
}

/// The four losses of one pair of students.
#[derive(Clone, Copy)]
pub struct Consistency<'a> {
    /// The noise schedule.
    pub schedule: &'a Schedule,
    /// The path of the forward student, such as 19, 259, 519, 779, 999.
    pub forward_path: &'a Path,
    /// The path of the reverse student, such as 999, 779, 519, 259, 0.
    pub reverse_path: &'a Path,
    /// Timesteps of one step of the teacher.
    pub stride: u16,
    /// The frozen network that takes guidance.
    pub teacher: Net<'a>,
    /// The student that goes into noise.
    pub forward: Net<'a>,
    /// The student that comes back.
    pub reverse: Net<'a>,
}

impl Consistency<'_> {
    /// The reverse student at t agrees with itself one step of the teacher
    /// further down, both jumping to the boundary below.
    pub fn reverse_consistency(
        &self,
        sample: Sample,
        times: &[Timestep],
        guidance: &[f64],
    ) -> Result<Tensor> {
        let next: Vec<_> = times.iter().map(|t| self.one_down(*t)).collect();
        let ends: Vec<_> = next.iter().map(|&t| self.boundary_below(t)).collect();
        let step = Step {
            times,
            next: &next,
            ends: &ends,
            guidance,
        };
        self.consistency(self.reverse, sample, step)
    }

    /// The forward student at t agrees with itself one step of the teacher
    /// further up, unguided, both jumping to the boundary above.
    pub fn forward_consistency(&self, sample: Sample, times: &[Timestep]) -> Result<Tensor> {
        let next: Vec<_> = times.iter().map(|t| self.one_up(*t)).collect();
        let ends: Vec<_> = next.iter().map(|&t| self.boundary_above(t)).collect();
        let step = Step {
            times,
            next: &next,
            ends: &ends,
            guidance: &vec![0.0; times.len()],
        };
        self.consistency(self.forward, sample, step)
    }

    fn consistency(&self, student: Net, sample: Sample, step: Step) -> Result<Tensor> {
        let Step {
            times,
            next,
            ends,
            guidance,
        } = step;
        let x = self
            .levels(times, &sample)?
            .mix(sample.latent, sample.noise)?;
        let device = x.device();
        let soft = Levels::with_soft_end(self.schedule, next, device)?;
        let eps = self.teacher.eps(&x, times, guidance)?;
        let moved = self.levels(times, &sample)?.jump(&x, &eps, &soft)?.detach();
        let jump = |x: &Tensor, from: &[Timestep]| -> Result<Tensor> {
            let eps = student.eps(x, from, guidance)?;
            self.levels(from, &sample)?
                .jump(x, &eps, &self.levels(ends, &sample)?)
        };
        // Where the teacher has reached the boundary, this jump goes nowhere.
        let target = jump(&moved, next)?.detach();
        pseudo_huber(&jump(&x, times)?, &target)
    }

    /// The forward student leads back up what the reverse one led down from
    /// the boundaries `times`, unguided. Only the forward student learns.
    pub fn forward_preservation(&self, sample: Sample, times: &[Timestep]) -> Result<Tensor> {
        let low: Vec<_> = times.iter().map(|&t| self.neighbour_below(t)).collect();
        self.preservation([self.reverse, self.forward], sample, times, &low)
    }

    /// The reverse student leads back down what the forward one led up from
    /// the boundaries `times`, unguided. Only the reverse student learns.
    pub fn reverse_preservation(&self, sample: Sample, times: &[Timestep]) -> Result<Tensor> {
        let high: Vec<_> = times
            .iter()
            .map(|t| self.boundary_above(Timestep(t.0 + 1)))
            .collect();
        self.preservation([self.forward, self.reverse], sample, times, &high)
    }

    fn preservation(
        &self,
        [there, back]: [Net; 2],
        sample: Sample,
        times: &[Timestep],
        away: &[Timestep],
    ) -> Result<Tensor> {
        let (here, far) = (self.levels(times, &sample)?, self.levels(away, &sample)?);
        let x = here.mix(sample.latent, sample.noise)?;
        let moved = here.jump(&x, &there.unguided(&x, times)?, &far)?.detach();
        let returned = far.jump(&moved, &back.unguided(&moved, away)?, &here)?;
        pseudo_huber(&returned, &x)
    }

    fn levels(&self, times: &[Timestep], sample: &Sample) -> Result<Levels> {
        Levels::at(self.schedule, times, sample.latent.device())
    }

    fn one_down(&self, t: Timestep) -> Timestep {
        Timestep(t.0.saturating_sub(self.stride))
    }

    fn one_up(&self, t: Timestep) -> Timestep {
        Timestep(t.0 + self.stride)
    }

    /// The largest boundary of the reverse path not above t.
    fn boundary_below(&self, t: Timestep) -> Timestep {
        let ends = self.reverse_path.segments().map(|segment| segment.to);
        ends.filter(|&end| end <= t)
            .max()
            .unwrap_or(self.reverse_path.end())
    }

    /// The smallest boundary of the forward path not below t.
    fn boundary_above(&self, t: Timestep) -> Timestep {
        let ends = self.forward_path.segments().map(|segment| segment.to);
        ends.filter(|&end| end >= t)
            .min()
            .unwrap_or(self.forward_path.end())
    }

    /// The boundary of the reverse path next below t; where that is the clean
    /// latent, the start of the forward path instead.
    fn neighbour_below(&self, t: Timestep) -> Timestep {
        let below = self.boundary_below(Timestep(t.0.saturating_sub(1)));
        below.max(self.forward_path.start())
    }
}

/// One step of the teacher for each row, and where the student jumps to.
#[derive(Clone, Copy)]
struct Step<'a> {
    times: &'a [Timestep],
    next: &'a [Timestep],
    ends: &'a [Timestep],
    guidance: &'a [f64],
}
