//! Where an edit changes most. Both prompts set out from one latent, so what they make of it
//! differs where they say different things, and a little everywhere else, by what guidance
//! exaggerates: DiffEdit's masks (arXiv 2210.11427, section 3.2), from the steps of the walk
//! itself instead of samples of noise before it.

use candle_core::{D, DType, Tensor};

use super::{BlendThreshold, exceeding};
use crate::{control::add_to, error::Result};

/// Cells along the shorter side, as many as the maps of words have in Stable Diffusion.
const CELLS: usize = 16;
/// Above 0, so that rows without any difference have none.
const LEAST: f64 = 1e-30;

/// The differences of the targets' latents from the source's, summed over the steps, each step's
/// as fractions of their maximum.
///
/// Guidance of the targets alone makes them differ everywhere, even under the source's prompt: once
/// there was a step without it, steps with it do not count.
#[derive(Clone, Debug, Default)]
pub(super) struct Difference {
    /// By cells, (targets, 1, height, width).
    sum: Option<Tensor>,
    /// Whether they are of steps in which guidance leads all rows alike.
    is_even: bool,
}

impl Difference {
    /// Adds those of latents (1 + targets, channels, h, w) after a step in which guidance led some
    /// rows further than others, or not.
    pub(super) fn add(&mut self, x: &Tensor, uneven: bool) -> Result<()> {
        if uneven && self.is_even {
            return Ok(());
        }
        if !uneven && !self.is_even {
            (self.sum, self.is_even) = (None, true);
        }
        let x = x.to_dtype(DType::F32)?;
        let (source, targets) = (x.narrow(0, 0, 1)?, x.narrow(0, 1, x.dim(0)? - 1)?);
        let square = targets.broadcast_sub(&source)?.sqr()?.mean_keepdim(1)?;
        let (_, _, height, width) = square.dims4()?;
        let size = cell(height, width);
        let filled = square
            .pad_with_same(2, 0, height.next_multiple_of(size) - height)?
            .pad_with_same(3, 0, width.next_multiple_of(size) - width)?;
        let cells = filled.avg_pool2d(size)?.sqrt()?;
        let max = cells.max_keepdim(D::Minus1)?.max_keepdim(D::Minus2)?;
        add_to(&mut self.sum, cells.broadcast_div(&max.maximum(LEAST)?)?)
    }

    /// 1 in the area of each target's edit, else 0, (targets, 1, h, w), if any latents were added,
    /// which have this size (h, w).
    pub(super) fn mask(
        &self,
        threshold: BlendThreshold,
        (height, width): (usize, usize),
    ) -> Result<Option<Tensor>> {
        let Some(sum) = &self.sum else {
            return Ok(None);
        };
        let (size, (_, _, rows, columns)) = (cell(height, width), sum.dims4()?);
        let mask = exceeding(sum, threshold, (rows * size, columns * size))?;
        Ok(Some(mask.narrow(2, 0, height)?.narrow(3, 0, width)?))
    }
}

/// The side of a cell.
fn cell(height: usize, width: usize) -> usize {
    (height.min(width) / CELLS).max(1)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Latents of a source and of targets, 0 but for these values of the targets.
    fn latents(side: usize, targets: &[&[(usize, f32)]]) -> Tensor {
        let row = |values: &[(usize, f32)]| {
            let mut row = vec![0f32; side * side];
            for &(pixel, value) in values {
                row[pixel] = value;
            }
            row
        };
        let rows = [&[][..]].into_iter().chain(targets.iter().copied());
        let rows: Vec<_> = rows.flat_map(row).collect();
        Tensor::from_vec(rows, (1 + targets.len(), 1, side, side), &Device::Cpu).unwrap()
    }

    fn masks(side: usize, steps: &[Tensor]) -> Vec<Vec<usize>> {
        let mut difference = Difference::default();
        for x in steps {
            difference.add(x, false).unwrap();
        }
        let masks = difference
            .mask(BlendThreshold(0.25), (side, side))
            .unwrap()
            .unwrap();
        let rows: Vec<Vec<f32>> = masks.flatten_from(1).unwrap().to_vec2().unwrap();
        let inside = |row: Vec<f32>| (0..row.len()).filter(|&pixel| row[pixel] == 1.0).collect();
        rows.into_iter().map(inside).collect()
    }

    #[test]
    fn an_area_is_what_differs_most_and_beside() {
        let x = latents(4, &[&[(0, -1.0), (15, 0.24)], &[(15, 0.1), (3, 0.03)], &[]]);
        let expected = [
            vec![0, 1, 4, 5],
            vec![2, 3, 6, 7, 10, 11, 14, 15],
            Vec::new(),
        ];
        assert_eq!(masks(4, &[x]), expected);
    }

    /// Pixel 15 has the fractions 0.24 and 0.5, of which the sum is 0.37 of the most.
    #[test]
    fn each_step_counts_alike() {
        let small = latents(4, &[&[(0, 1.0), (15, 0.24)]]);
        let large = latents(4, &[&[(0, 100.0), (15, 50.0)]]);
        let expected = vec![0, 1, 4, 5, 10, 11, 14, 15];
        assert_eq!(masks(4, &[small, large]), [expected]);
    }

    /// Guided steps count where there are no others.
    #[test]
    fn steps_in_which_guidance_leads_rows_alike_count_alone() {
        let at = |pixel| latents(4, &[&[(pixel, 1.0)]]);
        let area = |steps: &[(usize, bool)]| {
            let mut difference = Difference::default();
            for &(pixel, uneven) in steps {
                difference.add(&at(pixel), uneven).unwrap();
            }
            let mask = difference.mask(BlendThreshold(0.25), (4, 4));
            let mask = mask.unwrap().unwrap().flatten_all().unwrap();
            let mask: Vec<f32> = mask.to_vec1().unwrap();
            [0, 3, 15].map(|corner| mask[corner] == 1.0)
        };
        assert_eq!(area(&[(0, true), (3, true)]), [true, true, false]);
        let mixed = [(0, true), (3, false), (15, true)];
        assert_eq!(area(&mixed), [false, true, false]);
    }

    /// 34 pixels are 17 cells of 2 and 35 are 18, the last of them half outside.
    #[test]
    fn large_latents_are_compared_by_cells() {
        for (side, pixel, first) in [(34, 0, 0), (35, 35 * 35 - 1, 32)] {
            let expected: Vec<_> = (0..side * side)
                .filter(|at| {
                    let inside = |at: usize| (first..first + 4).contains(&at);
                    inside(at / side) && inside(at % side)
                })
                .collect();
            let x = latents(side, &[&[(pixel, 1.0)]]);
            assert_eq!(masks(side, &[x]), [expected], "{side}");
        }
    }
}
