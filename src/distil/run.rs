//! A training that can be stopped at any moment: its state is written whole,
//! beside the older one, and the list of measures ends where the state does.

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
    file::write_beside,
    latents::{Tensors, write_tensors},
    nn::{Checkpoint, checkpoint_metadata},
    source::Source,
};

/// The folder of sheets of pictures in that of a run.
pub(super) const SAMPLES: &str = "samples";

/// What a step measured, by name.
pub type Measures = Vec<(&'static str, f64)>;

/// Something that learns step by step.
pub trait Learner {
    /// Takes the step of this number, counted from 0. All that is random in it
    /// follows from the number.
    fn step(&mut self, step: usize) -> Result<Measures>;

    /// Everything that the next step depends on.
    fn state(&self) -> Result<Tensors>;

    /// Takes up a state.
    fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()>;

    /// Draws what has been learnt so far into a PNG, if there is something to draw.
    fn illustrate(&self, _file: &Path) -> Result<()> {
        Ok(())
    }
}

/// Where a training stands after a step.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
    /// What the latest step measured; empty when a run is taken up.
    pub measures: &'a [(&'static str, f64)],
}

/// A training in a folder of its own: `state.safetensors`,
/// `metrics.jsonl` with a line for each step, and `samples/` with pictures.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Steps in all.
    pub steps: usize,
    /// Steps between two states that are written.
    pub save_every: usize,
    /// Steps between two sheets of pictures; 0 for none.
    pub sample_every: usize,
}

impl Run {
    /// Trains up to the last step, from the folder's state on where it has one.
    pub fn go(
        &self,
        learner: &mut dyn Learner,
        watch: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, error))?;
        let start = self.take_up(learner)?;
        let mut metrics = self.metrics_up_to(start)?;
        let mut tell = |done, measures: &[_]| {
            watch(Progress {
                done,
                of: self.steps,
                measures,
            })
        };
        tell(start, &[])?;
        if start > 0 && self.samples_at(start) && !self.sheet(start).exists() {
            learner.illustrate(&self.sheet(start))?; // it was stopped before it came to that
        }
        for step in start..self.steps {
            let measures = learner.step(step)?;
            self.note(&mut metrics, step, &measures)?;
            let done = step + 1;
            if done == self.steps || done.is_multiple_of(self.save_every.max(1)) {
                self.save(learner, done)?;
            }
            if self.samples_at(done) {
                learner.illustrate(&self.sheet(done))?;
            }
            tell(done, &measures)?;
        }
        Ok(())
    }

    fn sheet(&self, done: usize) -> PathBuf {
        self.folder.join(format!("{SAMPLES}/{done:06}.png"))
    }

    fn samples_at(&self, done: usize) -> bool {
        match self.sample_every {
            0 => false,
            every => done == self.steps || done.is_multiple_of(every),
        }
    }

    /// The saved state, where there is one.
    pub fn state_file(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// Steps done by the saved state, which the learner takes up.
    fn take_up(&self, learner: &mut dyn Learner) -> Result<usize> {
        let file = self.state_file();
        if !file.exists() {
            return Ok(0);
        }
        let fault = || Error::weights(&file, "it is no state of a training");
        let notes = checkpoint_metadata(&Source::from(&file))?;
        let done = notes.get("done").and_then(|done| done.parse().ok());
        learner.restore(&read_tensors(&file)?)?;
        done.ok_or_else(fault)
    }

    fn save(&self, learner: &dyn Learner, done: usize) -> Result<()> {
        let notes = HashMap::from([("done".to_owned(), done.to_string())]);
        write_tensors(&self.state_file(), &learner.state()?, notes)
    }

    /// The list of measures, cut to the steps that the state knows.
    fn metrics_up_to(&self, start: usize) -> Result<File> {
        let file = self.folder.join("metrics.jsonl");
        let io = |error| Error::io(&file, error);
        let lines = match File::open(&file) {
            Ok(old) => BufReader::new(old).lines().take(start).collect(),
            Err(_) => Ok(Vec::new()),
        };
        let mut text = lines.map_err(io)?.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        write_beside(&file, text.as_bytes())?;
        OpenOptions::new().append(true).open(&file).map_err(io)
    }

    fn note(
        &self,
        metrics: &mut File,
        step: usize,
        measures: &[(&'static str, f64)],
    ) -> Result<()> {
        let values = measures
            .iter()
            .map(|&(name, value)| (name.to_owned(), json!(value)));
        let mut line: Map<String, Value> = values.collect();
        line.insert("step".into(), step.into());
        writeln!(metrics, "{}", Value::Object(line)).map_err(|error| Error::io(&self.folder, error))
    }
}

/// All tensors of a file.
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

    /// Learns by adding up numbers that follow from the steps.
    struct Adder(Tensor);

    impl Adder {
        fn new() -> Self {
            Self(Tensor::new(0f32, &Device::Cpu).unwrap())
        }

        fn sum(&self) -> f32 {
            self.0.to_scalar().unwrap()
        }
    }

    impl Learner for Adder {
        fn step(&mut self, step: usize) -> Result<Measures> {
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
    fn a_stopped_run_goes_on_from_its_state() {
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
