use std::collections::BTreeSet;

use super::*;
use crate::{
    model::unet::{Unet, UnetConfig},
    nn::{Placement, RandomInit, Weights},
};

/// Names in v1-5-pruned.safetensors and in diffusers.
const SD15: &str = "
    input_blocks.0.0.weight conv_in.weight
    input_blocks.1.0.in_layers.0.weight down_blocks.0.resnets.0.norm1.weight
    input_blocks.2.1.proj_in.weight down_blocks.0.attentions.1.proj_in.weight
    input_blocks.3.0.op.weight down_blocks.0.downsamplers.0.conv.weight
    input_blocks.4.0.skip_connection.bias down_blocks.1.resnets.0.conv_shortcut.bias
    input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight
    input_blocks.9.0.op.bias down_blocks.2.downsamplers.0.conv.bias
    input_blocks.11.0.emb_layers.1.weight down_blocks.3.resnets.1.time_emb_proj.weight
    middle_block.0.out_layers.3.weight mid_block.resnets.0.conv2.weight
    middle_block.1.norm.weight mid_block.attentions.0.norm.weight
    middle_block.2.out_layers.0.bias mid_block.resnets.1.norm2.bias
    output_blocks.0.0.in_layers.2.weight up_blocks.0.resnets.0.conv1.weight
    output_blocks.2.1.conv.weight up_blocks.0.upsamplers.0.conv.weight
    output_blocks.5.1.proj_out.weight up_blocks.1.attentions.2.proj_out.weight
    output_blocks.5.2.conv.weight up_blocks.1.upsamplers.0.conv.weight
    output_blocks.11.1.norm.weight up_blocks.3.attentions.2.norm.weight
    time_embed.2.bias time_embedding.linear_2.bias
    out.2.weight conv_out.weight
";

/// Names of modules in sd_xl_base_1.0.safetensors and in diffusers.
const SDXL: &str = "
    input_blocks.0.0 conv_in
    input_blocks.2.0.out_layers.3 down_blocks.0.resnets.1.conv2
    input_blocks.3.0.op down_blocks.0.downsamplers.0.conv
    input_blocks.4.1.transformer_blocks.1.attn2.to_k down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k
    input_blocks.8.1.proj_out down_blocks.2.attentions.1.proj_out
    middle_block.2.emb_layers.1 mid_block.resnets.1.time_emb_proj
    middle_block.1.proj_in mid_block.attentions.0.proj_in
    output_blocks.2.1.proj_in up_blocks.0.attentions.2.proj_in
    output_blocks.2.2.conv up_blocks.0.upsamplers.0.conv
    output_blocks.3.0.skip_connection up_blocks.1.resnets.0.conv_shortcut
    label_emb.0.2 add_embedding.linear_2
";

/// Names of autoencoders in both layouts.
const AUTOENCODER: &str = "
    encoder.conv_in.weight encoder.conv_in.weight
    encoder.down.1.block.0.nin_shortcut.weight encoder.down_blocks.1.resnets.0.conv_shortcut.weight
    encoder.down.2.downsample.conv.bias encoder.down_blocks.2.downsamplers.0.conv.bias
    encoder.mid.attn_1.q.weight encoder.mid_block.attentions.0.to_q.weight
    encoder.norm_out.weight encoder.conv_norm_out.weight
    decoder.up.0.block.2.conv1.weight decoder.up_blocks.3.resnets.2.conv1.weight
    decoder.up.3.upsample.conv.weight decoder.up_blocks.0.upsamplers.0.conv.weight
    decoder.mid.block_2.norm1.weight decoder.mid_block.resnets.1.norm1.weight
    post_quant_conv.weight post_quant_conv.weight
";

/// The names of all tensors of a UNet, which is read with fewer channels.
fn names_of(mut config: UnetConfig) -> Vec<String> {
    for level in &mut config.levels {
        level.channels /= 40;
        level.heads = 1;
    }
    config.norm_num_groups = 4;
    config.cross_attention_dim = 8;
    let projection = (
        "time_embedding.cond_proj.weight",
        [config.levels[0].channels, 4],
    );
    let random = RandomInit::new(0)
        .with(projection.0, &projection.1)
        .trainable();
    Unet::new(&Weights::initial(&random, &Placement::cpu_f32()), config).unwrap();
    random.vars().into_keys().collect()
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn pairs(table: &str) -> Vec<(&str, &str)> {
    let lines = table.lines().filter_map(|line| line.trim().split_once(' '));
    lines.collect()
}

fn check(layout: &Layout, table: &str) {
    for (original, diffusers) in pairs(table) {
        assert_eq!(layout.to_diffusers(original).as_deref(), Some(diffusers));
        assert_eq!(layout.to_original(diffusers).as_deref(), Some(original));
    }
}

#[test]
fn every_name_of_a_unet_has_one_in_the_other_layout() {
    for (config, table) in [(UnetConfig::sd15(), SD15), (UnetConfig::sdxl(), SDXL)] {
        let names = names_of(config);
        assert!(names.len() > 600, "{}", names.len());
        let layout = Layout::of_diffusers_unet(&borrowed(&names));
        check(&layout, table);
        let original = |name: &String| layout.to_original(name).unwrap();
        let originals: Vec<_> = names.iter().map(original).collect();
        assert_eq!(originals.iter().collect::<BTreeSet<_>>().len(), names.len());
        let layout = Layout::of_original_unet(&borrowed(&originals));
        check(&layout, table);
        for (original, name) in originals.iter().zip(&names) {
            assert_eq!(layout.to_diffusers(original).as_ref(), Some(name));
        }
    }
}

#[test]
fn an_autoencoders_names_are_told_both_ways() {
    let names: Vec<_> = pairs(AUTOENCODER)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    check(&Layout::of_original_vae(&names), AUTOENCODER);
}

#[test]
fn other_names_have_none() {
    let names = names_of(UnetConfig::sd15());
    let layout = Layout::of_diffusers_unet(&borrowed(&names));
    for name in [
        "",
        "x.y",
        "up_blocks.0",
        "mid_block.x.0.y",
        "conv_in2",
        "conv",
    ] {
        assert_eq!(layout.to_original(name), None, "{name}");
    }
    for name in ["", "out.1.weight", "input_blocks.1", "input_blocks.12.0.x"] {
        assert_eq!(layout.to_diffusers(name), None, "{name}");
    }
}
