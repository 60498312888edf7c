//! Labels below pictures, in a bitmap font of fixed width.

use std::{borrow::Cow, convert::Infallible};

use embedded_graphics::{
    Drawable, Pixel,
    draw_target::DrawTarget,
    geometry::{OriginDimensions, Point, Size as Extent},
    mono_font::{MonoFont, MonoTextStyle, iso_8859_1::FONT_9X15},
    pixelcolor::{Rgb888, RgbColor},
    text::{Baseline, Text},
};

use super::{CHANNELS, Picture, Size, sheet::sheet};
use crate::error::Result;

/// Western European letters; others are drawn as question marks.
const FONT: MonoFont = FONT_9X15;
/// White pixels around the text.
const MARGIN: usize = 6;
/// Minimum width of pictures, for the labels to fit.
const MIN_WIDTH: usize = 288;
/// Longer labels are truncated.
const MAX_LINES: usize = 8;

/// Arranges labelled pictures of one size in rows of `across`, on white.
///
/// Small pictures are enlarged by an integer factor.
pub fn gallery(labelled: &[(Picture, String)], across: usize) -> Result<Picture> {
    let width = labelled.iter().map(|(picture, _)| enlarged_width(picture));
    let columns = (width.max().unwrap_or(0).saturating_sub(2 * MARGIN)) / advance();
    let labels = labelled
        .iter()
        .map(|(_, label)| wrapped(label, columns, MAX_LINES));
    let labels: Vec<_> = labels.collect();
    let max = labels.iter().map(Vec::len).max().unwrap_or(0);
    let cells: Vec<_> = labelled
        .iter()
        .zip(&labels)
        .map(|((picture, _), lines)| with_lines_below(&enlarged(picture), lines, max))
        .collect();
    let rows: Vec<_> = cells.chunks(across.max(1)).map(<[_]>::to_vec).collect();
    sheet(&rows)
}

/// Width of a character cell in pixels.
fn advance() -> usize {
    (FONT.character_size.width + FONT.character_spacing) as usize
}

fn enlarged_width(picture: &Picture) -> usize {
    let width = picture.size().width;
    width * MIN_WIDTH.div_ceil(width)
}

fn enlarged(picture: &Picture) -> Picture {
    let Size { width, height } = picture.size();
    let factor = enlarged_width(picture) / width;
    match factor {
        1 => picture.clone(),
        _ => picture.resized(Size::new(width * factor, height * factor)),
    }
}

/// The lines of a label of so many columns, at most `most`.
fn wrapped(label: &str, columns: usize, most: usize) -> Vec<String> {
    let lines = textwrap::wrap(label, columns.max(1));
    let mut lines: Vec<_> = lines.into_iter().map(Cow::into_owned).collect();
    if lines.len() > most.max(1) {
        lines.truncate(most.max(1) - 1);
        lines.push("..".into());
    }
    lines
}

/// The picture with text below it, and room for `room` lines.
fn with_lines_below(picture: &Picture, lines: &[String], room: usize) -> Picture {
    let line = FONT.character_size.height as usize;
    let Size { width, height } = picture.size();
    let size = Size::new(width, height + room * line + 2 * MARGIN);
    let mut page = picture.clone();
    page.size = size;
    page.pixels.resize(CHANNELS * size.pixels(), u8::MAX);
    write(
        &mut page,
        lines,
        Point::new(MARGIN as i32, (height + MARGIN) as i32),
    );
    page
}

/// Writes lines to the right of and below a corner.
fn write(page: &mut Picture, lines: &[String], corner: Point) {
    let style = MonoTextStyle::new(&FONT, Rgb888::BLACK);
    let text = lines.join("\n");
    let Ok(_) = Text::with_baseline(&text, corner, style, Baseline::Top).draw(page);
}

/// Letters of a multiple of the font's size.
#[derive(Clone, Copy)]
pub(super) struct Letters {
    pub(super) factor: usize,
}

