//! Single-file checkpoints and adapters of a style.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors::save};
use tempfile::TempDir;

use crate::support::{Run, copy, data, icd, tensors};

type Weights = HashMap<String, Tensor>;

/// Blocks of a level, its halving included, in a UNet's tensors.
fn stride(unet: &Weights) -> usize {
    let blocks = unet.keys().filter_map(|name| {
        let rest = name.strip_prefix("down_blocks.0.resnets.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    });
    blocks.max().expect("blocks") + 2
}

/// A name whose beginning is one of the first ones, with the second.
fn renamed(name: &str, table: &[(&str, &str)]) -> String {
    let found = table
        .iter()
        .find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)));
    found.unwrap_or_else(|| name.into())
}

/// What diffusers calls so, under the original name.
fn original_unet(name: &str, stride: usize, attends: &dyn Fn(usize) -> bool) -> String {
    const RESNET: [(&str, &str); 6] = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("time_emb_proj.", "emb_layers.1."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("conv_shortcut.", "skip_connection."),
    ];
    let parts: Vec<_> = name.splitn(5, '.').collect();
    let number = |i: usize| parts[i].parse::<usize>().expect("a number");
    match parts[..] {
        ["down_blocks", _, "downsamplers", ..] => {
            let tail = name.split("conv.").nth(1).expect("a convolution");
            format!("input_blocks.{}.0.op.{tail}", (number(1) + 1) * stride)
        }
        ["down_blocks", _, kind, _, tail] => {
            let block = 1 + number(1) * stride + number(3);
            match kind {
                "resnets" => format!("input_blocks.{block}.0.{}", renamed(tail, &RESNET)),
                _ => format!("input_blocks.{block}.1.{tail}"),
            }
        }
        ["up_blocks", _, "upsamplers", ..] => {
            let tail = name.split("conv.").nth(1).expect("a convolution");
            let block = number(1) * stride + stride - 1;
            let place = 1 + usize::from(attends(number(1)));
            format!("output_blocks.{block}.{place}.conv.{tail}")
        }
        ["up_blocks", _, kind, _, tail] => {
            let block = number(1) * stride + number(3);
            match kind {
                "resnets" => format!("output_blocks.{block}.0.{}", renamed(tail, &RESNET)),
                _ => format!("output_blocks.{block}.1.{tail}"),
            }
        }
        ["mid_block", "resnets", _, ..] => {
            let tail = name.splitn(4, '.').nth(3).expect("a tensor");
            format!("middle_block.{}.{}", 2 * number(2), renamed(tail, &RESNET))
        }
        ["mid_block", ..] => {
            let tail = name.splitn(4, '.').nth(3).expect("a tensor");
            format!("middle_block.1.{tail}")
        }
        _ => renamed(
            name,
            &[
                ("time_embedding.linear_1.", "time_embed.0."),
                ("time_embedding.linear_2.", "time_embed.2."),
                ("time_embedding.cond_proj.", "time_embed.cond_proj."),
                ("add_embedding.linear_1.", "label_emb.0.0."),
                ("add_embedding.linear_2.", "label_emb.0.2."),
                ("conv_in.", "input_blocks.0.0."),
                ("conv_norm_out.", "out.0."),
                ("conv_out.", "out.2."),
            ],
        ),
    }
}

fn original_vae(name: &str, coarsest: usize) -> String {
    let name = name
        .replace("mid_block.resnets.0.", "mid.block_1.")
        .replace("mid_block.resnets.1.", "mid.block_2.")
        .replace("mid_block.attentions.0.group_norm.", "mid.attn_1.norm.")
        .replace("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out.")
        .replace("mid_block.attentions.0.to_", "mid.attn_1.")
        .replace("conv_norm_out.", "norm_out.")
        .replace("conv_shortcut.", "nin_shortcut.")
        .replace("downsamplers.0.", "downsample.")
        .replace("upsamplers.0.", "upsample.")
        .replace(".resnets.", ".block.")
        .replace("down_blocks.", "down.");
    match name.split_once("up_blocks.") {
        Some((before, rest)) => {
            let (level, rest) = rest.split_once('.').expect("a level");
            let level: usize = level.parse().expect("a number");
            format!("{before}up.{}.{rest}", coarsest - level)
        }
        None => name,
    }
}

