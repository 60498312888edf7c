//! The promises of `icd distill`, kept by the built program on the tiny model.

use std::{collections::HashMap, fs, path::PathBuf, process::Stdio, thread, time::Duration};

use assert_cmd::{Command, assert::Assert};
use icd::io::{Checkpoint, Existing};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
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
            "model = '{}'\ndata = \".\"\nout = \"{stage}\"\nbatch = 2\nlearning_rate = 1e-3\nrank = 4\n\
             save_every = 2\nsize = 32\nema_decay = 0.9\n{more}\n",
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
    const UNET: &str = "guidance/unet/diffusion_pytorch_model.safetensors";
    // The former names of the keys.
    let frugal = "\nrecompute = true\nparts = 2\nat_once = 2\nsample_every = 2";
    for (stage, result, more) in [
        ("consistency", FORWARD, ""),
        ("consistency", FORWARD, frugal),
        ("guidance", UNET, frugal),
    ] {
        let training = |steps: usize| Training::new(stage, &format!("steps = {steps}{more}"));
        let whole = training(5);
        whole.run(stage, &[]).success();
        let stopped = training(3);
        stopped.run(stage, &[]).success();
        let longer = training(5);
        fs::rename(stopped.file(stage), longer.file(stage)).unwrap();
        longer.run(stage, &[]).code(2);
        longer.run(stage, &["--resume"]).success();
        let own = |name: &str| format!("{stage}/{name}");
        for file in [result, &own("metrics.jsonl"), &own("state.safetensors")] {
            let read = |training: &Training| fs::read(training.file(file)).unwrap();
            assert!(read(&whole) == read(&longer), "{file} differs");
        }
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
fn a_teacher_without_guidance_learns_to_take_it() {
    let training = Training::new("guidance", "steps = 1\nguidance = [0.0]");
    let folder = training.file("plain");
    let unet = folder.join("unet");
    fs::create_dir_all(&unet).unwrap();
    let teacher = Checkpoint::open(data("sd/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let mut names = teacher.names();
    names.retain(|name| !name.contains("cond_proj"));
    let load = |name: String| {
        let tensor = teacher.load(&name, &candle_core::Device::Cpu).unwrap();
        (name, tensor)
    };
    let tensors = names.into_iter().map(load).collect();
    let file = unet.join("diffusion_pytorch_model.safetensors");
    icd::io::write_tensors(&file, &tensors, HashMap::new(), Existing::Replace).unwrap();
    let config = fs::read_to_string(data("sd/unet/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["time_cond_proj_dim"] = serde_json::Value::Null;
    fs::write(unet.join("config.json"), config.to_string()).unwrap();
    let run = fs::read_to_string(training.file("run.toml")).unwrap();
    fs::write(
        training.file("run.toml"),
        format!("unet = \"plain/unet\"\n{run}"),
    )
    .unwrap();
    training.run("guidance", &[]).success();
    let metrics = fs::read_to_string(training.file("guidance/metrics.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(metrics.trim()).unwrap();
    let loss = first["loss"].as_f64().unwrap();
    assert!(loss < 1e-9, "it begins as its unguided teacher: {loss}");
    let config = fs::read_to_string(training.file("guidance/unet/config.json")).unwrap();
    assert!(config.contains("\"time_cond_proj_dim\": 512"), "{config}");
}

#[test]
fn a_run_file_with_a_fault_is_told() {
    for (fault, told) in [
        ("steps = 0", "steps = 0: it must be from 1 to"),
        ("steps = 1\nwarmup = 9000000000", "warmup = 9000000000"),
        ("steps = 1\nalpha = inf", "alpha = inf: it must be"),
        ("steps = 1\nalpha = 0", "alpha = 0: it must be greater"),
        (
            "steps = 1\nreverse_preservation = -1",
            "reverse_preservation = -1",
        ),
        ("steps = 1\nspeed = 3", "unknown field"),
        ("steps = 1\nguidance = []", "guidance must be"),
        ("steps = 1\nforward_path = [19, 9]", "ascending order"),
        ("steps = 1\nforward_path = [19, 499]", "end at 999"),
        (
            "steps = 1\nreverse_path = [999, 500, 0]",
            "500 is not a timestep",
        ),
        (
            "steps = 1\ngradient_accumulation = 3",
            "gradient_accumulation must be from 1 to the batch of 2",
        ),
    ] {
        let run = Training::new("x", fault).run("consistency", &[]).failure();
        let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(stderr.contains(told), "{fault}: {stderr}");
    }
}

#[test]
fn a_number_that_no_computer_could_hold_is_refused() {
    for (usual, absurd, told) in [
        (
            "batch = 2",
            "batch = 1000000",
            "batch = 1000000: it must be from 1",
        ),
        (
            "rank = 4",
            "rank = 100000",
            "rank = 100000: it must be from 1",
        ),
        (
            "size = 32",
            "size = 100000",
            "size = 100000: it must be from 1",
        ),
        (
            "size = 32",
            "size = 36",
            "size = 36: it must be a multiple of 8",
        ),
        (
            "learning_rate = 1e-3",
            "learning_rate = nan",
            "learning_rate = NaN",
        ),
    ] {
        let training = Training::new("x", "steps = 1");
        let file = training.file("run.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(usual));
        fs::write(&file, text.replace(usual, absurd)).unwrap();
        let run = training.run("consistency", &[]).failure();
        let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(stderr.contains(told), "{absurd}: {stderr}");
    }
}

/// Every number that the steps of a run measured.
fn measured(stage: &str, more: &str) -> Vec<f64> {
    let training = Training::new(stage, &format!("steps = 3\n{more}"));
    training.run(stage, &[]).success();
    let metrics = fs::read_to_string(training.file(&format!("{stage}/metrics.jsonl"))).unwrap();
    let values = |line: &str| -> Vec<f64> {
        let line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        line.values().map(|value| value.as_f64().unwrap()).collect()
    };
    metrics.lines().flat_map(values).collect()
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let gap = (found - expected).abs();
        assert!(gap <= 1e-4 * expected.abs(), "{found} {expected}");
    }
}

#[test]
fn parts_learn_what_the_whole_batch_learns() {
    let whole = measured("guidance", "");
    assert_eq!(whole.len(), 9, "loss, gradient and step of three steps");
    assert_near(
        &measured(
            "guidance",
            "gradient_accumulation = 2\nparallel_micro_batches = 2",
        ),
        &whole,
    );
}

#[test]
fn recomputing_learns_the_same() {
    for stage in ["guidance", "consistency"] {
        let kept = measured(stage, "");
        assert_near(&measured(stage, "gradient_checkpointing = true"), &kept);
        assert_near(
            &measured(
                stage,
                "gradient_checkpointing = true\ngradient_accumulation = 2\nparallel_micro_batches = 2",
            ),
            &kept,
        );
    }
}

#[test]
fn frozen_weights_may_take_half_the_memory() {
    let whole = measured("consistency", "");
    let half = measured("consistency", "dtype = 'bf16'");
    let gaps = whole.iter().zip(&half).map(|(a, b)| (a - b).abs());
    assert!(gaps.clone().all(|gap| gap < 1e-2), "about the same");
    assert!(gaps.sum::<f64>() > 0.0, "but not quite");
}

#[test]
fn pictures_are_drawn_on_the_way() {
    for stage in ["guidance", "consistency"] {
        let training = Training::new(stage, "steps = 3\nsample_every = 2");
        training.run(stage, &[]).success();
        let report = fs::read_to_string(training.file(&format!("{stage}/report.html"))).unwrap();
        for steps in [2, 3] {
            let file = training.file(&format!("{stage}/samples/00000{steps}.png"));
            let rows = if stage == "guidance" { 2 } else { 3 };
            let sheet = icd::picture::Picture::read(&file).unwrap().size();
            assert_eq!(
                (sheet.width, sheet.height),
                (2 * 32 + 4, rows * (32 + 4) - 4)
            );
            assert!(report.contains(&format!("after {steps} steps")));
        }
    }
}

#[test]
fn a_distillation_killed_ten_times_ends_where_an_uninterrupted_one_does() {
    let steps = "steps = 60";
    let whole = Training::new("consistency", steps);
    whole.run("consistency", &[]).success();
    let killed = Training::new("consistency", steps);
    let mut dice = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..10 {
        let mut run = std::process::Command::new(assert_cmd::cargo::cargo_bin("icd"))
            .args(["distill", "consistency", "--resume"])
            .arg(killed.file("run.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(dice.random_range(50..600)));
        run.kill().unwrap(); // SIGKILL where there are signals
        run.wait().unwrap();
    }
    killed.run("consistency", &["--resume"]).success();
    for file in [
        FORWARD,
        "consistency/state.safetensors",
        "consistency/metrics.jsonl",
    ] {
        let read = |training: &Training| fs::read(training.file(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs");
    }
}

#[test]
fn a_distillation_replaces_nothing_that_none_wrote() {
    let teacher = "unet/diffusion_pytorch_model.safetensors";
    for (stage, name) in [
        ("guidance", teacher),
        ("guidance", "report.html"),
        ("consistency", "metrics.jsonl"),
        ("consistency", "forward-19-259-519-779.safetensors"),
        ("consistency", "samples/000001.png"),
    ] {
        for more in [&[][..], &["--resume"]] {
            let training = Training::new(stage, "steps = 1");
            let file = training.file(stage).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "precious").unwrap();
            let done = training.run(stage, more).failure();
            let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
            assert!(told.contains("no distillation wrote it"), "{name}: {told}");
            assert_eq!(fs::read_to_string(&file).unwrap(), "precious", "{name}");
        }
    }
}

#[test]
fn captions_that_are_missing_or_unreadable_are_told() {
    let training = Training::new("consistency", "steps = 1");
    fs::remove_file(training.file("one.txt")).unwrap();
    let done = training.run("consistency", &[]).success();
    let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(
        told.contains("1 of the pictures") && told.contains("one.png"),
        "{told}"
    );

    let training = Training::new("consistency", "steps = 1");
    fs::write(training.file("one.txt"), b"caf\xe9").unwrap();
    let done = training.run("consistency", &[]).failure();
    let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(told.contains("one.txt") && told.contains("UTF-8"), "{told}");

    // Two frames of one pixel; and a caption of a kind that is not read.
    let frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0";
    let head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff";
    let animation = [&head[..], frame, frame, b";"].concat();
    let training = Training::new("consistency", "steps = 1");
    fs::write(training.file("moving.gif"), animation).unwrap();
    for caption in ["moving.txt", "phone.txt"] {
        fs::write(training.file(caption), "a bird").unwrap();
    }
    fs::write(training.file("phone.heic"), "").unwrap();
    let done = training.run("consistency", &[]).success();
    let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    for what in ["phone.txt", "moving.gif", "first frames"] {
        assert!(told.contains(what), "{told}");
    }

    let training = Training::new("consistency", "steps = 1");
    let list = "\u{feff}{\"file_name\": \"two.png\", \"text\": \"a bird\"}\n";
    fs::write(training.file("metadata.jsonl"), list).unwrap();
    training.run("consistency", &[]).success();
}
