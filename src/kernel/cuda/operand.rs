//! What the kernels take: types, layouts and sizes of tensors.

use candle_core::{DType, Result, Tensor};

/// Bytes to which the kernels' vector loads need addresses to be aligned.
const ALIGNMENT: usize = 16;

/// Whether kernels read these tensors: all in one type, without gradients, contiguous,
/// aligned, not empty, and with indices that are an `int`.
pub(super) fn takes<'a>(
    dtype: DType,
    tensors: impl IntoIterator<Item = Option<&'a Tensor>>,
) -> bool {
    let mut tensors = tensors.into_iter().flatten();
    tensors.all(|x| is_plain(x, dtype) && is_aligned(x))
}

/// The same for tensors (b, n, c) of which only the rows of c are contiguous.
pub(super) fn takes_rows<'a>(dtype: DType, tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let mut tensors = tensors.into_iter();
    tensors.all(|x| is_plain(x, dtype) && has_aligned_rows(x))
}

/// x, copied unless its values are contiguous and aligned.
pub(super) fn aligned(x: &Tensor) -> Result<Tensor> {
    match is_aligned(x) {
        true => Ok(x.clone()),
        false => x.force_contiguous(),
    }
}

/// x (b, n, c), copied unless its rows are contiguous and aligned.
pub(super) fn aligned_rows(x: &Tensor) -> Result<Tensor> {
    match has_aligned_rows(x) {
        true => Ok(x.clone()),
        false => x.force_contiguous(),
    }
}

/// Type, device and size are such as kernels take.
fn is_plain(x: &Tensor, dtype: DType) -> bool {
    let indices = 1..=i32::MAX as usize;
    x.dtype() == dtype && x.device().is_cuda() && !x.track_op() && indices.contains(&x.elem_count())
}

/// Allocations are aligned: only an offset in them can be off.
fn is_aligned(x: &Tensor) -> bool {
    x.is_contiguous() && is_multiple(x.layout().start_offset(), x)
}

fn has_aligned_rows(x: &Tensor) -> bool {
    let [batch, row, 1] = *x.stride() else {
        return false;
    };
    [batch, row, x.layout().start_offset()]
        .into_iter()
        .all(|step| is_multiple(step, x))
}

/// Whether so many values of x are a multiple of what the kernels load at once.
fn is_multiple(count: usize, x: &Tensor) -> bool {
    (count * x.dtype().size_in_bytes()).is_multiple_of(ALIGNMENT)
}

/// The end of the names of kernels for values of a type.
pub(super) fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        DType::F32 => Some("f32"),
        _ => None,
    }
}

/// The same for the kernels that take half types only.
pub(super) fn half_suffix(dtype: DType) -> Option<&'static str> {
    suffix(dtype).filter(|_| dtype != DType::F32)
}
