//! The range of every number in a model's configuration files.
//!
//! The files are strangers' and their numbers become loops and allocations, so each number
//! is bounded where it is read. The bounds are far beyond every published model.

use std::ops::RangeInclusive;

use serde_json::Value;

/// What a number counts or measures, which decides its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Channels, widths, heads or groups.
    Width,
    /// Layers or blocks.
    Layers,
    /// Transformer blocks, of which a level may have none.
    OptionalLayers,
    /// Entries of a vocabulary.
    Vocabulary,
    /// Tokens of a prompt.
    Tokens,
    /// Side of a latent or a picture.
    Side,
    /// Timesteps of the noise schedule.
    Timesteps,
    /// A small number greater than 0.
    Epsilon,
    /// A factor greater than 0.
    Factor,
}

/// Most resolution levels of a network: Stable Diffusion has 4.
const MAX_LEVELS: usize = 8;

/// The kind of each field of the configurations of UNets, autoencoders, text encoders and
/// schedulers.
const KINDS: [(&str, Kind); 26] = [
    ("addition_time_embed_dim", Kind::Width),
    ("attention_head_dim", Kind::Width),
    ("beta_end", Kind::Epsilon),
    ("beta_start", Kind::Epsilon),
    ("block_out_channels", Kind::Width),
    ("cross_attention_dim", Kind::Width),
    ("hidden_size", Kind::Width),
    ("in_channels", Kind::Width),
    ("intermediate_size", Kind::Width),
    ("latent_channels", Kind::Width),
    ("layer_norm_eps", Kind::Epsilon),
    ("layers_per_block", Kind::Layers),
    ("max_position_embeddings", Kind::Tokens),
    ("norm_eps", Kind::Epsilon),
    ("norm_num_groups", Kind::Width),
    ("num_attention_heads", Kind::Width),
    ("num_hidden_layers", Kind::Layers),
    ("num_train_timesteps", Kind::Timesteps),
    ("out_channels", Kind::Width),
    ("projection_class_embeddings_input_dim", Kind::Width),
    ("projection_dim", Kind::Width),
    ("reverse_transformer_layers_per_block", Kind::OptionalLayers),
    ("sample_size", Kind::Side),
    ("scaling_factor", Kind::Factor),
    ("transformer_layers_per_block", Kind::OptionalLayers),
    ("vocab_size", Kind::Vocabulary),
];

impl Kind {
    fn range(self) -> RangeInclusive<f64> {
        match self {
            Self::Width => 1.0..=65_536.0,
            Self::Layers => 1.0..=128.0,
            Self::OptionalLayers => 0.0..=128.0,
            Self::Vocabulary => 1.0..=1_048_576.0,
            Self::Tokens => 3.0..=4096.0, // a start, a word and an end
            Self::Side => 1.0..=8192.0,
            Self::Timesteps => 1.0..=100_000.0,
            Self::Epsilon => 1e-12..=1.0,
            Self::Factor => 1e-6..=1e6,
        }
    }

    fn is_whole(self) -> bool {
        !matches!(self, Self::Epsilon | Self::Factor)
    }

    fn holds(self, number: f64) -> bool {
        self.range().contains(&number) && (number.fract() == 0.0 || !self.is_whole())
    }
}

/// Checks the numbers of a configuration, alone or in lists with one for each level. The
/// reason names the field, the value and the range.
pub(super) fn check(config: &Value) -> Result<(), String> {
    let mut known = KINDS.iter().filter_map(|(field, kind)| {
        let value = config.get(field).filter(|value| !value.is_null())?;
        Some((field, *kind, value))
    });
    known.try_for_each(|(field, kind, value)| {
        let values = values(value).ok_or_else(|| {
            let count = value.as_array().map_or(0, Vec::len);
            format!("{field} has {count} values; it must have 1 to {MAX_LEVELS}")
        })?;
        let is_wrong = |value: &&Value| !value.as_f64().is_some_and(|number| kind.holds(number));
        match values.iter().find(is_wrong) {
            Some(value) => Err(out_of_range(field, value, kind)),
            None => Ok(()),
        }
    })
}

/// The values of a field, unless they are more than a network has levels, or none.
fn values(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) if !(1..=MAX_LEVELS).contains(&values.len()) => None,
        Value::Array(values) => Some(values),
        value => Some(std::slice::from_ref(value)),
    }
}

fn out_of_range(field: &str, value: &Value, kind: Kind) -> String {
    let value = match value {
        Value::Number(number) => number.to_string(),
        _ => "no number".into(),
    };
    let whole = if kind.is_whole() {
        "whole number"
    } else {
        "number"
    };
    let range = kind.range();
    let (least, most) = (range.start(), range.end());
    format!("{field} = {value} is out of range: it must be a {whole} from {least} to {most}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_published_configurations_are_within_bounds() {
        check(&json!({
            "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
            "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [0, 2, 10],
            "sample_size": 1024, "projection_class_embeddings_input_dim": 2816,
            "vocab_size": 49408, "max_position_embeddings": 248, "hidden_size": 1280,
            "layer_norm_eps": 1e-5, "scaling_factor": 0.13025, "projection_dim": null,
        }))
        .unwrap();
    }

    #[test]
    fn a_number_out_of_range_is_named_with_its_range() {
        for (field, value, says) in [
            ("layers_per_block", json!(1_u64 << 40), "1099511627776 "),
            ("layers_per_block", json!([1, 1, 0, 1]), "= 0 "),
            ("max_position_embeddings", json!(1_000_000), "3 to 4096"),
            ("vocab_size", json!(0), "1 to 1048576"),
            ("hidden_size", json!(-1), "-1 "),
            (
                "hidden_size",
                json!(12.5),
                "12.5 is out of range: it must be a whole number",
            ),
            ("sample_size", json!(1_000_000), "1 to 8192"),
            ("block_out_channels", json!([4, 1e300]), "1e+300 "),
            ("block_out_channels", json!([]), "0 values"),
            ("block_out_channels", json!(vec![4; 64]), "64 values"),
            ("norm_num_groups", json!(0), "= 0 "),
            ("attention_head_dim", json!("8"), "no number"),
            ("attention_head_dim", json!([[8]]), "no number"),
            ("norm_eps", json!(0.0), "it must be a number from"),
            ("scaling_factor", json!(-1), "= -1 "),
            ("beta_end", json!(7), "= 7 "),
        ] {
            let reason = check(&json!({ field: value })).unwrap_err();
            let named = reason.starts_with(field) && reason.contains(says);
            assert!(named, "{field} = {value}: {reason}");
        }
    }
}
