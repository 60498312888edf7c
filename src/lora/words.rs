//! Recovers module paths from kohya's names, which replace dots by underscores.

/// The components of module paths, except numbers, in Stable Diffusion's UNets
/// and text encoders as named by diffusers and transformers.
const WORDS: [&str; 54] = [
    "add_embedding",
    "attentions",
    "attn1",
    "attn2",
    "cond_proj",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_norm_out",
    "conv_out",
    "conv_shortcut",
    "down_blocks",
    "downsamplers",
    "embeddings",
    "encoder",
    "fc1",
    "fc2",
    "ff",
    "final_layer_norm",
    "k_proj",
    "layer_norm1",
    "layer_norm2",
    "layers",
    "linear_1",
    "linear_2",
    "mid_block",
    "mlp",
    "net",
    "norm",
    "norm1",
    "norm2",
    "norm3",
    "out_proj",
    "position_embedding",
    "proj",
    "proj_in",
    "proj_out",
    "q_proj",
    "resnets",
    "self_attn",
    "text_model",
    "text_projection",
    "time_emb_proj",
    "time_embedding",
    "to_k",
    "to_out",
    "to_q",
    "to_v",
    "token_embedding",
    "transformer_blocks",
    "up_blocks",
    "upsamplers",
    "v_proj",
];

/// The module path that `name` spells with underscores:
/// `mid_block_attentions_0_proj_in` is `mid_block.attentions.0.proj_in`.
pub(super) fn dotted(name: &str) -> Option<String> {
    let (mut words, mut rest) = (Vec::new(), Some(name));
    while let Some(name) = rest {
        let word = first_word(name)?;
        words.push(word);
        rest = name[word.len()..].strip_prefix('_');
    }
    Some(words.join("."))
}

/// The longest component or number that `name` starts with.
fn first_word(name: &str) -> Option<&str> {
    let number = name.bytes().take_while(u8::is_ascii_digit).count();
    let known = WORDS.iter().filter(|word| name.starts_with(**word));
    let lengths = known.map(|word| word.len()).chain([number]);
    let ends = |&length: &usize| matches!(name.as_bytes().get(length), None | Some(b'_'));
    let length = lengths.filter(ends).max();
    length
        .filter(|&length| length > 0)
        .map(|length| &name[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_that_divide_are_told_from_those_in_words() {
        for path in [
            "down_blocks.0.attentions.1.transformer_blocks.10.attn1.to_out.0",
            "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
            "down_blocks.1.downsamplers.0.conv",
            "up_blocks.2.upsamplers.0.conv",
            "mid_block.resnets.1.time_emb_proj",
            "mid_block.attentions.0.proj_in",
            "time_embedding.linear_1",
            "time_embedding.cond_proj",
            "conv_in",
            "conv_norm_out",
            "text_model.encoder.layers.11.self_attn.out_proj",
            "text_model.encoder.layers.11.mlp.fc1",
            "text_projection",
        ] {
            assert_eq!(dotted(&path.replace('.', "_")).as_deref(), Some(path));
        }
    }

    #[test]
    fn other_words_are_no_path() {
        for name in [
            "",
            "_",
            "conv_in_",
            "input_blocks_1_1_proj_in",
            "conv3",
            "to_q_",
        ] {
            assert_eq!(dotted(name), None, "{name:?}");
        }
    }
}
