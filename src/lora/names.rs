//! Parses the tensor names of adapter files.

use std::{collections::HashMap, path::Path};

use crate::{
    io::Checkpoint,
    layout::{Layout, Network},
};

/// The role of an adapter tensor in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    Down,
    Up,
    Alpha,
}

impl Factor {
    /// Splits a tensor's name into the module part and the factor.
    pub(super) fn of(name: &str) -> Option<(&str, Self)> {
        let split = |&(ending, factor)| Some((name.strip_suffix(ending)?, factor));
        ENDINGS.iter().find_map(split)
    }
}

/// The network that the adapter tensor `name` is for.
pub(super) fn network(name: &str) -> Network {
    let is_for = |(prefix, _): &&(&str, _)| name.starts_with(prefix);
    let text = TEXT_PREFIXES.iter().find(is_for);
    text.map_or(Network::Unet, |&(_, index)| Network::TextEncoder(index))
}

/// Prefixes of text encoder tensors in kohya's and diffusers' naming, with the
/// index of the encoder.
const TEXT_PREFIXES: [(&str, usize); 5] = [
    ("lora_te_", 0),
    ("lora_te1_", 0),
    ("lora_te2_", 1),
    ("text_encoder.", 0),
    ("text_encoder_2.", 1),
];

/// The suffixes of the three naming conventions, older variants included.
const ENDINGS: [(&str, Factor); 13] = [
    (".lora_A.weight", Factor::Down),
    (".lora_B.weight", Factor::Up),
    (".lora_A.default.weight", Factor::Down),
    (".lora_B.default.weight", Factor::Up),
    (".lora.down.weight", Factor::Down),
    (".lora.up.weight", Factor::Up),
    (".lora_down.weight", Factor::Down),
    (".lora_up.weight", Factor::Up),
    (".lora_linear_layer.down.weight", Factor::Down),
    (".lora_linear_layer.up.weight", Factor::Up),
    ("_lora.down.weight", Factor::Down),
    ("_lora.up.weight", Factor::Up),
    (".alpha", Factor::Alpha),
];

/// The modules of a network that an adapter may modify.
pub(super) struct Modules {
    /// Maps to a module's path: the path itself, and the path and the original
    /// name with underscores for dots, as in kohya's scripts.
    paths: HashMap<String, String>,
}

impl Modules {
    /// Every module of `base` that has a weight.
    pub(super) fn of(base: &Checkpoint) -> Self {
        let names = base.names();
        let modules = names.iter().filter_map(|name| name.strip_suffix(".weight"));
        let modules: Vec<_> = modules.collect();
        let layout = Layout::of_diffusers_unet(&modules);
        let mut paths = HashMap::new();
        for path in modules {
            let names = [path.to_owned()]
                .into_iter()
                .chain(layout.to_original(path));
            paths.extend(names.map(|name| (name.replace('.', "_"), path.to_owned())));
            paths.insert(path.into(), path.into());
        }
        Self { paths }
    }

    /// The module and the role of the adapter tensor `name`.
    pub(super) fn place(&self, name: &str) -> Option<(String, Factor)> {
        let (module, factor) = Factor::of(name)?;
        let module = modern(bare(module));
        Some((self.paths.get(&module)?.clone(), factor))
    }
}

/// A module's name without tool-specific prefixes.
pub(super) fn bare(module: &str) -> &str {
    let networks = TEXT_PREFIXES.iter().map(|(prefix, _)| prefix);
    let networks = networks.chain(&["lora_unet_", "unet."]);
    networks
        .chain(&["base_model.model.", "unet."])
        .fold(module, |name, prefix| {
            name.strip_prefix(prefix).unwrap_or(name)
        })
}

/// The current name of a module of diffusers' former attention processors:
/// `attn1.processor.to_q_lora` is `attn1.to_q`.
pub(super) fn modern(module: &str) -> String {
    let plain = module.replace(".processor.", ".");
    let name = plain.strip_suffix("_lora").unwrap_or(&plain);
    match name.ends_with(".to_out") {
        true => format!("{name}.0"),
        false => name.into(),
    }
}

