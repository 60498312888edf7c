//! Pictures side by side.

use super::{CHANNELS, Picture, Size};
use crate::error::{Error, Result};

/// White pixels between two pictures.
pub(super) const GAP: usize = 4;

/// Arranges rows of pictures of one size, each row of any length, on white, in the colour
/// profile of the first.
pub fn sheet(rows: &[Vec<Picture>]) -> Result<Picture> {
    let all = || rows.iter().flatten();
    let Some(cell) = all().next().map(Picture::size) else {
        return Err(Error::setting("there are no pictures to put side by side"));
    };
    if let Some(other) = all().map(Picture::size).find(|&size| size != cell) {
        let reason = format!("pictures of {cell} and {other} do not fit side by side");
        return Err(Error::setting(reason));
    }
    let across = rows.iter().map(Vec::len).max().unwrap_or(0);
    let size = Size::new(
        across * (cell.width + GAP) - GAP,
        rows.len() * (cell.height + GAP) - GAP,
    );
    let mut sheet = Picture::new(size, vec![u8::MAX; CHANNELS * size.pixels()])?;
    sheet.profile = all().next().and_then(|picture| picture.profile.clone());
    for (i, row) in rows.iter().enumerate() {
        for (j, picture) in row.iter().enumerate() {
            sheet.paste(picture, j * (cell.width + GAP), i * (cell.height + GAP));
        }
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, byte: u8) -> Picture {
        Picture::new(Size::new(width, 1), vec![byte; CHANNELS * width]).unwrap()
    }

    #[test]
    fn pictures_lie_in_their_rows_with_white_between() {
        let rows = [vec![plain(2, 10), plain(2, 20)], vec![plain(2, 30)]];
        let drawn = sheet(&rows).unwrap();
        assert_eq!(drawn.size(), Size::new(8, 6));
        let red = |x: usize, y: usize| drawn.pixels()[CHANNELS * (8 * y + x)];
        assert_eq!(
            [red(0, 0), red(1, 0), red(2, 0), red(5, 0)],
            [10, 10, 255, 255]
        );
        assert_eq!(
            [red(6, 0), red(7, 0), red(0, 5), red(6, 5)],
            [20, 20, 30, 255]
        );
    }

    #[test]
    fn a_sheet_has_the_profile_of_its_pictures() {
        let profile = Some([7; 20].into());
        let picture = plain(2, 10).with_profile(profile.clone());
        let heated = picture.heated(&[1.0], Size::new(1, 1)).unwrap();
        for shown in [picture.clone(), picture.resized(Size::new(9, 4)), heated] {
            let drawn = sheet(&[vec![shown]]).unwrap();
            assert_eq!(drawn.profile(), profile.as_deref());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(sheet(&[]).is_err());
        let error = sheet(&[vec![plain(2, 0), plain(3, 0)]])
            .unwrap_err()
            .to_string();
        assert!(error.contains("2x1") && error.contains("3x1"), "{error}");
    }
}
