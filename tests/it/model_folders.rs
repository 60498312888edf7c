//! Model folders as people have them: what their files say is obeyed or refused by name, and
//! what results depend on is told by whole files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors::save};
use icd::{
    model::{Adapters, Model, ModelChoice, config},
    schedule::Timestep,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{copy, data, icd, model, plain, tensors};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A copy of a tiny model.
fn copied(family: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&data(family), folder.path(), &|_| true);
    folder
}

/// A copy of a configuration file with other values of some fields.
fn changed(file: &str, fields: &Value) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = fs::read(data(file)).expect(file);
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    let fields = fields.as_object().expect("fields");
    for (name, value) in fields {
        config[name] = value.clone();
    }
    let file = folder.path().join("config.json");
    fs::write(&file, config.to_string()).expect("a file");
    (folder, file)
}

fn read(file: &str, fields: &Value) -> Result<(), String> {
    let (_folder, changed) = changed(file, fields);
    let changed = (&changed).into();
    let read = match file.split('/').nth(1) {
        Some("unet") => config::unet_config(&changed).map(drop),
        Some("vae") => config::vae_config(&changed).map(drop),
        Some("scheduler") => config::schedule(&changed).map(drop),
        _ => config::clip_config(&changed, false).map(drop),
    };
    read.map_err(|error| error.to_string())
}

