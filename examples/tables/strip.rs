//! A strip of ten edits: pictures above, what became of them below.

use std::path::Path;

use anyhow::Result;
use icd::{
    edit::ControlPlan,
    guidance::{Guidance, Tau},
    picture::{Size, sheet::sheet},
};

use super::{
    bench::{Bench, noise_seed},
    edits::pair,
    page::Page,
    world::SIDE,
};

/// Edits of the strip: the first pairs of the table of edits.
const COUNT: u64 = 10;
/// A picture of the strip.
const SIZE: Size = Size::new(2 * SIDE, 2 * SIDE);

/// Draws the strip, and lists its captions.
pub(super) fn draw(bench: &Bench, file: &Path, page: &mut Page) -> Result<()> {
    let guidance = Guidance::new(bench.strength(), Tau::usual_for(bench.few.path()))?;
    page.section("The strip");
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for index in 0..COUNT {
        let pair = pair(index);
        let (source, target) = pair.captions();
        let before = pair.source.render();
        let noise = bench.invert(&bench.few, &before, &source, noise_seed(index))?;
        let how = (&ControlPlan::default(), guidance);
        let after = bench.edit(&bench.few, &noise, [&source, &target], how)?;
        page.line(&format!("{}. {source} → {target}", index + 1));
        above.push(before.resized(SIZE));
        below.push(after.resized(SIZE));
    }
    Ok(sheet(&[above, below])?.write(file)?)
}
