//! A LoRA file with its weight.

use std::str::FromStr;

use crate::error::{Error, Result};

/// A LoRA file and the factor of its weight deltas.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedLora<F = String> {
    /// The file; as text, a path or a location on the hub.
    pub file: F,
    /// The factor.
    pub weight: f64,
}

impl FromStr for WeightedLora {
    type Err = Error;

    /// Reads `FILE` (weight 1) or `FILE=WEIGHT`.
    fn from_str(text: &str) -> Result<Self> {
        let (file, weight) = match text.rsplit_once('=') {
            Some((file, weight)) => (file, weight.parse().unwrap_or(f64::NAN)),
            None => (text, 1.0),
        };
        if file.is_empty() || !weight.is_finite() {
            return Err(Error::setting(format!(
                "{text:?}: write a file, or a file and a weight as in style.safetensors=0.8"
            )));
        }
        Ok(Self {
            file: file.into(),
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_equals_sign_begins_the_weight() {
        let lora: WeightedLora = "a=b.safetensors=0.5".parse().unwrap();
        assert_eq!((lora.file.as_str(), lora.weight), ("a=b.safetensors", 0.5));
        assert_eq!("a".parse::<WeightedLora>().unwrap().weight, 1.0);
        for bad in ["", "=0.5", "a=", "a=x", "a=nan"] {
            assert!(bad.parse::<WeightedLora>().is_err(), "{bad:?}");
        }
    }
}
