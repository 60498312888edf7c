//! Golden values, distances, and one fluent helper around the program.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor, safetensors};
use icd::{
    model::{Model, ModelChoice},
    nn::Placement,
};
use serde_json::Value;
use tempfile::TempDir;

/// A file or folder of tests/data, which tests/oracle/make_golden.py makes.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// f32 on the CPU.
pub(crate) fn plain() -> Placement {
    Placement::cpu_f32()
}

/// A model folder, opened.
pub(crate) fn model(folder: &Path) -> Model {
    let choice = ModelChoice::named(folder.display().to_string());
    Model::open(&choice, plain()).expect("the model opens")
}

/// What the oracle gave for one family.
pub(crate) struct Golden {
    pub(crate) folder: PathBuf,
    pub(crate) settings: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn of(family: &str) -> Self {
        let folder = data(family);
        let settings = std::fs::read(folder.join("golden.json")).expect("golden.json");
        Self {
            settings: serde_json::from_slice(&settings).expect("golden.json is JSON"),
            tensors: tensors(&folder.join("golden.safetensors")),
            folder,
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no golden value {name}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// All tensors of a safetensors file.
pub(crate) fn tensors(file: &Path) -> HashMap<String, Tensor> {
    safetensors::load(file, &Device::Cpu)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The norm of the difference over the norm of `expected`.
pub(crate) fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims(), "shapes");
    let flat = |x: &Tensor| {
        x.to_dtype(DType::F64)
            .and_then(|x| x.flatten_all()?.to_vec1::<f64>())
            .expect("values")
    };
    let (found, expected) = (flat(found), flat(expected));
    let gap: f64 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|b| b.powi(2)).sum();
    (gap / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// Asserts that two tensors agree to `tolerance`, relative.
#[track_caller]
#[expect(
    clippy::print_stdout,
    reason = "`--nocapture` shows how close they are"
)]
pub(crate) fn agree(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let distance = distance(found, expected);
    println!("{what}: {distance:.1e} apart, allowed {tolerance:.0e}");
    assert!(
        distance < tolerance,
        "{what}: {distance:.1e} apart, allowed {tolerance:.0e}"
    );
}

/// Copies what is wanted of a folder and of the folders in it.
pub(crate) fn copy(from: &Path, to: &Path, is_wanted: &dyn Fn(&Path) -> bool) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            std::fs::create_dir(&to).expect("a folder");
            copy(&from, &to, is_wanted);
        } else if is_wanted(&from) {
            std::fs::copy(from, to).expect("a copy");
        }
    }
}

/// A run of the program in a folder of its own.
pub(crate) struct Run {
    folder: TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// What a run left behind.
pub(crate) struct Done {
    folder: TempDir,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where the program is tested: a device that ICD_DEVICE names, else the CPU.
pub(crate) fn device() -> String {
    std::env::var("ICD_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// A run of `icd VERB`.
pub(crate) fn icd(verb: &str) -> Run {
    Run {
        folder: tempfile::tempdir().expect("a temporary folder"),
        args: vec![verb.into()],
        env: Vec::new(),
    }
}

impl Run {
    /// Adds arguments, split at spaces.
    pub(crate) fn args(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(String::from));
        self
    }

    /// Adds a flag with a value of any content.
    pub(crate) fn with(mut self, flag: &str, value: impl ToString) -> Self {
        self.args.extend([flag.to_string(), value.to_string()]);
        self
    }

    /// Adds a flag with a path.
    pub(crate) fn path(self, flag: &str, path: &Path) -> Self {
        self.with(flag, path.display())
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    /// A path in the run's folder.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file into the run's folder.
    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        std::fs::write(self.folder.path().join(name), content).expect("a file of the run");
        self
    }

    /// Puts a folder into the run's folder.
    pub(crate) fn folder(self, name: &str) -> Self {
        std::fs::create_dir(self.folder.path().join(name)).expect("a folder of the run");
        self
    }

    /// Puts a link to a file or folder into the run's folder.
    #[cfg(unix)]
    pub(crate) fn link(self, name: &str, to: &Path) -> Self {
        std::os::unix::fs::symlink(to, self.folder.path().join(name)).expect("a link");
        self
    }

    /// The command as it is typed.
    pub(crate) fn command(&self) -> String {
        let quoted = self.args.iter().map(|arg| match arg.contains(' ') {
            true => format!("\"{arg}\""),
            false => arg.clone(),
        });
        format!("icd {}", quoted.collect::<Vec<_>>().join(" "))
    }

    /// The names of all files that the run begins with.
    pub(crate) fn files(&self) -> Vec<String> {
        names(self.folder.path())
    }

    /// Runs the program.
    pub(crate) fn done(self) -> Done {
        let mut command = Command::cargo_bin("icd").expect("the program");
        let proxies = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];
        let own = ["ICD_MODEL", "ICD_YES", "ICD_CACHE", "ICD_THREADS"];
        for name in own.into_iter().chain(proxies) {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
            .env("ICD_DEVICE", device())
            // Expected values are exact, whatever this processor multiplies fastest.
            .env("ICD_DTYPE", "f32")
            .env("ICD_CONFIG", "none")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .args(&self.args);
        let output = command.output().expect("the program runs");
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            folder: self.folder,
        }
    }

    /// Runs the program, which must succeed.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Done {
        let done = self.done();
        assert_eq!(done.code, 0, "{}", done.stderr);
        done
    }

    /// Runs the program, which must fail with this code and say all of these.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &[&str]) -> Done {
        let done = self.done();
        assert_eq!(
            done.code, code,
            "stdout: {} stderr: {}",
            done.stdout, done.stderr
        );
        for word in says {
            assert!(
                done.stderr.contains(word),
                "{word:?} is not said in: {}",
                done.stderr
            );
        }
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        done
    }
}

impl Done {
    /// A path in the run's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tensors of a file that the run wrote.
    pub(crate) fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        tensors(&self.path(name))
    }

    /// A file that the run wrote.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names of all files that the run left behind.
    pub(crate) fn files(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

/// The names of what lies in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the run's folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}
