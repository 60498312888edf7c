//! A LoRA file with its weight.

use std::{path::Path, str::FromStr};

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

    /// Reads `FILE` (weight 1) or `FILE=WEIGHT`. An equals sign belongs to the file's name
    /// where no number follows or the whole is the name of a file.
    fn from_str(text: &str) -> Result<Self> {
        let exists = |file: &str| Path::new(file).exists();
        let (file, weight) = match text.rsplit_once('=') {
            Some(_) if exists(text) => (text, Some(1.0)),
            Some((file, weight)) => match weight.trim().parse() {
                Ok(weight) => (file, Some(weight).filter(|weight: &f64| weight.is_finite())),
                Err(_) if exists(file) => (file, None),
                Err(_) => (text, Some(1.0)),
            },
            None => (text, Some(1.0)),
        };
        match weight {
            Some(weight) if !file.is_empty() => Ok(Self {
                file: file.into(),
                weight,
            }),
            _ => Err(Error::setting(format!(
                "{text:?}: write a file, or a file and a weight as in style.safetensors=0.8"
            ))),
        }
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
        for bad in ["", "=0.5", "a=nan", "a=inf"] {
            assert!(bad.parse::<WeightedLora>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_equals_sign_may_belong_to_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a=2").display().to_string();
        let parsed = |text: &str| {
            let lora: WeightedLora = text.parse().unwrap();
            (lora.file, lora.weight)
        };
        assert_eq!(parsed("a=b.safetensors"), ("a=b.safetensors".into(), 1.0));
        assert_eq!(parsed("a=-.5"), ("a".into(), -0.5));
        std::fs::write(&file, "").unwrap();
        assert_eq!(parsed(&file), (file.clone(), 1.0));
        assert_eq!(parsed(&format!("{file}=0.5")), (file.clone(), 0.5));
        // Of a file that is there, a weight is expected.
        assert!(format!("{file}=0,5").parse::<WeightedLora>().is_err());
    }
}
