//! The timesteps and the direction that an adapter file states.

use std::path::Path;

use super::TIMESTEPS;
use crate::{
    error::{Error, Result},
    io::{Source, safetensors_metadata},
    schedule::Timesteps,
};

/// The direction of a consistency model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the picture to noise, for inversions: ascending timesteps.
    Forward,
    /// From noise to the picture: descending timesteps.
    Reverse,
}

impl Direction {
    /// The direction that an adapter file states in its metadata, else in its name, if any.
    pub fn of(file: &Source) -> Result<Option<Self>> {
        if let Some(noted) = noted_timesteps(file)? {
            return Ok(Some(match noted.start() < noted.end() {
                true => Self::Forward,
                false => Self::Reverse,
            }));
        }
        let name = file.name().file_name().unwrap_or_default();
        let name = name.to_string_lossy().to_lowercase();
        Ok(match (name.contains("forward"), name.contains("reverse")) {
            (true, false) => Some(Self::Forward),
            (false, true) => Some(Self::Reverse),
            _ => None,
        })
    }

    /// An error if an adapter file states the other direction.
    pub fn check(self, file: &Source) -> Result<()> {
        match Self::of(file)? {
            Some(stated) if stated != self => Err(Error::adapter(
                file,
                format!(
                    "its metadata or its name says that it is a {} adapter, but it is used as \
                     the {} adapter",
                    stated.name(),
                    self.name()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Timesteps that are set by hand: those of the reverse direction end at 0, as those
    /// that a file name states do; where an inversion ends is a choice.
    pub(crate) fn ended(self, timesteps: &Timesteps) -> Result<Timesteps> {
        let mut list: Vec<u16> = timesteps.as_slice().iter().map(|t| t.0).collect();
        if self == Self::Reverse && timesteps.start() > timesteps.end() && list.last() != Some(&0) {
            list.push(0);
        }
        Timesteps::new(&list)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// The timesteps that an adapter file states in its metadata or its name. The
/// released names omit the last one, which is the same for a given direction.
fn stated_timesteps(file: &Source) -> Result<Option<Vec<u16>>> {
    Ok(match noted_timesteps(file)? {
        Some(noted) => Some(noted.as_slice().iter().map(|t| t.0).collect()),
        None => timesteps_of(file.name()),
    })
}

/// The timesteps in an adapter file's metadata.
fn noted_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let noted = safetensors_metadata(file)?.remove(TIMESTEPS);
    let noted = noted.map(|text| text.parse()).transpose();
    noted.map_err(|error| Error::adapter(file, error))
}

/// The forward timesteps that an adapter file states, if any: ascending, and
/// ending at 999 (the released names omit the 999).
pub fn forward_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let ended = |mut timesteps: Vec<u16>| {
        timesteps.sort_unstable();
        ended_at(999, timesteps, file, Timesteps::forward)
    };
    stated_timesteps(file)?.map(ended).transpose()
}

/// The reverse timesteps that an adapter file states, if any: descending, and
/// ending at 0 (the released names are in ascending order and omit the 0).
pub fn reverse_timesteps(file: &Source) -> Result<Option<Timesteps>> {
    let ended = |mut timesteps: Vec<u16>| {
        timesteps.sort_unstable_by(|a, b| b.cmp(a));
        ended_at(0, timesteps, file, Timesteps::reverse)
    };
    stated_timesteps(file)?.map(ended).transpose()
}

fn ended_at(
    last: u16,
    mut timesteps: Vec<u16>,
    file: &Source,
    make: fn(&[u16]) -> Result<Timesteps>,
) -> Result<Timesteps> {
    if timesteps.last() != Some(&last) {
        timesteps.push(last);
    }
    make(&timesteps).map_err(|error| Error::adapter(file, error))
}

/// The timesteps in an adapter file's metadata, else those in its name, for the
/// direction stated there.
pub fn timesteps(file: &Source) -> Result<Option<Timesteps>> {
    if let Some(noted) = noted_timesteps(file)? {
        return Ok(Some(noted));
    }
    match Direction::of(file)? {
        Some(Direction::Forward) => forward_timesteps(file),
        _ => reverse_timesteps(file),
    }
}

/// The timesteps in the name of a released adapter file:
/// `forward-19-259-519-779.safetensors`,
/// `iCD-SD15-reverse_259_519_779_999.safetensors`.
fn timesteps_of(file: &Path) -> Option<Vec<u16>> {
    let stem = file.file_stem()?.to_str()?;
    let (_, tail) = stem
        .split_once("forward")
        .or_else(|| stem.split_once("reverse"))?;
    let parts = tail.trim_start_matches(['-', '_']).split(['-', '_']);
    let steps: Vec<u16> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (steps.len() > 1).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_names_tell_their_steps() {
        let steps = |name: &str| timesteps_of(Path::new(name));
        assert_eq!(
            steps("forward-19-259-519-779.safetensors"),
            Some(vec![19, 259, 519, 779])
        );
        assert_eq!(
            steps("a/iCD-SD15-reverse_259_519_779_999.safetensors"),
            Some(vec![259, 519, 779, 999])
        );
        for name in [
            "finetuned_forward_model.safetensors",
            "forward.safetensors",
            "x-19-259.safetensors",
        ] {
            assert_eq!(steps(name), None, "{name}");
        }
    }
}
