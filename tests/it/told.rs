//! What the program tells and stores: warnings, settings as they took effect, seeds, the
//! configuration file, short help and manual pages.

use std::fs;

use icd::picture::Picture;
use serde_json::{Value, json};

use crate::support::{Done, Run, data, icd};

/// A dry run of an edit of the toy model.
fn toy(source: &str, target: &str) -> Run {
    let scene = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png");
    icd("edit")
        .path("--model", &data("shapes"))
        .args("--dry-run")
        .path("--image", &scene)
        .with("--src-prompt", source)
        .with("--tgt-prompt", target)
}

/// The warnings of a run, which must succeed; a quiet one says nothing.
#[track_caller]
fn warnings(run: impl Fn() -> Run) -> Vec<String> {
    assert_eq!(run().args("-q").succeeds().stderr, "");
    let told = run().succeeds().stderr;
    let warnings = told
        .lines()
        .filter_map(|line| line.strip_prefix("warning: "));
    warnings.map(str::to_owned).collect()
}

/// Whether one warning holds each of these words, and there are no others.
#[track_caller]
fn warns(run: impl Fn() -> Run, words: &[&str]) {
    let found = warnings(run);
    assert_eq!(found.len(), words.len(), "{found:?}");
    for word in words {
        assert!(
            found.iter().any(|line| line.contains(word)),
            "{word}: {found:?}"
        );
    }
}

#[test]
fn what_is_hardly_meant_is_warned_of_once() {
    warns(|| toy("a blue star", "a red star"), &[]);
    warns(
        || toy("a blue star", "A  BLUE star"),
        &["reads like the source"],
    );
    warns(|| toy("", "a red star"), &["a prompt is empty"]);
    warns(
        || toy("a giraffe", "a red giraffe and a zebra"),
        &["giraffe, zebra"],
    );
    let twice = || {
        toy("a blue star", "a red star")
            .args("--tgt-prompt")
            .args("x")
    };
    warns(twice, &["never saw: x"]);
    let alike = || toy("a blue star", "a red star").with("--tgt-prompt", "a Red star");
    warns(alike, &["two of them read alike"]);
    let with = |flags: &'static str| move || toy("a blue star", "a red star").args(flags);
    warns(with("--guidance 1e30"), &["--guidance"]);
    warns(with("--guidance 50"), &[]);
    warns(with("--amplify red=1000"), &["--amplify red=1000"]);
    warns(with("--size 128"), &["64x64 pictures only"]);
    warns(with("--size 64x32"), &["64x64 pictures only"]);
}

/// A picture of 64x32 pixels.
fn half_height() -> Vec<u8> {
    let picture = Picture::new(icd::picture::Size::new(64, 32), vec![99; 3 * 64 * 32]);
    let picture = picture.expect("a picture");
    picture.encode(icd::picture::Format::Png).expect("bytes")
}

#[test]
fn a_model_of_squares_warns_of_other_shapes() {
    let run = |flags: &'static str| {
        move || {
            icd("generate")
                .path("--model", &data("shapes"))
                .args("--dry-run")
                .with("--prompt", "a red star")
                .args(flags)
        }
    };
    warns(run(""), &[]);
    warns(run("--size 64x72"), &["64x64 pictures only"]);
    let edit = |fit: &'static str| {
        move || {
            icd("edit")
                .path("--model", &data("shapes"))
                .args("--dry-run --image wide.png")
                .file("wide.png", &half_height())
                .with("--src-prompt", "a red star")
                .with("--tgt-prompt", "a blue star")
                .args(fit)
        }
    };
    warns(edit(""), &["64x64 pictures only, not 88x48 (see --fit)"]);
    warns(edit("--fit crop"), &[]);
    let far = |size: &'static str| {
        move || {
            icd("generate")
                .path("--model", &data("sd"))
                .args("--dry-run --prompt bird --size")
                .args(size)
        }
    };
    warns(far("64"), &[]);
    warns(far("80"), &[]);
    warns(far("96"), &["far from the model's own 64x64"]);
    warns(far("40"), &["far from the model's own 64x64"]);
}

