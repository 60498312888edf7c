//! Contact sheets: pictures of one size in a grid, with labels of its columns and rows.

use super::{Picture, Size, label::Letters, sheet::GAP};
use crate::error::{Error, Result};

/// Most pixels of a side of the grid: with labels it fits into WebP, which holds 16383.
const MAX_GRID: usize = 12_000;
/// Minimum width of cells, for labels to fit.
const MIN_CELL: usize = 192;
/// The width of cells for which letters have the size of the font; wider ones have larger ones.
const PER_SIZE: usize = 256;
/// The largest letters, of the font's.
const MAX_FACTOR: usize = 8;
/// Letters in a line of a row's label.
const ROW_LETTERS: usize = 20;
/// Most lines of a column's label, and of the title.
const COLUMN_LINES: usize = 6;
const TITLE_LINES: usize = 4;

/// The labels of a contact sheet, and what stands above it.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    /// The picture that all cells come from, shown small.
    pub source: Option<Picture>,
    /// Paragraphs above the grid.
    pub title: Vec<String>,
    /// The labels of the columns.
    pub columns: Vec<String>,
    /// The labels of the rows; none for a single row that needs none.
    pub rows: Vec<String>,
}

impl Contact {
    /// Arranges pictures of one size, row by row, on white, in the colour profile of the first.
    ///
    /// Small ones are enlarged pixel by pixel; large ones are reduced until the grid is at most
    /// 12000 pixels wide and high.
    pub fn sheet(&self, cells: &[Picture]) -> Result<Picture> {
        let across = self.columns.len();
        let down = self.rows.len().max(1);
        let size = size_of(cells, (across, down))?;
        let cell = fitted(size, (across, down));
        let letters = Letters {
            factor: (cell.width / PER_SIZE).clamp(1, MAX_FACTOR),
        };
        let grid = Grid::of(self, cell, letters);
        let mut page = grid.page(down);
        page.profile.clone_from(&cells[0].profile);
        for (index, picture) in cells.iter().enumerate() {
            let (left, top) = grid.corner(index / across, index % across);
            page.put(&scaled(picture, cell), left, top);
        }
        Ok(page)
    }

    fn column_labels(&self, cell: Size, letters: Letters) -> Vec<Picture> {
        let height = letters.height(COLUMN_LINES);
        let label = |text: &String| letters.block(text, cell.width, height);
        self.columns.iter().map(label).collect()
    }

    fn row_labels(&self, cell: Size, letters: Letters) -> Vec<Picture> {
        let width = letters.width(ROW_LETTERS);
        let label = |text: &String| letters.block(text, width, cell.height);
        self.rows.iter().map(label).collect()
    }

    /// The source and the title beside it, if there is one of them.
    fn header(&self, width: usize, letters: Letters) -> Option<Picture> {
        let height = letters.height(TITLE_LINES);
        let source = self.source.as_ref();
        let source = source.map(|source| source.resized(within(source.size, width / 3, height)));
        let left = source.as_ref().map_or(0, |source| source.size.width);
        let title = self.title.join("\n");
        let title = (!title.is_empty()).then(|| letters.block(&title, width - left, height));
        let parts = source.iter().chain(&title);
        let height = parts.map(|part| part.size.height).max()?;
        let mut header = Picture::blank(Size::new(width, height));
        if let Some(source) = source {
            header.put(&source, 0, 0);
        }
        if let Some(title) = title {
            header.put(&title, left, (height - title.size.height) / 2);
        }
        Some(header)
    }
}

/// The parts of a sheet beside its cells, and where these are.
struct Grid {
    cell: Size,
    header: Option<Picture>,
    columns: Vec<Picture>,
    rows: Vec<Picture>,
    /// The first cell.
    left: usize,
    top: usize,
}

impl Grid {
    fn of(contact: &Contact, cell: Size, letters: Letters) -> Self {
        let columns = contact.column_labels(cell, letters);
        let rows = contact.row_labels(cell, letters);
        let left = rows.iter().map(|label| label.size.width).max().unwrap_or(0);
        let width = left + columns.len() * (cell.width + GAP) - GAP;
        let header = contact.header(width, letters);
        let above = header.as_ref().map_or(0, |header| header.size.height);
        let labels = columns.iter().map(|label| label.size.height);
        let top = above + labels.max().unwrap_or(0);
        Self {
            cell,
            header,
            columns,
            rows,
            left,
            top,
        }
    }

