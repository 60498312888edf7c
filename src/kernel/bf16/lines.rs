//! The layout that all units read: lines of 32 terms, rounded to bf16.

/// 16 pairs of bf16 values, the even one in the low half, on a cache line of its own: a
/// line that crosses two is read several times slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(in crate::kernel) struct Line(pub [u32; 16]);

/// Terms per line of the left side.
pub(in crate::kernel) const TERMS: usize = 32;

/// Pairs of terms per line.
pub(super) const PAIRS: usize = TERMS / 2;

/// Rows per tile.
pub(in crate::kernel) const ROWS: usize = 16;

/// Columns per panel of the right side.
pub(in crate::kernel) const COLUMNS: usize = 32;

/// Sums of two tiles of rows and a panel of columns, row by row.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(in crate::kernel) struct Sums(pub [[f32; COLUMNS]; 2 * ROWS]);

impl Default for Sums {
    fn default() -> Self {
        Self([[0.0; COLUMNS]; 2 * ROWS])
    }
}

/// What the sums begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Start {
    Zero,
    /// What they are.
    Sums,
}

/// Where each step's terms of a row are, relative to the row's first line.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Steps {
    /// In bytes.
    bytes: Vec<usize>,
    /// The last line, relative to a row's first.
    last: usize,
    /// Pairs of the last step that are not zeros in all rows.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "read by `last_pairs` alone")
    )]
    pairs: usize,
}

impl Steps {
    /// Steps at these lines.
    pub(in crate::kernel) fn at(lines: impl Iterator<Item = usize> + Clone) -> Self {
        Self {
            last: lines.clone().max().unwrap_or(0),
            bytes: lines.map(|line| line * size_of::<Line>()).collect(),
            pairs: PAIRS,
        }
    }

    /// The same steps for rows of so many terms: what fills their last line is zeros.
    pub(in crate::kernel) fn of_terms(self, terms: usize) -> Self {
        let pairs = match terms % TERMS {
            0 => PAIRS,
            rest => rest.div_ceil(2),
        };
        Self { pairs, ..self }
    }

    /// Pairs of the last step that are not zeros in all rows, if these are not all.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "the emulation multiplies zeros as tiles do")
    )]
    #[inline(always)]
    pub(in crate::kernel) fn last_pairs(&self) -> Option<usize> {
        (self.pairs < PAIRS && !self.bytes.is_empty()).then_some(self.pairs)
    }

    /// Each step's terms relative to a row's first line, in bytes.
    #[inline(always)]
    pub(in crate::kernel) fn bytes(&self) -> &[usize] {
        &self.bytes
    }

    /// The number of lines of a left side whose last tile begins at `row`.
    pub(in crate::kernel) fn reach(&self, row: usize) -> usize {
        row + self.last + ROWS
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Operands<'a> {
    pub a: &'a [Line],
    /// The first lines of one or two tiles of rows.
    pub rows: (usize, Option<usize>),
    /// How many of the first rows are needed: the sums of the others may stay what they are.
    pub count: usize,
    pub steps: &'a Steps,
    /// For each step, 16 lines of 16 columns each, and 16 of the next 16 columns: a line
    /// has two terms of each column.
    pub b: &'a [Line],
}

impl Operands<'_> {
    /// Panics unless all lines exist.
    #[inline(always)]
    pub(in crate::kernel) fn check(&self) {
        let last = self.rows.0.max(self.rows.1.unwrap_or(0));
        assert!(self.steps.reach(last) <= self.a.len());
        assert!(self.steps.bytes.len() * 2 * ROWS <= self.b.len());
    }
}

/// The nearest bf16, ties to even, in the upper half; what is not a number stays so.
#[inline(always)]
pub(in crate::kernel) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let near = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x40_0000 } else { near }
}

/// A pair of terms.
#[inline(always)]
pub(in crate::kernel) fn pair(even: f32, odd: f32) -> u32 {
    rounded(even) >> 16 | rounded(odd) & 0xFFFF_0000
}

/// 32 terms of a row.
#[inline(always)]
pub(in crate::kernel) fn line(terms: &[f32; TERMS]) -> Line {
    let mut halves = [0u16; TERMS];
    for (half, x) in halves.iter_mut().zip(terms) {
        *half = (rounded(*x) >> 16) as u16;
    }
    Line(pulp::bytemuck::cast(halves))
}

/// Up to 32 terms of a row, and zeros.
#[inline(always)]
pub(in crate::kernel) fn short_line(terms: &[f32]) -> Line {
    let mut all = [0.0; TERMS];
    all[..terms.len()].copy_from_slice(terms);
    line(&all)
}

/// Rounds a row whose first line is `first`, and whose blocks of terms are `height` lines apart.
#[inline(always)]
pub(in crate::kernel) fn round_row(
    terms: &[f32],
    lines: &mut [Line],
    (first, height): (usize, usize),
) {
    let (whole, rest) = terms.as_chunks();
    for (block, terms) in whole.iter().enumerate() {
        lines[block * height + first] = line(terms);
    }
    if !rest.is_empty() {
        lines[whole.len() * height + first] = short_line(rest);
    }
}

/// The terms of a pair.
#[inline(always)]
pub(in crate::kernel) fn widened(pair: u32) -> [f32; 2] {
    [
        f32::from_bits(pair << 16),
        f32::from_bits(pair & 0xFFFF_0000),
    ]
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_to_even() {
        let all = (0..=u32::MAX).step_by(4099).map(f32::from_bits);
        let ties = (0..=u16::MAX).map(|x| f32::from_bits(u32::from(x) << 16 | 0x8000));
        for x in all.chain(ties) {
            let expected = bf16::from_f32(x);
            let [even, odd] = widened(pair(x, -x));
            assert!(even.to_bits() == expected.to_f32().to_bits() || even.is_nan() && x.is_nan());
            assert!(odd.to_bits() == (-expected.to_f32()).to_bits() || odd.is_nan() && x.is_nan());
        }
    }

    #[test]
    fn a_line_holds_its_terms_in_order() {
        let terms: [f32; TERMS] = std::array::from_fn(|i| i as f32);
        let found: Vec<_> = line(&terms).0.into_iter().flat_map(widened).collect();
        assert_eq!(found, terms);
        let found: Vec<_> = short_line(&terms[..5])
            .0
            .into_iter()
            .flat_map(widened)
            .collect();
        assert_eq!(found[..6], [0., 1., 2., 3., 4., 0.]);
    }
}
