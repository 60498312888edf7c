//! Fitting photos to the size of the network's input.

use std::fmt;

use clap::{ValueEnum, builder::PossibleValue};

use super::{Picture, Size, window::Window};
use crate::error::{Error, Result, Setting};

/// The sides of latents are at most 8 times smaller than those of pictures, whose sides are
/// multiples of 8.
pub(crate) const STEP: usize = 8;
/// The longest side of pictures that networks work on.
const LONGEST: usize = 8192;

/// The size, if networks can work on it: sides that are multiples of 8, from 8 to 8192.
pub fn workable(size: Size) -> Result<Size> {
    let is_side = |side| (STEP..=LONGEST).contains(&side) && side.is_multiple_of(STEP);
    if is_side(size.width) && is_side(size.height) {
        return Ok(size);
    }
    let reason = format!("{size}: sides must be multiples of {STEP} from {STEP} to {LONGEST}");
    Err(Error::of(Setting::Size, reason))
}

/// How a photo of another aspect ratio is fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Fit {
    /// Its own aspect ratio, at as many pixels as the size has.
    #[value(alias = "keep")]
    Aspect,
    /// Stretched to the size.
    #[default]
    Stretch,
    /// Scaled to cover the size, the rest cut off.
    Crop,
    /// Scaled to fit inside, the rest filled.
    Pad,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", PossibleValue::get_name))
    }
}

/// The size of the network's input, and how photos are fitted to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Canvas {
    /// The size, or with [`Fit::Aspect`] a size of as many pixels.
    pub size: Size,
    /// How photos are fitted to it.
    pub fit: Fit,
}

impl Canvas {
    /// The size of the network's input for a photo of the size `photo`.
    pub fn target(&self, photo: Size) -> Size {
        match self.fit {
            Fit::Aspect => aspect(photo, self.size.pixels()),
            Fit::Stretch | Fit::Crop | Fit::Pad => self.size,
        }
    }

    /// Where a photo of the size `photo` lies on its canvas.
    pub fn windows(&self, photo: Size) -> Windows {
        windows(photo, self.target(photo), self.fit)
    }

    /// Fits a photo.
    #[must_use]
    pub fn place(&self, photo: &Picture) -> Picture {
        fitted(photo, self.target(photo.size()), self.fit)
    }

    /// Scales a result to a photo of the size `photo` and removes the padding; of a
    /// photo that was cropped, the result is the part that was kept.
    #[must_use]
    pub fn restore(&self, worked: &Picture, photo: Size) -> Picture {
        let windows = windows(photo, worked.size(), self.fit);
        worked.cut(windows.canvas).resized(windows.photo.size)
    }
}

/// Where a photo lies on its canvas: the two windows show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The part of the photo that is on the canvas.
    pub photo: Window,
    /// The part of the canvas that the photo covers.
    pub canvas: Window,
}

/// The windows of a photo on a canvas of the size `target`. Of an odd rest the larger half
/// lies behind what is cropped and before what is padded: files of inverted pictures rely
/// on it.
fn windows(photo: Size, target: Size, fit: Fit) -> Windows {
    let (mut shown, mut covered) = (Window::whole(photo), Window::whole(target));
    match fit {
        Fit::Aspect | Fit::Stretch => {}
        Fit::Crop => {
            shown.size = inside(photo, target);
            shown.left = photo.width.saturating_sub(shown.size.width) / 2;
            shown.top = photo.height.saturating_sub(shown.size.height) / 2;
        }
        Fit::Pad => {
            covered.size = inside(target, photo);
            covered.left = target.width.saturating_sub(covered.size.width).div_ceil(2);
            covered.top = target
                .height
                .saturating_sub(covered.size.height)
                .div_ceil(2);
        }
    }
    Windows {
        photo: shown,
        canvas: covered,
    }
}

/// The size of about `pixels` pixels in the aspect ratio of `photo`, both sides multiples
/// of 8 (8 or more).
///
/// The aspect ratio is not kept if the short side would be less than 8.
pub fn aspect(photo: Size, pixels: usize) -> Size {
    let (pixels, longest) = (pixels as f64, (pixels / STEP) as f64);
    let shape = photo.width.max(1) as f64 / photo.height.max(1) as f64;
    let side = |ideal: f64| {
        let steps = (ideal.min(longest) / STEP as f64).round() as usize;
        steps.max(1) * STEP
    };
    Size::new(side((pixels * shape).sqrt()), side((pixels / shape).sqrt()))
}

/// Fits a picture to the size `target`, with [`Fit::Aspect`] as returned by [`aspect`].
#[must_use]
pub fn fitted(picture: &Picture, target: Size, fit: Fit) -> Picture {
    let windows = windows(picture.size(), target, fit);
    // Cut before it is scaled: a very long photo would be huge.
    let shown = picture.cut(windows.photo);
    shown.resized(windows.canvas.size).framed(windows.canvas)
}

