//! `icd edit --sweep`: the cells of a sheet, each an edit like any other.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::{ArgMatches, Command};
use icd::Error;

use super::{EditArgs, sheet::Sheet};
use crate::cli::{
    Console,
    args::{output::is_stdout, sweep::Place, values::Seed},
    first_paragraph,
    grid::Grid,
    settings::Settings,
    typed::Typed,
};

/// Flags of the sheet alone.
const SHEET: [&str; 3] = ["sweep", "pick", "output"];

/// Flags that say how a run reports, not what it makes.
const REPORT: [&str; 4] = ["dry_run", "json", "quiet", "verbose"];

/// An edit and its settings.
pub(crate) type Call = (EditArgs, Settings);

/// Reads arguments as a command line of `icd edit`.
pub(crate) type Parse<'a> = &'a dyn Fn(Vec<OsString>) -> Result<Call>;

/// A sheet of edits of one inversion, or one of them.
pub(crate) enum Sweep {
    Sheet(Sheet),
    Cell(Cell),
}

/// A cell of a sheet.
pub(crate) struct Cell {
    pub(super) place: Place,
    pub(super) args: EditArgs,
    settings: Settings,
    /// What writes it alone.
    pub(super) command: String,
}

impl EditArgs {
    /// Whether this is a sweep.
    pub(crate) fn is_sweep(&self) -> bool {
        !self.sweep.sweep.is_empty() || self.sweep.pick.is_some()
    }
}

impl Sweep {
    /// The sweep of an edit whose flags were `typed`, beside those of its `--from`. All of its
    /// values are checked.
    pub(crate) fn of(
        (base, settings): Call,
        (command, typed): (&Command, &ArgMatches),
        parse: Parse,
    ) -> Result<Self> {
        let grid = Grid::of(&base.sweep.sweep, command, typed)?;
        let is_swept = grid.axes().any(|axis| axis.id == "tgt_prompt");
        let reason = "--sweep: each cell shows one edit: pass one --tgt-prompt, or sweep it";
        ensure!(
            is_swept || base.tgt_prompt.len() == 1,
            Error::setting(reason)
        );
        let typed = with_seed(Typed::of(command, typed), &base);
        if let Some(place) = base.sweep.pick {
            grid.check(place)?;
            let typed = typed.without(&SHEET[..2]);
            return Ok(Self::Cell(Cell::of(&grid, place, typed, parse)?));
        }
        let output = base.checked_sheet()?;
        let typed = typed.without(&SHEET);
        let cell = |place| {
            let typed = match is_stdout(&output) {
                true => typed.clone(),
                false => typed.clone().with("output", name_of(&output, place)),
            };
            Cell::of(&grid, place, typed, parse)
        };
        let cells = grid.places().map(cell).collect::<Result<_>>()?;
        Ok(Self::Sheet(Sheet {
            base,
            settings,
            grid,
            output,
            cells,
        }))
    }

    /// Writes the sheet, or the cell as a result.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Sheet(sheet) => sheet.run(),
            Self::Cell(cell) => cell.run(),
        }
    }
}

impl Cell {
    /// The cell of an edit without its swept flags.
    fn of(grid: &Grid, place: Place, typed: Typed, parse: Parse) -> Result<Self> {
        let values = grid.values(place);
        let with = |typed: Typed, (id, value): &(&str, &str)| typed.with(id, value);
        let typed = values.iter().fold(typed, with);
        let (args, settings) = parse(typed.arguments()).map_err(|error| {
            let Some(usage) = error.downcast_ref::<clap::Error>() else {
                return error;
            };
            let reason = first_paragraph(&usage.to_string());
            Error::setting(format!("{}: {reason}", grid.told(place))).into()
        })?;
        Ok(Self {
            place,
            args,
            settings,
            command: typed.without(&REPORT).shell(),
        })
    }

    /// Writes the cell as a result, and tells what would do so without a sheet.
    fn run(self) -> Result<()> {
        let console = Console::new(self.args.report, false);
        console.note(&format!("command: {}", self.command));
        drop(console);
        self.args.run(self.settings)
    }
}

/// The flags with the seed of all cells, if it is drawn.
fn with_seed(typed: Typed, base: &EditArgs) -> Typed {
    match base.seed {
        Seed::Given(_) => typed,
        Seed::Random => {
            let seed = base.seed.told(&Console::new(base.report, false));
            typed.without(&["seed"]).with("seed", seed.to_string())
        }
    }
}

/// The file of a cell beside its sheet.
fn name_of(sheet: &Path, place: Place) -> PathBuf {
    let mut name = sheet.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{}-{}.", place.row, place.column));
    name.push(sheet.extension().unwrap_or_default());
    sheet.with_file_name(name)
}