    /// The corner of a cell.
    fn corner(&self, row: usize, column: usize) -> (usize, usize) {
        (
            self.left + column * (self.cell.width + GAP),
            self.top + row * (self.cell.height + GAP),
        )
    }

    /// A sheet of so many rows without its cells.
    fn page(&self, rows: usize) -> Picture {
        let (right, bottom) = self.corner(rows, self.columns.len());
        let mut page = Picture::blank(Size::new(right - GAP, bottom - GAP));
        if let Some(header) = &self.header {
            page.put(header, 0, 0);
        }
        for (column, label) in self.columns.iter().enumerate() {
            let (left, top) = self.corner(0, column);
            let space = self.cell.width.saturating_sub(label.size.width);
            page.put(label, left + space / 2, top - label.size.height);
        }
        for (row, label) in self.rows.iter().enumerate() {
            let (_, top) = self.corner(row, 0);
            let space = self.cell.height.saturating_sub(label.size.height);
            page.put(label, 0, top + space / 2);
        }
        page
    }
}

/// The size of all cells, which have to fill the grid.
fn size_of(cells: &[Picture], (across, down): (usize, usize)) -> Result<Size> {
    let Some(size) = cells.first().map(Picture::size) else {
        return Err(Error::setting("there are no pictures for a contact sheet"));
    };
    if cells.len() != across * down {
        let count = cells.len();
        let reason = format!("{count} pictures do not fill {down} rows of {across}");
        return Err(Error::setting(reason));
    }
    match cells.iter().map(Picture::size).find(|other| *other != size) {
        None => Ok(size),
        Some(other) => Err(Error::setting(format!(
            "pictures of {size} and {other} do not fit into one sheet"
        ))),
    }
}

/// The size of a cell in the grid.
fn fitted(size: Size, (across, down): (usize, usize)) -> Size {
    let factor = MIN_CELL.div_ceil(size.width);
    let enlarged = Size::new(factor * size.width, factor * size.height);
    let room = |count: usize| (MAX_GRID / count).saturating_sub(GAP);
    within(enlarged, room(across), room(down))
}

/// The size, or a smaller one of the same aspect that is at most so wide and high.
fn within(size: Size, width: usize, height: usize) -> Size {
    let Size {
        width: w,
        height: h,
    } = size;
    let (width, height) = (width.min(w), height.min(h));
    let narrower = Size::new(width, width * h / w);
    match narrower.height <= height {
        true => narrower.at_least_one(),
        false => Size::new(height * w / h, height).at_least_one(),
    }
}

/// The picture at this size: pixel by pixel where that is a multiple of its own.
fn scaled(picture: &Picture, to: Size) -> Picture {
    let Size { width, height } = picture.size;
    let factor = to.width / width;
    match to == Size::new(factor * width, factor * height) {
        true => picture.magnified(factor),
        false => picture.resized(to),
    }
}