/// An animated PNG of two frames.
fn animation() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 32, 32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).expect("an animation");
    let mut writer = encoder.write_header().expect("a header");
    for grey in [50, 200] {
        writer
            .write_image_data(&[grey; 3 * 32 * 32])
            .expect("a frame");
    }
    writer.finish().expect("an end");
    bytes
}

#[test]
fn of_an_animation_the_first_frame_is_used_and_a_warning_says_so() {
    let invert = || {
        icd("invert")
            .path("--model", &data("sd"))
            .file("moving.png", &animation())
            .args("--image moving.png --prompt bird --size 64 -o x.safetensors --force")
    };
    warns(invert, &["moving.png: animated"]);
}

fn bird(flags: &str) -> Run {
    icd("edit")
        .path("--model", &data("sd"))
        .path("--image", &data("square.png"))
        .with("--src-prompt", "a photo of a bird")
        .with("--tgt-prompt", "a photo of a dog")
        .args("--size 64 -o out.png")
        .args(flags)
}

fn settings(done: &Done, file: &str) -> Value {
    let told = icd("inspect").path("--json", &done.path(file)).succeeds();
    serde_json::from_str(&told.stdout).expect("JSON")
}

#[test]
fn settings_hold_what_took_effect() {
    let done = bird("--json").succeeds();
    let result: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let model = icd("inspect").path("--json", &data("sd")).succeeds();
    let model: Value = serde_json::from_str(&model.stdout).expect("JSON");
    for settings in [settings(&done, "out.png"), result] {
        assert_eq!(settings["guidance"], 19.0);
        assert_eq!(settings["tau"], 0.8);
        assert_eq!(settings["cross_replace"], json!([0.3]));
        assert_eq!(settings["self_replace"], 0.6);
        assert_eq!(settings["amplify"], json!(["dog=4"]));
        assert_eq!(settings["control"], "replace");
        assert_eq!(settings["early_prompt"], "target");
        assert_eq!(settings["seed"], 0);
        assert_eq!(settings["model_identity"], model["identity"]);
    }
    let given =
        bird("--tau 0.5..0.75 --guidance 7 --cross-replace dog=0.5 --self-replace 0.2..0.4");
    let given = given.args("--amplify none --blend auto").succeeds();
    let told = settings(&given, "out.png");
    assert_eq!(
        [&told["tau"], &told["self_replace"]],
        ["0.5..0.75", "0.2..0.4"]
    );
    assert_eq!(told["guidance"], 7.0);
    assert_eq!(told["cross_replace"], json!(["dog=0.5", 0.3]));
    assert_eq!(told["amplify"], json!(["none"]));
    assert_eq!(told["blend"], json!(["bird:dog"]));
    for done in [done, given] {
        let again = icd("edit").path("--from", &done.path("out.png"));
        let again = again.args("-o out.png").succeeds();
        assert!(again.bytes("out.png") == done.bytes("out.png"));
    }
}

#[test]
fn what_was_left_to_the_program_is_derived_anew_from_other_prompts_or_models() {
    let first = bird("").succeeds();
    let from = |flags: &str| {
        let run = icd("edit").path("--from", &first.path("out.png"));
        run.args("-o out.png").args(flags)
    };
    let other = || from("").with("--tgt-prompt", "a photo of a lego cat");
    let done = other().succeeds();
    let told = settings(&done, "out.png");
    assert_eq!(told["amplify"], json!(["lego=4", "cat=4"]));
    assert_eq!(
        [&told["control"], &told["guidance"]],
        [&json!("refine"), &json!(19.0)]
    );
    // And once more.
    let again = icd("edit").path("--from", &done.path("out.png"));
    let again = again
        .with("--tgt-prompt", "a photo of a cat")
        .args("-o out.png");
    assert_eq!(
        settings(&again.succeeds(), "out.png")["amplify"],
        json!(["cat=4"])
    );
    // What was given stays.
    let given = bird("--amplify dog=3").succeeds();
    let from_given = icd("edit").path("--from", &given.path("out.png"));
    from_given
        .with("--tgt-prompt", "a cat")
        .args("-o x.png")
        .fails(2, &["dog"]);
    // Another model has defaults of its own.
    let sdxl = from("--dry-run --json").path("--model", &data("sdxl"));
    let told: Value = serde_json::from_str(&sdxl.succeeds().stdout).expect("JSON");
    assert_eq!(told["guidance_scale"], 7.0);
    assert_eq!(told["control"], "none");
}