impl Letters {
    /// A text in black on white with a margin, wrapped to this width in pixels and cut to this
    /// height; as large as it has to be.
    pub(super) fn block(self, text: &str, width: usize, height: usize) -> Picture {
        let line = FONT.character_size.height as usize;
        let room =
            |side: usize, part: usize| (side / self.factor).saturating_sub(2 * MARGIN) / part;
        let lines = wrapped(text, room(width, advance()), room(height, line));
        let longest = lines.iter().map(|line| line.chars().count()).max();
        let size = Size::new(
            longest.unwrap_or(0) * advance() + 2 * MARGIN,
            lines.len() * line + 2 * MARGIN,
        );
        let mut page = Picture::blank(size);
        write(&mut page, &lines, Point::new(MARGIN as i32, MARGIN as i32));
        page.magnified(self.factor)
    }

    /// The height of a block of so many lines.
    pub(super) fn height(self, lines: usize) -> usize {
        self.factor * (lines * FONT.character_size.height as usize + 2 * MARGIN)
    }

    /// The width of a block of so many letters.
    pub(super) fn width(self, letters: usize) -> usize {
        self.factor * (letters * advance() + 2 * MARGIN)
    }
}

impl OriginDimensions for Picture {
    fn size(&self) -> Extent {
        Extent::new(self.size.width as u32, self.size.height as u32)
    }
}

impl DrawTarget for Picture {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            let (x, y) = (x as usize, y as usize); // negative coordinates become huge
            if x < self.size.width && y < self.size.height {
                let start = CHANNELS * (y * self.size.width + x);
                let rgb = [colour.r(), colour.g(), colour.b()];
                self.pixels[start..start + CHANNELS].copy_from_slice(&rgb);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize) -> Picture {
        let size = Size::new(width, height);
        Picture::new(size, vec![128; CHANNELS * size.pixels()]).unwrap()
    }

    /// Whether any letter's pixel lies in this row of the picture.
    fn has_ink(picture: &Picture, row: usize) -> bool {
        let line = CHANNELS * picture.size().width;
        picture.pixels()[row * line..][..line].contains(&0)
    }

    #[test]
    fn words_stand_below_and_small_pictures_grow() {
        let drawn = gallery(&[(grey(64, 32), "a bird".into())], 4).unwrap();
        // 288 is not a multiple of 64: the next one is 320.
        assert_eq!(drawn.size(), Size::new(320, 160 + 15 + 12));
        let (above, below) = (0..160, 160..drawn.size().height);
        assert!(above.into_iter().all(|row| !has_ink(&drawn, row)));
        assert!(below.into_iter().any(|row| has_ink(&drawn, row)));
    }

    #[test]
    fn every_label_gets_the_room_of_the_longest() {
        let long = "word ".repeat(30);
        let labelled = [(grey(320, 10), "a".into()), (grey(320, 10), long)];
        let drawn = gallery(&labelled, 1).unwrap();
        // 34 letters a line: 150 take 5 lines.
        assert_eq!(drawn.size().height, 2 * (10 + 5 * 15 + 12) + 4);
    }

    #[test]
    fn a_block_is_as_large_as_its_text_and_larger_letters_take_more() {
        let size = |factor, text: &str| Letters { factor }.block(text, 120, 60).size();
        // 12 letters a line, 3 lines.
        assert_eq!(size(1, "tau 0.7"), Size::new(7 * 9 + 12, 15 + 12));
        assert_eq!(
            size(1, "a grey horse runs"),
            Size::new(12 * 9 + 12, 2 * 15 + 12)
        );
        assert_eq!(size(1, &"horse ".repeat(9)).height, 3 * 15 + 12);
        // 5 letters a line, one line.
        assert_eq!(size(2, "tau"), Size::new(2 * (3 * 9 + 12), 2 * (15 + 12)));
        assert_eq!(
            size(2, "tau 0.7"),
            Size::new(2 * (2 * 9 + 12), 2 * (15 + 12))
        );
        let large = Letters { factor: 2 }.block("x", 120, 60);
        for (row, line) in large
            .pixels()
            .chunks(CHANNELS * large.size().width)
            .enumerate()
        {
            let (pixels, _) = line.as_chunks::<CHANNELS>();
            assert!(pixels.chunks(2).all(|pair| pair[0] == pair[1]), "row {row}");
        }
    }

    #[test]
    fn endless_labels_end_in_dots_and_unknown_letters_do_no_harm() {
        let lines = wrapped(&"woodpecker".repeat(100), 20, MAX_LINES);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.last().map(String::as_str), Some(".."));
        assert!(gallery(&[(grey(300, 5), "鳥 🐦 ü".into())], 1).is_ok());
        assert!(gallery(&[], 1).is_err());
    }
}
