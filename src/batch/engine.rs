//! The shard of a process as the engine that started it tells: the variables of SLURM,
//! Kubernetes and AWS Batch.

use std::{num::NonZeroUsize, str::FromStr};

use super::{Shard, shard::number};
use crate::error::{Error, Result};

/// Looks up a variable of the environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `auto`, or `auto/N` where the engine does not tell the number of shards, as Kubernetes, or
/// may change it, as an array of SLURM of which some tasks are submitted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoShard {
    count: Option<NonZeroUsize>,
}

impl FromStr for AutoShard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = match text.split_once('/') {
            None if text == "auto" => Some(None),
            Some(("auto", count)) => number(count).and_then(NonZeroUsize::new).map(Some),
            _ => None,
        };
        let reason = "write 1/4, auto, or auto and the number of shards as in auto/4";
        let count = count.ok_or_else(|| Error::setting(reason))?;
        Ok(Self { count })
    }
}

/// One of so many tasks; the number of all may not be known.
struct Task {
    index: usize,
    count: Option<usize>,
}

impl AutoShard {
    /// The shard that the variables tell.
    pub fn found(self, variables: Variables) -> Result<Shard> {
        let engines = [
            ("SLURM", slurm(variables, self.count)?),
            ("Kubernetes", kubernetes(variables)?),
            ("AWS Batch", aws(variables)?),
        ];
        let mut found = engines
            .into_iter()
            .filter_map(|(name, task)| Some((name, task?)));
        let (name, task) = found.next().ok_or_else(|| Error::setting(NO_ENGINE))?;
        if let Some((other, _)) = found.next() {
            let reason = format!("auto: both {name} and {other} tell a task: write K/N");
            return Err(Error::setting(reason));
        }
        task.shard(name, self.count.map(NonZeroUsize::get))
    }
}

const NO_ENGINE: &str = "auto: no engine tells the task: neither SLURM_ARRAY_TASK_ID, \
                         SLURM_STEP_ID, JOB_COMPLETION_INDEX nor AWS_BATCH_JOB_ARRAY_INDEX is set; \
                         write K/N";

impl Task {
    fn shard(&self, engine: &str, wanted: Option<usize>) -> Result<Shard> {
        let Some(count) = wanted.or(self.count) else {
            let reason = format!("auto: {engine} does not tell the number of tasks: write auto/N");
            return Err(Error::setting(reason));
        };
        if self.count.is_some_and(|tasks| tasks > count) {
            let reason = format!("auto/{count}: {engine} runs more tasks than {count}");
            return Err(Error::setting(reason));
        }
        let shard = Shard::new(self.index, count);
        shard.ok_or_else(|| {
            let index = self.index;
            Error::setting(format!(
                "auto/{count}: {engine} counts tasks from 0: there is no {index}"
            ))
        })
    }
}

/// The number that a variable holds; one that is set to nothing counts as not set.
fn value(variables: Variables, name: &str) -> Result<Option<usize>> {
    match variables(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match number(text.trim()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::setting(format!(
                "auto: {name}={text:?} is not a number"
            ))),
        },
    }
}

/// Kubernetes counts the pods of an Indexed Job from 0.
fn kubernetes(variables: Variables) -> Result<Option<Task>> {
    let index = value(variables, "JOB_COMPLETION_INDEX")?;
    Ok(index.map(|index| Task { index, count: None }))
}

/// AWS Batch counts the jobs of an array from 0.
fn aws(variables: Variables) -> Result<Option<Task>> {
    let count = value(variables, "AWS_BATCH_JOB_ARRAY_SIZE")?;
    let index = value(variables, "AWS_BATCH_JOB_ARRAY_INDEX")?;
    Ok(index.map(|index| Task { index, count }))
}