/// The tensors of an OpenCLIP that holds what this one of transformers does.
fn open_clip(text: &Weights) -> BTreeMap<String, Tensor> {
    let mut made = BTreeMap::new();
    for (name, tensor) in text {
        let name = name.strip_prefix("text_model.").unwrap_or(name);
        let Some(rest) = name.strip_prefix("encoder.layers.") else {
            let plain = renamed(
                name,
                &[
                    ("embeddings.token_embedding.", "token_embedding."),
                    (
                        "embeddings.position_embedding.weight",
                        "positional_embedding",
                    ),
                    ("final_layer_norm.", "ln_final."),
                    ("text_projection.weight", "text_projection"),
                ],
            );
            let turned = match plain == "text_projection" {
                true => tensor.t().and_then(|t| t.contiguous()).expect("a matrix"),
                false => tensor.clone(),
            };
            made.insert(plain, turned);
            continue;
        };
        let (layer, tail) = rest.split_once('.').expect("a layer");
        let place = format!("transformer.resblocks.{layer}");
        if let Some(kind) = tail.strip_prefix("self_attn.q_proj.") {
            let part = |projection: &str| {
                let whole = name.replace("q_proj", projection);
                let whole = [format!("text_model.{whole}"), whole];
                whole
                    .iter()
                    .find_map(|name| text.get(name))
                    .expect("a projection")
            };
            let all = Tensor::cat(&["q_proj", "k_proj", "v_proj"].map(part), 0);
            made.insert(
                format!("{place}.attn.in_proj_{kind}"),
                all.expect("one tensor"),
            );
        } else if !tail.contains("k_proj") && !tail.contains("v_proj") {
            let tail = renamed(
                tail,
                &[
                    ("layer_norm1.", "ln_1."),
                    ("layer_norm2.", "ln_2."),
                    ("self_attn.out_proj.", "attn.out_proj."),
                    ("mlp.fc1.", "mlp.c_fc."),
                    ("mlp.fc2.", "mlp.c_proj."),
                ],
            );
            made.insert(format!("{place}.{tail}"), tensor.clone());
        }
    }
    made
}

/// The tensors of a network, sharded or not.
fn weights_in(folder: &Path) -> Weights {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|file| file.extension().is_some_and(|e| e == "safetensors"));
    files.flat_map(|file| tensors(&file)).collect()
}

