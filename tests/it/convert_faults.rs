//! What cannot be converted: a clear word, and nothing half-written.

use std::{fs, path::Path, process::Stdio, time::Duration};

use assert_cmd::cargo::CommandCargoExt;
use candle_core::{DType, Tensor};

use crate::{
    convert::{convert, file_of, waves},
    faults::{Fault, cut, hold},
    support::{Run, data, icd, tensors},
};

const ADAPTER: &str = "sd/forward-19-259-519-779.safetensors";
const UNET: &str = "sd/unet";

/// A conversion of a file of these bytes.
fn of(name: &str, bytes: &[u8]) -> Run {
    convert(Path::new(name), "out.safetensors").file(name, bytes)
}

fn bytes_of(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    fs::read(file_of(tensors).1).expect("a file")
}

#[test]
fn damaged_and_strange_files() {
    let unet = fs::read(data("sd/unet/diffusion_pytorch_model.safetensors")).expect("a UNet");
    let pickle = fs::read(data("sd/unet_part.pt")).expect("a state dict");
    let large = bytes_of(&[
        ("a", waves(&[3], 1.0)),
        ("b.weight", waves(&[3, 2], 70000.0)),
    ]);
    let odd = bytes_of(&[
        (
            "lora_unet_input_blocks_1_1.lora_down.weight",
            waves(&[2, 2], 1.0),
        ),
        (
            "lora_unet_input_blocks_1_1.lora_up.weight",
            waves(&[2, 2], 1.0),
        ),
    ]);
    let alone = bytes_of(&[("unet.conv_in.lora_A.weight", waves(&[2, 2], 1.0))]);
    hold(vec![
        (
            "nothing there",
            convert(Path::new("none.pt"), "out.safetensors"),
            1,
            &["none.pt"],
        ),
        ("an empty file", of("in.pt", b""), 1, &["in.pt", "empty"]),
        (
            "text",
            of("in.pt", b"some text that is no tensor"),
            1,
            &["in.pt"],
        ),
        (
            "half a UNet",
            of("in.safetensors", &cut(&unet, 4)),
            1,
            &["in.safetensors"],
        ),
        (
            "half a state dict",
            of("in.pt", &cut(&pickle, 4)),
            1,
            &["in.pt"],
        ),
        (
            "a value too large for f16",
            of("in.safetensors", &large).args("--dtype f16"),
            1,
            &["in.safetensors", "b.weight", "too large for f16"],
        ),
        (
            "names of another layout",
            of("in.safetensors", &odd).args("--naming peft"),
            1,
            &["in.safetensors", "2 of its tensors", "input_blocks_1_1"],
        ),
        (
            "half a layer",
            of("in.safetensors", &alone).args("--naming kohya"),
            1,
            &["conv_in", "lora_B (up) tensor is missing"],
        ),
    ]);
}

#[test]
fn adapters_that_do_not_fit() {
    let merge = |adapter: &str| convert(&data(UNET), "out").path("--adapter", &data(adapter));
    let other = "sdxl/forward-19-249-499-699.safetensors";
    hold(vec![
        (
            "another family's",
            merge(other),
            1,
            &["fit no layer", "another model"],
        ),
        ("a UNet's folder", merge(UNET), 1, &["sd/unet", "missing"]),
        (
            "no adapter",
            merge("sd/unet_part.pt"),
            1,
            &["unet_part.pt", "fit no layer"],
        ),
        (
            "no share",
            merge(&format!("{ADAPTER}=much")),
            2,
            &["weight"],
        ),
    ]);
}

#[test]
fn wishes_that_do_not_fit() {
    let on = |input: &str| convert(&data(input), "out.safetensors");
    hold(vec![
        (
            "a naming for what has one only",
            on("adapters/sd/loha.safetensors").args("--naming kohya"),
            1,
            &["LoHa", "apply the file as it is", "mid_block"],
        ),
        (
            "a UNet's naming",
            on(UNET).args("--naming peft"),
            2,
            &["--naming", "a UNet"],
        ),
        (
            "an adapter on an adapter",
            on(ADAPTER).path("--adapter", &data(ADAPTER)),
            2,
            &["--adapter", "an adapter"],
        ),
        (
            "an adapter on a part of a UNet",
            on("sd/unet_part.pt").path("--adapter", &data(ADAPTER)),
            2,
            &["unet_part.pt", "other weights"],
        ),
        (
            "alpha for nothing",
            on(ADAPTER).args("--adapter-alpha 8"),
            2,
            &["--adapter-alpha", "naming"],
        ),
        (
            "alpha without a value",
            on(ADAPTER).args("--naming peft --adapter-alpha NaN"),
            2,
            &["--adapter-alpha"],
        ),
        (
            "an unknown naming",
            on(ADAPTER).args("--naming comfy"),
            2,
            &["comfy", "kohya"],
        ),
        (
            "an unknown type",
            on(ADAPTER).args("--dtype i8"),
            2,
            &["i8", "bf16"],
        ),
    ]);
}

