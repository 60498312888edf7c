use super::*;

/// Of SD1.5 (v1-5-pruned.safetensors) and its diffusers layout.
const SD15: [(&str, &str); 18] = [
    ("input_blocks.0.0.weight", "conv_in.weight"),
    (
        "input_blocks.1.0.in_layers.0.weight",
        "down_blocks.0.resnets.0.norm1.weight",
    ),
    (
        "input_blocks.2.1.proj_in.weight",
        "down_blocks.0.attentions.1.proj_in.weight",
    ),
    (
        "input_blocks.3.0.op.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
    ),
    (
        "input_blocks.4.0.skip_connection.bias",
        "down_blocks.1.resnets.0.conv_shortcut.bias",
    ),
    (
        "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight",
    ),
    (
        "input_blocks.9.0.op.bias",
        "down_blocks.2.downsamplers.0.conv.bias",
    ),
    (
        "input_blocks.11.0.emb_layers.1.weight",
        "down_blocks.3.resnets.1.time_emb_proj.weight",
    ),
    (
        "middle_block.0.out_layers.3.weight",
        "mid_block.resnets.0.conv2.weight",
    ),
    (
        "middle_block.1.norm.weight",
        "mid_block.attentions.0.norm.weight",
    ),
    (
        "middle_block.2.out_layers.0.bias",
        "mid_block.resnets.1.norm2.bias",
    ),
    (
        "output_blocks.0.0.in_layers.2.weight",
        "up_blocks.0.resnets.0.conv1.weight",
    ),
    (
        "output_blocks.2.1.conv.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
    ),
    (
        "output_blocks.5.1.proj_out.weight",
        "up_blocks.1.attentions.2.proj_out.weight",
    ),
    (
        "output_blocks.5.2.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight",
    ),
    (
        "output_blocks.11.1.norm.weight",
        "up_blocks.3.attentions.2.norm.weight",
    ),
    ("time_embed.2.bias", "time_embedding.linear_2.bias"),
    ("out.2.weight", "conv_out.weight"),
];

#[test]
fn the_unets_names_are_those_of_diffusers() {
    let mut names: Vec<_> = SD15.iter().map(|(old, _)| format!("{UNET}{old}")).collect();
    for attends in [5, 11] {
        names.push(format!(
            "{UNET}output_blocks.{attends}.1.transformer_blocks.0.x.weight"
        ));
    }
    let views = unet(&names);
    for (old, new) in SD15 {
        assert_eq!(
            views.get(new),
            Some(&View::of(&format!("{UNET}{old}"))),
            "{new}"
        );
    }
}

#[test]
fn the_autoencoders_names_are_those_of_diffusers() {
    for (old, new) in [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        (
            "encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        ),
        (
            "encoder.down.2.downsample.conv.bias",
            "encoder.down_blocks.2.downsamplers.0.conv.bias",
        ),
        (
            "encoder.mid.attn_1.q.weight",
            "encoder.mid_block.attentions.0.to_q.weight",
        ),
        ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
        (
            "decoder.up.0.block.2.conv1.weight",
            "decoder.up_blocks.3.resnets.2.conv1.weight",
        ),
        (
            "decoder.up.3.upsample.conv.weight",
            "decoder.up_blocks.0.upsamplers.0.conv.weight",
        ),
        (
            "decoder.mid.block_2.norm1.weight",
            "decoder.mid_block.resnets.1.norm1.weight",
        ),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
    ] {
        assert_eq!(vae_name(old, 3).as_deref(), Some(new));
    }
}