#[test]
fn a_blend_by_the_words_that_differ_stays_one_and_none_stays_none() {
    let of = |done: &Done| settings(done, "out.png")["blend"].clone();
    let words = bird("--blend auto").succeeds();
    assert_eq!(of(&words), json!(["bird:dog"]));
    let from = icd("edit").path("--from", &words.path("out.png"));
    let other = from.with("--tgt-prompt", "a photo of a cat");
    assert_eq!(
        of(&other.args("-o out.png").succeeds()),
        json!(["bird:cat"])
    );
    let model = icd("edit").path("--from", &words.path("out.png"));
    let model = model.args("--dry-run --json --model tabletop").succeeds();
    let told: Value = serde_json::from_str(&model.stdout).expect("JSON");
    assert_eq!(told["blended"], "bird:dog");
    // A default of the model is derived anew for another model only.
    let none = bird("").succeeds();
    assert_eq!(of(&none), json!(["none"]));
    let again = icd("edit").path("--from", &none.path("out.png"));
    assert_eq!(of(&again.args("-o out.png").succeeds()), json!(["none"]));
    let other = icd("edit").path("--from", &none.path("out.png"));
    let other = other.args("--dry-run --json --model tabletop").succeeds();
    let told: Value = serde_json::from_str(&other.stdout).expect("JSON");
    assert_eq!(told["blended"], "what changes most");
}

#[test]
fn a_picture_made_with_other_weights_is_told() {
    let done = bird("").succeeds();
    let settings = settings(&done, "out.png");
    assert!(settings["model_identity"].as_str().is_some());
    let mut other = settings.as_object().expect("an object").clone();
    other.insert("model_identity".into(), json!("sd15 0123456789abcdef"));
    for key in ["kind", "size", "settings"] {
        other.remove(key);
    }
    let picture = Picture::read(&done.path("out.png")).expect("a picture");
    let png = picture
        .encode_noted(icd::picture::Format::Png, &Value::Object(other).to_string())
        .expect("a PNG");
    let from = || {
        icd("edit")
            .file("other.png", &png)
            .args("--from other.png --dry-run")
    };
    let told = warnings(from);
    assert!(
        told.iter()
            .any(|line| line.contains("other weights (sd15 0123")),
        "{told:?}"
    );
    let own = || {
        icd("edit")
            .path("--from", &done.path("out.png"))
            .args("--dry-run")
    };
    assert!(warnings(own).is_empty());
}

#[test]
fn a_random_seed_is_told_and_stored() {
    for verb in ["edit", "generate"] {
        let run = |seed: &str| match verb {
            "edit" => bird("--json --seed").args(seed),
            _ => icd(verb)
                .path("--model", &data("sd"))
                .args("--prompt bird --size 64 -o out.png --json --seed")
                .args(seed),
        };
        let first = run("random").succeeds();
        let result: Value = serde_json::from_str(&first.stdout).expect("JSON");
        let seed = result["seed"].as_u64().expect("a number");
        assert!(
            first.stderr.contains(&format!("seed: {seed}\n")),
            "{}",
            first.stderr
        );
        assert_eq!(settings(&first, "out.png")["seed"], seed);
        let again = run(&seed.to_string()).succeeds();
        assert!(
            again.bytes("out.png") == first.bytes("out.png"),
            "{verb} {seed}"
        );
        run("many").fails(2, &["random"]);
    }
}