/// A run on a file that is there.
fn over_old(input: &str) -> Run {
    convert(&data(input), "out.safetensors").file("out.safetensors", b"old")
}

#[test]
fn outputs() {
    let to = |output: &str| convert(&data("sd/unet_part.pt"), output);
    let rows: Vec<Fault> = vec![
        (
            "a file that exists",
            over_old(UNET),
            2,
            &["out.safetensors", "--force"],
        ),
        ("no such folder", to("no/out.safetensors"), 1, &["no"]),
        ("a folder for a part", to("out"), 2, &["out", "only a UNet"]),
        (
            "another format",
            to("out.bin"),
            2,
            &["out.bin", "safetensors"],
        ),
        (
            "a folder without a configuration",
            convert(Path::new("in.safetensors"), "out").file(
                "in.safetensors",
                &fs::read(data("sd/unet/diffusion_pytorch_model.safetensors")).expect("a UNet"),
            ),
            1,
            &["in.safetensors", "config.json"],
        ),
        (
            "a folder's name",
            to("out.safetensors").folder("out.safetensors"),
            2,
            &["out.safetensors", "it is a folder"],
        ),
        (
            "a folder in no folder",
            convert(&data(UNET), "no/out"),
            1,
            &["no"],
        ),
    ];
    hold(rows);
}

#[test]
fn a_file_that_exists_is_replaced_by_force_and_only_as_a_whole() {
    let done = over_old(UNET).args("--force").succeeds();
    assert!(done.tensors("out.safetensors").len() > 100);
    let failed = over_old(UNET)
        .args("--force")
        .path("--adapter", &data("sd/unet_part.pt"));
    assert_eq!(failed.fails(1, &[]).bytes("out.safetensors"), b"old");
}

#[test]
fn a_file_may_be_converted_in_its_place() {
    let bytes = bytes_of(&[("w", waves(&[3, 2], 1.0))]);
    let run = convert(Path::new("x.safetensors"), "x.safetensors").file("x.safetensors", &bytes);
    let done = run.args("--dtype bf16 --force").succeeds();
    assert_eq!(done.tensors("x.safetensors")["w"].dtype(), DType::BF16);
}

#[cfg(unix)]
#[test]
fn signals_leave_no_part_of_a_file() {
    let many: Vec<_> = (0..64)
        .map(|i| (format!("{i}"), waves(&[1 << 18], 1.0)))
        .collect();
    let many: Vec<_> = many.iter().map(|(n, t)| (&n[..], t.clone())).collect();
    let (folder, file) = file_of(&many);
    let signals = ["-INT", "-TERM", "-HUP"];
    for (wait, signal) in [5, 20, 60, 120, 30, 90]
        .into_iter()
        .zip(signals.into_iter().cycle())
    {
        let mut command = std::process::Command::cargo_bin("icd").expect("the program");
        let mut child = command
            .current_dir(folder.path())
            .args(["model", "convert", "in.safetensors", "out.safetensors"])
            .args(["--dtype", "f16", "--force", "-q"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(wait));
        let pid = child.id().to_string();
        let killed = std::process::Command::new("kill")
            .args([signal, &pid])
            .status();
        assert!(killed.is_ok(), "kill runs");
        child.wait().expect("it ends");
        for entry in fs::read_dir(folder.path()).expect("a folder") {
            let left = entry.expect("an entry").path();
            assert!(left == file || tensors(&left).len() == 64, "{left:?}");
        }
    }
}

#[test]
fn a_folder_that_fails_halfway_is_taken_away() {
    let done = icd("model")
        .path("convert", &data(UNET))
        .args("out --dtype f16 --adapter-alpha 1e9")
        .path("--adapter", &data(ADAPTER))
        .fails(1, &["too large for f16", ".weight"]);
    assert!(done.files().is_empty(), "{:?}", done.files());
}

#[test]
fn a_folder_that_is_full_is_replaced_by_force() {
    let run = || {
        convert(&data(UNET), "out")
            .folder("out")
            .file("out/config.json", b"{}")
    };
    run().fails(2, &["out/config.json", "--force"]);
    let done = run().args("--force").succeeds();
    assert!(done.bytes("out/config.json").len() > 100);
}
