//! The jobs of a manifest: all are understood before the first is run, and those that are in
//! each other's way are refused.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use icd::{
    batch::{Entry, Fault, Shard, entries, jobs_of_folder},
    io::resolved,
};

use super::{parser::Parser, runner::Ready, task::Task};
use crate::cli::storage;

/// A line that is no job, or whose job cannot be run.
pub(crate) struct Refused {
    pub(crate) line: usize,
    pub(crate) fault: Fault,
}

/// What a manifest holds, in the order of lines.
pub(crate) type Line = Result<Task, Refused>;

/// Reads a manifest: a file of JSON lines or CSV, or a folder of pictures.
pub(crate) fn read(manifest: &Path) -> Result<Vec<Entry>> {
    let storage = storage::of(manifest)?;
    Ok(match storage.is_folder(manifest)? {
        true => jobs_of_folder(storage, manifest)?,
        false => entries(manifest, &storage.read(manifest)?)?,
    })
}

/// Understands the entries. Two jobs with one result are both at fault, and so is a job whose
/// result is another one's input: which of them came first would decide.
pub(crate) fn understood(entries: Vec<Entry>, parser: &mut Parser) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::with_capacity(entries.len());
    for entry in entries {
        let line = entry.line;
        let task = parser.task(entry);
        lines.push(task.map_err(|fault| Refused { line, fault }));
    }
    let inputs: HashSet<PathBuf> = tasks(&lines).flat_map(inputs_of).collect();
    let mut makers: HashMap<PathBuf, Vec<usize>> = HashMap::new();
    for task in tasks(&lines) {
        for file in &task.files {
            makers.entry(resolved(file)).or_default().push(task.line);
        }
    }
    let refused = |task: &Task| {
        let faults = task.files.iter().filter_map(|file| {
            let path = resolved(file);
            let name = file.display();
            let others = makers.get(&path).into_iter().flatten();
            let mut others = others.filter(|line| **line != task.line);
            if let Some(other) = others.next() {
                return Some(format!("output: {name}: line {other} has the same output"));
            }
            let is_input = inputs.contains(&path);
            is_input.then(|| format!("output: {name}: this is the input of a job"))
        });
        faults.into_iter().next()
    };
    let settle = |line: Line| {
        let task = line?;
        match refused(&task) {
            Some(reason) => Err(Refused {
                line: task.line,
                fault: Fault {
                    kept: task.kept,
                    reason,
                },
            }),
            None => Ok(task),
        }
    };
    lines.into_iter().map(settle).collect()
}

fn tasks(lines: &[Line]) -> impl Iterator<Item = &Task> {
    lines.iter().filter_map(|line| line.as_ref().ok())
}

fn inputs_of(task: &Task) -> Vec<PathBuf> {
    task.work.inputs().map(resolved).collect()
}

/// The lines of a shard, or all, in the order in which they run: those of one model together,
/// and in these those of one inversion.
pub(crate) fn of_shard(lines: Vec<Line>, shard: Option<Shard>) -> Result<Vec<Line>> {
    let keys = lines.iter().map(|one| match one {
        Ok(task) => task.shared(),
        Err(refused) => [String::new(), format!("line {}", refused.line)],
    });
    let keys: Vec<_> = keys.collect();
    let whole = Shard::new(0, 1).context("a shard")?;
    let own = shard.unwrap_or(whole).of(&keys);
    let mut lines: Vec<_> = lines.into_iter().map(Some).collect();
    let lines = own.into_iter().filter_map(|index| lines[index].take());
    Ok(lines.collect())
}

/// Groups jobs, in the order in which they run, to walks of at most so many targets.
pub(crate) fn walks(jobs: Vec<Ready>, most: usize) -> Vec<Vec<Ready>> {
    let mut walks: Vec<Vec<Ready>> = Vec::new();
    let mut open: HashMap<String, (usize, usize)> = HashMap::new();
    for ready in jobs {
        let (own, key) = (ready.task.files.len(), ready.task.walk());
        let key = key.filter(|_| own < most);
        let place = key.as_ref().and_then(|key| open.get(key).copied());
        let place = place.filter(|(_, targets)| targets + own <= most);
        let (walk, targets) = place.unwrap_or((walks.len(), 0));
        if walk == walks.len() {
            walks.push(Vec::new());
        }
        walks[walk].push(ready);
        open.extend(key.map(|key| (key, (walk, targets + own))));
    }
    walks
}

