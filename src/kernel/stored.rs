//! Weights as a network is loaded: from the type in which they are stored to another, with a
//! low-rank product added or not, on all threads and with one pass over memory.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, WithDType, bail};
use half::{bf16, f16, slice::HalfFloatSliceExt, vec::HalfBitsVecExt};
use pulp::{Simd, WithSimd};

use super::{
    bf16::{Arithmetic, RightSide, rounded},
    gemm::Matrix,
    op,
    pages::zeros_of,
    parts::each,
    scratch::Scratch,
    simd::vectorised,
};

/// Rows that are computed together: two tiles of bf16 products.
const ROWS: usize = 32;

/// Values that are converted together.
const VALUES: usize = 1 << 15;

/// Weights on a CPU in another type. Not differentiable.
pub fn convert(weight: &Tensor, dtype: DType) -> Result<Tensor> {
    match weight.dtype() == dtype {
        true => Ok(weight.clone()),
        false => rewritten(weight, dtype, VALUES, &|_, _| ()),
    }
}

/// Weights (m, ..) of m n values plus the product of `up` (m, k) and `down` (k, n), both f32 and
/// contiguous: added in f32, and rounded to `dtype` at the end. All on a CPU. Not differentiable.
pub fn add_product(
    arithmetic: Arithmetic,
    weight: &Tensor,
    [up, down]: [&Tensor; 2],
    dtype: DType,
) -> Result<Tensor> {
    let ((m, k), (terms, n)) = (up.dims2()?, down.dims2()?);
    if k != terms || weight.elem_count() != m * n {
        bail!("add_product: {up:?} times {down:?} onto {weight:?}");
    }
    op::with([up, down], |[up, down]| {
        let down = RightSide::of(arithmetic, Matrix::contiguous(down, n), k);
        rewritten(weight, dtype, ROWS * n, &|part, values| {
            let mut sums = Scratch::new(values.len());
            let rows = sums.chunks_mut(n).collect();
            down.compute(Matrix::contiguous(up, k), part * ROWS, rows);
            values.iter_mut().zip(&*sums).for_each(|(x, y)| *x += y);
        })
    })
}

/// What is done with the values of a part, given its number.
type Change<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Weights in another type, whose parts of so many values are changed in f32.
fn rewritten(weight: &Tensor, dtype: DType, part: usize, change: Change) -> Result<Tensor> {
    let weight = match weight.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => weight.contiguous()?,
        _ => weight.to_dtype(DType::F32)?.contiguous()?,
    };
    let (storage, layout) = weight.storage_and_layout();
    let values = layout.start_offset()..layout.start_offset() + weight.elem_count();
    let work = Work { part, change };
    let written = match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => work.written(&v[values], dtype),
        Storage::Cpu(CpuStorage::F16(v)) => work.written(&v[values], dtype),
        Storage::Cpu(CpuStorage::BF16(v)) => work.written(&v[values], dtype),
        _ => bail!("weights are converted on a CPU"),
    };
    written?.reshape(weight.shape())
}

struct Work<'a> {
    part: usize,
    change: Change<'a>,
}

impl Work<'_> {
    fn written<T: Float>(&self, from: &[T], dtype: DType) -> Result<Tensor> {
        match dtype {
            DType::F32 => self.tensor::<T, f32>(from),
            DType::F16 => self.tensor::<T, f16>(from),
            DType::BF16 => self.tensor::<T, bf16>(from),
            other => bail!("weights are not converted to {other:?}"),
        }
    }

    fn tensor<T: Float, U: Float>(&self, from: &[T]) -> Result<Tensor> {
        let mut out = U::zeros(from.len());
        let part = self.part.max(1);
        let parts = from.chunks(part).zip(out.chunks_mut(part)).collect();
        each(parts, &|i, (from, out): (&[T], &mut [U])| {
            let mut values = Scratch::new(from.len());
            T::widen(from, &mut values);
            (self.change)(i, &mut values);
            U::narrow(&values, out);
        });
        let length = out.len();
        Tensor::from_vec(out, length, &Device::Cpu)
    }
}

/// A type of stored weights.
trait Float: WithDType {
    fn zeros(length: usize) -> Vec<Self>;

