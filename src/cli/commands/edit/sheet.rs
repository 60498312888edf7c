//! The contact sheet of a sweep.

use std::{
    path::{Path, PathBuf},
    slice,
};

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use icd::{
    Error,
    model::Model,
    picture::{Picture, contact::Contact},
    pipeline::{Edited, Pipeline, Workload},
};
use serde_json::{Map, Value, json};

use super::{EditArgs, Given, Prepared, sweep::Cell};
use crate::cli::{
    Console,
    args::{
        output::{beside_name, is_stdout},
        sweep::Axis,
    },
    canvas::ResultSize,
    grid::Grid,
    picture,
    settings::{Settings, number},
    typed::quoted,
    ui::dry_run::{self, Work},
};

/// Edits of one inversion, whose results go into a sheet.
pub(crate) struct Sheet {
    /// The edit without its swept flags.
    pub(super) base: EditArgs,
    pub(super) settings: Settings,
    pub(super) grid: Grid,
    pub(super) output: PathBuf,
    /// Row by row.
    pub(super) cells: Vec<Cell>,
}

impl EditArgs {
    /// The name of the sheet; checks that it can be written, and that nothing else is asked for.
    pub(super) fn checked_sheet(&self) -> Result<PathBuf> {
        let result = &self.result;
        for (flag, is_given) in [
            ("--comparison", result.comparison.is_some()),
            ("--attention-maps", result.attention_maps.is_some()),
            ("--save-latents", result.save_latents.is_some()),
            ("--dump", result.save.dump.is_some()),
        ] {
            let reason =
                format!("{flag} is of one result: pick a cell with --pick, or leave it out");
            ensure!(!is_given, Error::setting(reason));
        }
        let named_after = |input: &Path| beside_name(input, "sweep", ".png");
        let output = self.output.clone();
        let output = output
            .or_else(|| self.input().map(named_after))
            .unwrap_or_default();
        let reason = "-o - writes a picture to stdout: leave out --json";
        ensure!(
            !self.report.json || !is_stdout(&output),
            Error::setting(reason)
        );
        if !self.dry_run {
            result.save.write.check([&output])?;
        }
        Ok(output)
    }
}

impl Sheet {
    /// Edits cell after cell and writes the sheet.
    pub(super) fn run(self) -> Result<()> {
        let mut console = Console::new(self.base.report, false);
        let (input, hash) = self.base.read(&console)?;
        let settings = self.settings.clone().of_input(hash, self.base.input())?;
        let mask = self.base.result.read_mask(&console)?;
        let pipeline = self.base.open(&console)?;
        let prepared = |cell: &Cell| {
            let given = Given {
                input: &input,
                mask: mask.as_ref(),
                settings: settings.clone(),
            };
            let prepared = cell.args.prepared(given, &pipeline, &console);
            prepared.with_context(|| self.grid.told(cell.place))
        };
        let edits: Vec<_> = self.cells.iter().map(prepared).collect::<Result<_>>()?;
        if self.base.dry_run {
            return self.print_plan(&pipeline, &edits, &console);
        }
        let settings = self.settings(settings, (&edits[0], pipeline.model()))?;
        let save = &self.base.result.save;
        save.check_settings(&self.output, &settings)?;
        let inverted = edits[0].inverted(&pipeline, self.base.cache.as_ref(), &mut console)?;
        let requests: Vec<_> = edits.iter().map(|edit| edit.request.clone()).collect();
        let edited = pipeline.edits(&inverted, &requests, &mut console)?;
        let sheet = self.drawn(&pipeline, (&edits, &edited), &mut console)?;
        let own = (!save.no_metadata).then_some(&settings);
        picture::write(&sheet, &self.output, own, save.write.existing())?;
        console.finish();
        self.report(settings, &edits[0], &console)
    }

    /// The settings that repeat the sheet.
    fn settings(
        &self,
        settings: Settings,
        (first, model): (&Prepared, &Model),
    ) -> Result<Settings> {
        let ids: Vec<_> = self.grid.axes().map(|axis| &*axis.id).collect();
        let settings = settings.leaving_out(&ids).with("seed", first.seed);
        settings.made_with(model)
    }