impl Picture {
    /// Pastes as much of a part as lies within.
    fn put(&mut self, part: &Self, left: usize, top: usize) {
        let room = |side: usize, start: usize| side.saturating_sub(start);
        let width = room(self.size.width, left).min(part.size.width);
        let height = room(self.size.height, top).min(part.size.height);
        if width > 0 && height > 0 {
            self.paste(&part.window(0, 0, Size::new(width, height)), left, top);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::picture::CHANNELS;

    fn plain(size: Size, byte: u8) -> Picture {
        Picture::new(size, vec![byte; CHANNELS * size.pixels()]).unwrap()
    }

    fn labels(of: &str, count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("{of} {n}")).collect()
    }

    fn at(picture: &Picture, x: usize, y: usize) -> u8 {
        picture.pixels()[CHANNELS * (y * picture.size().width + x)]
    }

    /// Whether a part of the sheet has black letters.
    fn has_ink(picture: &Picture, x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> bool {
        y.into_iter()
            .any(|y| x.clone().any(|x| at(picture, x, y) == 0))
    }

    #[test]
    fn cells_lie_in_their_rows_and_labels_beside_them() {
        let small = Size::new(64, 32);
        let cells: Vec<_> = (1..=6).map(|n| plain(small, 20 * n)).collect();
        let contact = Contact {
            title: vec!["bird".into()],
            columns: labels("tau", 3),
            rows: labels("amplify", 2),
            ..Contact::default()
        };
        let sheet = contact.sheet(&cells).unwrap();
        // A line of text takes 15 + 12; "amplify 1" takes 9 letters of 9, and 12.
        let (left, top) = (9 * 9 + 12, 2 * 27);
        assert_eq!(
            sheet.size(),
            Size::new(left + 3 * 196 - 4, top + 2 * 100 - 4)
        );
        for (index, cell) in cells.iter().enumerate() {
            let (x, y) = (left + index % 3 * 196, top + index / 3 * 100);
            for (x, y) in [(x, y), (x + 191, y + 95)] {
                assert_eq!(at(&sheet, x, y), cell.pixels()[0], "cell {index}");
            }
            assert!(x + 192 >= sheet.size().width || at(&sheet, x + 192, y) == 255);
        }
        for column in 0..3 {
            let start = left + column * 196;
            assert!(
                has_ink(&sheet, start..start + 192, 27..54),
                "column {column}"
            );
        }
        for row in 0..2 {
            let start = top + row * 100;
            assert!(has_ink(&sheet, 0..left, start..start + 96), "row {row}");
        }
        assert!(has_ink(&sheet, 0..100, 0..27), "the title");
    }

    #[test]
    fn a_single_row_may_be_without_a_label_and_the_source_stands_above() {
        let cells = [
            plain(Size::new(200, 100), 10),
            plain(Size::new(200, 100), 20),
        ];
        let contact = Contact {
            source: Some(plain(Size::new(100, 60), 99)),
            columns: labels("tau", 2),
            ..Contact::default()
        };
        let sheet = contact.sheet(&cells).unwrap();
        assert_eq!(sheet.size(), Size::new(404, 60 + 27 + 100));
        assert_eq!([at(&sheet, 99, 59), at(&sheet, 100, 59)], [99, 255]);
        assert_eq!([at(&sheet, 0, 87), at(&sheet, 403, 186)], [10, 20]);
    }

    #[test]
    fn large_cells_have_larger_letters_and_no_sheet_is_too_large_for_a_format() {
        let cells = vec![plain(Size::new(1024, 512), 128); 40];
        let contact = Contact {
            columns: labels(&"a long label ".repeat(40), 40),
            rows: vec!["row ".repeat(100)],
            title: vec!["word ".repeat(1000)],
            source: Some(plain(Size::new(4, 9000), 0)),
        };
        let sheet = contact.sheet(&cells).unwrap();
        assert!(
            sheet.size().width <= 12_500 && sheet.size().height < 1000,
            "{sheet:?}"
        );
        let one = Contact {
            columns: vec!["x".into()],
            ..Contact::default()
        };
        let sheet = one.sheet(&cells[..1]).unwrap();
        assert_eq!(sheet.size(), Size::new(1024, 4 * 27 + 512));
    }

    #[test]
    fn cells_of_any_shape_make_a_sheet() {
        for size in [Size::new(1, 1), Size::new(8, 9000), Size::new(9000, 8)] {
            let cells = vec![plain(size, 1); 6];
            let contact = Contact {
                source: Some(cells[0].clone()),
                title: vec!["bird".into(), String::new()],
                columns: labels("control", 3),
                rows: labels("self-replace", 2),
            };
            contact.sheet(&cells).unwrap();
        }
    }

    #[test]
    fn what_fills_no_grid_is_refused() {
        let contact = Contact {
            columns: labels("tau", 2),
            ..Contact::default()
        };
        let error = |cells: &[Picture]| contact.sheet(cells).unwrap_err().to_string();
        let [a, b] = [plain(Size::new(2, 2), 1), plain(Size::new(2, 3), 1)];
        assert!(error(&[]).contains("no pictures"));
        assert!(error(slice::from_ref(&a)).contains("1 pictures do not fill 1 rows of 2"));
        assert!(error(&[a, b]).contains("2x2 and 2x3"));
    }
}
