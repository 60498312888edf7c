//! Resumable training runs: the state is written atomically, and on resumption the list of
//! metrics is truncated to the steps of the state.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    io::{Checkpoint, Existing, Source, Tensors, safetensors_metadata, write_file, write_tensors},
};

/// The subfolder of sample pictures.
pub(super) const SAMPLES: &str = "samples";
/// The values of each step.
pub(super) const METRICS: &str = "metrics.jsonl";
/// The report.
pub(super) const REPORT: &str = "report.html";
/// The subfolder of the guidance-distilled UNet.
pub(super) const UNET: &str = "unet";
/// The training checkpoint.
const STATE: &str = "state.safetensors";
/// The configuration; says that a run wrote what is beside it.
const CLAIM: &str = "distill.toml";
/// The key of the number of steps in the metadata of the checkpoint.
const DONE: &str = "done";

/// The metrics of a step, by name.
pub type Metrics = Vec<(&'static str, f64)>;

/// A training procedure.
pub trait Trainer {
    /// Runs a step, numbered from 0. Its random numbers are derived from the number.
    fn step(&mut self, step: usize) -> Result<Metrics>;

    /// The complete state.
    fn state(&self) -> Result<Tensors>;

    /// Restores a state.
    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()>;

    /// Writes sample pictures to a PNG, if enabled.
    fn illustrate(&self, _file: &Path) -> Result<()> {
        Ok(())
    }
}

/// The progress of a run after a step.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Number of steps done.
    pub done: usize,
    /// Total number of steps.
    pub of: usize,
    /// The metrics of the latest step; empty at the start.
    pub metrics: &'a [(&'static str, f64)],
}

/// A run with its folder: its configuration, `state.safetensors`, `metrics.jsonl` with a
/// line for each step, and `samples/` with pictures.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Total number of steps.
    pub steps: usize,
    /// Steps between two saved states.
    pub save_every: usize,
    /// Steps between two sheets of pictures; 0 for none.
    pub sample_every: usize,
}

/// Whether a run writes a file or folder of this name.
fn is_result(name: &str) -> bool {
    let is_adapter = ["forward-", "reverse-"]
        .iter()
        .any(|way| name.starts_with(way));
    [STATE, METRICS, REPORT, SAMPLES, UNET].contains(&name) || is_adapter
}