#[test]
fn a_generation_is_repeated_from_its_picture() {
    let first = icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --size 64 --seed 7 --count 2 -o out.png")
        .succeeds();
    let from = |flags: &str| {
        let run = icd("generate").path("--from", &first.path("out-2.png"));
        run.args("-o out.png").args(flags)
    };
    assert!(from("").succeeds().bytes("out.png") == first.bytes("out-2.png"));
    let told = settings(&from("--guidance 3").succeeds(), "out.png");
    assert_eq!([&told["guidance"], &told["seed"]], [&json!(3), &json!(8)]);
    let edit = icd("edit").path("--from", &first.path("out-2.png"));
    edit.fails(1, &["made by `icd generate`"]);
    icd("generate").fails(2, &["--prompt"]);
}

#[test]
fn dry_runs_have_types_and_plain_keys() {
    let told = bird("--dry-run --json --tgt-prompt cat").succeeds();
    assert!(told.files().is_empty());
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(told["evaluations"], json!([1, 1, 1, 1, 3, 3, 3, 3]));
    assert_eq!(told["latent_size"], json!([8, 8]));
    assert_eq!(told["result_size"], json!([64, 64]));
    assert_eq!(told["guidance_steps"], json!([0.0, 19.0, 19.0, 19.0]));
    assert_eq!(told["reverse_path"], json!([999, 779, 519, 259, 0]));
    assert_eq!(told["targets"][0]["amplified_words"], json!({ "dog": 4.0 }));
    assert_eq!(told["targets"][0]["amplified"], "dog by 4");
    assert!(told["peak_memory_bytes"].as_u64() > Some(1 << 20));
    assert!(told["seconds"].as_f64() > Some(0.0));
    let generated = icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --count 2 --dry-run --json");
    let generated = generated.succeeds();
    assert!(generated.files().is_empty());
    let generated: Value = serde_json::from_str(&generated.stdout).expect("JSON");
    assert_eq!(generated["evaluations"], json!(vec![1; 8]));
    let keys = |told: &Value| -> Vec<String> {
        told.as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    let inspected = icd("inspect").path("--json", &data("sd")).succeeds().stdout;
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    for told in [&told, &told["targets"][0], &generated, &inspected] {
        assert!(keys(told).iter().all(|key| !key.contains(' ')), "{told}");
    }
}

#[test]
fn what_was_found_out_is_not_what_a_file_states() {
    let stated = json!({ "verb": "edit", "kind": "lies", "size": "9x9", "seed": 3 });
    let picture = Picture::read(&data("square.png")).expect("a picture");
    let size = picture.size().to_string();
    let png = picture
        .encode_noted(icd::picture::Format::Png, &stated.to_string())
        .expect("a PNG");
    let told = icd("inspect")
        .file("x.png", &png)
        .args("x.png --json")
        .succeeds();
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!([&told["kind"], &told["size"]], ["picture", &size]);
    assert_eq!(told["seed"], 3);
}

/// A run that reads this configuration file.
fn configured(run: Run, text: &str) -> Run {
    run.file("config.toml", text.as_bytes())
        .env("ICD_CONFIG", "config.toml")
}

#[test]
fn a_configuration_file_gives_defaults_below_flags_and_variables() {
    let generate = || icd("generate").args("--prompt bird --size 64 --dry-run --json");
    let file = format!(
        "model = '{}'\ndtype = \"f16\"\nthreads = 1\nyes = true",
        data("sd").display()
    );
    let model = |run: Run| {
        let done = run.succeeds();
        let told: Value = serde_json::from_str(&done.stdout).expect("JSON");
        let threads = done.stderr.contains("cpu, 1 thread,");
        let is_half = done.stderr.contains("weights in f16");
        (
            told["model"].as_str().expect("a model")[..4].to_owned(),
            is_half,
            threads,
        )
    };
    let run = || {
        let run = configured(generate(), &file).env("ICD_DEVICE", "cpu");
        run.env("ICD_DTYPE", "")
    };
    assert_eq!(model(run()), ("sd15".into(), true, true));
    assert_eq!(
        model(run().env("ICD_DTYPE", "f32")),
        ("sd15".into(), false, true)
    );
    // A variable that is set to nothing is not set.
    assert_eq!(
        model(run().env("ICD_DTYPE", "")),
        ("sd15".into(), true, true)
    );
    let sdxl = run()
        .env("ICD_DTYPE", "f32")
        .args("--dtype f16 --threads 2")
        .path("--model", &data("sdxl"));
    assert_eq!(model(sdxl), ("sdxl".into(), true, false));
    // The flag names another file, or none.
    let other = run()
        .file("other.toml", b"model = \"nowhere\"")
        .args("--config other.toml");
    other.fails(1, &["nowhere"]);
    let none = run().args("--config none").path("--model", &data("sd"));
    assert_eq!(model(none), ("sd15".into(), false, false));
    run().args("--config away.toml").fails(1, &["away.toml"]);
}

#[test]
fn a_cache_may_be_configured_and_is_not_needed_for_latents() {
    let run = configured(bird(""), "cache = \"kept\"");
    let done = run.succeeds();
    assert_eq!(fs::read_dir(done.path("kept")).expect("a cache").count(), 1);
    let latents = fs::read_dir(done.path("kept")).expect("a cache").next();
    let latents = latents.expect("an entry").expect("an entry").path();
    let run = icd("edit")
        .path("--model", &data("sd"))
        .path("--latents", &latents);
    configured(run.args("--tgt-prompt dog -o out.png"), "cache = \"kept\"").succeeds();
}

#[test]
fn faults_of_the_configuration_name_file_and_key() {
    for (text, says) in [
        (
            "colour = \"red\"",
            &["colour", "there is no such key", "threads"][..],
        ),
        ("dtype = \"f8\"", &["dtype", "f8", "bf16"]),
        ("dtype = 16", &["dtype", "a text in quotes"]),
        ("device = \"gpu\"", &["device", "gpu", "cuda"]),
        ("threads = 0", &["threads", "1..=1024"]),
        ("threads = \"two\"", &["threads", "a number"]),
        ("yes = \"maybe\"", &["yes", "true or false"]),
        ("model", &["line 1"]),
    ] {
        let run = configured(bird("--dry-run"), text);
        run.fails(1, &[&["config.toml"], says].concat());
    }
    // Of `model convert`, which has another --dtype, nothing is set.
    let convert = icd("model").args("convert in.safetensors out.safetensors --dtype f8");
    configured(convert, "dtype = \"f16\"").fails(2, &["f8"]);
}

#[test]
fn manual_pages_say_all_and_replace_nothing() {
    let page = icd("man").succeeds().stdout;
    for section in ["EXIT STATUS", "ENVIRONMENT", "FILES"] {
        assert_eq!(
            page.matches(&format!(".SH \"{section}\"")).count()
                + page.matches(&format!(".SH {section}")).count(),
            1,
            "{section}"
        );
    }
    assert!(page.contains("ICD_MODEL") && page.contains("config.toml"));
    let man = || icd("man").args(".").file("icd-edit.1", b"mine");
    let done = man().fails(2, &["icd-edit.1", "--force"]);
    assert_eq!(done.files(), ["icd-edit.1"]);
    assert_eq!(done.bytes("icd-edit.1"), b"mine");
    let done = man().args("--force").succeeds();
    let edit = String::from_utf8(done.bytes("icd-edit.1")).expect("text");
    assert!(
        edit.contains("EXIT STATUS") && edit.contains("src\\-prompt"),
        "{edit}"
    );
    assert!(done.files().contains(&"icd-model-fetch.1".to_owned()));
}

#[test]
fn short_help_fits_on_a_screen() {
    for verb in ["edit", "invert", "generate"] {
        let short = icd(verb).args("-h").env("COLUMNS", 80).succeeds().stdout;
        let lines: Vec<_> = short.lines().collect();
        assert!(lines.len() <= 38, "{verb}: {} lines", lines.len());
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{short}"
        );
        assert!(short.contains("--model") && short.contains("--yes") && short.contains("Example"));
        let long = icd(verb).args("--help").succeeds().stdout;
        assert!(!short.contains("--residency") && long.contains("--residency"));
        assert!(long.lines().count() > 2 * lines.len());
    }
}