/// A task of an array, of a step, or of a step in each task of an array: one product.
///
/// A batch script has SLURM_NTASKS and SLURM_PROCID, too: only a step that srun started has
/// SLURM_STEP_ID.
fn slurm(variables: Variables, wanted: Option<NonZeroUsize>) -> Result<Option<Task>> {
    let step = match value(variables, "SLURM_STEP_ID")? {
        Some(_) => step(variables)?,
        None => None,
    };
    let steps = step.as_ref().map_or(1, |(_, count)| *count);
    let wanted = wanted.map(NonZeroUsize::get);
    if wanted.is_some_and(|count| !count.is_multiple_of(steps)) {
        let reason = format!("auto/N: N must be a multiple of the {steps} tasks of srun");
        return Err(Error::setting(reason));
    }
    let array = array(variables, wanted.map(|count| count / steps))?;
    Ok(match (array, step) {
        (None, None) => None,
        (None, Some((index, count))) => Some(Task {
            index,
            count: Some(count),
        }),
        (Some(task), step) => {
            let own = step.map_or(0, |(index, _)| index);
            Some(Task {
                index: task.index * steps + own,
                count: task.count.map(|count| count * steps),
            })
        }
    })
}

/// The index and the number of the tasks of srun.
fn step(variables: Variables) -> Result<Option<(usize, usize)>> {
    let count = match value(variables, "SLURM_STEP_NUM_TASKS")? {
        Some(count) => Some(count),
        None => value(variables, "SLURM_NTASKS")?,
    };
    let index = value(variables, "SLURM_PROCID")?;
    match index.zip(count).filter(|(index, count)| index < count) {
        Some(step) => Ok(Some(step)),
        None => Err(Error::setting(
            "auto: SLURM_STEP_ID is set, but SLURM_PROCID and SLURM_NTASKS tell no task",
        )),
    }
}

