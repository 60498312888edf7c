//! Compiles the CUDA kernels, only with the feature `cuda`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
};

/// The folder of the kernels, one file per group and headers.
const SOURCES: &str = "src/kernel/cuda";

/// The oldest compute capability that the kernels run on: drivers compile its PTX for newer
/// GPUs, which takes a while when a program first uses the kernels.
const OLDEST: u32 = 80;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCES}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let compiler = compiler();
    thread::scope(|scope| {
        for source in sources() {
            scope.spawn(|| compile(&compiler, source, &out));
        }
    });
}

/// The files that are compiled.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir(SOURCES).expect("the folder of the CUDA kernels");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "cu");
    paths.filter(is_source).collect()
}

/// NVIDIA's compiler: `NVCC`, else that of the toolkit in `CUDA_HOME` or `CUDA_PATH`, else
/// `nvcc` in the search path, else that of the usual folder.
fn compiler() -> PathBuf {
    if let Some(given) = env::var_os("NVCC") {
        return given.into();
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    let homes = homes.map(|home| PathBuf::from(home).join("bin"));
    let search = env::var_os("PATH").unwrap_or_default();
    let folders = homes
        .chain(env::split_paths(&search).collect::<Vec<_>>())
        .chain(["/usr/local/cuda/bin".into()]);
    let mut found = folders
        .map(|folder| folder.join(&name))
        .filter(|path| path.exists());
    found.next().unwrap_or_else(|| name.into())
}

/// Compiles one file to `OUT/NAME.fatbin`.
fn compile(compiler: &Path, source: PathBuf, out: &Path) {
    let name = source.file_stem().expect("a file has a name");
    let target = out.join(name).with_extension("fatbin");
    let mut command = Command::new(compiler);
    command
        .args(["-fatbin", "-O3", "-std=c++17"])
        .args(architectures())
        .arg("-o")
        .arg(target)
        .arg(&source);
    let status = command.status();
    let done = status.as_ref().is_ok_and(ExitStatus::success);
    assert!(
        done,
        "{}: {command:?} failed: {status:?}. The feature `cuda` needs NVIDIA's compiler: \
         install the CUDA toolkit, or set NVCC to its path",
        source.display()
    );
}

/// PTX for the oldest GPUs, and machine code for the compute capability that
/// `CUDA_COMPUTE_CAP` names, as in 90 or 9.0.
fn architectures() -> Vec<String> {
    let code = |version: u32, kind: &str| {
        format!("--generate-code=arch=compute_{version},code={kind}_{version}")
    };
    let named = env::var("CUDA_COMPUTE_CAP").unwrap_or_default();
    let digits = named
        .chars()
        .filter(char::is_ascii_digit)
        .collect::<String>();
    let newer = digits.parse().ok().filter(|&version| version >= OLDEST);
    let machine = newer.map(|version| code(version, "sm"));
    [code(OLDEST, "compute")]
        .into_iter()
        .chain(machine)
        .collect()
}
