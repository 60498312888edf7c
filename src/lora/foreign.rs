//! Kinds of adapters and of weights that are known and not applied.

/// What a tensor's name says about its file.
enum Sign {
    Ends(&'static str),
    Begins(&'static str),
    Contains(&'static str),
}

use Sign::{Begins, Contains, Ends};

/// The kind of file to which a tensor of this name belongs, if it is one of those that
/// are known by name.
pub(super) fn kind(name: &str) -> Option<&'static str> {
    let is = |(sign, _): &&(Sign, _)| match sign {
        Ends(text) => name.ends_with(text),
        Begins(text) => name.starts_with(text),
        Contains(text) => name.contains(text),
    };
    KINDS.iter().find(is).map(|&(_, kind)| kind)
}

/// The first sign that a name shows decides.
const KINDS: &[(Sign, &str)] = &[
    (Ends(".scale_weight"), SCALED),
    (Ends(".weight_scale"), SCALED),
    (Contains("scaled_fp8"), SCALED),
    (Ends(".diff"), FULL),
    (Ends(".diff_b"), FULL),
    (Ends(".w_norm"), "trained norms (w_norm, b_norm)"),
    (Ends(".b_norm"), "trained norms (w_norm, b_norm)"),
    (Ends(".on_input"), IA3),
    (Contains(".ia3_l"), IA3),
    (Ends(".a1.weight"), GLORA),
    (Ends(".a2.weight"), GLORA),
    (Ends(".b1.weight"), GLORA),
    (Ends(".b2.weight"), GLORA),
    (Contains("glora_"), GLORA),
    (Contains(".oft_"), "an OFT or BOFT adapter"),
    (Contains(".boft_"), "an OFT or BOFT adapter"),
    (Contains(".lora_E"), "an AdaLoRA adapter"),
    (Contains(".ranknum"), "an AdaLoRA adapter"),
    (Contains(".vera_lambda"), "a VeRA adapter"),
    (
        Contains("lora_embedding_"),
        "a LoRA of embeddings (lora_embedding_A, lora_embedding_B)",
    ),
    (Contains("lora_controlnet"), "a Control-LoRA"),
    (Ends(".lora_B.bias"), BIASES),
    (
        Contains(".base_layer."),
        "a whole model with its adapter unmerged (base_layer)",
    ),
    (Contains("resblocks"), OPENCLIP),
    (
        Contains("motion_modules."),
        "a motion module of AnimateDiff",
    ),
    (Begins("image_proj."), "an IP-Adapter"),
    (Begins("ip_adapter."), "an IP-Adapter"),
    (Begins("control_model."), "a ControlNet"),
    (Begins("controlnet_"), "a ControlNet"),
    (Begins("emb_params"), EMBEDDING),
    (Begins("string_to_param"), EMBEDDING),
    (Begins("transformer."), TRANSFORMER),
    (Begins("lora_transformer_"), TRANSFORMER),
    (Contains("double_blocks"), TRANSFORMER),
    (Contains("single_blocks"), TRANSFORMER),
    (Contains("single_transformer_blocks"), TRANSFORMER),
    (Contains("joint_blocks"), TRANSFORMER),
    (Begins("lora_te3_"), TRANSFORMER),
    (Begins("text_encoders.t5xxl"), TRANSFORMER),
];

const SCALED: &str = "scaled fp8 weights";
const FULL: &str = "whole differences of weights (diff, diff_b)";
const IA3: &str = "an (IA)^3 adapter";
const GLORA: &str = "a GLoRA adapter";
const BIASES: &str = "a LoRA with biases (lora_bias)";
const OPENCLIP: &str = "a LoRA of a text encoder in OpenCLIP's own layout (resblocks, in_proj)";
const EMBEDDING: &str = "a textual inversion embedding";
const TRANSFORMER: &str = "an adapter of a diffusion transformer (Stable Diffusion 3, Flux, ..)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_are_named() {
        for (name, part) in [
            ("lora_unet_conv_in.diff", "differences"),
            ("lora_unet_mid_block_norm.w_norm", "norms"),
            ("lora_unet_x.on_input", "(IA)^3"),
            ("base_model.model.x.ia3_l", "(IA)^3"),
            ("lora_unet_x.a1.weight", "GLoRA"),
            ("x.oft_R.default.weight", "OFT"),
            ("unet.x.lora_B.bias", "biases"),
            ("x.lora_embedding_A", "embeddings"),
            ("transformer.blocks.0.lora_A.weight", "transformer"),
            ("x.scale_weight", "fp8"),
            (
                "lora_te2_transformer_resblocks_0_attn_in_proj.lora_up.weight",
                "OpenCLIP",
            ),
        ] {
            let found = kind(name).unwrap_or_default();
            assert!(found.contains(part), "{name}: {found}");
        }
        assert_eq!(kind("conv_in.weight"), None);
    }
}
