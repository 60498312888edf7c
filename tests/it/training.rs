//! The promises of `icd distill`, kept by the built program on the tiny model.

use std::{fs, path::PathBuf};

use assert_cmd::{Command, assert::Assert};
use icd::nn::Checkpoint;
use tempfile::TempDir;

use crate::support::data;

/// A run of the tiny model on two pictures, in a folder of its own.
struct Training(TempDir);

impl Training {
    fn new(stage: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::copy(data("photo.png"), folder.path().join(format!("{name}.png"))).unwrap();
            fs::write(folder.path().join(format!("{name}.txt")), "a red bird").unwrap();
        }
        let model = data("sd");
        let text = format!(
            "model = '{}'\ndata = \".\"\nout = \"{stage}\"\nbatch = 2\nrate = 1e-3\nrank = 4\n\
             save_every = 2\nsize = 32\naverage = 0.9\n{more}\n",
            model.display()
        );
        fs::write(folder.path().join("run.toml"), text).unwrap();
        Self(folder)
    }

    fn run(&self, stage: &str, more: &[&str]) -> Assert {
        Command::cargo_bin("icd")
            .unwrap()
            .args(["distill", stage])
            .arg(self.0.path().join("run.toml"))
            .args(more)
            .assert()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

const FORWARD: &str = "consistency/forward-19-259-519-779.safetensors";

#[test]
fn distilling_writes_adapters_that_edit() {
    let training = Training::new("consistency", "steps = 4");
    training.run("consistency", &[]).success();
    let metrics = fs::read_to_string(training.file("consistency/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 4);
    assert!(metrics.contains("reverse_preservation"), "{metrics}");
    assert!(training.file("consistency/report.html").exists());
    let reverse = training.file("consistency/reverse-259-519-779-999.safetensors");
    Command::cargo_bin("icd")
        .unwrap()
        .args([
            "edit",
            "--src-prompt",
            "a bird",
            "--tgt-prompt",
            "a dog",
            "--model",
        ])
        .arg(data("sd"))
        .arg("--image")
        .arg(data("photo.png"))
        .arg("--forward-adapter")
        .arg(training.file(FORWARD))
        .arg("--reverse-adapter")
        .arg(reverse)
        .arg("-o")
        .arg(training.file("edited.png"))
        .assert()
        .success();
}

#[test]
fn a_resumed_distillation_ends_where_an_uninterrupted_one_does() {
    let whole = Training::new("consistency", "steps = 5");
    whole.run("consistency", &[]).success();
    let stopped = Training::new("consistency", "steps = 3");
    stopped.run("consistency", &[]).success();
    let longer = Training::new("consistency", "steps = 5");
    let (from, to) = (stopped.file("consistency"), longer.file("consistency"));
    fs::rename(from, to).unwrap();
    longer.run("consistency", &[]).code(2);
    longer.run("consistency", &["--resume"]).success();
    for file in [
        FORWARD,
        "consistency/metrics.jsonl",
        "consistency/state.safetensors",
    ] {
        let read = |training: &Training| fs::read(training.file(file)).unwrap();
        assert!(read(&whole) == read(&longer), "{file} differs");
    }
}

#[test]
fn distilling_guidance_writes_a_unet_that_takes_it() {
    let training = Training::new("guidance", "steps = 2");
    training.run("guidance", &[]).success();
    let config = fs::read_to_string(training.file("guidance/unet/config.json")).unwrap();
    assert!(config.contains("\"time_cond_proj_dim\": 16"), "{config}");
    let unet = training.file("guidance/unet/diffusion_pytorch_model.safetensors");
    let names = |file| Checkpoint::open(file).unwrap().names().len();
    let teacher = data("sd/unet/diffusion_pytorch_model.safetensors");
    assert_eq!(names(unet), names(teacher));
}

#[test]
fn a_run_file_with_a_fault_is_told() {
    for (fault, told) in [
        ("steps = 0", "steps must be greater than 0"),
        ("steps = 1\nspeed = 3", "unknown field"),
        ("steps = 1\nguidance = []", "guidance must be"),
        ("steps = 1\nforward_path = [19, 9]", "climb"),
    ] {
        let run = Training::new("x", fault).run("consistency", &[]).failure();
        let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(stderr.contains(told), "{fault}: {stderr}");
    }
}

#[test]
fn parts_learn_what_the_whole_batch_learns() {
    let losses = |more: &str| -> Vec<f64> {
        let training = Training::new("guidance", &format!("steps = 3\n{more}"));
        training.run("guidance", &[]).success();
        let metrics = fs::read_to_string(training.file("guidance/metrics.jsonl")).unwrap();
        let loss = |line: &str| -> f64 {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["loss"].as_f64().unwrap()
        };
        metrics.lines().map(loss).collect()
    };
    let whole = losses("");
    assert_eq!(whole.len(), 3);
    for (part, whole) in losses("parts = 2\nat_once = 2").iter().zip(whole) {
        assert!((part / whole - 1.0).abs() < 1e-4, "{part} {whole}");
    }
}