    fn widen(from: &[Self], to: &mut [f32]);

    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Float for f32 {
    fn zeros(length: usize) -> Vec<Self> {
        zeros_of(length)
    }

    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Float for f16 {
    fn zeros(length: usize) -> Vec<Self> {
        zeros_of::<u16>(length).reinterpret_into()
    }

    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

impl Float for bf16 {
    fn zeros(length: usize) -> Vec<Self> {
        zeros_of::<u16>(length).reinterpret_into()
    }

    fn widen(from: &[Self], to: &mut [f32]) {
        let widened = |x: &Self| f32::from_bits(u32::from(x.to_bits()) << 16);
        to.iter_mut().zip(from).for_each(|(y, x)| *y = widened(x));
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        struct Round<'a>(&'a [f32], &'a mut [bf16]);
        impl WithSimd for Round<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) {
                let narrowed = |x: &f32| bf16::from_bits((rounded(*x) >> 16) as u16);
                self.1
                    .iter_mut()
                    .zip(self.0)
                    .for_each(|(y, x)| *y = narrowed(x));
            }
        }
        vectorised(Round(from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    fn waves(shape: &[usize], phase: f32) -> Tensor {
        let wave = |i: usize| (i as f32 * 0.7 + phase).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        let [a, b] = [a, b].map(|x| x.to_dtype(DType::F32).unwrap());
        let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        gap.to_scalar().unwrap()
    }

    #[test]
    fn conversions_are_those_of_single_values() {
        for shape in [[0, 3], [7, 5], [3, VALUES]] {
            for from in TYPES {
                let weight = waves(&shape, 0.3).to_dtype(from).unwrap();
                for to in TYPES {
                    let converted = convert(&weight, to).unwrap();
                    assert_eq!((converted.dtype(), converted.dims()), (to, &shape[..]));
                    let expected = weight.to_dtype(to).unwrap();
                    if weight.elem_count() > 0 {
                        assert_eq!(gap(&converted, &expected), 0.0, "{from:?} to {to:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn views_and_other_types_are_converted_too() {
        let weight = waves(&[6, 40], 0.1);
        let view = weight.t().unwrap().narrow(0, 3, 20).unwrap();
        let expected = view.to_dtype(DType::BF16).unwrap();
        assert_eq!(gap(&convert(&view, DType::BF16).unwrap(), &expected), 0.0);
        let double = weight.to_dtype(DType::F64).unwrap();
        assert_eq!(gap(&convert(&double, DType::F32).unwrap(), &weight), 0.0);
        assert!(convert(&weight, DType::U8).is_err());
    }

    #[test]
    fn a_product_is_added_before_the_result_is_rounded() {
        for (m, k, n) in [(7, 3, 45), (70, 33, 64), (1, 1, 1)] {
            let (up, down) = (waves(&[m, k], 0.5), waves(&[k, n], 0.1));
            for (from, to) in TYPES.into_iter().zip([DType::BF16, DType::F32, DType::F32]) {
                let weight = waves(&[m, n], 0.9).to_dtype(from).unwrap();
                let merged = add_product(Arithmetic::F32, &weight, [&up, &down], to).unwrap();
                let exact =
                    (weight.to_dtype(DType::F32).unwrap() + up.matmul(&down).unwrap()).unwrap();
                let largest = exact.abs().unwrap().max_all().unwrap();
                let rounding = if to == DType::F32 { 1e-6 } else { 0.004 };
                let bound = rounding * largest.to_scalar::<f32>().unwrap();
                assert!(gap(&merged, &exact) <= bound, "{from:?} to {to:?}");
            }
        }
        let [a, b] = [waves(&[2, 3], 0.0), waves(&[4, 5], 0.0)];
        assert!(add_product(Arithmetic::F32, &a, [&a, &b], DType::F32).is_err());
    }

    #[test]
    fn products_of_rounded_factors_differ_by_their_rounding() {
        let unit = crate::kernel::bf16::Unit::Emulated;
        let (weight, up, down) = (
            waves(&[40, 70], 0.9),
            waves(&[40, 9], 0.5),
            waves(&[9, 70], 0.1),
        );
        let [exact, rounded] = [Arithmetic::F32, Arithmetic::Bf16(unit)]
            .map(|arithmetic| add_product(arithmetic, &weight, [&up, &down], DType::F32).unwrap());
        let gap = gap(&exact, &rounded);
        assert!(gap > 0.0 && gap < 9.0 * 2f32.powi(-8), "{gap}");
    }
}
