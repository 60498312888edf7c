//! Weight deltas as products of two factors: LoRA, LoHa (arXiv 2108.06098), LoKr
//! (arXiv 2309.14859), convolutions in CP form, and DoRA (arXiv 2402.09353), as LyCORIS and
//! PEFT compute them.

use candle_core::{D, Result, Tensor, bail};

/// A matrix, or the kernels of a convolution, as up x down.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// (outputs, rank)
    pub(super) up: Tensor,
    /// (rank, inputs, area); the area is 1 for a linear layer.
    pub(super) down: Tensor,
}

/// Which weights share a magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Magnitudes {
    OfOutputs,
    OfInputs,
}

impl Pair {
    /// Two factors: up (outputs, rank, ..), down (rank, ..) for kernels of this area.
    pub(super) fn of(up: &Tensor, down: &Tensor, area: usize) -> Result<Self> {
        let up = up.flatten_from(1)?;
        let rank = down.dim(0)?;
        let inputs = down.elem_count() / (rank * area).max(1);
        let down = down.reshape((rank, inputs, area))?;
        Ok(Self { up, down })
    }

    /// A whole matrix (outputs, inputs, ..): its product with the smaller identity.
    pub(super) fn whole(matrix: &Tensor, area: usize) -> Result<Self> {
        let matrix = matrix.flatten_from(1)?;
        let (outputs, columns) = matrix.dims2()?;
        let eye = |n| Tensor::eye(n, matrix.dtype(), matrix.device());
        match outputs <= columns {
            true => Self::of(&eye(outputs)?, &matrix, area),
            false => Self::of(&matrix, &eye(columns)?, area),
        }
    }

    /// A convolution in CP form: up (outputs, n), core (n, m, k, k), down (m, inputs), with
    /// as many inputs at most and kernels of this area.
    pub(super) fn cp([up, core, down]: [&Tensor; 3], most: usize, area: usize) -> Result<Self> {
        let core = core.flatten_from(2)?; // (n, m, area)
        let down = down.flatten_from(1)?;
        if core.dim(2)? != area || down.dim(1)? > most {
            bail!("the kernels are of another size");
        }
        // sum over m of core (n, area, m) x down (m, inputs)
        let core = core.transpose(1, 2)?.contiguous()?;
        let down = core.broadcast_matmul(&down)?;
        let down = down.transpose(1, 2)?.contiguous()?; // (n, inputs, area)
        Self::of(up, &down, area)
    }

    /// Outputs, inputs and area of the product.
    pub(super) fn shape(&self) -> Result<[usize; 3]> {
        let (_, inputs, area) = self.down.dims3()?;
        Ok([self.up.dim(0)?, inputs, area])
    }

    /// The same product, with a rank that is not larger than the product's sides.
    fn reduced(&self) -> Result<Self> {
        let [outputs, inputs, area] = self.shape()?;
        match self.up.dim(1)? > outputs.min(inputs * area) {
            true => Self::whole(&self.product()?, area),
            false => Ok(self.clone()),
        }
    }

    /// The elementwise product of two matrices of one shape: the rank is that of both,
    /// multiplied, unless the whole matrix is smaller.
    pub(super) fn hadamard(&self, other: &Self) -> Result<Self> {
        let [outputs, inputs, area] = self.shape()?;
        if self.up.dim(1)?.saturating_mul(other.up.dim(1)?) > outputs.min(inputs * area) {
            return Self::whole(&(self.product()? * other.product()?)?, area);
        }
        let up = (self.up.unsqueeze(2)?).broadcast_mul(&other.up.unsqueeze(1)?)?;
        let down = self.down.unsqueeze(1)?; // (rank, 1, inputs, area)
        let down = down.broadcast_mul(&other.down.unsqueeze(0)?)?;
        Self::of(&up.contiguous()?, &down.flatten(0, 1)?, area)
    }

    /// The Kronecker product with a matrix whose kernels are the result's.
    pub(super) fn kronecker(&self, other: &Self) -> Result<Self> {
        let (one, two) = (self.reduced()?, other.reduced()?);
        let area = two.down.dim(2)?;
        let up = one.up.unsqueeze(1)?.unsqueeze(3)?; // (a, 1, r, 1)
        let up = up.broadcast_mul(&two.up.unsqueeze(0)?.unsqueeze(2)?)?; // (a, c, r, s)
        let up = up.flatten(2, 3)?.flatten(0, 1)?;
        let down = one.down.unsqueeze(1)?.unsqueeze(3)?; // (r, 1, b, 1, 1)
        let down = down.broadcast_mul(&two.down.unsqueeze(0)?.unsqueeze(2)?)?; // (r, s, b, d, area)
        Self::of(&up, &down.flatten(0, 1)?, area)
    }

    /// The product (outputs, inputs x area).
    fn product(&self) -> Result<Tensor> {
        self.up.matmul(&self.down.flatten_from(1)?)
    }

