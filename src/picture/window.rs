//! Windows: rectangles of a picture that are cut out, framed and laid back.

use super::{Picture, Size};

/// A rectangle within a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns of the frame to the left of it.
    pub left: usize,
    /// Rows of the frame above it.
    pub top: usize,
    /// Its size.
    pub size: Size,
    /// The size of the frame.
    pub frame: Size,
}

/// A rectangle in fractions of the sides of a frame, beyond which it may reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Where its columns start and how many there are.
    pub columns: (f64, f64),
    /// Where its rows start and how many there are.
    pub rows: (f64, f64),
}

impl Window {
    /// The whole of a frame.
    pub const fn whole(frame: Size) -> Self {
        Self {
            left: 0,
            top: 0,
            size: frame,
            frame,
        }
    }

    /// Whether it is the whole frame.
    pub fn is_whole(&self) -> bool {
        *self == Self::whole(self.frame)
    }

    /// Where the frame lies in the frame of `other`, if both windows show the same.
    pub fn frame_in(&self, other: &Self) -> Extent {
        let columns = |window: &Self| (window.left, window.size.width, window.frame.width);
        let rows = |window: &Self| (window.top, window.size.height, window.frame.height);
        Extent {
            columns: span(columns(self), columns(other)),
            rows: span(rows(self), rows(other)),
        }
    }
}

impl Extent {
    /// The whole of a frame.
    pub const WHOLE: Self = Self {
        columns: (0.0, 1.0),
        rows: (0.0, 1.0),
    };
}

/// One side of [`Window::frame_in`], from the start and length of each window and the
/// length of its frame. Exact where both windows are whole.
fn span(own: (usize, usize, usize), other: (usize, usize, usize)) -> (f64, f64) {
    let [own, other] = [own, other].map(|(start, length, frame)| {
        let [start, length, frame] = [start, length, frame].map(|pixels| pixels as f64);
        (start, length, frame)
    });
    let ((start, length, frame), (other_start, other_length, other_frame)) = (own, other);
    let unit = length * other_frame;
    let start = other_start * length - start * other_length;
    (start / unit, frame * other_length / unit)
}

impl Picture {
    /// The part in a window of this picture.
    #[must_use]
    pub fn cut(&self, window: Window) -> Self {
        match window.size == self.size {
            true => self.clone(),
            false => self.window(window.left as isize, window.top as isize, window.size),
        }
    }

    /// The frame of which this picture is the window.
    ///
    /// Around the picture the pixels of its edge repeat: a frame of another colour would
    /// add an outline, which networks take for an object.
    #[must_use]
    pub fn framed(&self, window: Window) -> Self {
        match window.frame == self.size {
            true => self.clone(),
            false => self.window(
                -(window.left as isize),
                -(window.top as isize),
                window.frame,
            ),
        }
    }

    /// This picture with another laid over a window of its size.
    ///
    /// # Panics
    /// If the window reaches beyond this picture.
    #[must_use]
    pub fn with_part(&self, part: &Self, window: Window) -> Self {
        let mut whole = self.clone();
        whole.paste(part, window.left, window.top);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::{noise, row};

    /// Columns of a row of pixels.
    fn columns(left: usize, width: usize, of: usize) -> Window {
        Window {
            left,
            top: 0,
            size: Size::new(width, 1),
            frame: Size::new(of, 1),
        }
    }

    #[test]
    fn what_is_framed_is_cut_out_again() {
        let framed = row(&[1, 2, 3]).framed(columns(2, 3, 6));
        assert_eq!(framed, row(&[1, 1, 1, 2, 3, 3]));
        assert_eq!(framed.cut(columns(2, 3, 6)), row(&[1, 2, 3]));
        let laid = framed.with_part(&row(&[7, 8]), columns(1, 2, 6));
        assert_eq!(laid, row(&[1, 7, 8, 2, 3, 3]));
    }

    #[test]
    fn the_whole_window_is_the_picture() {
        let (picture, whole) = (noise(5, 4), Window::whole(Size::new(5, 4)));
        assert!(whole.is_whole() && !columns(0, 2, 3).is_whole());
        assert_eq!(picture.cut(whole), picture);
        assert_eq!(picture.framed(whole), picture);
    }

    #[test]
    fn frames_are_located_through_what_they_share() {
        // The middle half of a photo of 40 is a canvas of 16.
        let (photo, canvas) = (columns(10, 20, 40), columns(0, 16, 16));
        assert_eq!(canvas.frame_in(&photo).columns, (0.25, 0.5));
        assert_eq!(photo.frame_in(&canvas).columns, (-0.5, 2.0));
        assert_eq!(photo.frame_in(&canvas).rows, Extent::WHOLE.rows);
        let odd = [Size::new(501, 7), Size::new(64, 72)].map(Window::whole);
        assert_eq!(odd[0].frame_in(&odd[1]), Extent::WHOLE);
    }
}