#[cfg(test)]
mod tests {
    use icd::batch::json_entry;
    use serde_json::{Value, json};

    use super::*;

    /// The lines of jobs with flags of `icd batch`.
    fn lines(jobs: &[Value], flags: &[&str]) -> Vec<Line> {
        let command = crate::cli::command();
        let typed = [
            "icd",
            "batch",
            "jobs",
            "--output-dir",
            "out",
            "--model",
            "tabletop",
        ];
        let typed = typed.iter().chain(flags);
        let given = command.clone().try_get_matches_from(typed).unwrap();
        let (name, given) = given.subcommand().unwrap();
        let own = command.find_subcommand(name).unwrap();
        let mut parser = Parser::new(&command, (own, given), (Path::new("out"), &[]));
        let entries = jobs.iter().enumerate();
        let entries =
            entries.filter_map(|(index, job)| json_entry(index + 1, job.to_string().as_bytes()));
        understood(entries.collect(), &mut parser)
    }

    fn edit(target: &str, more: &Value) -> Value {
        let mut job = json!({ "image": "in.png", "src_prompt": "a bird", "tgt_prompt": target });
        for (key, value) in more.as_object().unwrap() {
            job[key] = value.clone();
        }
        job
    }

    #[test]
    fn edits_that_differ_in_their_targets_alone_are_walked_together() {
        let jobs = [
            edit("a dog", &json!({})),
            edit("a cat", &json!({ "no_metadata": true })),
            edit("a dog", &json!({ "blend": "bird:dog" })),
            edit("a dog", &json!({ "seed": 3 })),
            edit("", &json!({ "tgt_prompt": ["a cow", "a fish"] })),
            edit("a dog", &json!({ "tau": 0.7 })),
            edit("a dog", &json!({ "image": "other.png" })),
            json!({ "verb": "generate", "prompt": "an owl" }),
        ];
        let ready = of_shard(lines(&jobs, &[]), None).unwrap().into_iter();
        let ready = ready.map(|line| Ready {
            task: line.ok().unwrap(),
            fingerprints: Vec::new(),
            todo: vec![0],
        });
        let walks = walks(ready.collect(), 3).into_iter();
        let lines = walks.map(|walk| walk.iter().map(|ready| ready.task.line).collect());
        let lines: Vec<Vec<_>> = lines.collect();
        assert_eq!(
            lines,
            [
                vec![1, 2],
                vec![3],
                vec![5],
                vec![6],
                vec![4],
                vec![7],
                vec![8]
            ]
        );
    }

    #[test]
    fn flags_of_the_batch_hold_for_jobs_that_do_not_say_otherwise() {
        let jobs = [
            edit("a dog", &json!({ "tau": 0.5 })),
            edit("a cat", &json!({ "restore_size": true })),
            json!({ "verb": "generate", "prompt": "an owl" }),
        ];
        let flags = ["--tau", "0.7", "--model-size", "--self-replace", "0.2"];
        let kept = lines(&jobs, &flags).into_iter();
        let kept: Vec<_> = kept.map(|line| line.ok().unwrap().kept).collect();
        let of = |key: &str| {
            kept.iter()
                .map(|job| job.get(key).cloned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("tau"),
            [Some(json!(0.5)), Some(json!(0.7)), Some(json!(0.7))]
        );
        assert_eq!(of("model_size"), [Some(json!(true)), None, None]);
        assert_eq!(
            of("self_replace"),
            [Some(json!(0.2)), Some(json!(0.2)), None]
        );
        assert_eq!(of("model")[2], Some(json!("tabletop")));
    }

    #[test]
    fn names_tell_settings_apart() {
        let jobs = [
            edit("a dog", &json!({})),
            edit("a dog", &json!({ "seed": 1 })),
            edit("a dog", &json!({ "seed": 0, "version": "0.0.9" })),
        ];
        let lines = lines(&jobs, &[]);
        let told: Vec<_> = lines
            .iter()
            .map(|line| line.as_ref().err().map(|refused| refused.line))
            .collect();
        assert_eq!(
            told,
            [Some(1), None, Some(3)],
            "the first and the last are one job"
        );
        let name = lines[1].as_ref().ok().unwrap().files[0]
            .display()
            .to_string();
        let digits = name
            .strip_prefix("out/in.edited-")
            .unwrap()
            .strip_suffix(".png")
            .unwrap();
        assert!(digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
}
