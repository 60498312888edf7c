//! The statistics of a group norm.

/// Sums over the groups of pictures, or of a part of each; the sums of parts can be
/// added.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSums {
    /// Number of values in each group.
    count: usize,
    groups: usize,
    /// The sums of values and of their squares, (pictures, groups).
    of: Vec<[f64; 2]>,
}

impl GroupSums {
    /// Creates sums from those of values and of their squares (pictures, groups), each
    /// over `count` values.
    pub fn new(count: usize, groups: usize, of: Vec<[f64; 2]>) -> Self {
        Self { count, groups, of }
    }

    /// Adds the sums over another part of the same pictures.
    pub fn and(mut self, part: &Self) -> Self {
        self.count += part.count;
        for (sums, part) in self.of.iter_mut().zip(&part.of) {
            *sums = [sums[0] + part[0], sums[1] + part[1]];
        }
        self
    }

    /// Number of groups per picture.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Number of pictures.
    pub fn pictures(&self) -> usize {
        self.of.len() / self.groups
    }

    /// The moments of each group (pictures, groups) for a norm with this `eps`.
    pub fn moments(&self, eps: f64) -> Vec<Moments> {
        let count = self.count as f64;
        let of = self.of.iter().map(|[sum, squares]| {
            let mean = sum / count;
            let variance = squares / count - mean * mean;
            let inverse = 1.0 / (variance.max(0.0) + eps).sqrt();
            Moments { mean, inverse }
        });
        of.collect()
    }
}

/// Mean and inverse deviation of a group.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// One over the square root of the variance plus the norm's eps.
    pub inverse: f64,
}

impl Moments {
    /// The mean in f32, which is subtracted first, exactly if it is large.
    pub(super) fn center(self) -> f32 {
        self.mean as f32
    }

    /// The difference of mean and center.
    pub(super) fn rest(self) -> f64 {
        self.mean - f64::from(self.center())
    }
}