    /// The sheet of the decoded edits.
    fn drawn(
        &self,
        pipeline: &Pipeline,
        (edits, edited): (&[Prepared], &[Edited]),
        console: &mut Console,
    ) -> Result<Picture> {
        let latents: Vec<_> = edited.iter().map(|edited| &edited.targets).collect();
        let decoded = pipeline.decode(&Tensor::cat(&latents, 0)?, console)?;
        let mut cells = Vec::new();
        for ((edit, edited), decoded) in edits.iter().zip(edited).zip(&decoded) {
            let finish = edit.finish(console);
            cells.extend(finish.pictures(slice::from_ref(decoded), edited, ResultSize::Work));
        }
        let cells: Vec<_> = cells.into_iter().collect::<Result<_>>()?;
        Ok(self.contact(&edits[0]).sheet(&cells)?)
    }

    /// What stands around the cells.
    fn contact(&self, first: &Prepared) -> Contact {
        let placed = first.frame.placed();
        let mut title = vec![format!("source: {}", first.request.source)];
        if !self.grid.axes().any(|axis| axis.id == "tgt_prompt") {
            title.push(format!("edit: {}", first.request.targets[0]));
        }
        Contact {
            source: placed.map(|placed| placed.picture.clone()),
            title,
            columns: labels(&self.grid.columns),
            rows: self.grid.rows.as_ref().map_or_else(Vec::new, labels),
        }
    }

    /// What is told of the cells.
    fn cells(&self) -> Value {
        let cell = |cell: &Cell| {
            let values = self.grid.values(cell.place).into_iter();
            let values = values.map(|(id, value)| (id.to_owned(), number(value)));
            json!({
                "row": cell.place.row,
                "column": cell.place.column,
                "values": values.collect::<Map<_, _>>(),
                "command": cell.command,
            })
        };
        self.cells.iter().map(cell).collect()
    }

    fn report(&self, settings: Settings, first: &Prepared, console: &Console) -> Result<()> {
        let mut facts = Value::Object(settings.facts());
        facts["source"] = json!(first.request.source);
        facts["cells"] = self.cells();
        console.result(&self.output, 0, facts)?;
        if !self.base.result.save.no_metadata && !is_stdout(&self.output) {
            let file = quoted(&self.output.to_string_lossy());
            console.note(&format!(
                "icd edit --from {file} --pick ROW,COLUMN writes a cell as the result"
            ));
        }
        Ok(())
    }

    /// Tells what the edits would do and take.
    fn print_plan(&self, pipeline: &Pipeline, edits: &[Prepared], console: &Console) -> Result<()> {
        console.clear();
        let model = pipeline.model();
        let work = workload(model, edits)?;
        let work = Work::of(pipeline, work, edits[0].frame.worked(model)?)?;
        let axes: Vec<_> = self.grid.axes().map(Axis::to_string).collect();
        let told = (&axes[..], self.cells());
        let model = (model, &edits[0].request.method);
        dry_run::print_sheet(model, told, &work, self.base.report.json)
    }
}

/// What the networks have to do for edits that share their inversion.
fn workload(model: &Model, edits: &[Prepared]) -> Result<Workload> {
    let mut work = edits[0].workload(model)?;
    let inversion = edits[0].inversion_evaluations(model)?.len();
    for edit in &edits[1..] {
        let own = edit.workload(model)?;
        work.evaluations.extend(&own.evaluations[inversion..]);
        work.decoded += own.decoded;
    }
    Ok(work)
}

/// The labels of the values of a flag, with the numbers that pick them; prompts speak for
/// themselves.
fn labels(axis: &Axis) -> Vec<String> {
    let flag = axis.id.replace('_', "-");
    let label = |(index, value): (usize, &String)| match &*axis.id {
        "tgt_prompt" => format!("{}: {value}", index + 1),
        _ => format!("{}: {flag} {value}", index + 1),
    };
    axis.values.iter().enumerate().map(label).collect()
}