#[test]
fn examples_of_help_can_be_copied_at_80_columns() {
    let verbs = [
        "",
        "edit",
        "invert",
        "generate",
        "distill",
        "inspect",
        "model",
        "man",
        "completions",
    ];
    let below = [
        "model fetch",
        "model convert",
        "model list",
        "model verify",
        "distill guidance",
    ];
    for verb in verbs.into_iter().chain(below) {
        let help = |columns| {
            let words = verb
                .split(' ')
                .filter(|word| !word.is_empty())
                .chain(["--help"]);
            let mut words = words.map(str::to_owned);
            let run = icd(&words.next().expect("a word"));
            let run = words.fold(run, |run, word| run.args(&word));
            run.env("COLUMNS", columns).succeeds().stdout
        };
        let tail = |help: String| {
            let at = help.find("Examples:").expect("examples");
            help[at..].to_owned()
        };
        assert_eq!(tail(help(80)), tail(help(100)), "{verb}");
    }
    let help = icd("distill")
        .args("--help")
        .env("COLUMNS", 80)
        .succeeds()
        .stdout;
    let lines = help
        .lines()
        .skip_while(|line| !line.starts_with("  model = "));
    let run: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let run: toml::Table = toml::from_str(&run.join("\n")).expect("TOML");
    assert_eq!(run["reverse_preservation"].as_float(), Some(1.5));
    assert!(run.len() >= 23, "{run:?}");
}

