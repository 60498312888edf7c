//! Values as shells give them: dashes, signs, pipes.
#![cfg(unix)]

use std::{fs, path::Path, process::Command};

use assert_cmd::cargo::cargo_bin;

use crate::support::{Run, data, icd};

fn generate() -> Run {
    icd("generate")
        .path("--model", &data("sd"))
        .args("--prompt bird --size 64 --no-metadata")
}

#[test]
fn prompts_and_words_may_begin_with_a_dash() {
    let edit = icd("edit")
        .path("--model", &data("shapes"))
        .args("--size 64 --dry-run --json")
        .path("--image", &data("square.png"))
        .with("--src-prompt", "-- a cat")
        .with("--tgt-prompt", "- a -dog")
        .with("--early-prompt", "-x")
        .with("--amplify", "-dog=-2")
        .with("--blend", "--:-")
        .with("--cross-replace", "-=0.5");
    let facts: serde_json::Value = serde_json::from_str(&edit.succeeds().stdout).expect("JSON");
    assert_eq!(facts["amplified"], "-dog by -2");
    assert_eq!(facts["blended"], "--:-");
    for verb in ["generate", "invert"] {
        let run = icd(verb)
            .path("--model", &data("sd"))
            .with("--prompt", "--a bird");
        let run = match verb {
            "generate" => run.args("--size 64 -o o.png"),
            _ => run
                .path("--image", &data("square.png"))
                .args("--size 64 -o o.safetensors"),
        };
        run.succeeds();
    }
}

#[test]
fn negative_numbers_are_numbers() {
    for (flag, value) in [
        ("--guidance", "-1"),
        ("--seed", "-1"),
        ("--tau", "-0.5"),
        ("--count", "-3"),
    ] {
        generate().with(flag, value).fails(2, &[&flag[2..], value]);
    }
}

#[test]
fn no_run_makes_pictures_without_number() {
    let done = generate()
        .args("--count 100000000")
        .fails(2, &["--count", "10000"]);
    assert!(done.files().is_empty());
}

fn lora() -> String {
    data("sd/reverse-259-519-779-999.safetensors")
        .display()
        .to_string()
}

#[test]
fn an_equals_sign_may_belong_to_a_file() {
    let bytes = fs::read(lora()).expect("a style");
    let run = |arg: &str| {
        generate()
            .file("a=2", &bytes)
            .with("--lora", arg)
            .succeeds()
    };
    let whole = run("a=2").bytes("generated.png");
    assert_eq!(
        whole,
        generate()
            .with("--lora", lora())
            .succeeds()
            .bytes("generated.png")
    );
    let half = format!("{}=0.5", lora());
    assert_eq!(
        run("a=2=0.5").bytes("generated.png"),
        generate()
            .with("--lora", half)
            .succeeds()
            .bytes("generated.png")
    );
    generate()
        .with("--lora", "b=c.safetensors")
        .fails(1, &["b=c.safetensors"]);
}

/// Runs a line of a shell that knows `$icd` and `$data`; bash, for `<(..)`.
fn bash(line: &str, folder: &Path) -> Option<std::process::Output> {
    let mut bash = Command::new("bash");
    bash.args(["-ec", line]).current_dir(folder);
    bash.env("icd", cargo_bin("icd")).env("data", data(""));
    bash.env("style", lora());
    bash.env("ICD_DEVICE", crate::support::device());
    bash.env("ICD_DTYPE", "f32");
    bash.output().ok() // not everywhere
}

#[test]
fn files_may_come_from_pipes() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = "
        sd=\"$icd generate --model $data/sd --prompt bird --size 64 --no-metadata\"
        $sd --lora $style=0.5 -o a.png
        mkfifo style; cat $style >style &
        $sd --lora style=0.5 -o c.png; cmp a.png c.png
        $sd --lora <(cat $style) -o d.png
        $sd --lora $style -o e.png; cmp d.png e.png

        edit=\"$icd edit --model $data/sd --src-prompt bird --tgt-prompt dog --size 64 --no-metadata\"
        $edit --image $data/square.png --mask $data/square.png -o f.png
        $edit --image <(cat $data/square.png) --mask <(cat $data/square.png) -o g.png; cmp f.png g.png
        $icd invert --model $data/sd --prompt bird --size 64 --image $data/square.png -o l.safetensors
        edit=\"$icd edit --model $data/sd --tgt-prompt dog --no-metadata\"
        $edit --latents l.safetensors -o h.png
        $edit --latents <(cat l.safetensors) -o i.png; cmp h.png i.png
    ";
    let Some(done) = bash(lines, folder.path()) else {
        return;
    };
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let refused = bash(
        "$icd generate --model $data/sd --prompt x --lora <(echo x)",
        folder.path(),
    );
    let told = refused.expect("bash").stderr;
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("safetensors file") && told.contains("/dev/fd/"),
        "{told}"
    );
}
