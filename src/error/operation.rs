//! The reasons of failed tensor operations, in our words.

use candle_core::Error;

/// Why a tensor operation failed, on one line: without candle's wrappers, of which one is a
/// backtrace if `RUST_BACKTRACE` is set.
pub fn reason_of(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::Context { inner, .. } => reason_of(inner),
        Error::ShapeMismatchBinaryOp { lhs, rhs, .. } => misfit(&[lhs, rhs]),
        Error::ShapeMismatchCat {
            first_shape,
            nth_shape,
            ..
        } => misfit(&[first_shape, nth_shape]),
        Error::BroadcastIncompatibleShapes {
            src_shape,
            dst_shape,
        } => misfit(&[src_shape, dst_shape]),
        Error::UnexpectedShape { expected, got, .. } => misfit(&[expected, got]),
        Error::ShapeMismatch { shape, .. }
        | Error::UnexpectedNumberOfDims { shape, .. }
        | Error::ShapeMismatchSplit { shape, .. }
        | Error::NarrowInvalidArgs { shape, .. }
        | Error::DimOutOfRange { shape, .. } => misfit(&[shape]),
        Error::InvalidIndex { index, size, .. } => {
            format!("a table of {size} rows has no row {index}")
        }
        Error::UnsupportedDTypeForOp(dtype, _) => {
            format!("the device cannot compute in {}", dtype.as_str())
        }
        Error::UnexpectedDType { expected, got, .. } => other_type(expected.as_str(), got.as_str()),
        Error::DTypeMismatchBinaryOp { lhs, rhs, .. } => other_type(lhs.as_str(), rhs.as_str()),
        Error::UnsupportedSafeTensorDtype(dtype) => {
            format!("its data type {dtype:?} is not supported")
        }
        error if is_out_of_memory(error) => "the GPU is out of memory".into(),
        Error::Cuda(_) | Error::Metal(_) => format!("the GPU reports: {}", first_line(error)),
        other => first_line(other),
    }
}

/// How accelerators say that they are out of memory.
const OUT_OF_MEMORY: [&str; 7] = [
    // CUDA's driver, cuBLAS, cuDNN.
    "out of memory",
    "out_of_memory",
    "alloc_failed",
    "allocation_failed",
    // candle for a buffer, and Metal for a command.
    "failed to create metal resource: buffer",
    "insufficient memory",
    "outofmemory",
];

/// Whether an accelerator had no memory left.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::WithBacktrace { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::Context { inner, .. } => is_out_of_memory(inner),
        Error::Cuda(_) | Error::Metal(_) => {
            let text = first_line(error).to_lowercase();
            OUT_OF_MEMORY.iter().any(|words| text.contains(words))
        }
        _ => false,
    }
}

fn misfit(shapes: &[&candle_core::Shape]) -> String {
    let shapes: Vec<_> = shapes
        .iter()
        .map(|shape| format!("{:?}", shape.dims()))
        .collect();
    let shapes = shapes.join(" and ");
    format!("the weights or the configuration do not fit the network (shape {shapes})")
}

fn other_type(expected: &str, found: &str) -> String {
    format!("the data type is {found}, not {expected}")
}

fn first_line(error: &Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn a_reason_is_one_line_without_the_names_of_functions() {
        let tensor = |rows: usize| Tensor::zeros((rows, 3), DType::F32, &Device::Cpu).unwrap();
        let sum = (tensor(2) + tensor(4)).unwrap_err();
        let narrow = tensor(2).narrow(0, 1, 5).unwrap_err();
        for (error, shape) in [(sum, "[2, 3] and [4, 3]"), (narrow, "[2, 3]")] {
            let text = crate::Error::from(error).to_string();
            assert!(text.ends_with(&format!("(shape {shape})")), "{text}");
        }
        let full = Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        assert_eq!(reason_of(&full.context("more")), "the GPU is out of memory");
        let lost = Error::Cuda("CUDA_ERROR_LAUNCH_FAILED".into());
        assert_eq!(
            reason_of(&lost),
            "the GPU reports: CUDA_ERROR_LAUNCH_FAILED"
        );
        let lines = Error::Msg("out of memory\n  0: backtrace".into());
        assert_eq!(reason_of(&lines.context("more")), "out of memory");
    }
}
