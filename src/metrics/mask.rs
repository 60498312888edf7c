//! The pixels of a picture that an edit may change.

use crate::{
    error::{Error, Result},
    picture::{Picture, Size},
};

/// A mask of whole pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    size: Size,
    edited: Vec<bool>,
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// What the edit may change.
    Edited,
    /// The rest.
    Preserved,
}

impl Mask {
    /// A mask of these pixels, row by row: whether the edit may change each.
    pub fn new(size: Size, edited: Vec<bool>) -> Result<Self> {
        match edited.len() == size.pixels() {
            true => Ok(Self { size, edited }),
            false => Err(Error::setting(format!(
                "{} values do not make a mask of {size}",
                edited.len()
            ))),
        }
    }

    /// The mask of a picture: what is brighter than middle grey may change.
    pub fn of_picture(picture: &Picture) -> Self {
        let pixels = picture.pixels().chunks_exact(3);
        let is_bright = |pixel: &[u8]| {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
            299 * r + 587 * g + 114 * b >= 128_000
        };
        Self {
            size: picture.size(),
            edited: pixels.map(is_bright).collect(),
        }
    }

    /// The mask as a picture of white and black.
    pub fn to_picture(&self) -> Picture {
        let bytes = self.edited.iter().flat_map(|edited| match edited {
            true => [u8::MAX; 3],
            false => [0; 3],
        });
        Picture::new(self.size, bytes.collect()).expect("three bytes for each pixel")
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Whether each pixel may change, row by row.
    pub fn edited(&self) -> &[bool] {
        &self.edited
    }

    /// Whether no pixel is in the region.
    pub fn is_empty(&self, region: Region) -> bool {
        !self.edited.iter().any(|edited| region.has(*edited))
    }

    /// The picture with all pixels outside of the region black.
    pub fn applied(&self, picture: &Picture, region: Region) -> Result<Picture> {
        if picture.size() != self.size {
            return Err(Error::setting(format!(
                "the mask has {} pixels, the picture {}",
                self.size,
                picture.size()
            )));
        }
        let pixels = picture.pixels().chunks_exact(3).zip(&self.edited);
        let bytes = pixels.flat_map(|(pixel, edited)| match region.has(*edited) {
            true => [pixel[0], pixel[1], pixel[2]],
            false => [0; 3],
        });
        Picture::new(self.size, bytes.collect())
    }
}

impl Region {
    fn has(self, edited: bool) -> bool {
        edited == (self == Self::Edited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: &[u8]) -> Picture {
        let pixels = bytes.iter().flat_map(|&byte| [byte; 3]).collect();
        Picture::new(Size::new(bytes.len(), 1), pixels).unwrap()
    }

    #[test]
    fn what_is_outside_of_a_region_is_black() {
        let mask = Mask::of_picture(&row(&[0, 127, 128, 255]));
        assert_eq!(mask.edited(), [false, false, true, true]);
        let picture = row(&[9, 8, 7, 6]);
        assert_eq!(
            mask.applied(&picture, Region::Edited).unwrap(),
            row(&[0, 0, 7, 6])
        );
        assert_eq!(
            mask.applied(&picture, Region::Preserved).unwrap(),
            row(&[9, 8, 0, 0])
        );
        assert!(!mask.is_empty(Region::Edited) && !mask.is_empty(Region::Preserved));
        assert_eq!(Mask::of_picture(&mask.to_picture()), mask);
        let full = Mask::of_picture(&row(&[255, 255]));
        assert!(full.is_empty(Region::Preserved) && !full.is_empty(Region::Edited));
        let error = full
            .applied(&picture, Region::Edited)
            .unwrap_err()
            .to_string();
        assert!(error.contains("2x1") && error.contains("4x1"), "{error}");
        assert!(Mask::new(Size::new(2, 2), vec![true; 3]).is_err());
    }
}