/// The timesteps in the name of a released adapter file:
/// `forward-19-259-519-779.safetensors`,
/// `iCD-SD15-reverse_259_519_779_999.safetensors`.
pub(super) fn timesteps_of(file: &Path) -> Option<Vec<u16>> {
    let stem = file.file_stem()?.to_str()?;
    let (_, tail) = stem
        .split_once("forward")
        .or_else(|| stem.split_once("reverse"))?;
    let parts = tail.trim_start_matches(['-', '_']).split(['-', '_']);
    let steps: Vec<u16> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (steps.len() > 1).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        let path = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0";
        let paths = [path, "mid_block.resnets.0.conv1", "time_emb_proj"];
        let both = paths.map(|p| {
            [
                (p.to_string(), p.to_string()),
                (p.replace('.', "_"), p.to_string()),
            ]
        });
        Modules {
            paths: both.into_iter().flatten().collect(),
        }
    }

    #[test]
    fn every_naming_finds_the_same_module() {
        let conv = Some(("mid_block.resnets.0.conv1".to_string(), Factor::Down));
        for name in [
            "unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight",
            "base_model.model.mid_block.resnets.0.conv1.lora_A.weight",
            "base_model.model.unet.mid_block.resnets.0.conv1.lora_A.default.weight",
            "unet.mid_block.resnets.0.conv1.lora_A.weight",
            "unet.mid_block.resnets.0.conv1.lora.down.weight",
            "mid_block.resnets.0.conv1.lora_A.weight",
            "lora_unet_mid_block_resnets_0_conv1.lora_down.weight",
        ] {
            assert_eq!(modules().place(name), conv, "{name}");
        }
        let out = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0".to_string();
        let old = "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out_lora.up.weight";
        for old in [old, &old.replace("_lora.up", "_lora.lora.up")] {
            assert_eq!(modules().place(old), Some((out.clone(), Factor::Up)));
        }
        let alpha =
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0.alpha";
        assert_eq!(modules().place(alpha), Some((out, Factor::Alpha)));
    }

    #[test]
    fn tensors_tell_their_network() {
        for (name, expected) in [
            ("lora_unet_conv_in.lora_down.weight", Network::Unet),
            ("conv_in.lora_A.weight", Network::Unet),
            (
                "lora_te_text_model_x.lora_down.weight",
                Network::TextEncoder(0),
            ),
            (
                "lora_te2_text_model_x.lora_down.weight",
                Network::TextEncoder(1),
            ),
            (
                "text_encoder.text_model.x.lora_A.weight",
                Network::TextEncoder(0),
            ),
            (
                "text_encoder_2.text_model.x.lora_A.weight",
                Network::TextEncoder(1),
            ),
        ] {
            assert_eq!(network(name), expected, "{name}");
        }
    }

    #[test]
    fn strangers_find_no_module() {
        for name in [
            "lora_te_text_model_x.lora_down.weight",
            "mid_block.resnets.0.conv1.weight",
            "x.alpha",
            "",
        ] {
            assert_eq!(modules().place(name), None, "{name}");
        }
    }

    #[test]
    fn released_names_tell_their_steps() {
        let steps = |name: &str| timesteps_of(Path::new(name));
        assert_eq!(
            steps("forward-19-259-519-779.safetensors"),
            Some(vec![19, 259, 519, 779])
        );
        assert_eq!(
            steps("a/iCD-SD15-reverse_259_519_779_999.safetensors"),
            Some(vec![259, 519, 779, 999])
        );
        for name in [
            "finetuned_forward_model.safetensors",
            "forward.safetensors",
            "x-19-259.safetensors",
        ] {
            assert_eq!(steps(name), None, "{name}");
        }
    }
}