/// The tiny model of a family as one file.
fn single(family: &str) -> (TempDir, PathBuf) {
    let part = |folder: &str| weights_in(&data(family).join(folder));
    let unet = part("unet");
    let stride = stride(&unet);
    let attends = |level: usize| {
        let prefix = format!("up_blocks.{level}.attentions.");
        unet.keys().any(|name| name.starts_with(&prefix))
    };
    let mut all = BTreeMap::new();
    for (name, tensor) in &unet {
        let name = original_unet(name, stride, &attends);
        all.insert(format!("model.diffusion_model.{name}"), tensor.clone());
    }
    let vae = part("vae");
    let levels = vae.keys().filter_map(|name| {
        let rest = name.strip_prefix("decoder.up_blocks.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    });
    let coarsest = levels.max().expect("levels");
    for (name, tensor) in &vae {
        let name = original_vae(name, coarsest);
        all.insert(format!("first_stage_model.{name}"), tensor.clone());
    }
    let text = part("text_encoder");
    let prefix = match family {
        "sd" => "cond_stage_model.transformer.",
        _ => "conditioner.embedders.0.transformer.",
    };
    all.extend(
        text.iter()
            .map(|(name, x)| (format!("{prefix}{name}"), x.clone())),
    );
    if family == "sdxl" {
        let second = open_clip(&part("text_encoder_2"));
        let named = second.into_iter();
        all.extend(named.map(|(name, x)| (format!("conditioner.embedders.1.model.{name}"), x)));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("single.safetensors");
    save(&all.into_iter().collect::<HashMap<_, _>>(), &file).expect("a file");
    (folder, file)
}

/// A copy of a tiny model without the weights of its networks.
fn without_weights(family: &str) -> TempDir {
    let is_network = |file: &Path| {
        let name = file.to_string_lossy();
        name.contains("model.safetensors") || name.contains("-of-")
    };
    let folder = tempfile::tempdir().expect("a folder");
    copy(&data(family), folder.path(), &|file| !is_network(file));
    folder
}

fn drawing(model: &Path) -> Run {
    icd("generate")
        .path("--model", model)
        .args("--prompt bird --size 64 --no-metadata -o out.png")
}

#[test]
fn one_file_holds_unet_autoencoder_and_text_encoders() {
    for family in ["sd", "sdxl"] {
        let (_folder, file) = single(family);
        let bare = without_weights(family);
        let whole = drawing(&data(family)).succeeds();
        let single = drawing(bare.path()).path("--checkpoint", &file).succeeds();
        assert!(
            whole.bytes("out.png") == single.bytes("out.png"),
            "{family}"
        );
    }
}

/// The single file of a family with some tensors more and without those of a beginning.
fn single_with(family: &str, more: &[&str], without: &str) -> (TempDir, PathBuf) {
    let (folder, file) = single(family);
    let mut all = tensors(&file);
    all.retain(|name, _| without.is_empty() || !name.starts_with(without));
    let number = Tensor::new(&[0.5_f32], &Device::Cpu).expect("a number");
    all.extend(more.iter().map(|name| ((*name).to_owned(), number.clone())));
    save(&all, &file).expect("a file");
    (folder, file)
}

#[test]
fn a_part_that_the_file_lacks_is_the_folders() {
    let whole = drawing(&data("sd")).succeeds();
    for (without, network) in [
        ("first_stage_model.", "autoencoder"),
        ("cond_stage_model.", "text encoder"),
    ] {
        let (_folder, file) = single_with("sd", &[], without);
        let single = drawing(&data("sd")).path("--checkpoint", &file).succeeds();
        assert!(
            whole.bytes("out.png") == single.bytes("out.png"),
            "{network}"
        );
        let told = format!("holds no {network}");
        assert!(single.stderr.contains(&told), "{}", single.stderr);
        let bare = without_weights("sd");
        let nowhere = drawing(bare.path()).path("--checkpoint", &file);
        nowhere.fails(1, &["missing from the model folder"]);
    }
}

#[test]
fn what_a_single_file_says_is_refused_or_changes_nothing() {
    for (name, says) in [
        ("v_pred", "velocities"),
        ("ztsnr", "zero terminal SNR"),
        ("scaled_fp8", "fp8"),
        (
            "model.diffusion_model.input_blocks.1.1.proj_in.scale_weight",
            "fp8",
        ),
        (
            "model.diffusion_model.input_blocks.0.0.op.weight",
            "no such tensor",
        ),
        (
            "model.diffusion_model.input_blocks.99999999999.0.op.weight",
            "no such tensor",
        ),
        ("first_stage_model.decoder.up.7.block.0.x", "no such tensor"),
        (
            "cond_stage_model.model.ln_final.weight",
            "Stable Diffusion 2",
        ),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
    ] {
        let (_folder, file) = single_with("sd", &[name], "");
        drawing(&data("sd"))
            .path("--checkpoint", &file)
            .fails(1, &["single.safetensors", name, says]);
    }
    // Whatever of it is missing: that it is of another family is told first.
    let (_folder, file) = single_with(
        "sd",
        &["cond_stage_model.model.ln_final.weight"],
        "cond_stage_model.transformer.",
    );
    drawing(without_weights("sd").path())
        .path("--checkpoint", &file)
        .fails(1, &["Stable Diffusion 2"]);
    let harmless = [
        "betas",
        "alphas_cumprod",
        "model_ema.decay",
        "first_stage_model.loss.logvar",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "denoiser.sigmas",
    ];
    let (_folder, file) = single_with("sd", &harmless, "");
    let run = drawing(&data("sd")).path("--checkpoint", &file).succeeds();
    let whole = drawing(&data("sd")).succeeds();
    assert!(whole.bytes("out.png") == run.bytes("out.png"));
}

#[test]
fn the_metadata_of_a_single_file_name_what_it_predicts() {
    let (_folder, file) = single("sd");
    let bytes = std::fs::read(&file).expect("a file");
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    for (value, code) in [("v", 1), ("epsilon", 0)] {
        let notes = [("modelspec.prediction_type".to_owned(), value.to_owned())];
        let annotated = safetensors::serialize(all.tensors(), Some(notes.into_iter().collect()));
        std::fs::write(&file, annotated.expect("a file")).expect("a file");
        let done = drawing(&data("sd")).path("--checkpoint", &file).done();
        assert_eq!(done.code, code, "{}", done.stderr);
        assert_eq!(done.stderr.contains("modelspec.prediction_type"), code == 1);
    }
}

/// kohya's scripts name the layers of SDXL so.
#[test]
fn adapters_may_name_layers_as_the_single_file_does() {
    let unet = weights_in(&data("sdxl/unet"));
    let stride = stride(&unet);
    let attends = |level: usize| {
        let prefix = format!("up_blocks.{level}.attentions.");
        unet.keys().any(|name| name.starts_with(&prefix))
    };
    let file = "reverse-249-499-699-999.safetensors";
    let renamed = tensors(&data("sdxl").join(file))
        .into_iter()
        .map(|(name, x)| {
            let plain = name.replace("unet.base_model.model.", "");
            let (module, factor) = plain.split_once(".lora_").expect("a factor");
            let original = original_unet(&format!("{module}.weight"), stride, &attends);
            let module = original.replace(".weight", "").replace('.', "_");
            let end = if factor == "A.weight" { "down" } else { "up" };
            (format!("lora_unet_{module}.lora_{end}.weight"), x)
        });
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join(file);
    save(&renamed.collect::<Weights>(), &other).expect("a file");
    let own = drawing(&data("sdxl")).succeeds();
    let same = drawing(&data("sdxl"))
        .path("--reverse-adapter", &other)
        .succeeds();
    assert!(own.bytes("out.png") == same.bytes("out.png"));
}

#[test]
fn a_single_files_unet_may_be_taken_alone() {
    let (_folder, file) = single("sd");
    let whole = drawing(&data("sd")).succeeds();
    let other = drawing(&data("sd")).path("--unet", &file).succeeds();
    assert!(whole.bytes("out.png") == other.bytes("out.png"));
}

/// An adapter of rank 2 for a layer of the UNet and one of the text encoder.
pub(crate) fn style() -> (TempDir, PathBuf) {
    let wave = |shape: &[usize], phase: f32| {
        let values = (0..shape.iter().product()).map(|i: usize| (i as f32 + phase).sin());
        Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).expect("a wave")
    };
    let text = tensors(&data("sd/text_encoder/model.safetensors"));
    let layer = "text_model.encoder.layers.0.mlp.fc1";
    let found = text
        .keys()
        .find(|name| name.ends_with("encoder.layers.0.mlp.fc1.weight"));
    let shape = text[found.expect("a layer")].dims().to_vec();
    let kohya = format!("lora_te_{}", layer.replace('.', "_"));
    let unet = "lora_unet_conv_in";
    let weights = HashMap::from([
        (
            format!("{kohya}.lora_down.weight"),
            wave(&[2, shape[1]], 0.1),
        ),
        (format!("{kohya}.lora_up.weight"), wave(&[shape[0], 2], 0.2)),
        (format!("{unet}.lora_down.weight"), wave(&[2, 4, 3, 3], 0.3)),
        (format!("{unet}.lora_up.weight"), wave(&[4, 2, 1, 1], 0.4)),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("style.safetensors");
    save(&weights, &file).expect("a file");
    (folder, file)
}

#[test]
fn styles_are_stacked_by_their_shares() {
    let (_folder, file) = style();
    let drawn = |shares: &[&str]| {
        let run = drawing(&data("sd")).args("--save-latents x.safetensors");
        let run = shares.iter().fold(run, |run, share| {
            run.with("--lora", format!("{}{share}", file.display()))
        });
        run.succeeds().tensors("x.safetensors")["latent"].clone()
    };
    let plain = drawn(&[]);
    crate::support::agree("none of it", &drawn(&["=0"]), &plain, 1e-6);
    let whole = drawn(&[""]);
    crate::support::agree("two halves", &drawn(&["=0.5", "=0.5"]), &whole, 1e-4);
    let distance = crate::support::distance(&whole, &plain);
    assert!(distance > 1e-2, "the style does nothing: {distance}");
}

#[test]
fn a_styles_layers_are_those_of_merged_weights() {
    let (_folder, file) = style();
    let model = without_weights("sd");
    let style = tensors(&file);
    let merge = |network: &str, layer: &str, prefix: &str| {
        let mut weights = tensors(&data("sd").join(network));
        let factor = |end: &str| {
            let factor = &style[&format!("{prefix}.lora_{end}.weight")];
            factor.flatten_from(1).expect("a matrix")
        };
        let change = factor("up").matmul(&factor("down")).expect("a product");
        let name = weights
            .keys()
            .find(|name| name.ends_with(layer))
            .expect("a layer")
            .clone();
        let weight = weights[&name]
            .to_dtype(candle_core::DType::F32)
            .expect("floats");
        let merged = (&weight + change.reshape(weight.shape()).expect("its shape")).expect("a sum");
        weights.insert(name, merged);
        save(&weights, model.path().join(network)).expect("weights");
    };
    merge(
        "unet/diffusion_pytorch_model.safetensors",
        "conv_in.weight",
        "lora_unet_conv_in",
    );
    merge(
        "text_encoder/model.safetensors",
        "encoder.layers.0.mlp.fc1.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    );
    let vae = "vae/diffusion_pytorch_model.safetensors";
    std::fs::copy(data("sd").join(vae), model.path().join(vae)).expect("a copy");
    let latent = |run: Run| {
        let run = run.args("--save-latents x.safetensors");
        run.succeeds().tensors("x.safetensors")["latent"].clone()
    };
    let merged = latent(drawing(model.path()));
    let styled = latent(drawing(&data("sd")).path("--lora", &file));
    crate::support::agree("a style", &styled, &merged, 1e-4);
}