#[test]
fn errors_of_all_kinds_are_coloured_alike() {
    let coloured = |run: Run| run.env("CLICOLOR_FORCE", 1).done().stderr;
    let clap = coloured(icd("edit"));
    let own = coloured(icd("inspect").args("nowhere"));
    let label = clap.split("error:").next().expect("a start").to_owned() + "error:";
    assert!(
        label.contains('\u{1b}') && own.starts_with(&label),
        "{own:?}"
    );
    let plain = icd("inspect").args("nowhere").done().stderr;
    assert!(plain.starts_with("error: nowhere"), "{plain}");
}

/// Of an edit whose change is everywhere, although its words have a place.
#[test]
fn what_an_edit_wants_next_is_told_unless_nothing_seems_wrong() {
    let edit = |flags: &str| {
        let run = icd("edit").path("--model", &data("sd"));
        let run = run.path("--image", &data("photo.png"));
        let run = run.with("--src-prompt", "a photo of a bird standing on a branch");
        let target = "a photo of a lego bird standing on a branch";
        let run = run.with("--tgt-prompt", target).args("-o out.png --json");
        let done = run.args(flags).succeeds();
        let told: Value = serde_json::from_str(&done.stdout).expect("a JSON object");
        (done.stderr, told["hint"].clone())
    };
    let far = edit("--control refine --amplify lego=0.01 --cross-replace 1");
    assert!(
        far.0.contains("hint: no place looked at \"lego\" much"),
        "{}",
        far.0
    );
    assert!(far.0.contains("try --amplify lego=0.02"), "{}", far.0);
    assert_eq!(far.1["flag"], "amplify");
    assert_eq!(far.1["value"], "lego=0.02");
    let quiet = edit("--control refine --amplify lego=0.01 --cross-replace 1 -q");
    assert!(quiet.0.is_empty() && quiet.1 == far.1);
    // Without maps nothing is known.
    let free = edit("--control none");
    assert!(!free.0.contains("hint:") && free.1.is_null());
}
