//! The grid of a sweep: its columns and rows, and the flags of its cells.

use anyhow::{Result, bail, ensure};
use clap::{Arg, ArgMatches, Command};
use icd::Error;

use super::{
    args::{
        control,
        sweep::{Axis, Place},
    },
    settings::is_typed,
};

/// Flags beside those of [`control::HEADING`] that change an edit, but not its inversion.
const SWEPT: [&str; 1] = ["tgt_prompt"];

/// Flags beside those of the model on which an inversion depends.
const INVERTED: [&str; 6] = ["image", "latents", "src_prompt", "seed", "size", "fit"];

/// The heading of the model's flags.
const MODEL: &str = "Model";

/// The axes of a sweep.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) columns: Axis,
    pub(crate) rows: Option<Axis>,
}

impl Grid {
    /// The grid of `--sweep`: one axis or two of `command`. A flag that is swept must not be
    /// `typed`, too.
    pub(crate) fn of(axes: &[Axis], command: &Command, typed: &ArgMatches) -> Result<Self> {
        let (columns, rows) = match axes {
            [] => bail!(Error::setting(
                "--pick: there is no sheet to pick from: pass --sweep, or the sheet as --from"
            )),
            [columns] => (columns, None),
            [columns, rows] => (columns, Some(rows)),
            _ => bail!(Error::setting(
                "--sweep: there are columns and rows: pass it twice at most"
            )),
        };
        axes.iter().try_for_each(|axis| check(axis, command))?;
        if let Some(axis) = axes.iter().find(|axis| is_typed(&axis.id, typed)) {
            let flag = flag(&axis.id);
            let reason = format!("--sweep {axis}: {flag} is given, too: leave it out");
            bail!(Error::setting(reason));
        }
        let is_twice = rows.is_some_and(|rows| rows.id == columns.id);
        let reason = || format!("--sweep {columns}: columns and rows are of the same flag");
        ensure!(!is_twice, Error::setting(reason()));
        Ok(Self {
            columns: columns.clone(),
            rows: rows.cloned(),
        })
    }

    fn height(&self) -> usize {
        self.rows.as_ref().map_or(1, |rows| rows.values.len())
    }

    /// All cells, row by row.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        let columns = 1..=self.columns.values.len();
        let row = move |row| columns.clone().map(move |column| Place { row, column });
        (1..=self.height()).flat_map(row)
    }

    /// Fails if there is no such cell.
    pub(crate) fn check(&self, place: Place) -> Result<()> {
        let (across, down) = (self.columns.values.len(), self.height());
        let reason =
            || format!("--pick {place}: the sheet has rows 1 to {down} and columns 1 to {across}");
        let is_in = place.row <= down && place.column <= across;
        ensure!(is_in, Error::setting(reason()));
        Ok(())
    }

    /// The swept flags, the columns' first, with their values in a cell.
    pub(crate) fn values(&self, place: Place) -> Vec<(&str, &str)> {
        let indices = [place.column, place.row];
        let cell = self.axes().zip(indices);
        cell.map(|(axis, index)| (&*axis.id, &*axis.values[index - 1]))
            .collect()
    }

    /// A cell as errors name it.
    pub(crate) fn told(&self, place: Place) -> String {
        let values = self.values(place).into_iter();
        let values = values.map(|(id, value)| format!("{} {value}", flag(id)));
        format!(
            "--sweep: cell {place} ({})",
            values.collect::<Vec<_>>().join(" ")
        )
    }

    /// The columns, and the rows if there are several.
    pub(crate) fn axes(&self) -> impl Iterator<Item = &Axis> {
        [&self.columns].into_iter().chain(&self.rows)
    }
}

/// A flag of this id.
pub(crate) fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

/// Fails on a flag that cannot be swept, and says why.
fn check(axis: &Axis, command: &Command) -> Result<()> {
    let found = command
        .get_arguments()
        .find(|arg| *arg.get_id() == *axis.id);
    let reason = match found {
        Some(arg) if is_swept(arg) => return Ok(()),
        Some(arg) if is_shared(arg) => format!(
            "{} is of the model or the inversion, which all cells share: run an edit for each value",
            flag(&axis.id)
        ),
        found => {
            let swept = command.get_arguments().filter(|arg| is_swept(arg));
            let swept = swept.filter_map(Arg::get_long);
            let swept = swept.collect::<Vec<_>>().join(", ");
            let what = match found {
                Some(_) => "does not control the edit",
                None => "is no flag",
            };
            format!("{} {what}: write one of {swept}", flag(&axis.id))
        }
    };
    bail!(Error::setting(format!("--sweep {axis}: {reason}")))
}

fn is_swept(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(control::HEADING) || SWEPT.contains(&arg.get_id().as_str())
}

fn is_shared(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(MODEL) || INVERTED.contains(&arg.get_id().as_str())
}
