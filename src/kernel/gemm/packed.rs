//! The right side of a matrix product, packed for sequential access.

use half::{bf16, f16};

use crate::kernel::{pages::zeros_of, parts::each, simd::lanes, stored::StoredValues};

/// Vectors in the widest panel.
pub(in crate::kernel) const WIDEST: usize = 3;

/// A matrix (terms, columns), split into panels of a few vectors' width, each
/// stored term by term. The last vector is padded with zeros.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct PackedMatrix {
    terms: usize,
    columns: usize,
    panels: Vec<Panel>,
    values: Values,
}

/// Columns that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Panel {
    /// First column.
    pub column: usize,
    /// Width in vectors, 1 to [`WIDEST`].
    pub vectors: usize,
}

#[derive(Clone, Debug)]
enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl PackedMatrix {
    /// Packs a matrix (terms, columns) of weights in their type; `place(term, column)` returns
    /// the index of each value.
    pub(in crate::kernel) fn new(
        weight: StoredValues,
        shape: (usize, usize),
        place: impl Fn(usize, usize) -> usize + Sync,
    ) -> Self {
        let values = match weight {
            StoredValues::F32(v) => Values::F32(pack(v, shape, place)),
            StoredValues::F16(v) => Values::F16(pack(v, shape, place)),
            StoredValues::Bf16(v) => Values::Bf16(pack(v, shape, place)),
        };
        Self::holding(values, shape)
    }

    /// Packs f32 values.
    pub(in crate::kernel) fn from_values(
        values: &[f32],
        shape: (usize, usize),
        place: impl Fn(usize, usize) -> usize + Sync,
    ) -> Self {
        Self::holding(Values::F32(pack(values, shape, place)), shape)
    }

    /// Packs a matrix made of the values of this one: `from(term, column)` returns the
    /// term and column of each value in this matrix.
    pub(in crate::kernel) fn rearranged(
        &self,
        shape: (usize, usize),
        from: impl Fn(usize, usize) -> (usize, usize) + Sync,
    ) -> Self {
        let places = self.places();
        let place = |term, column| {
            let (term, column) = from(term, column);
            let (start, width) = places[column];
            start + term * width
        };
        let values = match &self.values {
            Values::F32(v) => Values::F32(pack(v, shape, place)),
            Values::F16(v) => Values::F16(pack(v, shape, place)),
            Values::Bf16(v) => Values::Bf16(pack(v, shape, place)),
        };
        Self::holding(values, shape)
    }

    /// The index of the first term and the stride of each column.
    fn places(&self) -> Vec<(usize, usize)> {
        let of_panel = |panel: &Panel| {
            let (start, width) = (panel.column * self.terms, panel.vectors * lanes());
            (0..width).map(move |column| (start + column, width))
        };
        self.panels.iter().flat_map(of_panel).collect()
    }

    fn holding(values: Values, (terms, columns): (usize, usize)) -> Self {
        Self {
            terms,
            columns,
            panels: panels(columns, lanes()),
            values,
        }
    }

    /// Number of terms.
    pub(in crate::kernel) fn terms(&self) -> usize {
        self.terms
    }

    /// Number of columns.
    pub(in crate::kernel) fn columns(&self) -> usize {
        self.columns
    }

    pub(in crate::kernel) fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// Whether the values are f16 or bf16, which are widened on use.
    pub(in crate::kernel) fn is_half(&self) -> bool {
        !matches!(self.values, Values::F32(_))
    }

    /// Size of the scratch buffer for a block of `terms`.
    pub(in crate::kernel) fn scratch(&self, terms: usize) -> usize {
        match self.is_half() {
            true => terms * WIDEST * lanes(),
            false => 0,
        }
    }

    /// Some terms of a panel in f32; half precision is widened into `scratch`.
    #[inline(always)]
    pub(in crate::kernel) fn block<'a>(
        &'a self,
        panel: Panel,
        terms: std::ops::Range<usize>,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let width = panel.vectors * lanes();
        let start = panel.column * self.terms + terms.start * width;
        let range = start..start + terms.len() * width;
        if let Values::F32(values) = &self.values {
            return &values[range];
        }
        let scratch = &mut scratch[..range.len()];
        match &self.values {
            Values::F32(_) => {}
            Values::F16(values) => widen(&values[range], f16_to_f32, scratch),
            Values::Bf16(values) => widen(
                &values[range],
                |x| f32::from_bits(u32::from(x.to_bits()) << 16),
                scratch,
            ),
        }
        scratch
    }
}

