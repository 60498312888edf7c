//! PEFT's configuration of an adapter, as in `adapter_config.json` and in the metadata that
//! diffusers writes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::pattern::{Matcher, Patterns};

/// The fields of a configuration, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, Field)>);

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Field {
    Patterns(Patterns),
    Other(Value),
}

impl Fields {
    /// The fields whose names begin with a prefix, without it.
    pub(super) fn below(&self, prefix: &str) -> Self {
        let fields = self.0.iter();
        let below = fields.filter_map(|(name, field)| {
            let name = name.strip_prefix(prefix)?;
            Some((name.to_owned(), field.clone()))
        });
        Self(below.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the fields of a configuration")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Fields(all))
            }
        }
        file.deserialize_map(InOrder)
    }
}

/// What a configuration says of the layers' scales.
#[derive(Clone, Debug)]
pub(super) struct LoraSettings {
    alpha: f64,
    rank: Option<f64>,
    alphas: Matcher,
    ranks: Matcher,
    /// Whether the product is divided by the root of the rank (rsLoRA, arXiv 2312.03732).
    pub(super) use_rslora: bool,
    /// Whether the layers have magnitudes (DoRA, arXiv 2402.09353).
    pub(super) use_dora: bool,
}

impl Default for LoraSettings {
    /// What PEFT takes for fields that are missing.
    fn default() -> Self {
        Self {
            alpha: super::RELEASED_ALPHA,
            rank: None,
            alphas: Matcher::default(),
            ranks: Matcher::default(),
            use_rslora: false,
            use_dora: false,
        }
    }
}

/// Fields that do not change what a saved adapter computes.
const WITHOUT_EFFECT: [&str; 25] = [
    "auto_mapping",
    "base_model_name_or_path",
    "decompose_both",
    "decompose_factor",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out", // PEFT ignores it for the layers of these networks
    "inference_mode",
    "init_weights",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "module_dropout",
    "peft_version",
    "qalora_group_size",
    "rank_dropout",
    "rank_dropout_scale",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_effective_conv2d",
];

