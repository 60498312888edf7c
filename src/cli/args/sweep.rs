//! The flags of sweeps: edits of one inversion with several values of one or two flags.

use std::{fmt, str::FromStr};

use clap::Args;
use icd::Error;

/// Most values of a flag: the labels of so many fit into a sheet.
const MAX_VALUES: usize = 64;

/// A sheet of edits, or one of them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Several values")]
pub(crate) struct SweepArgs {
    /// Edit one inversion with each of these values of a flag, and write all results into one
    /// labelled sheet: a column for each value, a row for each value of a second --sweep. KEY is
    /// tgt-prompt or a flag of "Strength and control"; a comma within a value is written \,.
    #[arg(long, value_name = "KEY=V1,V2,..")]
    pub(crate) sweep: Vec<Axis>,
    /// Write one cell of the sheet of --sweep, or of the sheet that --from names, as the result;
    /// counted from 1.
    #[arg(long, value_name = "ROW,COLUMN")]
    pub(crate) pick: Option<Place>,
}

/// A flag and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// As it was given.
    text: String,
    /// The flag, with underscores.
    pub(crate) id: String,
    pub(crate) values: Vec<String>,
}

impl FromStr for Axis {
    type Err = Error;

    /// Parses `tau=0.7,0.8`: the key ends at the first `=`, and `\,` is a comma in a value.
    fn from_str(text: &str) -> Result<Self, Error> {
        let reason = || Error::setting("write a flag and its values, as in tau=0.7,0.8");
        let (key, values) = text.split_once('=').ok_or_else(reason)?;
        let key = key.trim().trim_start_matches("--");
        let values = listed(values);
        match (key, values.len()) {
            ("", _) => Err(reason()),
            (_, 1..=MAX_VALUES) => Ok(Self {
                text: text.into(),
                id: key.replace('-', "_"),
                values,
            }),
            (_, count) => {
                let reason = format!("{count} values are too many: {MAX_VALUES} fit into a sheet");
                Err(Error::setting(reason))
            }
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The values of a list, without the spaces around them.
fn listed(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let value = values.last_mut().expect("a list begins with a value");
        match char {
            '\\' if chars.next_if_eq(&',').is_some() => value.push(','),
            ',' => values.push(String::new()),
            char => value.push(char),
        }
    }
    values.iter().map(|value| value.trim().to_owned()).collect()
}

/// A cell of a sheet; row and column are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let place = text.split_once(',').and_then(|(row, column)| {
            let number = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
            Some(Self {
                row: number(row)?,
                column: number(column)?,
            })
        });
        let reason = "write a row and a column, counted from 1, as in 2,3";
        place.ok_or_else(|| Error::setting(reason))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.row, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> (String, Vec<String>) {
        let axis: Axis = text.parse().unwrap();
        assert_eq!(axis.to_string(), text);
        (axis.id, axis.values)
    }

    #[test]
    fn a_key_ends_at_the_first_sign_and_commas_part_values() {
        for (text, id, values) in [
            ("tau=0.7,0.8", "tau", &["0.7", "0.8"][..]),
            ("--self-replace=0.2, 0.4", "self_replace", &["0.2", "0.4"]),
            ("self_replace=0.2..0.9", "self_replace", &["0.2..0.9"]),
            ("amplify=dog=3,dog=5", "amplify", &["dog=3", "dog=5"]),
            (
                r"tgt-prompt=a dog\, asleep,a cat\",
                "tgt_prompt",
                &["a dog, asleep", r"a cat\"],
            ),
            ("tau=", "tau", &[""]),
            ("tau=1,,2", "tau", &["1", "", "2"]),
        ] {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            assert_eq!(axis(text), (id.to_owned(), values));
        }
        let many = format!("tau={}", ["1"; 65].join(","));
        for bad in ["", "tau", "=1", "--=1", " =1", &many] {
            assert!(bad.parse::<Axis>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn places_are_counted_from_one() {
        let place: Place = "2, 3".parse().unwrap();
        assert_eq!((place.row, place.column), (2, 3));
        for bad in ["", "2", "0,1", "1,0", "-1,1", "1,1,1", "a,b", "1;2"] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?}");
        }
    }
}
