//! What adapter files say of themselves: scales, names, networks, directions and shapes.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use icd::lora::{Adapter, AdapterOptions};
use tempfile::TempDir;

use crate::{
    adapters::{READING, base},
    convert::{convert, waves},
    support::{Run, agree, data, icd},
};

/// An adapter file of these tensors and metadata.
fn written(name: &str, tensors: &[(&str, Tensor)], notes: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    write(&file, tensors, notes);
    (folder, file)
}

fn write(file: &Path, tensors: &[(&str, Tensor)], notes: &[(&str, &str)]) {
    let notes = notes
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    let bytes = safetensors::serialize(tensors.to_vec(), Some(notes.collect()));
    std::fs::write(file, bytes.expect("tensors")).expect("an adapter file");
}

const QUERY: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
const TEXT_QUERY: &str = "text_model.encoder.layers.0.self_attn.q_proj";

/// A LoRA of rank 2 for a layer of 4 inputs and outputs.
fn factors(down: &str, up: &str) -> [(String, Tensor); 2] {
    [
        (down.to_owned(), waves(&[2, 4], 0.5)),
        (up.to_owned(), waves(&[4, 2], 0.25)),
    ]
}

fn borrowed(tensors: &[(String, Tensor)]) -> Vec<(&str, Tensor)> {
    let tensors = tensors.iter();
    tensors.map(|(name, x)| (&name[..], x.clone())).collect()
}

fn of_query(prefix: &str) -> [(String, Tensor); 2] {
    let name = |half| format!("{prefix}{QUERY}.lora_{half}.weight");
    factors(&name("A"), &name("B"))
}

/// The scale of a file's layer, with this alpha for files that state none.
fn scale(file: &Path, alpha: Option<f64>) -> f64 {
    let rounding = DType::F32;
    let read = Adapter::read(
        file,
        &base(),
        AdapterOptions {
            alpha,
            weight: 1.0,
            rounding,
        },
    );
    read.expect("an adapter").deltas()[QUERY].scale
}

fn fault(file: &Path) -> String {
    let reading = AdapterOptions {
        alpha: None,
        ..READING
    };
    Adapter::read(file, &base(), reading)
        .unwrap_err()
        .to_string()
}

const CONFIG: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 10}"#;
const METADATA: (&str, &str) = (
    "lora_adapter_metadata",
    r#"{"unet.r": 2, "unet.lora_alpha": 6}"#,
);

#[test]
fn the_first_that_states_an_alpha_counts() {
    let plain = of_query("unet.");
    let alpha = Tensor::new(4f32, &Device::Cpu).unwrap();
    let own = (format!("unet.{QUERY}.alpha"), alpha);
    let with_alpha = [&plain[..], &[own]].concat();
    let all = [METADATA, ("icd.alpha", "14")];
    for (tensors, config, notes, alpha, expected) in [
        (&with_alpha[..], Some(CONFIG), &all[..], Some(18.0), 2.0),
        (&plain, Some(CONFIG), &all, Some(18.0), 5.0),
        (&plain, None, &all, Some(18.0), 3.0),
        (&plain, None, &all[1..], Some(18.0), 7.0),
        (&plain, None, &[], Some(18.0), 9.0),
        (&plain, None, &[], None, 1.0),
        (&of_query("base_model.model."), None, &[], None, 4.0),
        (&plain, None, &[("icd.path", "999,0")], None, 4.0),
    ] {
        let name = "adapter_model.safetensors";
        let (folder, file) = written(name, &borrowed(tensors), notes);
        if let Some(config) = config {
            std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
        }
        assert_eq!(scale(&file, alpha), expected);
    }
}

#[test]
fn a_configuration_beside_is_that_of_pefts_own_file() {
    let plain = of_query("unet.");
    let (folder, other) = written("style.safetensors", &borrowed(&plain), &[METADATA]);
    std::fs::write(folder.path().join("adapter_config.json"), CONFIG).unwrap();
    assert_eq!(scale(&other, None), 3.0, "what the file says itself");
    write(&other, &borrowed(&plain), &[]);
    assert_eq!(scale(&other, None), 5.0, "a renamed file");
    write(
        &folder.path().join("adapter_model.safetensors"),
        &borrowed(&plain),
        &[],
    );
    assert_eq!(
        scale(&other, None),
        1.0,
        "the configuration is another file's"
    );
}