/// Initialisations that change the weights which the adapter is added to.
const CHANGES_OF_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl LoraSettings {
    /// Interprets a configuration. A field that changes what the adapter computes and is
    /// not known is an error that names it.
    pub(super) fn of(fields: &Fields) -> Result<Self, String> {
        let mut settings = Self::default();
        for (name, field) in &fields.0 {
            settings
                .set(name, field)
                .map_err(|reason| format!("{name:?}: {reason}"))?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, field: &Field) -> Result<(), String> {
        match (name, field) {
            ("lora_alpha" | "alpha", field) => self.alpha = number(field)?,
            ("r", field) => self.rank = Some(number(field)?),
            ("use_rslora", field) => self.use_rslora = truth(field)?,
            ("use_dora", field) => self.use_dora = truth(field)?,
            ("alpha_pattern", Field::Patterns(all)) => self.alphas = matcher(all)?,
            ("rank_pattern", Field::Patterns(all)) => self.ranks = matcher(all)?,
            (name, _) if WITHOUT_EFFECT.contains(&name) => {}
            (_, Field::Other(value)) if is_known(name, value) => {}
            (_, field) if field.is_empty() => {}
            _ => {
                return Err("it changes what the adapter computes and is not supported".into());
            }
        }
        Ok(())
    }

    /// Alpha and the rank of a module, as the file spells its path. The rank is that of
    /// its tensors, if they show one.
    pub(super) fn layer(&self, module: &str, rank: Option<usize>) -> Result<(f64, f64), String> {
        let alpha = self.alphas.of(module)?.unwrap_or(self.alpha);
        let stated = self.ranks.of(module)?.or(self.rank);
        match (rank.map(|rank| rank as f64), stated) {
            (Some(rank), Some(stated)) if rank.total_cmp(&stated).is_ne() => {
                Err(format!("its rank is {rank}, but {stated} is stated"))
            }
            (Some(rank), _) => Ok((alpha, rank)),
            (None, stated) => Ok((alpha, stated.unwrap_or(alpha))),
        }
    }
}

impl Field {
    fn is_empty(&self) -> bool {
        match self {
            Self::Patterns(all) => all.0.is_empty(),
            Self::Other(Value::Null | Value::Bool(false)) => true,
            Self::Other(Value::Array(all)) => all.is_empty(),
            Self::Other(_) => false,
        }
    }
}

/// Whether a value of a field is one that changes nothing.
fn is_known(name: &str, value: &Value) -> bool {
    match (name, value.as_str()) {
        ("peft_type", Some(kind)) => ["LORA", "LOHA", "LOKR"].contains(&kind),
        ("bias", Some(bias)) => bias == "none",
        ("init_lora_weights", Some(how)) => !CHANGES_OF_THE_BASE.iter().any(|b| how.starts_with(b)),
        ("init_lora_weights", None) => value.is_boolean(),
        _ => false,
    }
}

fn matcher(patterns: &Patterns) -> Result<Matcher, String> {
    match patterns.0.iter().find(|(_, value)| !value.is_finite()) {
        Some((key, value)) => Err(format!("{key:?} is {value}")),
        None => Matcher::new(patterns),
    }
}

fn number(field: &Field) -> Result<f64, String> {
    let value = match field {
        Field::Other(value) => value.as_f64(),
        Field::Patterns(_) => None,
    };
    let value = value.filter(|value| value.is_finite());
    value.ok_or_else(|| "it is not a finite number".into())
}

fn truth(field: &Field) -> Result<bool, String> {
    match field {
        Field::Other(Value::Bool(value)) => Ok(*value),
        Field::Other(Value::Null) => Ok(false),
        _ => Err("it is neither true nor false".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<LoraSettings, String> {
        LoraSettings::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_layer_has_its_own_alpha_and_rank() {
        let all = settings(
            r#"{"r": 4, "lora_alpha": 16, "use_rslora": true,
                "rank_pattern": {"to_k": 8}, "alpha_pattern": {"attn1.to_.": 2}}"#,
        );
        let all = all.unwrap();
        assert!(all.use_rslora && !all.use_dora);
        assert_eq!(all.layer("mid_block.attn2.to_q", Some(4)), Ok((16.0, 4.0)));
        assert_eq!(all.layer("mid_block.attn1.to_q", Some(4)), Ok((2.0, 4.0)));
        assert_eq!(all.layer("mid_block.attn2.to_k", Some(8)), Ok((16.0, 8.0)));
        assert_eq!(all.layer("mid_block.attn2.to_k", None), Ok((16.0, 8.0)));
        let error = all.layer("mid_block.attn2.to_k", Some(4)).unwrap_err();
        assert!(error.contains('8'), "{error}");
        let missing = settings("{}").unwrap();
        assert_eq!(
            missing.layer("x", Some(4)),
            Ok((8.0, 4.0)),
            "PEFT's default"
        );
    }

    #[test]
    fn fields_that_change_the_product_are_refused_by_name() {
        for (field, value) in [
            ("layers_pattern", r#""blocks""#),
            ("modules_to_save", r#"["conv_in"]"#),
            ("bias", r#""all""#),
            ("lora_bias", "true"),
            ("layer_replication", "[[0, 1]]"),
            ("init_lora_weights", r#""pissa_niter_4""#),
            ("peft_type", r#""IA3""#),
            ("use_of_tomorrow", "1"),
            ("lora_alpha", "1e999"),
            ("lora_alpha", r#""8""#),
            ("use_rslora", r#""yes""#),
            ("alpha_pattern", r#"{"to_q": "8"}"#),
            ("rank_pattern", r#"{"to_(q": 8}"#),
        ] {
            let json = format!("{{\"{field}\": {value}}}");
            let Ok(fields) = serde_json::from_str(&json) else {
                assert_eq!(value, "1e999");
                continue;
            };
            let error = LoraSettings::of(&fields).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn empty_fields_and_those_without_effect_pass() {
        let all = r#"{"peft_type": "LORA", "bias": "none", "target_modules": ["to_q"],
            "modules_to_save": null, "layers_pattern": null, "use_of_tomorrow": false,
            "loftq_config": {}, "runtime_config": {"ephemeral_gpu_offload": false},
            "init_lora_weights": "gaussian", "megatron_core": "megatron.core", "trainable": []}"#;
        assert!(settings(all).is_ok());
    }
}
