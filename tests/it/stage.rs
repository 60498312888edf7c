//! What commands that are shown to people take for granted.

#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    hub::FakeHub,
    support::{data, device},
};

/// The files of weights that examples convert.
pub(crate) fn weights(at: &dyn Fn(&str) -> PathBuf) {
    let adapter = "forward-19-259-519-779.safetensors";
    fs::copy(data("sd").join(adapter), at(adapter)).expect("an adapter");
    fs::copy(data("sd/unet_part.pt"), at("teacher.pt")).expect("a state dict");
    std::os::unix::fs::symlink(data("sd/unet"), at("unet")).expect("a UNet");
}

/// Files of runs that distil the pictures of a folder, one step each.
pub(crate) fn distillations(at: &dyn Fn(&str) -> PathBuf) {
    for (name, stage) in [("guidance", ""), ("consistency", "rank = 2\n")] {
        let run = format!(
            "model = '{}'\ndata = \"pictures\"\nout = \"{name}\"\nsteps = 1\nbatch = 1\n{stage}",
            data("sd").display()
        );
        fs::write(at(&format!("{name}.toml")), run).expect("a run");
    }
}

/// Runs a command of a shell, which must succeed, in a folder with a hub.
#[track_caller]
pub(crate) fn shell(command: &str, folder: &Path, hub: &FakeHub, env: &[(&str, &Path)]) {
    let program = assert_cmd::cargo::cargo_bin("icd");
    let places = [
        program.parent().expect("its folder"),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ];
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(places).expect("a path"))
        .env("HOME", folder)
        .env("ICD_DEVICE", device())
        .env("ICD_DTYPE", "f32")
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", folder.join("hub"))
        .env("ICD_CONFIG", "none")
        .env_remove("ICD_MODEL")
        .envs(env.iter().copied())
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {told}");
}