/// A task of an array. Its ids may begin anywhere: their remainders are those of any N ids in
/// a row, and the same when some tasks are submitted again.
fn array(variables: Variables, wanted: Option<usize>) -> Result<Option<Task>> {
    let Some(id) = value(variables, "SLURM_ARRAY_TASK_ID")? else {
        return Ok(None);
    };
    let count = value(variables, "SLURM_ARRAY_TASK_COUNT")?;
    let first = value(variables, "SLURM_ARRAY_TASK_MIN")?;
    let last = value(variables, "SLURM_ARRAY_TASK_MAX")?;
    let spread = first
        .zip(last)
        .map(|(first, last)| last.saturating_sub(first) + 1);
    if let (None, Some(count), Some(spread)) = (wanted, count, spread)
        && count != spread
    {
        let reason = format!(
            "auto: the ids of the array have gaps ({count} tasks over {spread} ids): write \
             auto/N with the N of the whole array"
        );
        return Err(Error::setting(reason));
    }
    if let (Some(wanted), Some(spread)) = (wanted, spread)
        && spread > wanted
    {
        let reason = format!("auto/N: the ids of the array span {spread}, more than its {wanted}");
        return Err(Error::setting(reason));
    }
    let count = wanted.or(count);
    let index = count.map_or(id, |count| id % count.max(1));
    Ok(Some(Task { index, count }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shard of variables, as in `A=1 B=2`.
    fn found(auto: &str, variables: &str) -> Result<String, String> {
        let all: Vec<_> = variables
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        let look = |name: &str| {
            all.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let auto: AutoShard = auto.parse().map_err(|error: Error| error.to_string())?;
        let shard = auto.found(&look).map_err(|error| error.to_string())?;
        Ok(shard.to_string())
    }

    fn array(id: usize, count: usize, first: usize, last: usize) -> String {
        format!(
            "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_COUNT={count} SLURM_ARRAY_TASK_MIN={first} \
             SLURM_ARRAY_TASK_MAX={last} SLURM_NTASKS=4 SLURM_PROCID=0 "
        )
    }

    #[test]
    fn every_engine_tells_its_tasks() {
        for (auto, variables, shard) in [
            (
                "auto",
                "AWS_BATCH_JOB_ARRAY_INDEX=0 AWS_BATCH_JOB_ARRAY_SIZE=3",
                "1/3",
            ),
            ("auto/3", "AWS_BATCH_JOB_ARRAY_INDEX=2", "3/3"),
            (
                "auto/8",
                "JOB_COMPLETION_INDEX=7 SLURM_ARRAY_TASK_ID=",
                "8/8",
            ),
            (
                "auto",
                "SLURM_STEP_ID=0 SLURM_PROCID=3 SLURM_NTASKS=4",
                "4/4",
            ),
            (
                "auto",
                "SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=9 SLURM_STEP_NUM_TASKS=2",
                "2/2",
            ),
            ("auto", &array(0, 4, 0, 3), "1/4"),
        ] {
            assert_eq!(
                found(auto, variables).as_deref(),
                Ok(shard),
                "{auto} {variables}"
            );
        }
    }

    #[test]
    fn an_array_is_complete_wherever_its_ids_begin() {
        for first in [0, 1, 7] {
            let ids = first..first + 4;
            let shards = ids.map(|id| found("auto", &array(id, 4, first, first + 3)).unwrap());
            let mut shards: Vec<_> = shards.collect();
            shards.sort();
            assert_eq!(shards, ["1/4", "2/4", "3/4", "4/4"]);
        }
    }

    #[test]
    fn tasks_submitted_again_have_their_shard_again() {
        let before = found("auto", &array(3, 4, 1, 4)).unwrap();
        let again = format!("{}{}", array(3, 1, 3, 3), "");
        assert_eq!(found("auto/4", &again).unwrap(), before);
        assert_eq!(found("auto/4", &array(1, 2, 1, 3)).unwrap(), "2/4");
        let gaps = found("auto", &array(1, 2, 1, 3)).unwrap_err();
        assert!(gaps.contains("gaps"), "{gaps}");
        let wide = found("auto/4", &array(9, 10, 0, 9)).unwrap_err();
        assert!(wide.contains("span 10"), "{wide}");
    }

    #[test]
    fn an_array_of_steps_is_one_product() {
        let step =
            |task: usize| format!("SLURM_STEP_ID=1 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID={task}");
        let mut shards = Vec::new();
        for id in 5..8 {
            // The first of equal names counts: srun's.
            for task in 0..2 {
                let variables = format!("{} {}", step(task), array(id, 3, 5, 7));
                shards.push(found("auto", &variables).unwrap());
                assert_eq!(found("auto/6", &variables), found("auto", &variables));
            }
        }
        shards.sort();
        assert_eq!(shards, ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]);
        let odd = format!("{} {}", step(0), array(5, 3, 5, 7));
        assert!(found("auto/5", &odd).unwrap_err().contains("multiple"));
    }

    #[test]
    fn what_tells_no_task_is_an_error_that_says_what_to_write() {
        for (auto, variables, told) in [
            ("auto", "", "no engine"),
            ("auto", "SLURM_NTASKS=4 SLURM_PROCID=0", "no engine"),
            ("auto", "JOB_COMPLETION_INDEX=1", "auto/N"),
            ("auto/2", "JOB_COMPLETION_INDEX=2", "from 0"),
            (
                "auto/2",
                "AWS_BATCH_JOB_ARRAY_INDEX=0 AWS_BATCH_JOB_ARRAY_SIZE=3",
                "more tasks",
            ),
            ("auto", "JOB_COMPLETION_INDEX=x", "not a number"),
            (
                "auto/4",
                "JOB_COMPLETION_INDEX=1 AWS_BATCH_JOB_ARRAY_INDEX=1",
                "K/N",
            ),
            ("auto", "SLURM_STEP_ID=0 SLURM_NTASKS=2", "SLURM_PROCID"),
            ("auto/0", "JOB_COMPLETION_INDEX=1", "write"),
        ] {
            let error = found(auto, variables).unwrap_err();
            assert!(error.contains(told), "{auto} {variables}: {error}");
        }
    }
}
