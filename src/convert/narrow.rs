//! Detects values that were finite and are no more.

use candle_core::{DType, Result, Tensor};

/// The first value that is finite in `wide` but not in `narrow`, which is the same tensor
/// in another dtype or with a delta.
pub(super) fn lost(wide: &Tensor, narrow: &Tensor) -> Result<Option<f64>> {
    let narrow = narrow
        .flatten_all()?
        .to_dtype(DType::F32)?
        .to_vec1::<f32>()?;
    if narrow.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    let wide = wide.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let mut pairs = wide.into_iter().zip(narrow);
    let lost = pairs.find(|(wide, narrow)| wide.is_finite() && !narrow.is_finite());
    Ok(lost.map(|(wide, _)| wide))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn told(values: &[f64], dtype: DType) -> Option<f64> {
        let wide = Tensor::new(values, &Device::Cpu).unwrap();
        lost(&wide, &wide.to_dtype(dtype).unwrap()).unwrap()
    }

    #[test]
    fn the_first_value_out_of_range_is_told() {
        assert_eq!(told(&[1.0, 65519.0, -65504.0], DType::F16), None);
        assert_eq!(told(&[1.0, -65520.0, 1e9], DType::F16), Some(-65520.0));
        assert_eq!(told(&[1e9, 3e38], DType::BF16), None);
        assert_eq!(told(&[3.4e38], DType::BF16), Some(3.4e38));
        assert_eq!(told(&[1e39], DType::F32), Some(1e39));
    }

    #[test]
    fn what_was_never_a_number_stays_so() {
        assert_eq!(told(&[f64::INFINITY, f64::NAN], DType::F16), None);
        assert_eq!(told(&[f64::NAN, 1e6], DType::F16), Some(1e6));
    }
}