#[test]
fn values_that_are_not_computed_are_refused_by_name() {
    let (unet, vae) = ("sd/unet/config.json", "sd/vae/config.json");
    let scheduler = "sd/scheduler/scheduler_config.json";
    let text = "sd/text_encoder/config.json";
    for (file, field, value) in [
        (unet, "mid_block_scale_factor", json!(2.0)),
        (unet, "mid_block_type", json!(null)),
        (unet, "mid_block_type", json!("UNetMidBlock2D")),
        (unet, "time_embedding_act_fn", json!("silu")),
        (unet, "timestep_post_act", json!("silu")),
        (unet, "resnet_out_scale_factor", json!(1.41)),
        (unet, "resnet_skip_time_act", json!(true)),
        (
            unet,
            "only_cross_attention",
            json!([false, true, false, false]),
        ),
        (unet, "cross_attention_norm", json!("layer_norm")),
        (unet, "attention_type", json!("gated")),
        (unet, "encoder_hid_dim_type", json!("text_proj")),
        (unet, "addition_embed_type", json!("text")),
        (unet, "flip_sin_to_cos", json!(null)),
        (unet, "freq_shift", json!(1)),
        (unet, "act_fn", json!("gelu")),
        (unet, "in_channels", json!(9)),
        (unet, "_class_name", json!("UNetMotionModel")),
        (unet, "quantization_config", json!({"load_in_8bit": true})),
        (vae, "shift_factor", json!(0.1)),
        (vae, "latents_mean", json!([0.1, 0.2, 0.3, 0.4])),
        (
            vae,
            "up_block_types",
            json!(["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
        ),
        (vae, "_class_name", json!("AutoencoderTiny")),
        (scheduler, "prediction_type", json!("v_prediction")),
        (scheduler, "prediction_type", json!("sample")),
        (scheduler, "rescale_betas_zero_snr", json!(true)),
        (scheduler, "beta_schedule", json!("sigmoid")),
        (scheduler, "use_flow_sigmas", json!(true)),
        (scheduler, "variance_type", json!("learned_range")),
        (scheduler, "num_train_timesteps", json!(4000)),
        (text, "hidden_act", json!("relu")),
        (text, "model_type", json!("t5")),
        (text, "pruned_heads", json!({"0": [1]})),
    ] {
        let error = read(file, &json!({ field: value })).unwrap_err();
        let named = error.contains("config.json") && error.contains(field);
        assert!(named, "{field} = {value}: {error}");
    }
}

#[test]
fn values_that_change_nothing_are_taken() {
    for (file, fields) in [
        (
            "sd/unet/config.json",
            json!({"mid_block_scale_factor": 1.0, "dropout": 0.1}),
        ),
        (
            "sd/unet/config.json",
            json!({"only_cross_attention": [false, false, false, false]}),
        ),
        (
            "sd/unet/config.json",
            json!({"act_fn": "swish", "upcast_attention": true}),
        ),
        (
            "sd/unet/config.json",
            json!({"_name_or_path": "x", "trained_by": "me"}),
        ),
        (
            "sd/vae/config.json",
            json!({"shift_factor": 0, "force_upcast": false}),
        ),
        (
            "sd/scheduler/scheduler_config.json",
            json!({"timestep_spacing": "trailing", "clip_sample": true, "use_karras_sigmas": true}),
        ),
        (
            "sd/text_encoder/config.json",
            json!({"torch_dtype": "float16", "num_beams": 4}),
        ),
    ] {
        read(file, &fields).unwrap();
    }
}

#[test]
fn fields_that_nobody_knows_are_told() {
    let folder = copied("sd");
    let file = folder.path().join("vae/config.json");
    let (_kept, other) = changed("sd/vae/config.json", &json!({"trained_by": "me", "_x": 1}));
    fs::copy(other, &file).expect("a copy");
    let notes = model(folder.path()).notes().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("vae/config.json") && notes[0].contains("\"trained_by\""));
    assert!(model(&data("sd")).notes().unwrap().is_empty());
}

#[test]
fn betas_of_a_file_make_the_schedule() {
    let betas = vec![1e-4; 1000];
    let (_folder, file) = changed(
        "sd/scheduler/scheduler_config.json",
        &json!({ "trained_betas": betas, "beta_schedule": "none" }),
    );
    let schedule = config::schedule(&(&file).into()).unwrap();
    for t in [1_u16, 500, 999] {
        let (alpha, _) = schedule.alpha_sigma(Timestep(t));
        let expected = (1.0 - 1e-4_f64).powi(i32::from(t) + 1).sqrt();
        assert!((alpha - expected).abs() < 1e-4, "{t}: {alpha} {expected}");
    }
    for bad in [json!([1e-4]), json!(vec![1.5; 1000]), json!(["x"])] {
        let fields = json!({ "trained_betas": bad });
        assert!(read("sd/scheduler/scheduler_config.json", &fields).is_err());
    }
}

/// Writes a file of weights with some more tensors, and without some.
fn rewrite(file: &Path, more: &[(&str, Tensor)], without: &str) {
    let mut all = tensors(file);
    if !without.is_empty() {
        all.remove(without).expect(without);
    }
    let more = more.iter();
    all.extend(more.map(|(name, tensor)| ((*name).to_owned(), tensor.clone())));
    save(&all, file).expect("weights");
}

fn number() -> Tensor {
    Tensor::new(&[0.5_f32], &Device::Cpu).expect("a number")
}

/// What loading each network of a model says.
fn refusal(folder: &Path) -> String {
    let choice = ModelChoice::named(folder.display().to_string());
    let all = Model::open(&choice, plain()).and_then(|model| {
        model.text()?;
        model.vae()?;
        model.unet(Adapters::None).map(drop)
    });
    all.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn tensors_that_no_network_has_are_refused_by_name() {
    let vae = "vae/diffusion_pytorch_model.safetensors";
    let text = "text_encoder/model.safetensors";
    for (file, name, says) in [
        (UNET, "down_blocks.0.extra.weight", "no such tensor"),
        (UNET, "conv_in.scale_weight", "fp8"),
        (UNET, "conv_in.weight_scale", "fp8"),
        (UNET, "v_pred", "velocities"),
        (UNET, "conv_in.weight.absmax", "quantised"),
        (UNET, "joint_blocks.0.x.weight", "Stable Diffusion 3"),
        (
            UNET,
            "controlnet_cond_embedding.conv_in.weight",
            "a ControlNet",
        ),
        (vae, "decoder.conv_extra.weight", "no such tensor"),
        (
            text,
            "text_model.encoder.layers.9.mlp.fc1.weight",
            "no such tensor",
        ),
    ] {
        let folder = copied("sd");
        rewrite(&folder.path().join(file), &[(name, number())], "");
        let error = refusal(folder.path());
        let named = error.contains(file) && error.contains(name) && error.contains(says);
        assert!(named, "{name}: {error}");
    }
    for (file, name) in [
        (UNET, "model_ema.decay"),
        (vae, "loss.logvar"),
        (text, "text_model.embeddings.position_ids"),
        (text, "text_projection.weight"),
        (text, "logit_scale"),
    ] {
        let folder = copied("sd");
        rewrite(&folder.path().join(file), &[(name, number())], "");
        assert_eq!(refusal(folder.path()), "", "{name}");
    }
}

#[test]
fn weights_that_the_configuration_switches_off_are_refused() {
    for (file, fields, tensor) in [
        ("unet", json!({"time_cond_proj_dim": null}), "cond_proj"),
        (
            "vae",
            json!({"use_post_quant_conv": false}),
            "post_quant_conv",
        ),
        (
            "vae",
            json!({"mid_block_add_attention": false}),
            "attentions",
        ),
    ] {
        let folder = copied("sd");
        let (_kept, other) = changed(&format!("sd/{file}/config.json"), &fields);
        fs::copy(other, folder.path().join(file).join("config.json")).expect("a copy");
        let error = refusal(folder.path());
        assert!(error.contains(tensor), "{fields}: {error}");
    }
}

/// The convolutions that a configuration switches off are those of an autoencoder whose
/// convolutions do nothing.
#[test]
fn an_autoencoder_without_quant_convs_is_computed() {
    let folder = copied("sd");
    let file = folder
        .path()
        .join("vae/diffusion_pytorch_model.safetensors");
    let mut all = tensors(&file);
    let eye = Tensor::eye(4, DType::F32, &Device::Cpu).unwrap();
    let eye = eye.reshape((4, 4, 1, 1)).unwrap();
    let zeros = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
    all.insert("post_quant_conv.weight".into(), eye);
    all.insert("post_quant_conv.bias".into(), zeros);
    save(&all, &file).unwrap();
    let latent = Tensor::rand(-1f32, 1., (1, 4, 8, 8), &Device::Cpu).unwrap();
    let expected = model(folder.path()).vae().unwrap().decode(&latent).unwrap();

    all.retain(|name, _| !name.starts_with("post_quant_conv"));
    save(&all, &file).unwrap();
    let (_kept, other) = changed("sd/vae/config.json", &json!({"use_post_quant_conv": false}));
    fs::copy(other, folder.path().join("vae/config.json")).unwrap();
    let found = model(folder.path()).vae().unwrap().decode(&latent).unwrap();
    crate::support::agree("without the convolution", &found, &expected, 1e-5);
}

#[test]
fn unets_of_other_families_are_named() {
    for (name, shape, says) in [
        ("conv_in.weight", vec![4, 9, 3, 3], "inpainting"),
        ("conv_in.weight", vec![4, 8, 3, 3], "InstructPix2Pix"),
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            vec![4, 1024],
            "Stable Diffusion 2",
        ),
    ] {
        let folder = copied("sd");
        let other = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        rewrite(&folder.path().join(UNET), &[(name, other)], "");
        let error = refusal(folder.path());
        assert!(
            error.contains(UNET) && error.contains(says),
            "{name}: {error}"
        );
    }
}

#[test]
fn files_that_people_have_in_the_place_of_weights_are_named() {
    let old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1\n";
    for (content, says) in [
        (&lfs[..], "git lfs pull"),
        (b"<!doctype html><html>", "web page"),
        (old, "old PyTorch"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
    ] {
        let folder = copied("sd");
        fs::write(folder.path().join(UNET), content).unwrap();
        let error = refusal(folder.path());
        assert!(error.contains(UNET) && error.contains(says), "{error}");
    }
    let folder = copied("sd");
    fs::write(folder.path().join("unet/config.json"), lfs).unwrap();
    let error = refusal(folder.path());
    assert!(
        error.contains("unet/config.json") && error.contains("git lfs pull"),
        "{error}"
    );
}

#[test]
fn files_are_inspected_by_their_content() {
    let weights = fs::read(data("sd/unet_part.pt")).unwrap();
    let told = icd("inspect")
        .file("x.ckpt", &weights)
        .args("x.ckpt --json");
    let told: Value = serde_json::from_str(&told.succeeds().stdout).unwrap();
    assert_eq!(told["kind"], "weights");
    let photo = fs::read(data("square.png")).unwrap();
    let told = icd("inspect").file("x.bin", &photo).args("x.bin --json");
    let told: Value = serde_json::from_str(&told.succeeds().stdout).unwrap();
    assert_eq!(told["kind"], "picture");
    let old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
    icd("inspect")
        .file("x.png", old)
        .args("x.png")
        .fails(1, &["x.png", "old PyTorch"]);
}

#[test]
fn sharded_variants_are_found() {
    let folder = copied("sdxl");
    let unet = folder.path().join("unet");
    fs::rename(
        unet.join("diffusion_pytorch_model.safetensors.index.json"),
        unet.join("diffusion_pytorch_model.safetensors.index.fp16.json"),
    )
    .unwrap();
    assert_eq!(refusal(folder.path()), "");
    let part = |name: &str| model(folder.path()).unet_checkpoint().unwrap().shape(name);
    assert_eq!(part("conv_in.weight"), Some(vec![4, 4, 3, 3]));
}

/// Damages a model folder.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn verify_does_what_a_run_does_before_its_first_step() {
    let vae = "vae/diffusion_pytorch_model.safetensors";
    let nan = Tensor::new(&[f32::NAN; 4], &Device::Cpu).unwrap();
    let broken: [(&str, Damage); 5] = [
        ("conv_in.weight", &|folder| {
            rewrite(&folder.join(UNET), &[], "conv_in.weight");
        }),
        ("vocab.json", &|folder| {
            fs::remove_file(folder.join("tokenizer/vocab.json")).unwrap();
        }),
        ("reverse-259-519-779-999.safetensors", &|folder| {
            fs::copy(
                data("sdxl/reverse-249-499-699-999.safetensors"),
                folder.join("reverse-259-519-779-999.safetensors"),
            )
            .unwrap();
        }),
        ("decoder.conv_in.bias", &|folder| {
            rewrite(
                &folder.join(vae),
                &[("decoder.conv_in.bias", nan.clone())],
                "",
            );
        }),
        ("text_encoder/model.safetensors", &|folder| {
            fs::write(folder.join("text_encoder/model.safetensors"), "text").unwrap();
        }),
    ];
    model(&data("sd")).verify().unwrap();
    for (says, damage) in broken {
        let folder = copied("sd");
        damage(folder.path());
        let error = model(folder.path()).verify().unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn whatever_a_model_computes_is_part_of_its_identity() {
    let whole = copied("sdxl");
    let of = |folder: &Path| {
        let model = model(folder);
        (model.identity().unwrap(), model.inversion_key().unwrap())
    };
    let (identity, key) = of(whole.path());
    assert_eq!(
        of(&data("sdxl")),
        (identity.clone(), key.clone()),
        "by content, not by place"
    );
    let unet = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    let second = "text_encoder_2/model.safetensors";
    for (file, is_shared) in [
        ("scheduler/scheduler_config.json", true),
        ("vae/config.json", true),
        ("unet/config.json", true),
        ("text_encoder_2/config.json", true),
        ("tokenizer_2/tokenizer_config.json", true),
        ("tokenizer/merges.txt", true),
        (unet, true),
        (second, true),
        ("forward-19-249-499-699.safetensors", false),
    ] {
        let file = whole.path().join(file);
        let before = fs::read(&file).unwrap_or_else(|_| panic!("{}", file.display()));
        let mut after = before.clone();
        // A space behind a text changes no value, but neither is it known to change none.
        match file
            .extension()
            .is_some_and(|ending| ending == "safetensors")
        {
            true => *after.last_mut().unwrap() ^= 1,
            false => after.push(b'\n'),
        }
        fs::write(&file, after).unwrap();
        let (other, other_key) = of(whole.path());
        assert_eq!(other != identity, is_shared, "{}", file.display());
        assert_ne!(other_key, key, "{}", file.display());
        fs::write(&file, before).unwrap();
    }
    assert_eq!(of(whole.path()), (identity, key));
}