/// The largest size within `frame` with the aspect ratio of `shape`, to the nearest pixel.
fn inside(frame: Size, shape: Size) -> Size {
    let scale = |side, numerator, denominator: usize| {
        let exact = side as f64 * numerator as f64 / denominator.max(1) as f64;
        (exact.round() as usize).max(1)
    };
    let width = scale(frame.height, shape.width, shape.height);
    if width <= frame.width {
        return Size::new(width, frame.height);
    }
    let height = scale(frame.width, shape.height, shape.width);
    Size::new(frame.width, height.min(frame.height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::noise;

    const TARGET: Size = Size::new(16, 16);

    #[test]
    fn every_fit_can_be_restored() {
        let smooth = noise(3, 2).resized(Size::new(90, 60));
        for fit in [Fit::Aspect, Fit::Stretch, Fit::Crop, Fit::Pad] {
            let size = Size::new(64, 48);
            let canvas = Canvas { size, fit };
            let back = canvas.restore(&canvas.place(&smooth), smooth.size());
            let back = smooth.with_part(&back, canvas.windows(smooth.size()).photo);
            assert_eq!(back.size(), smooth.size(), "{fit:?}");
            let pairs = back.pixels().iter().zip(smooth.pixels());
            let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst < Some(24), "{fit:?}: {worst:?}");
        }
    }

    #[test]
    fn odd_padding_is_cut_where_it_was_added() {
        for (width, height) in [(45, 64), (64, 45), (64, 1), (31, 64), (63, 64)] {
            let photo = noise(width, height);
            let size = Size::new(64, 64);
            let canvas = Canvas {
                size,
                fit: Fit::Pad,
            };
            let back = canvas.restore(&canvas.place(&photo), photo.size());
            assert_eq!(back, photo, "{width}x{height}");
        }
    }

    #[test]
    fn the_cropped_parts_are_unchanged() {
        let photo = noise(40, 16);
        let size = Size::new(8, 8);
        let canvas = Canvas {
            size,
            fit: Fit::Crop,
        };
        let dark = Picture::new(size, vec![0; 3 * 64]).unwrap();
        let window = canvas.windows(photo.size()).photo;
        let back = photo.with_part(&canvas.restore(&dark, photo.size()), window);
        let corner = Size::new(12, 16);
        assert_eq!(back.window(0, 0, corner), photo.window(0, 0, corner));
        assert_eq!(back.window(28, 0, corner), photo.window(28, 0, corner));
        let middle = back.window(12, 0, Size::new(16, 16));
        assert!(middle.pixels().iter().all(|&value| value == 0));
    }

    #[test]
    fn a_kept_shape_has_the_pixels_and_sides_of_eights() {
        let kept = |width, height| aspect(Size::new(width, height), 512 * 512).to_string();
        assert_eq!(kept(512, 512), "512x512");
        assert_eq!(kept(100, 100), "512x512");
        assert_eq!(kept(4000, 3000), "592x440");
        assert_eq!(kept(3000, 4000), "440x592");
        assert_eq!(kept(16384, 1), "32768x8");
        assert_eq!(kept(1, 16384), "8x32768");
        assert_eq!(aspect(Size::new(3, 2), 0).to_string(), "8x8");
        assert_eq!(aspect(Size::new(0, 0), 64).to_string(), "8x8");
    }

    #[test]
    fn every_fit_ends_at_the_target() {
        for fit in [Fit::Aspect, Fit::Stretch, Fit::Crop, Fit::Pad] {
            for (width, height) in [(1, 1), (1, 400), (400, 1), (15, 17), (16, 16), (40, 20)] {
                let picture = noise(width, height);
                assert_eq!(fitted(&picture, TARGET, fit).size(), TARGET);
            }
        }
    }

    #[test]
    fn a_picture_of_the_target_size_stays_as_it_is() {
        for fit in [Fit::Aspect, Fit::Stretch, Fit::Crop, Fit::Pad] {
            assert_eq!(fitted(&noise(16, 16), TARGET, fit), noise(16, 16));
        }
    }

    #[test]
    fn a_crop_cuts_the_middle() {
        let middle = noise(40, 16).window(12, 0, TARGET);
        assert_eq!(fitted(&noise(40, 16), TARGET, Fit::Crop), middle);
        let middle = noise(20, 50).window(0, 15, Size::new(20, 20));
        let tall = fitted(&noise(20, 50), TARGET, Fit::Crop);
        assert_eq!(tall, middle.resized(TARGET));
    }

    #[test]
    fn padding_leaves_the_whole_picture_in_the_middle() {
        let padded = fitted(&noise(32, 16), TARGET, Fit::Pad);
        let whole = noise(32, 16).resized(Size::new(16, 8));
        assert_eq!(padded.window(0, 4, Size::new(16, 8)), whole);
        assert_eq!(
            padded.window(0, 0, Size::new(16, 1)),
            whole.window(0, 0, Size::new(16, 1))
        );
    }

    #[test]
    fn only_aspect_changes_the_canvas() {
        let photo = Size::new(40, 10);
        let target = |fit| {
            Canvas {
                size: Size::new(64, 64),
                fit,
            }
            .target(photo)
        };
        assert_eq!(target(Fit::Aspect), Size::new(128, 32));
        assert_eq!(target(Fit::Crop), Size::new(64, 64));
        let canvas = Canvas {
            size: TARGET,
            fit: Fit::Aspect,
        };
        assert_eq!(canvas.place(&noise(40, 10)).size(), Size::new(32, 8));
    }
}
