//! Names of layers in adapter files, brought to one form.
//!
//! A name is a prefix, which says the network, a body, which says the module, and an
//! [ending](super::factor). Bodies are diffusers' or those of Stable Diffusion's original
//! layout, with dots or underscores, those of text encoders with or without `text_model`.

use std::collections::HashMap;

use super::{factor::Factor, words};
use crate::{
    io::Checkpoint,
    layout::{Layout, Network},
};

/// The name of an adapter tensor in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The whole name.
    pub(super) tensor: String,
    /// Whose tensor it is.
    pub(super) owner: Owner,
    /// The module as the file spells it, without prefixes.
    pub(super) module: String,
    /// Its role.
    pub(super) factor: Factor,
}

/// The network of a tensor, as far as its name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This one.
    Network(Network),
    /// One of the text encoders: PEFT's files of a single network do not say which.
    SomeTextEncoder,
}

impl Name {
    /// Parses a tensor's name; `None` if its ending is not that of an adapter.
    pub(super) fn of(tensor: &str) -> Option<Self> {
        let (module, factor) = Factor::of(tensor)?;
        let (network, module) = without_prefixes(module);
        let owner = match network {
            Some(network) => Owner::Network(network),
            None if is_text(module) => Owner::SomeTextEncoder,
            None => Owner::Network(Network::Unet),
        };
        Some(Self {
            tensor: tensor.into(),
            owner,
            module: module.into(),
            factor,
        })
    }

    /// The network, which is the first text encoder if only that it is one is known.
    pub(super) fn network(&self) -> Network {
        match self.owner {
            Owner::Network(network) => network,
            Owner::SomeTextEncoder => Network::TextEncoder(0),
        }
    }

    /// The path of the module in diffusers, without a network to look it up in.
    pub(super) fn path(&self) -> Option<String> {
        let own = || self.module.contains('.').then(|| self.module.clone());
        let path = words::dotted(&form(&self.module)).or_else(own)?;
        let is_bare = !path.starts_with("text_model.") && path != "text_projection";
        Some(match self.network() {
            Network::TextEncoder(_) if is_bare => format!("text_model.{path}"),
            _ => path,
        })
    }
}

/// Prefixes, and the network that they say: diffusers', kohya's, LyCORIS', ComfyUI's,
/// those of single-file checkpoints, and PEFT's, which says none.
const PREFIXES: [(&str, Option<Network>); 21] = [
    ("unet.", Some(Network::Unet)),
    ("lora_unet_", Some(Network::Unet)),
    ("model.diffusion_model.", Some(Network::Unet)),
    ("diffusion_model.", Some(Network::Unet)),
    ("text_encoder.", Some(FIRST)),
    ("text_encoder_2.", Some(SECOND)),
    ("lora_te_", Some(FIRST)),
    ("lora_te1_", Some(FIRST)),
    ("lora_te2_", Some(SECOND)),
    ("text_encoders.clip_l.transformer.", Some(FIRST)),
    ("text_encoders.clip_g.transformer.", Some(SECOND)),
    ("text_encoders.clip_l.", Some(FIRST)),
    ("text_encoders.clip_g.", Some(SECOND)),
    ("clip_l.transformer.", Some(FIRST)),
    ("clip_g.transformer.", Some(SECOND)),
    ("clip_l.", Some(FIRST)),
    ("clip_g.", Some(SECOND)),
    ("cond_stage_model.transformer.", Some(FIRST)),
    ("conditioner.embedders.0.transformer.", Some(FIRST)),
    ("base_model.model.", None),
    ("lycoris_", None),
];

const FIRST: Network = Network::TextEncoder(0);
const SECOND: Network = Network::TextEncoder(1);

/// A module's name without prefixes, and the network that they say. PEFT's may be before
/// or behind another.
fn without_prefixes(mut module: &str) -> (Option<Network>, &str) {
    let mut network = None;
    let cut = |module: &'_ str| {
        let found = PREFIXES
            .iter()
            .find(|(prefix, _)| module.starts_with(prefix))?;
        Some((found.0.len(), found.1))
    };
    while let Some((length, said)) = cut(module) {
        network = network.or(said);
        module = &module[length..];
    }
    (network, module)
}

/// Whether a module is one of a text encoder.
fn is_text(module: &str) -> bool {
    const BODIES: [&str; 5] = [
        "text_model_",
        "encoder_layers_",
        "embeddings_",
        "final_layer_norm",
        "text_projection",
    ];
    let module = module.replace('.', "_");
    BODIES.iter().any(|body| module.starts_with(body))
}

/// The one form of a module's name: underscores for dots, as kohya's scripts write them,
/// without `text_model`, and the current name for one of diffusers' former attention
/// processors: `attn1.processor.to_q_lora` is `attn1_to_q`.
fn form(module: &str) -> String {
    let flat = module.replace('.', "_").replace("_processor_", "_");
    let flat = flat.strip_suffix("_lora").unwrap_or(&flat);
    let flat = flat.strip_prefix("text_model_").unwrap_or(flat);
    if let Some((layer, projection)) = flat.split_once("self_attn_to_") {
        return format!("{layer}self_attn_{projection}_proj");
    }
    match flat.ends_with("_to_out") {
        true => format!("{flat}_0"),
        false => flat.into(),
    }
}