/// Widens values, in a loop that the compiler vectorises.
#[inline(always)]
fn widen<T: Copy>(values: &[T], to_f32: impl Fn(T) -> f32, out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = to_f32(*value);
    }
}

/// Converts without branches: exponent and fraction are shifted, and a factor corrects
/// the exponent, also of subnormal numbers.
#[inline(always)]
fn f16_to_f32(x: f16) -> f32 {
    const CORRECTION: f32 = f32::from_bits((127 + 127 - 15) << 23); // 2^112
    let bits = u32::from(x.to_bits());
    let size = f32::from_bits((bits & 0x7FFF) << 13) * CORRECTION;
    // Infinity and NaN become 2^16 or more, which f16 cannot represent.
    let beyond = if size >= 65536.0 { 0x7F80_0000 } else { 0 };
    f32::from_bits(size.to_bits() | beyond | (bits & 0x8000) << 16)
}

/// Splits columns into panels: the widest first, and two pairs instead of a single
/// vector at the end, because narrow panels are slow.
pub(in crate::kernel) fn panels(columns: usize, lanes: usize) -> Vec<Panel> {
    let mut left = columns.div_ceil(lanes);
    let mut column = 0;
    let mut panels = Vec::new();
    while left > 0 {
        let vectors = match left {
            2 | 4 => 2,
            _ => left.min(WIDEST),
        };
        panels.push(Panel { column, vectors });
        column += vectors * lanes;
        left -= vectors;
    }
    panels
}

fn pack<T: Copy + Default + Send + Sync>(
    values: &[T],
    (terms, columns): (usize, usize),
    place: impl Fn(usize, usize) -> usize + Sync,
) -> Vec<T> {
    let lanes = lanes();
    let mut packed = zeros_of::<T>(columns.div_ceil(lanes) * lanes * terms);
    let mut rest = packed.as_mut_slice();
    let mut parts = Vec::new();
    for panel in panels(columns, lanes) {
        let (part, tail) = rest.split_at_mut(panel.vectors * lanes * terms);
        parts.push((panel, part));
        rest = tail;
    }
    each(parts, &|_, (panel, part): (Panel, &mut [T])| {
        let width = panel.vectors * lanes;
        let used = width.min(columns - panel.column);
        // A few terms at a time, for the cache.
        for (block, part) in part.chunks_mut(16 * width).enumerate() {
            for column in 0..used {
                for (term, slot) in part[column..].iter_mut().step_by(width).enumerate() {
                    *slot = values[place(block * 16 + term, panel.column + column)];
                }
            }
        }
    });
    packed
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::kernel::stored::with_values;

    #[test]
    fn panels_cover_the_columns_once() {
        for columns in 0..300 {
            for lanes in [1, 4, 8, 16] {
                let mut next = 0;
                for panel in panels(columns, lanes) {
                    assert_eq!(panel.column, next);
                    assert!((1..=WIDEST).contains(&panel.vectors));
                    next += panel.vectors * lanes;
                }
                assert_eq!(next, columns.div_ceil(lanes) * lanes);
            }
        }
    }

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (x, widened) = (f16::from_bits(bits), f16_to_f32(f16::from_bits(bits)));
            assert_eq!(widened.is_nan(), x.is_nan());
            assert!(
                x.is_nan() || widened.to_bits() == x.to_f32().to_bits(),
                "{bits:x}"
            );
        }
    }

    #[test]
    fn a_block_holds_the_terms_of_its_columns() {
        let (columns, terms) = (70, 21);
        let weight = Tensor::arange(0f32, (columns * terms) as f32, &Device::Cpu).unwrap();
        let weight = weight.reshape((columns, terms)).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let weight = weight.to_dtype(dtype).unwrap();
            let rows = weight.to_dtype(DType::F32).unwrap();
            let rows = rows.to_vec2::<f32>().unwrap();
            // The terms are packed backwards.
            let place = |term, column| column * terms + terms - 1 - term;
            let packed = with_values(&weight, |values| {
                Ok(PackedMatrix::new(values, (terms, columns), place))
            });
            let packed = packed.unwrap();
            let mut scratch = vec![0.0; packed.scratch(terms)];
            for &panel in packed.panels() {
                let width = panel.vectors * lanes();
                let block = packed.block(panel, 5..terms, &mut scratch);
                assert_eq!(block.len(), (terms - 5) * width);
                for (i, value) in block.iter().enumerate() {
                    let (term, column) = (5 + i / width, panel.column + i % width);
                    let expected = rows.get(column).map_or(0.0, |row| row[terms - 1 - term]);
                    assert_eq!(*value, expected);
                }
            }
        }
    }
}