    /// The delta of a DoRA: the weight (outputs, inputs, ..) plus this, scaled, with its
    /// columns or rows brought to their magnitudes, less the weight.
    pub(super) fn with_magnitudes(
        &self,
        scale: f64,
        weight: &Tensor,
        magnitudes: &Tensor,
        kind: Magnitudes,
    ) -> Result<Self> {
        let [outputs, inputs, area] = self.shape()?;
        let weight = weight.reshape((outputs, inputs, area))?;
        let changed = (&weight + (self.product()? * scale)?.reshape(weight.shape())?)?;
        let squares = changed.sqr()?.sum_keepdim(D::Minus1)?; // (outputs, inputs, 1)
        let norms = match kind {
            Magnitudes::OfOutputs => squares.sum_keepdim(1)?,
            Magnitudes::OfInputs => squares.sum_keepdim(0)?,
        };
        let norms = norms.sqrt()?;
        let gains = magnitudes.reshape(norms.shape())?.div(&norms)?;
        let delta = (changed.broadcast_mul(&gains)? - weight)?;
        Self::whole(&delta, area)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn waves(shape: &[usize], phase: f64) -> Tensor {
        let wave = |i: usize| (i as f64 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn rows(matrix: &Tensor) -> Vec<Vec<f64>> {
        matrix.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    /// Compares a pair with the matrix (outputs, inputs, area) of which `at` gives the values.
    fn check(pair: &Pair, at: impl Fn(usize, usize, usize) -> f64) {
        let area = pair.down.dim(2).unwrap();
        for (o, row) in rows(&pair.product().unwrap()).iter().enumerate() {
            for (i, value) in row.iter().enumerate() {
                let expected = at(o, i / area, i % area);
                assert!(
                    (value - expected).abs() < 1e-12,
                    "{o} {i}: {value} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_whole_matrix_is_itself() {
        for shape in [[3, 4], [5, 2]] {
            let matrix = waves(&shape, 0.3);
            let values = rows(&matrix);
            check(&Pair::whole(&matrix, 1).unwrap(), |o, i, _| values[o][i]);
            check(&Pair::whole(&matrix, 2).unwrap(), |o, i, k| {
                values[o][2 * i + k]
            });
        }
    }

    /// With ranks below and above the sides of the matrices.
    #[test]
    fn products_are_their_definitions() {
        for (one, two) in [(2, 3), (3, 4), (1, 9), (9, 1)] {
            products(one, two);
        }
    }

    fn products(one: usize, two: usize) {
        let a = Pair::of(&waves(&[6, one], 0.1), &waves(&[one, 4, 3], 0.2), 3).unwrap();
        let b = Pair::of(&waves(&[6, two], 0.5), &waves(&[two, 4, 3], 0.6), 3).unwrap();
        let (x, y) = (rows(&a.product().unwrap()), rows(&b.product().unwrap()));
        let both = a.hadamard(&b).unwrap();
        check(&both, |o, i, k| x[o][3 * i + k] * y[o][3 * i + k]);
        let small = Pair::of(&waves(&[2, one], 0.8), &waves(&[one, 5], 0.9), 1).unwrap();
        let z = rows(&small.product().unwrap());
        let both = small.kronecker(&b).unwrap();
        check(&both, |o, i, k| z[o / 6][i / 4] * y[o % 6][3 * (i % 4) + k]);
    }

    #[test]
    fn a_core_lies_between_the_factors() {
        let (up, core, down) = (
            waves(&[5, 2], 0.1),
            waves(&[2, 3, 2, 2], 0.2),
            waves(&[3, 4], 0.3),
        );
        let (u, c, d) = (rows(&up), rows(&core.flatten(0, 1).unwrap()), rows(&down));
        let all = [&up, &core, &down];
        assert!(Pair::cp(all, 4, 9).is_err() && Pair::cp(all, 3, 4).is_err());
        check(&Pair::cp(all, 4, 4).unwrap(), |o, i, k| {
            let terms = (0..6).map(|nm| u[o][nm / 3] * c[nm][k] * d[nm % 3][i]);
            terms.sum()
        });
    }

    #[test]
    fn magnitudes_are_the_norms_of_the_result() {
        let pair = Pair::of(&waves(&[3, 2], 0.1), &waves(&[2, 4, 2], 0.2), 2).unwrap();
        let weight = waves(&[3, 4, 2], 0.7);
        for (kind, count) in [(Magnitudes::OfOutputs, 3), (Magnitudes::OfInputs, 4)] {
            let wanted = (waves(&[count], 0.4) + 2.0).unwrap();
            let delta = pair.with_magnitudes(0.5, &weight, &wanted, kind).unwrap();
            let sum = (delta.product().unwrap() + weight.flatten_from(1).unwrap()).unwrap();
            let sum = sum
                .reshape((3, 4, 2))
                .unwrap()
                .sqr()
                .unwrap()
                .sum(2)
                .unwrap();
            let norms = match kind {
                Magnitudes::OfOutputs => sum.sum(1),
                Magnitudes::OfInputs => sum.sum(0),
            };
            let norms: Vec<f64> = norms.unwrap().sqrt().unwrap().to_vec1().unwrap();
            let wanted: Vec<f64> = wanted.to_vec1().unwrap();
            for (norm, wanted) in norms.iter().zip(wanted) {
                assert!((norm - wanted).abs() < 1e-12, "{norm} {wanted}");
            }
        }
    }
}
