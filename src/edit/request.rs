//! What an edit is to do, and the rows and the control that follow from it.

use super::{ControlPlan, Moment, Rows, Steer, Watch, plan::Stage, read};
use crate::{
    error::Result,
    guidance::Guidance,
    model::{Conditioning, Model, attention::Untouched},
    schedule::Path,
};

/// What an edit is to do.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What the picture shows.
    pub source: String,
    /// What it should show, once per edit.
    pub targets: Vec<String>,
    /// The guidance of the targets.
    pub guidance: Guidance,
    /// The prompt of the targets while their guidance is not yet full; their
    /// own where there is none.
    pub early_prompt: Option<String>,
    /// What holds the edit to the source.
    pub control: ControlPlan,
    /// Whether the source row is wanted even where no control reads it.
    pub keep_source: bool,
}

impl Edit {
    /// Reads the prompts: what each row is told, and who steers the walk.
    pub(super) fn stage(
        &self,
        model: &Model,
        path: &Path,
        watch: &mut Watch,
    ) -> Result<(Rows, Box<dyn Steer>)> {
        let prompts: Vec<&str> = [&self.source]
            .into_iter()
            .chain(&self.targets)
            .map(String::as_str)
            .collect();
        let text = read(model, &prompts, &names(prompts.len()), watch)?;
        let control = self
            .control
            .control(&text.prompts, &self.walk(model, path))?;
        let with_source = self.keep_source || control.is_some();
        let first = u32::from(!with_source);
        let rows: Vec<u32> = (first..prompts.len() as u32).collect();
        let states = text.states.rows(&rows)?;
        let early = self.early(model, &rows, &states, watch)?;
        let guidance = rows.iter().map(|&row| {
            if row == 0 {
                Guidance::NONE
            } else {
                self.guidance
            }
        });
        let rows = Rows {
            guidance: guidance.collect(),
            early,
            text: states,
        };
        let steer: Box<dyn Steer> = match control {
            Some(control) => Box::new(control),
            None => Box::new(Untouched),
        };
        Ok((rows, steer))
    }

    /// What the control must know of the walk.
    pub fn walk(&self, model: &Model, path: &Path) -> Stage {
        let is_early = |t| self.early_prompt.is_some() && self.guidance.tau().is_early(t);
        Stage {
            steps: path.jumps(),
            early_steps: path
                .segments()
                .filter(|segment| is_early(segment.from))
                .count(),
            attentive_levels: model.unet_config().attentive_levels(),
        }
    }

    /// The early text of each row, under the pooled text of the late one.
    fn early(
        &self,
        model: &Model,
        rows: &[u32],
        late: &Conditioning,
        watch: &mut Watch,
    ) -> Result<Option<Conditioning>> {
        let Some(prompt) = &self.early_prompt else {
            return Ok(None);
        };
        let text = read(model, &[&self.source, prompt], &["src", "early"], watch)?;
        watch(Moment::Begins("staging the early prompt"));
        let rows: Vec<u32> = rows.iter().map(|&row| row.min(1)).collect();
        Ok(Some(text.states.rows(&rows)?.pooled_as(late)))
    }
}

/// The names of the rows in dumps: src, tgt, tgt-2, ..
fn names(count: usize) -> Vec<&'static str> {
    const NAMES: [&str; 2] = ["src", "tgt"];
    NAMES[..count.min(2)].to_vec()
}
