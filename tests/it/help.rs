//! What the program tells of itself, word for word, and whether it is true.
//!
//! `INSTA_UPDATE=always cargo test --test it help` takes new words over.

use std::fs;

use crate::{
    hub::sd15,
    stage::{distillations, shell, weights},
    support::{Run, data, icd},
};

const VERBS: [&str; 20] = [
    "edit",
    "invert",
    "generate",
    "batch",
    "metrics",
    "eval",
    "eval editing",
    "eval inversion",
    "eval generation",
    "distill",
    "distill guidance",
    "distill consistency",
    "inspect",
    "model",
    "model list",
    "model fetch",
    "model verify",
    "model convert",
    "completions",
    "man",
];

fn help(verb: &str) -> String {
    let mut words = verb.split(' ');
    let run = icd(words.next().unwrap_or_default());
    words.fold(run, Run::args).args("--help").succeeds().stdout
}

#[test]
fn every_help_is_as_it_was_read() {
    insta::assert_snapshot!("help", icd("--help").succeeds().stdout);
    for verb in VERBS {
        insta::assert_snapshot!(format!("help-{}", verb.replace(' ', "-")), help(verb));
    }
}

/// The commands under "Examples:", lines that go on joined.
fn examples(help: &str) -> Vec<String> {
    let (_, examples) = help.split_once("Examples:\n").expect("examples");
    let joined = examples.replace("\\\n", " ");
    let commands = joined.lines().take_while(|line| line.starts_with("  "));
    commands.map(|line| line.trim().to_owned()).collect()
}

/// A folder with all that examples take for granted.
#[cfg(unix)]
fn stage() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["in.png", "mask.png", "bird.edited.png"] {
        fs::copy(data("square.png"), at(name)).expect("a picture");
    }
    distillations(&at);
    for name in [
        "pictures",
        ".local/share/bash-completion/completions",
        ".config/fish/completions",
    ] {
        fs::create_dir_all(at(name)).expect("a folder");
    }
    fs::create_dir_all(at(".local/share/man/man1")).expect("a folder");
    weights(&at);
    fs::copy(data("square.png"), at("pictures/a.png")).expect("a picture");
    fs::write(at("pictures/a.txt"), "a bird").expect("a caption");
    let job = r#"{"image": "in.png", "src_prompt": "a bird", "tgt_prompt": "a dog"}"#;
    fs::write(at("jobs.jsonl"), job).expect("jobs");
    evaluated(&at);
    let jobs = "image,src_prompt,tgt_prompt\nin.png,a bird,a cat\n";
    fs::write(at("jobs.csv"), jobs).expect("jobs");
    folder
}

/// What evaluations are of, and the weights of a measure.
#[cfg(unix)]
fn evaluated(at: &dyn Fn(&str) -> std::path::PathBuf) {
    let picture = icd::picture::Picture::read(&data("square.png")).expect("a picture");
    let large = picture.resized(icd::eval::pie_bench::SIZE);
    for folder in [
        "pie-bench/annotation_images",
        "other-method",
        "clip-vit-large-patch14",
    ] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    for folder in ["pie-bench/annotation_images", "other-method"] {
        large.write(&at(folder).join("a.jpg")).expect("a picture");
    }
    let entry = r#"{"000000000000": {"image_path": "a.jpg", "original_prompt": "a bird",
        "editing_prompt": "a [lego] bird", "editing_type_id": "1", "blended_word": "",
        "mask": [600, 90000]}}"#;
    fs::write(at("pie-bench/mapping_file.json"), entry).expect("a list");
    fs::write(at("prompts.txt"), "a bird\n").expect("prompts");
    fs::write(at("prompts.csv"), "id,caption\n0,a bird\n").expect("prompts");
    crate::metrics::write_clip(&at("clip-vit-large-patch14"));
}

#[cfg(unix)]
#[test]
fn every_example_does_what_it_says() {
    let hub = sd15();
    for verb in VERBS {
        let folder = stage();
        let examples = examples(&help(verb));
        assert!(examples.len() >= 2, "{verb} shows {examples:?}");
        for example in examples {
            shell(&example, folder.path(), &hub, &[("ICD_MODEL", &data("sd"))]);
        }
    }
}

/// Runs that fail, as people meet them most often.
fn failures() -> Vec<Run> {
    let edit = || {
        icd("edit")
            .args("--model sd --image in.png")
            .with("--src-prompt", "a photo of a bird")
            .with("--tgt-prompt", "a photo of a dog")
    };
    let with = |flags: &str| edit().args(flags);
    let plain = vec![
        icd("edit"),
        icd("edit").args("--image in.png"),
        icd("edti"),
        with("--imgae in.png"),
        with("--guidence 7"),
        icd("edit").args("in.png -o out.png"),
        icd("generate").args("owl"),
        with("--image"),
        with("--tau 1.5"),
        with("--tau 0.9..0.7"),
        with("--guidance=-3"),
        with("--size 500"),
        with("--control swap"),
        with("--fit squeeze"),
        with("--amplify cat=2"),
        with("--amplify dog"),
        with("--blend cat:dog"),
        with("--blend bird"),
        with("--cross-replace 3"),
        with("--forward-timesteps 999,19"),
        with("--device gpu"),
        with("--device metal"),
        with("--output picture.gif"),
        with("--output no/such/folder/picture.png"),
        with("--output in.png"),
        with("--output - --json"),
        with("--mask nowhere.png"),
        with("--variant 3"),
        icd("edit").args("--model sd --image nowhere.png --src-prompt bird --tgt-prompt dog"),
        icd("edit").args("--model nowhere --image in.png --src-prompt bird --tgt-prompt dog"),
        icd("edit").args("--model sd --image text.png --src-prompt bird --tgt-prompt dog"),
        icd("edit").args("--from in.png"),
        icd("generate").args("--model sd --prompt bird --count 0"),
        icd("inspect").args("nowhere"),
        icd("distill").args("guidance nowhere.toml"),
    ];
    let picture = fs::read(data("square.png")).expect("a picture");
    let staged = |run: Run| {
        run.file("in.png", &picture)
            .file("text.png", b"this is text")
            .link("sd", &data("sd"))
    };
    plain.into_iter().map(staged).collect()
}

#[cfg(unix)]
#[test]
fn the_commonest_errors_are_as_they_were_read() {
    let told: Vec<_> = failures()
        .into_iter()
        .map(|run| {
            let command = run.command();
            let done = run.done();
            // Clap tells in the usage what the environment says.
            let told = done.stderr.replace(" --device <DEVICE>", "");
            let told = told.replace(" --dtype <DTYPE>", "");
            let lines = told.lines();
            let lines: Vec<_> = lines.filter(|line| !line.starts_with("device:")).collect();
            format!("$ {command}\n{}\n= {}\n", lines.join("\n"), done.code)
        })
        .collect();
    insta::assert_snapshot!("errors", told.join("\n"));
}
