//! Ten edits: pictures above, what became of them below.

use std::path::Path;

use anyhow::Result;
use icd::picture::{Size, sheet::sheet};

use super::{
    bench::Bench,
    edits::{pair, usual},
    page::Page,
    world::SIDE,
};

/// Edits of the strip: the first pairs of the table of edits.
const COUNT: u64 = 10;
/// Edits side by side.
const ACROSS: usize = 5;
/// A picture of the strip.
const SIZE: Size = Size::new(3 * SIDE / 2, 3 * SIDE / 2);

/// Draws the strip, and lists its captions.
pub(super) fn draw(bench: &Bench, file: &Path, page: &mut Page) -> Result<()> {
    page.section("The strip");
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for index in 0..COUNT {
        let pair = pair(index);
        let (source, target) = pair.captions();
        let before = pair.source.render();
        let after = usual(bench, &pair, index)?;
        page.line(&format!("{}. {source} → {target}", index + 1));
        above.push(before.resized(SIZE));
        below.push(after.resized(SIZE));
    }
    let (above, below) = (above.chunks(ACROSS), below.chunks(ACROSS));
    let rows: Vec<_> = above
        .zip(below)
        .flat_map(|(above, below)| [above.to_vec(), below.to_vec()])
        .collect();
    Ok(sheet(&rows)?.write(file)?)
}
