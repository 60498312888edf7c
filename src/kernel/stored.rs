//! Weights as they are stored, and in another type, with a low-rank product added or not: on all
//! threads and with one pass over memory.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, WithDType, bail};
use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
    vec::HalfBitsVecExt,
};
use pulp::{Simd, WithSimd, bytemuck::try_cast_slice};

use super::{
    bf16::rounded,
    gemm::{Matrix, Task},
    op,
    pages::zeros_of,
    parts::each,
    scratch::Scratch,
    simd::vectorised,
};

/// Rows that are computed together.
const ROWS: usize = 32;

/// Values that are converted together.
const VALUES: usize = 1 << 15;

/// Weights in a type. Not differentiable.
pub fn convert(weight: StoredValues, dtype: DType) -> Result<Tensor> {
    rewritten(weight, dtype, VALUES, &|_, _| ())
}

/// Weights (m, ..) of m n values plus the product of `up` (m, k) and `down` (k, n), both f32,
/// contiguous and on a CPU: added in f32, and rounded to `dtype` at the end. Not differentiable.
pub fn add_product(weight: StoredValues, [up, down]: [&Tensor; 2], dtype: DType) -> Result<Tensor> {
    let ((m, k), (terms, n)) = (up.dims2()?, down.dims2()?);
    if k != terms || weight.len() != m * n {
        bail!(
            "add_product: {up:?} times {down:?} onto {} values",
            weight.len()
        );
    }
    op::with([up, down], |[up, down]| {
        let down = Matrix::contiguous(down, n).packed(k);
        rewritten(weight, dtype, ROWS * n, &|part, values| {
            let mut sums = Scratch::new(values.len());
            let slots: Vec<_> = sums.chunks_mut(n).collect();
            let rows = part * ROWS..part * ROWS + slots.len();
            Task::whole_rows(rows, &down, slots).compute(&Matrix::contiguous(up, k), &down);
            values.iter_mut().zip(&*sums).for_each(|(x, y)| *x += y);
        })
    })
}

/// Contiguous weights on a CPU in the type in which they are stored.
#[derive(Clone, Copy, Debug)]
pub enum StoredValues<'a> {
    /// As they are computed with.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// The upper half of f32.
    Bf16(&'a [bf16]),
}

impl<'a> StoredValues<'a> {
    /// The values in a file's bytes, or `None` if the type is another or the bytes begin
    /// where no such value can.
    pub fn of_bytes(dtype: DType, bytes: &'a [u8]) -> Option<Self> {
        let halves = || try_cast_slice::<_, u16>(bytes).ok();
        match dtype {
            DType::F32 => Some(Self::F32(try_cast_slice(bytes).ok()?)),
            DType::F16 => Some(Self::F16(halves()?.reinterpret_cast())),
            DType::BF16 => Some(Self::Bf16(halves()?.reinterpret_cast())),
            _ => None,
        }
    }

    /// How many there are.
    pub(super) fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Fails unless there are so many.
    pub(super) fn check(self, count: usize) -> Result<()> {
        match self.len() == count {
            true => Ok(()),
            false => bail!("{} values for a layer of {count}", self.len()),
        }
    }

    /// Some of them in f32.
    #[inline(always)]
    pub(super) fn widen(self, range: Range<usize>, to: &mut [f32]) {
        match self {
            Self::F32(values) => f32::widen(&values[range], to),
            Self::F16(values) => f16::widen(&values[range], to),
            Self::Bf16(values) => bf16::widen(&values[range], to),
        }
    }
}

/// Calls `work` with the values of weights on a CPU, in f32 if their type is another.
pub fn with_values<R>(weight: &Tensor, work: impl FnOnce(StoredValues) -> Result<R>) -> Result<R> {
    let weight = match weight.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => weight.contiguous()?,
        _ => weight.to_dtype(DType::F32)?.contiguous()?,
    };
    let (storage, layout) = weight.storage_and_layout();
    let range = layout.start_offset()..layout.start_offset() + weight.elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => work(StoredValues::F32(&v[range])),
        Storage::Cpu(CpuStorage::F16(v)) => work(StoredValues::F16(&v[range])),
        Storage::Cpu(CpuStorage::BF16(v)) => work(StoredValues::Bf16(&v[range])),
        _ => bail!("the kernels read weights on a CPU"),
    }
}

/// What is done with the values of a part, given its number.
type Change<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Weights in a type, whose parts of so many values are changed in f32.
fn rewritten(weight: StoredValues, dtype: DType, part: usize, change: Change) -> Result<Tensor> {
    let work = Work { part, change };
    match weight {
        StoredValues::F32(values) => work.written(values, dtype),
        StoredValues::F16(values) => work.written(values, dtype),
        StoredValues::Bf16(values) => work.written(values, dtype),
    }
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

    fn converted(weight: &Tensor, dtype: DType) -> Result<Tensor> {
        with_values(weight, |values| convert(values, dtype))?.reshape(weight.shape())
    }

    fn merged(weight: &Tensor, factors: [&Tensor; 2], dtype: DType) -> Result<Tensor> {
        let merged = with_values(weight, |values| add_product(values, factors, dtype))?;
        merged.reshape(weight.shape())
    }

    #[test]
    fn conversions_are_those_of_single_values() {
        for shape in [[0, 3], [7, 5], [3, VALUES]] {
            for from in TYPES {
                let weight = waves(&shape, 0.3).to_dtype(from).unwrap();
                for to in TYPES {
                    let converted = converted(&weight, to).unwrap();
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
        assert_eq!(gap(&converted(&view, DType::BF16).unwrap(), &expected), 0.0);
        let double = weight.to_dtype(DType::F64).unwrap();
        assert_eq!(gap(&converted(&double, DType::F32).unwrap(), &weight), 0.0);
        assert!(converted(&weight, DType::U8).is_err());
    }

    #[test]
    fn a_product_is_added_before_the_result_is_rounded() {
        for (m, k, n) in [(7, 3, 45), (70, 33, 64), (1, 1, 1)] {
            let (up, down) = (waves(&[m, k], 0.5), waves(&[k, n], 0.1));
            for (from, to) in TYPES.into_iter().zip([DType::BF16, DType::F32, DType::F32]) {
                let weight = waves(&[m, n], 0.9).to_dtype(from).unwrap();
                let merged = merged(&weight, [&up, &down], to).unwrap();
                let exact =
                    (weight.to_dtype(DType::F32).unwrap() + up.matmul(&down).unwrap()).unwrap();
                let largest = exact.abs().unwrap().max_all().unwrap();
                let rounding = if to == DType::F32 { 1e-6 } else { 0.004 };
                let bound = rounding * largest.to_scalar::<f32>().unwrap();
                assert!(gap(&merged, &exact) <= bound, "{from:?} to {to:?}");
            }
        }
        let [a, b] = [waves(&[2, 3], 0.0), waves(&[4, 5], 0.0)];
        assert!(merged(&a, [&a, &b], DType::F32).is_err());
    }
}