/// The modules of a network that an adapter may modify, by their names in one form.
pub(super) struct Modules(HashMap<String, String>);

impl Modules {
    /// Every module of `base` that has a weight, by its name in both layouts.
    pub(super) fn of(base: &Checkpoint) -> Self {
        let names = base.names();
        let modules = names.iter().filter_map(|name| name.strip_suffix(".weight"));
        Self::named(&modules.collect::<Vec<_>>())
    }

    fn named(modules: &[&str]) -> Self {
        let layout = Layout::of_diffusers_unet(modules);
        let names = modules.iter().flat_map(|&path| {
            let names = [path.to_owned()]
                .into_iter()
                .chain(layout.to_original(path));
            names.map(move |name| (form(&name), path.to_owned()))
        });
        Self(names.collect())
    }

    /// The path of the module that a file names.
    pub(super) fn path(&self, name: &Name) -> Option<&String> {
        self.0.get(&form(&name.module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0";
    const CONV: &str = "mid_block.resnets.0.conv1";
    const QUERY: &str = "text_model.encoder.layers.0.self_attn.q_proj";

    fn place(name: &str) -> Option<(Network, String, Factor)> {
        let modules = [
            OUT,
            CONV,
            QUERY,
            "time_emb_proj",
            "down_blocks.0.resnets.0.conv1",
        ];
        let name = Name::of(name)?;
        let path = Modules::named(&modules).path(&name)?.clone();
        Some((name.network(), path, name.factor))
    }

    #[test]
    fn every_naming_finds_the_same_module() {
        for name in [
            "unet.base_model.model.mid_block.resnets.0.conv1.lora_A.weight",
            "base_model.model.mid_block.resnets.0.conv1.lora_A.weight",
            "base_model.model.unet.mid_block.resnets.0.conv1.lora_A.default.weight",
            "unet.mid_block.resnets.0.conv1.lora_A.weight",
            "unet.mid_block.resnets.0.conv1.lora_A.style_2.weight",
            "unet.mid_block.resnets.0.conv1.lora.down.weight",
            "mid_block.resnets.0.conv1.lora_A.weight",
            "diffusion_model.mid_block.resnets.0.conv1.lora_A.weight",
            "diffusion_model.middle_block.0.in_layers.2.lora_down.weight",
            "model.diffusion_model.middle_block.0.in_layers.2.lora_A.weight",
            "lora_unet_mid_block_resnets_0_conv1.lora_down.weight",
            "lora_unet_middle_block_0_in_layers_2.lora_down.weight",
            "lycoris_mid_block_resnets_0_conv1.lora_down.weight",
        ] {
            let conv = Some((Network::Unet, CONV.into(), Factor::Down));
            assert_eq!(place(name), conv, "{name}");
        }
        let old = "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out_lora.up.weight";
        for old in [old, &old.replace("_lora.up", "_lora.lora.up")] {
            let out = Some((Network::Unet, OUT.into(), Factor::Up));
            assert_eq!(place(old), out, "{old}");
        }
        let alpha =
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0.alpha";
        let out = Some((Network::Unet, OUT.into(), Factor::Alpha));
        assert_eq!(place(alpha), out);
    }

    #[test]
    fn text_encoders_are_found_with_and_without_their_prefixes() {
        for (name, network) in [
            (
                "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
                FIRST,
            ),
            (
                "lora_te1_encoder_layers_0_self_attn_q_proj.lora_up.weight",
                FIRST,
            ),
            (
                "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
                SECOND,
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
                FIRST,
            ),
            (
                "text_encoder_2.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
                SECOND,
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight",
                FIRST,
            ),
            (
                "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_up.weight",
                SECOND,
            ),
            (
                "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
                FIRST,
            ),
            (
                "base_model.model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
                FIRST,
            ),
        ] {
            assert_eq!(
                place(name),
                Some((network, QUERY.into(), Factor::Up)),
                "{name}"
            );
        }
        let bare = Name::of("text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight");
        assert_eq!(bare.map(|name| name.owner), Some(Owner::SomeTextEncoder));
    }

    #[test]
    fn strangers_find_no_module() {
        for name in [
            "lora_te_text_model_x.lora_down.weight",
            "mid_block.resnets.0.conv1.weight",
            "x.alpha",
            "",
        ] {
            assert_eq!(place(name), None, "{name}");
        }
    }

    #[test]
    fn paths_are_told_without_a_network() {
        let path = |name: &str| Name::of(name).and_then(|name| name.path());
        for (name, expected) in [
            ("lora_unet_mid_block_resnets_0_conv1.alpha", Some(CONV)),
            ("unet.mid_block.resnets.0.conv1.lora_A.weight", Some(CONV)),
            (
                "lora_te1_encoder_layers_0_self_attn_q_proj.alpha",
                Some(QUERY),
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.alpha",
                Some(QUERY),
            ),
            ("lora_te2_text_projection.alpha", Some("text_projection")),
            ("lora_unet_input_blocks_1_1_proj_in.alpha", None),
        ] {
            assert_eq!(path(name).as_deref(), expected, "{name}");
        }
    }
}
