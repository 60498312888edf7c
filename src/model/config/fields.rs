//! The fields of diffusers' and transformers' configuration files, each with the values
//! that this program computes. Any other value is an error: to pass it over would compute
//! another network than the file describes.

use serde_json::{Map, Value};

/// What a field may say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    /// It is read, and checked there.
    Read,
    /// It changes nothing that is computed here.
    Harmless,
    /// It has one of these values, written as in JSON. A list of them is one, too.
    Only(&'static [&'static str]),
}

use Field::{Harmless, Only, Read};

/// The fields of one kind of files.
pub(super) type Fields = [(&'static str, Field)];

/// Checks the values of a configuration; the reason names the field and its value.
pub(super) fn check(config: &Map<String, Value>, fields: &Fields) -> Result<(), String> {
    for (name, value) in config {
        let Some((_, Only(values))) = fields.iter().find(|(field, _)| field == name) else {
            continue;
        };
        if !allows(values, value) {
            let (value, right) = (shortened(value), values.join(" or "));
            return Err(format!(
                "{name} = {value} is not supported; it must be {right}"
            ));
        }
    }
    Ok(())
}

/// A value as in JSON, of which long ones are cut.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

/// The fields that neither diffusers nor transformers have, and that therefore change
/// nothing there either. Those that begin with an underscore are notes.
pub(super) fn unknown(config: &Map<String, Value>, fields: &Fields) -> Vec<String> {
    let known = |name: &str| fields.iter().any(|(field, _)| *field == name);
    let names = config.keys();
    let unknown = names.filter(|name| !name.starts_with('_') && !known(name));
    unknown.cloned().collect()
}

fn allows(values: &[&str], value: &Value) -> bool {
    let same = |allowed: &&str| {
        let allowed: Value = serde_json::from_str(allowed).unwrap_or_default();
        match (allowed.as_f64(), value.as_f64()) {
            (Some(allowed), Some(value)) => allowed.total_cmp(&value).is_eq(), // 1 is 1.0
            _ => allowed == *value,
        }
    };
    match value {
        Value::Array(each) if !each.is_empty() => each.iter().all(|value| allows(values, value)),
        _ => values.iter().any(same),
    }
}

const FALSE: Field = Only(&["false", "null"]);
const NULL: Field = Only(&["null"]);
const ONE: Field = Only(&["1"]);
const SILU: Field = Only(&["\"silu\"", "\"swish\""]);

/// `UNet2DConditionModel` of diffusers 0.42.
pub(super) const UNET: &Fields = &[
    ("_class_name", Only(&["\"UNet2DConditionModel\""])),
    ("act_fn", SILU),
    ("addition_embed_type", Only(&["null", "\"text_time\""])),
    ("addition_embed_type_num_heads", Harmless),
    ("addition_time_embed_dim", Read),
    ("attention_head_dim", Read),
    ("attention_type", Only(&["\"default\""])),
    ("block_out_channels", Read),
    ("center_input_sample", FALSE),
    ("class_embed_type", NULL),
    ("class_embeddings_concat", FALSE),
    ("conv_in_kernel", Only(&["3"])),
    ("conv_out_kernel", Only(&["3"])),
    ("cross_attention_dim", Read),
    ("cross_attention_norm", NULL),
    ("decay", Harmless), // this and others of a moving average (EMAModel)
    ("down_block_types", Read),
    ("downsample_padding", ONE),
    ("dropout", Harmless), // of trainings
    ("dual_cross_attention", FALSE),
    ("encoder_hid_dim", NULL),
    ("encoder_hid_dim_type", NULL),
    ("flip_sin_to_cos", Only(&["true"])),
    ("freq_shift", Only(&["0"])),
    ("in_channels", Read),
    ("inv_gamma", Harmless),
    ("layers_per_block", Read),
    ("mid_block_only_cross_attention", FALSE),
    ("mid_block_scale_factor", ONE),
    // None is a network without a middle block.
    ("mid_block_type", Only(&["\"UNetMidBlock2DCrossAttn\""])),
    ("min_decay", Harmless),
    ("norm_eps", Read),
    ("norm_num_groups", Read),
    ("num_attention_heads", Read),
    ("num_class_embeds", NULL),
    ("only_cross_attention", FALSE),
    ("optimization_step", Harmless),
    ("out_channels", Read),
    ("power", Harmless),
    ("projection_class_embeddings_input_dim", Read),
    ("quantization_config", NULL),
    ("resnet_out_scale_factor", ONE),
    ("resnet_skip_time_act", FALSE),
    ("resnet_time_scale_shift", Only(&["\"default\""])),
    ("reverse_transformer_layers_per_block", Read),
    ("sample_size", Read),
    ("time_cond_proj_dim", Read),
    ("time_embedding_act_fn", NULL),
    ("time_embedding_dim", NULL),
    ("time_embedding_type", Only(&["\"positional\""])),
    ("timestep_post_act", NULL),
    ("transformer_layers_per_block", Read),
    ("up_block_types", Read),
    ("upcast_attention", Harmless),      // of the precision
    ("use_linear_projection", Harmless), // as the weights' shapes say
];

/// `AutoencoderKL` of diffusers 0.42.
pub(super) const VAE: &Fields = &[
    ("_class_name", Only(&["\"AutoencoderKL\""])),
    ("act_fn", SILU),
    ("block_out_channels", Read),
    ("down_block_types", Only(&["\"DownEncoderBlock2D\""])),
    ("force_upcast", Harmless), // of the precision
    ("in_channels", Only(&["3"])),
    ("latent_channels", Read),
    ("latents_mean", NULL),
    ("latents_std", NULL),
    ("layers_per_block", Read),
    ("mid_block_add_attention", Read),
    ("norm_num_groups", Read),
    ("out_channels", Only(&["3"])),
    ("quantization_config", NULL),
    ("sample_size", Harmless),
    ("scaling_factor", Read),
    ("shift_factor", Only(&["0", "null"])),
    ("up_block_types", Only(&["\"UpDecoderBlock2D\""])),
    ("use_post_quant_conv", Read),
    ("use_quant_conv", Read),
];

/// The schedulers of diffusers 0.42 that have betas. Their own steps and solvers are not
/// used: the timesteps are the adapters', and each step is that of DDIM.
pub(super) const SCHEDULER: &Fields = &[
    ("algorithm_type", Harmless),
    ("beta_end", Read),
    ("beta_schedule", Read),
    ("beta_start", Read),
    ("clip_sample", Harmless),
    ("clip_sample_range", Harmless),
    ("disable_corrector", Harmless),
    ("dynamic_thresholding_ratio", Harmless),
    ("euler_at_final", Harmless),
    ("final_sigmas_type", Harmless),
    ("flow_shift", Harmless), // of use_flow_sigmas
    ("interpolation_type", Harmless),
    ("lambda_min_clipped", Harmless),
    ("lower_order_final", Harmless),
    ("noise_sampler_seed", Harmless),
    ("num_train_timesteps", Only(&["1000"])),
    ("original_inference_steps", Harmless),
    ("predict_x0", Harmless),
    ("prediction_type", Only(&["\"epsilon\""])),
    // The last timestep would be noise alone, of which a predicted noise says nothing.
    ("rescale_betas_zero_snr", FALSE),
    ("sample_max_value", Harmless),
    ("set_alpha_to_one", Harmless), // timestep 0 is clean
    ("shift_terminal", NULL),
    ("sigma_max", Harmless),
    ("sigma_min", Harmless),
    ("skip_prk_steps", Harmless),
    ("solver_order", Harmless),
    ("solver_p", Harmless),
    ("solver_type", Harmless),
    ("steps_offset", Harmless),
    ("thresholding", Harmless),
    ("time_shift_type", Harmless), // of use_dynamic_shifting
    ("timestep_scaling", Harmless),
    ("timestep_spacing", Harmless),
    ("timestep_type", Only(&["\"discrete\""])),
    ("trained_betas", Read),
    ("use_beta_sigmas", Harmless),
    ("use_dynamic_shifting", FALSE),
    ("use_exponential_sigmas", Harmless),
    ("use_flow_sigmas", FALSE),
    ("use_karras_sigmas", Harmless),
    ("use_lu_lambdas", Harmless),
    // Of a learned one, half of the UNet's output would be the variance.
    (
        "variance_type",
        Only(&[
            "null",
            "\"fixed_small\"",
            "\"fixed_small_log\"",
            "\"fixed_large\"",
            "\"fixed_large_log\"",
        ]),
    ),
];

/// `CLIPTextConfig` of transformers 4 and 5, and the fields that all its models have.
pub(super) const TEXT: &Fields = &[
    ("add_cross_attention", FALSE),
    ("architectures", Harmless),
    ("attention_dropout", Harmless),
    ("bad_words_ids", Harmless),
    ("begin_suppress_tokens", Harmless),
    ("bos_token_id", Harmless),
    ("chunk_size_feed_forward", Harmless),
    ("cross_attention_hidden_size", Harmless),
    ("decoder_start_token_id", Harmless),
    ("diversity_penalty", Harmless),
    ("do_sample", Harmless),
    ("dropout", Harmless),
    ("dtype", Harmless),
    ("early_stopping", Harmless),
    ("encoder_no_repeat_ngram_size", Harmless),
    ("eos_token_id", Harmless), // the tokenizer's
    ("exponential_decay_length_penalty", Harmless),
    ("finetuning_task", Harmless),
    ("forced_bos_token_id", Harmless),
    ("forced_eos_token_id", Harmless),
    ("gradient_checkpointing", Harmless),
    ("hidden_act", Read),
    ("hidden_size", Read),
    ("id2label", Harmless),
    ("initializer_factor", Harmless),
    ("initializer_range", Harmless),
    ("intermediate_size", Read),
    ("is_decoder", FALSE),
    ("is_encoder_decoder", FALSE),
    ("label2id", Harmless),
    ("layer_norm_eps", Read),
    ("length_penalty", Harmless),
    ("max_length", Harmless),
    ("max_position_embeddings", Read),
    ("min_length", Harmless),
    ("model_type", Only(&["\"clip_text_model\"", "\"clip\""])),
    ("name_or_path", Harmless),
    ("no_repeat_ngram_size", Harmless),
    ("num_attention_heads", Read),
    ("num_beam_groups", Harmless),
    ("num_beams", Harmless),
    ("num_hidden_layers", Read),
    ("num_return_sequences", Harmless),
    ("output_attentions", Harmless),
    ("output_hidden_states", Harmless),
    ("output_scores", Harmless),
    ("pad_token_id", Harmless), // the tokenizer's
    ("prefix", Harmless),
    ("problem_type", Harmless),
    ("projection_dim", Read),
    ("pruned_heads", Only(&["null", "{}"])),
    ("quantization_config", NULL),
    ("remove_invalid_values", Harmless),
    ("repetition_penalty", Harmless),
    ("return_dict", Harmless),
    ("return_dict_in_generate", Harmless),
    ("sep_token_id", Harmless),
    ("suppress_tokens", Harmless),
    ("task_specific_params", Harmless),
    ("temperature", Harmless),
    ("tf_legacy_loss", Harmless),
    ("tie_encoder_decoder", Harmless),
    ("tie_word_embeddings", Harmless),
    ("tokenizer_class", Harmless),
    ("top_k", Harmless),
    ("top_p", Harmless),
    ("torch_dtype", Harmless),
    ("torchscript", Harmless),
    ("transformers_version", Harmless),
    ("typical_p", Harmless),
    ("use_bfloat16", Harmless),
    ("vocab_size", Read),
];
