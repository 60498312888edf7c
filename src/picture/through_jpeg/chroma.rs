//! Chroma of half the size: libjpeg's `h2v2_downsample` and `h2v2_fancy_upsample`.

use super::{Plane, transform::BLOCK};
use crate::picture::Size;

/// Planes of at most so many columns are upsampled without a filter.
const NARROW: usize = 2;

/// The means of 2 by 2 samples, rounded up and down in turn along a row. Rows are filled to
/// whole blocks with means of the repeated samples.
pub(super) fn halved(plane: &Plane) -> Plane {
    let half = size_of_half(plane.size);
    let size = Size::new(half.width.next_multiple_of(BLOCK), half.height);
    let mean = |i: usize| {
        let (x, y) = (i % size.width, i / size.width);
        let four = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let four = four.map(|(right, below)| plane.at(2 * x + right, 2 * y + below));
        let sum: u16 = four.into_iter().map(u16::from).sum();
        ((sum + 1 + (x % 2) as u16) >> 2) as u8
    };
    Plane {
        size,
        samples: (0..size.pixels()).map(mean).collect(),
    }
}

fn size_of_half(size: Size) -> Size {
    Size::new(size.width.div_ceil(2), size.height.div_ceil(2))
}

/// A plane of twice the size: nine sixteenths of the nearest sample, three of each neighbour
/// and one of the diagonal one.
pub(super) fn upsampled(filled: &Plane, to: Size) -> Plane {
    let plane = &filled.cropped(size_of_half(to));
    let sample = |i: usize| {
        let (x, y) = (i % to.width, i / to.width);
        match plane.size.width <= NARROW {
            true => plane.at(x / 2, y / 2),
            false => smooth(plane, x, y),
        }
    };
    Plane {
        size: to,
        samples: (0..to.pixels()).map(sample).collect(),
    }
}

fn smooth(plane: &Plane, x: usize, y: usize) -> u8 {
    let neighbour = |place: usize| match place % 2 {
        0 => (place / 2).saturating_sub(1),
        _ => place / 2 + 1,
    };
    let column = |x: usize| {
        let near = u16::from(plane.at(x, y / 2));
        3 * near + u16::from(plane.at(x, neighbour(y)))
    };
    let rounding = if x.is_multiple_of(2) { 8 } else { 7 };
    ((3 * column(x / 2) + column(neighbour(x)) + rounding) >> 4) as u8
}
