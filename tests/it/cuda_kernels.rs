//! The CUDA kernels compute what the plain formulas do: their sources, compiled for this
//! processor with emulated instructions, in the programs of `tests/cuda`.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output},
};

/// Compiles and runs `tests/cuda/NAME.cpp`, unless there is no C++ compiler to try it with.
fn passes(name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut compile = Command::new(&compiler);
    compile
        .args(["-std=c++17", "-O2", "-o"])
        .arg(&program)
        .arg(root.join("tests/cuda").join(name).with_extension("cpp"));
    // Its fibers and guarded pages are those of Linux.
    let done = match cfg!(target_os = "linux") {
        true => compile.output(),
        false => Err(std::io::ErrorKind::Unsupported.into()),
    };
    match done {
        Ok(output) => succeeded(&compiler, &output),
        Err(reason) => return skipped(name, &format!("{compiler}: {reason}")),
    }
    let run = Command::new(&program).output().expect("the program runs");
    succeeded(name, &run);
}

#[track_caller]
fn succeeded(what: &str, output: &Output) {
    let log = [&output.stdout[..], &output.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    assert!(output.status.success(), "{what}: {}\n{log}", output.status);
}

/// Past the test runner's capture: nobody shall take this for a pass.
fn skipped(name: &str, reason: &str) {
    let line = format!("SKIPPED: {name}: {reason}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}

#[test]
fn products_and_convolutions_of_a_gpu_are_the_plain_formulas() {
    passes("gemm_test");
}

#[test]
fn linear_layers_of_few_rows_of_a_gpu_are_the_plain_formula() {
    passes("rows_test");
}

#[test]
fn attention_of_a_gpu_is_the_plain_formula() {
    passes("attention_test");
}

#[test]
fn norms_of_a_gpu_are_the_plain_formulas() {
    passes("norm_test");
}