impl Run {
    /// Trains until the last step, starting from the saved state if there is one.
    pub fn go(
        &self,
        trainer: &mut dyn Trainer,
        watch: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, error))?;
        let start = self.resume(trainer)?;
        let mut log = self.log_up_to(start)?;
        let of = self.steps;
        let mut report = |done, metrics: &[_]| watch(Progress { done, of, metrics });
        report(start, &[])?;
        if start > 0 && self.samples_at(start) && !self.sheet(start).exists() {
            trainer.illustrate(&self.sheet(start))?; // interrupted between state and samples
        }
        for step in start..self.steps {
            let metrics = trainer.step(step)?;
            self.note(&mut log, step, &metrics)?;
            let done = step + 1;
            if done == self.steps || done.is_multiple_of(self.save_every.max(1)) {
                self.save(trainer, done)?;
            }
            if self.samples_at(done) {
                trainer.illustrate(&self.sheet(done))?;
            }
            report(done, &metrics)?;
        }
        Ok(())
    }

    fn sheet(&self, done: usize) -> PathBuf {
        self.folder.join(format!("{SAMPLES}/{done:06}.png"))
    }

    /// Takes the folder for this run: writes its configuration there. Fails on files with the
    /// names of results that no run wrote: nobody else's are ever replaced.
    pub fn claim(&self, config: &str) -> Result<()> {
        let folder = &self.folder;
        let io = |error| Error::io(folder, error);
        fs::create_dir_all(folder).map_err(io)?;
        let claim = folder.join(CLAIM);
        if !claim.exists() && !self.has_state() {
            for entry in fs::read_dir(folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                if is_result(&entry.file_name().to_string_lossy()) {
                    let reason =
                        "it exists and no distillation wrote it: set `out` to another folder";
                    return Err(Error::config(entry.path(), reason));
                }
            }
        }
        let text = format!("# The configuration of this distillation.\n{config}");
        write_file(&claim, text.as_bytes(), Existing::Replace)
    }

    /// Whether the checkpoint is that of a run.
    fn has_state(&self) -> bool {
        let notes = safetensors_metadata(&Source::from(&self.state_file()));
        notes.is_ok_and(|notes| notes.contains_key(DONE))
    }

    fn samples_at(&self, done: usize) -> bool {
        match self.sample_every {
            0 => false,
            every => done == self.steps || done.is_multiple_of(every),
        }
    }

    /// The path of the saved state.
    pub fn state_file(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    /// Restores the saved state, if any, and returns its number of steps.
    fn resume(&self, trainer: &mut dyn Trainer) -> Result<usize> {
        let file = self.state_file();
        if !file.exists() {
            return Ok(0);
        }
        let fault = || Error::weights(&file, "it is not a training checkpoint");
        let notes = safetensors_metadata(&Source::from(&file))?;
        let done = notes.get(DONE).and_then(|done| done.parse().ok());
        trainer.restore(&read_tensors(&file)?)?;
        done.ok_or_else(fault)
    }

    fn save(&self, trainer: &dyn Trainer, done: usize) -> Result<()> {
        let notes = HashMap::from([(DONE.to_owned(), done.to_string())]);
        write_tensors(
            &self.state_file(),
            &trainer.state()?,
            notes,
            Existing::Replace,
        )
    }

    /// Opens the list of metrics, truncated to the steps of the state.
    fn log_up_to(&self, start: usize) -> Result<File> {
        let file = self.folder.join(METRICS);
        let io = |error| Error::io(&file, error);
        let lines = match File::open(&file) {
            Ok(old) => BufReader::new(old).lines().take(start).collect(),
            Err(_) => Ok(Vec::new()),
        };
        let mut text = lines.map_err(io)?.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        write_file(&file, text.as_bytes(), Existing::Replace)?;
        OpenOptions::new().append(true).open(&file).map_err(io)
    }

    fn note(&self, log: &mut File, step: usize, metrics: &[(&'static str, f64)]) -> Result<()> {
        let values = metrics
            .iter()
            .map(|&(name, value)| (name.to_owned(), json!(value)));
        let mut line: Map<String, Value> = values.collect();
        line.insert("step".into(), step.into());
        writeln!(log, "{}", Value::Object(line)).map_err(|error| Error::io(&self.folder, error))
    }
}

fn read_tensors(file: &Path) -> Result<HashMap<String, Tensor>> {
    let checkpoint = Checkpoint::open(file)?;
    let load = |name: String| {
        let tensor = checkpoint.load(&name, &Device::Cpu)?;
        Ok((name, tensor))
    };
    checkpoint.names().into_iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds up numbers derived from the steps.
    struct Adder(Tensor);

    impl Adder {
        fn new() -> Self {
            Self(Tensor::new(0f32, &Device::Cpu).unwrap())
        }

        fn sum(&self) -> f32 {
            self.0.to_scalar().unwrap()
        }
    }

    impl Trainer for Adder {
        fn step(&mut self, step: usize) -> Result<Metrics> {
            if step == 13 {
                return Err(Error::setting("stopped"));
            }
            self.0 = (&self.0 + (step as f64).sqrt())?;
            Ok(vec![("sum", f64::from(self.sum()))])
        }

        fn state(&self) -> Result<Tensors> {
            Ok(vec![("sum".into(), self.0.clone())])
        }

        fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
            self.0 = state["sum"].clone();
            Ok(())
        }
    }

    fn go(folder: &Path, steps: usize) -> (f32, Vec<usize>, Result<()>) {
        let run = Run {
            folder: folder.into(),
            steps,
            save_every: 5,
            sample_every: 0,
        };
        let (mut adder, mut seen) = (Adder::new(), Vec::new());
        let outcome = run.go(&mut adder, &mut |progress| {
            seen.push(progress.done);
            Ok(())
        });
        (adder.sum(), seen, outcome)
    }

    fn lines(folder: &Path) -> Vec<Value> {
        let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn an_interrupted_run_resumes_from_its_state() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [stopped, whole] = folders.each_ref().map(tempfile::TempDir::path);
        assert!(go(stopped, 20).2.is_err(), "stopped in step 13");
        assert_eq!(lines(stopped).len(), 13);
        let (sum, seen, outcome) = go(stopped, 13);
        assert!(outcome.is_ok());
        assert_eq!(seen, [10, 11, 12, 13], "the state of step 10 is taken up");
        let (expected, _, _) = go(whole, 13);
        assert_eq!(sum, expected);
        assert_eq!(lines(stopped), lines(whole), "no line twice, none missing");
    }

    #[test]
    fn a_finished_run_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (sum, _, _) = go(folder.path(), 12);
        let (again, seen, outcome) = go(folder.path(), 12);
        assert!(outcome.is_ok());
        assert_eq!((again, seen), (sum, vec![12]));
    }

    #[test]
    fn a_damaged_state_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state.safetensors"), b"text").unwrap();
        let error = go(folder.path(), 12).2.unwrap_err().to_string();
        assert!(error.contains("state.safetensors"), "{error}");
    }
}