#[test]
fn metadata_counts_for_its_own_network() {
    let plain = of_query("");
    for (text, expected) in [
        (r#"{"r": 2, "lora_alpha": 6}"#, 3.0),
        (
            r#"{"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": true}"#,
            6.0 / 2f64.sqrt(),
        ),
        (
            r#"{"text_encoder.r": 2, "text_encoder.lora_alpha": 6}"#,
            1.0,
        ),
        (
            r#"{"unet.alpha_pattern": {"to_q": 4, "attn1.to_q": 8}}"#,
            2.0,
        ),
        (r#"{"unet.alpha_pattern": {"attn[13].to_q": 4}}"#, 2.0),
        (
            r#"{"unet.alpha_pattern": {"attn[23].to_q": 4}, "unet.lora_alpha": 1}"#,
            0.5,
        ),
    ] {
        let notes = [("lora_adapter_metadata", text)];
        let (_folder, file) = written("x.safetensors", &borrowed(&plain), &notes);
        let found = scale(&file, None);
        assert!((found - expected).abs() < 1e-12, "{text}: {found}");
    }
    for (text, says) in [
        (r#"{"unet.layers_pattern": "blocks"}"#, "layers_pattern"),
        (r#"{"unet.use_dora": true}"#, "use_dora"),
        (r#"{"unet.r": 4}"#, "its rank is 2, but 4 is stated"),
        ("{", "lora_adapter_metadata"),
    ] {
        let notes = [("lora_adapter_metadata", text)];
        let (_folder, file) = written("x.safetensors", &borrowed(&plain), &notes);
        let error = fault(&file);
        assert!(
            error.contains(says) && error.contains("x.safetensors"),
            "{error}"
        );
    }
}

#[test]
fn one_factor_named_twice_is_refused_with_both_names() {
    let alpha = |name: &str| (name.to_owned(), Tensor::new(1f32, &Device::Cpu).unwrap());
    let flat = QUERY.replace('.', "_");
    let original =
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight";
    let twice = |other: (String, Tensor)| {
        let tensors = [&of_query("unet.")[..], &[other]].concat();
        let (_folder, file) = written("x.safetensors", &borrowed(&tensors), &[]);
        fault(&file)
    };
    let error = twice((original.to_owned(), waves(&[2, 4], 1.0)));
    assert!(
        error.contains(original) && error.contains("unet.down_blocks"),
        "{error}"
    );
    let adapters = twice((format!("{QUERY}.lora_B.other.weight"), waves(&[4, 2], 1.0)));
    assert!(adapters.contains("lora_B.other"), "{adapters}");
    let tensors = [
        &of_query("unet.")[..],
        &[
            alpha(&format!("unet.{QUERY}.alpha")),
            alpha(&format!("lora_unet_{flat}.alpha")),
        ],
    ];
    let (_folder, file) = written("x.safetensors", &borrowed(&tensors.concat()), &[]);
    assert!(fault(&file).contains("lora_unet_"), "{}", fault(&file));
}

#[test]
fn numbers_that_are_none_are_refused_by_file_and_layer() {
    let list = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    let inf = f32::INFINITY;
    for (alpha, says) in [
        (list(&[1.0, 1.0]), "not one number"),
        (list(&[]), "not one number"),
        (list(&[inf]), "is inf"),
    ] {
        let own = (format!("unet.{QUERY}.alpha"), alpha);
        let tensors = [&of_query("unet.")[..], &[own]].concat();
        let (_folder, file) = written("x.safetensors", &borrowed(&tensors), &[]);
        let error = fault(&file);
        assert!(
            ["x.safetensors", "to_q", "alpha", says]
                .iter()
                .all(|s| error.contains(s)),
            "{error}"
        );
    }
    let mut tensors = of_query("unet.");
    tensors[1].1 = list(&[1.0, inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        .reshape((4, 2))
        .unwrap();
    let (_folder, file) = written("x.safetensors", &borrowed(&tensors), &[]);
    let error = fault(&file);
    assert!(
        error.contains("to_q") && error.contains("not finite"),
        "{error}"
    );
    let (_folder, file) = written(
        "x.safetensors",
        &borrowed(&of_query("unet.")),
        &[("icd.alpha", "NaN")],
    );
    assert!(fault(&file).contains("icd.alpha"), "{}", fault(&file));
}

#[test]
fn a_weight_that_an_adapter_makes_infinite_is_refused() {
    let (_folder, file) = written(
        "x.safetensors",
        &borrowed(&of_query("unet.")),
        &[("icd.alpha", "1e39")],
    );
    convert(&data("sd/unet"), "y.safetensors")
        .args("--dtype f32")
        .path("--adapter", &file)
        .fails(1, &["attn1.to_q.weight", "not finite"]);
}

fn text(prefix: &str) -> [(String, Tensor); 2] {
    let name = |half| format!("{prefix}{TEXT_QUERY}.lora_{half}.weight");
    [
        (name("A"), waves(&[2, 12], 0.5)),
        (name("B"), waves(&[12, 2], 0.25)),
    ]
}

fn with_style(file: &Path) -> Run {
    icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --size 64 --no-metadata -o out.png")
        .path("--lora", file)
}

#[test]
fn what_is_left_out_is_told_and_what_changes_nothing_refused() {
    let second = text("text_encoder_2.");
    let (_folder, file) = written("x.safetensors", &borrowed(&second), &[]);
    with_style(&file).fails(1, &["x.safetensors", "second text encoder"]);
    let (_folder, file) = written("x.safetensors", &[], &[("a", "b")]);
    with_style(&file).fails(1, &["x.safetensors", "no adapter tensors"]);
    let both = [&second[..], &of_query("unet.")].concat();
    let (_folder, file) = written("x.safetensors", &borrowed(&both), &[]);
    let said = with_style(&file).succeeds().stderr;
    assert!(said.contains("2 of its tensors are left out"), "{said}");
    assert!(said.contains("does not state its alpha"), "{said}");
    let quiet = with_style(&file).args("-q").succeeds().stderr;
    assert_eq!(quiet, "");
    let converted = convert(&data("sd/unet"), "y.safetensors");
    let texts = [&text("text_encoder.")[..], &of_query("unet.")].concat();
    let (_folder, file) = written("x.safetensors", &borrowed(&texts), &[METADATA]);
    let said = converted.path("--adapter", &file).succeeds().stderr;
    assert!(
        said.contains("left out") && !said.contains("alpha"),
        "{said}"
    );
}

#[test]
fn an_adapter_of_the_other_direction_is_refused() {
    let run = |flag: &str, name: &str, notes: &[(&str, &str)]| {
        let (folder, file) = written(name, &borrowed(&of_query("unet.")), notes);
        let verb = if flag.contains("forward") {
            "invert"
        } else {
            "generate"
        };
        let run = icd(verb).path("--model", &data("sd")).path(flag, &file);
        let run = match verb {
            "invert" => run
                .path("--image", &data("square.png"))
                .args("-o x.safetensors"),
            _ => run.args("--no-metadata -o out.png"),
        };
        (folder, run.args("--prompt bird --size 64"))
    };
    let up = [("icd.path", "19,519,999")];
    let down = [("icd.path", "999,519,0")];
    let (_folder, backwards) = run("--reverse-adapter", "x.safetensors", &up);
    backwards.fails(1, &["x.safetensors", "forward adapter"]);
    let (_folder, named) = run("--forward-adapter", "My-Reverse.safetensors", &[]);
    named
        .args("--forward-timesteps 19,999")
        .fails(1, &["My-Reverse.safetensors", "reverse adapter"]);
    let (_folder, noted) = run("--reverse-adapter", "forward.safetensors", &down);
    noted.succeeds();
    let (_folder, style) = written("forward.safetensors", &borrowed(&of_query("unet.")), &[]);
    assert!(
        with_style(&style)
            .succeeds()
            .stderr
            .contains("forward adapter")
    );
}

#[test]
fn a_reverse_path_ends_at_zero_however_it_is_given() {
    let latent = |run: Run| {
        let run = run
            .args("--prompt bird --size 64 --no-metadata -o out.png --save-latents x.safetensors");
        run.succeeds().tensors("x.safetensors")["latent"].clone()
    };
    let of = |timesteps: &str| {
        let run = icd("generate").path("--model", &data("sd"));
        latent(run.with("--reverse-timesteps", timesteps))
    };
    let whole = of("999,519,0");
    agree("a flag", &of("999,519"), &whole, 1e-12);
    let model = tempfile::tempdir().expect("a folder");
    crate::support::copy(&data("sd"), model.path(), &|_| true);
    let settings = "reverse_adapter = \"reverse-259-519-779-999.safetensors\"\nadapter_alpha = 8\n\
                    reverse_timesteps = [999, 519]\n";
    std::fs::write(model.path().join("icd.toml"), settings).expect("settings");
    agree(
        "icd.toml",
        &latent(icd("generate").path("--model", model.path())),
        &whole,
        1e-12,
    );
}

#[test]
fn factors_may_be_flat_and_are_held_against_their_layer() {
    let conv = "down_blocks.0.resnets.0.conv1";
    let name = |half: &str| format!("unet.{conv}.lora_{half}.weight");
    let (a, b) = (name("A"), name("B"));
    let (down, up) = (waves(&[2, 4, 3, 3], 0.5), waves(&[4, 2, 1, 1], 0.25));
    let flat = |x: &Tensor| x.flatten_from(1).unwrap();
    let read = |down: Tensor, up: Tensor| {
        let (_folder, file) = written("x.safetensors", &[(&a, down), (&b, up)], &[]);
        let reading = AdapterOptions {
            alpha: None,
            weight: 1.0,
            rounding: DType::F32,
        };
        let read = Adapter::read(&file, &base(), reading);
        read.map(|adapter| adapter.deltas()[conv].clone())
            .map_err(|e| e.to_string())
    };
    let whole = read(down.clone(), up.clone()).unwrap();
    let same = read(flat(&down), flat(&up)).unwrap();
    assert_eq!(same.down.dims(), [2, 4, 3, 3]);
    agree("down", &same.down, &whole.down, 1e-12);
    agree("up", &same.up, &whole.up, 1e-12);
    for (down, up) in [
        (up.clone(), down.clone()),
        (down.clone(), waves(&[4, 3, 1, 1], 1.0)),
        (waves(&[2, 4], 1.0), up.clone()),
        (down.clone(), waves(&[8], 1.0)),
    ] {
        let error = read(down, up).unwrap_err();
        let says = [
            "x.safetensors",
            conv,
            "lora_A.weight",
            "another model",
            "sd/unet",
        ];
        assert!(says.iter().all(|s| error.contains(s)), "{error}");
    }
    let (_folder, one) = written(
        "a.safetensors",
        &[(&a, down.clone()), (&b, up.clone())],
        &[],
    );
    let (_other, two) = written("b.safetensors", &[(&a, flat(&down)), (&b, flat(&up))], &[]);
    let merge = |files: &[(&Path, f64)]| {
        let run = convert(&data("sd/unet"), "y.safetensors").args("--dtype f32");
        let run = files.iter().fold(run, |run, (file, weight)| {
            run.with("--adapter", format!("{}={weight}", file.display()))
        });
        run.succeeds().tensors("y.safetensors")[&format!("{conv}.weight")].clone()
    };
    agree(
        "both",
        &merge(&[(&one, 1.0), (&two, 1.0)]),
        &merge(&[(&one, 2.0)]),
        1e-6,
    );
}

#[test]
fn kinds_that_are_not_applied_are_named() {
    let flat = format!("lora_unet_{}", QUERY.replace('.', "_"));
    for (end, says) in [
        (".diff", "differences"),
        (".a1.weight", "GLoRA"),
        (".on_input", "(IA)^3"),
        (".scale_weight", "fp8"),
        (".lora_up.bias", "fit no layer"),
    ] {
        let name = format!("{flat}{end}");
        let tensors = [&of_query("unet.")[..], &[(name, waves(&[4], 1.0))]].concat();
        let (_folder, file) = written("x.safetensors", &borrowed(&tensors), &[]);
        let error = fault(&file);
        assert!(
            error.contains("x.safetensors") && error.contains(says),
            "{error}"
        );
    }
    let half = [(format!("{flat}.hada_w1_a"), waves(&[4, 2], 1.0))];
    let (_folder, file) = written("x.safetensors", &borrowed(&half), &[]);
    assert!(
        fault(&file).contains("hada_w1_b tensor is missing"),
        "{}",
        fault(&file)
    );
}
