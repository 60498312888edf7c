//! The frame header of a JPEG: its kind, size and components.

use crate::picture::{
    Reason,
    decode::{MAX_SIDE, too_large},
};

/// Largest sampling factor (ITU-T T.81, B.2.2).
const MAX_SAMPLING: usize = 4;

/// A frame that the decoder reads.
pub(super) struct Frame {
    pub(super) is_progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// Largest sampling factors.
    most: (usize, usize),
}

/// A component: luma, chroma or a colour.
pub(super) struct Component {
    /// Its name in the file.
    pub(super) id: u8,
    table: u8,
    /// Sampling factors: blocks in an MCU, horizontally and vertically.
    across: usize,
    down: usize,
}

impl Component {
    /// Its sampling factors, horizontally and vertically.
    pub(super) fn sampling(&self) -> (usize, usize) {
        (self.across, self.down)
    }
}

impl Frame {
    /// Reads the segment behind the marker 0xff `kind`.
    pub(super) fn read(kind: u8, segment: &[u8]) -> Result<Self, Reason> {
        check_kind(kind)?;
        let [precision, y0, y1, x0, x1, count, rest @ ..] = segment else {
            return Err("the file is damaged: its frame header is too short".into());
        };
        if *precision != 8 {
            return Err(unread(format!("a JPEG of {precision} bits, not 8")));
        }
        let [height, width] =
            [[*y0, *y1], [*x0, *x1]].map(|side| usize::from(u16::from_be_bytes(side)));
        let components = rest.chunks_exact(3).take(usize::from(*count));
        let components: Vec<_> = components
            .map(|bytes| Component {
                id: bytes[0],
                across: usize::from(bytes[1] >> 4),
                down: usize::from(bytes[1] & 15),
                table: bytes[2],
            })
            .collect();
        let most = |side: fn(&Component) -> usize| components.iter().map(side).max();
        let frame = Self {
            is_progressive: kind == 0xc2,
            width,
            height,
            most: (
                most(|component| component.across).unwrap_or(0),
                most(|component| component.down).unwrap_or(0),
            ),
            components,
        };
        frame.check(usize::from(*count))?;
        Ok(frame)
    }

    fn check(&self, count: usize) -> Result<(), Reason> {
        let components = &self.components;
        let is_valid = |side| (1..=MAX_SAMPLING).contains(&side);
        let is_sampled =
            |component: &Component| is_valid(component.across) && is_valid(component.down);
        if components.len() != count || self.width == 0 || !components.iter().all(is_sampled) {
            return Err("the file is damaged: its frame header is not valid".into());
        }
        if self.height == 0 {
            return Err(unread(
                "a JPEG that states its height behind the pixels (DNL)",
            ));
        }
        if self.width.max(self.height) > MAX_SIDE as usize {
            return Err(too_large());
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unread(format!(
                "a JPEG of {count} components, not 1, 3 or 4"
            )));
        }
        self.check_sampling()
    }

    /// The decoder places the samples of these wrongly, or not at all.
    fn check_sampling(&self) -> Result<(), Reason> {
        let first = &self.components[0];
        if self.components.len() == 1 {
            return Ok(());
        }
        if first.across < self.most.0 {
            return Err(unread("a JPEG whose first component is not the finest"));
        }
        let divides = |component: &Component| {
            self.most.0.is_multiple_of(component.across)
                && self.most.1.is_multiple_of(component.down)
        };
        let is_odd = self
            .components
            .iter()
            .any(|one| one.across == 3 || !divides(one));
        match is_odd {
            true => Err(unread(format!(
                "a JPEG of the sampling {}",
                self.sampling()
            ))),
            false => Ok(()),
        }
    }

    /// The segment with the places of components for their names, of which some would be taken
    /// for colours.
    pub(super) fn segment(&self) -> Vec<u8> {
        let sides = [self.height, self.width].map(|side| (side as u16).to_be_bytes());
        let components = self.components.iter().enumerate();
        let components = components.flat_map(|(place, one)| {
            let sampling = (one.across << 4 | one.down) as u8;
            [place as u8 + 1, sampling, one.table]
        });
        let head = [
            8,
            sides[0][0],
            sides[0][1],
            sides[1][0],
            sides[1][1],
            self.components.len() as u8,
        ];
        head.into_iter().chain(components).collect()
    }

    /// As in 2x2,1x1,1x1.
    fn sampling(&self) -> String {
        let factors = self.components.iter();
        let factors: Vec<_> = factors
            .map(|one| format!("{}x{}", one.across, one.down))
            .collect();
        factors.join(",")
    }

    /// MCUs of a scan of all components, in a row and in a column.
    pub(super) fn mcus(&self) -> (usize, usize) {
        match &self.components[..] {
            [_] => (self.width.div_ceil(8), self.height.div_ceil(8)),
            _ => (
                self.width.div_ceil(8 * self.most.0),
                self.height.div_ceil(8 * self.most.1),
            ),
        }
    }

    /// Blocks of a component with those that fill the MCUs, in a row and in a column.
    pub(super) fn padded(&self, component: &Component) -> (usize, usize) {
        let (columns, rows) = self.mcus();
        match self.components.len() {
            1 => (columns, rows),
            _ => (columns * component.across, rows * component.down),
        }
    }

    /// Blocks of a component in a scan of its own.
    pub(super) fn alone(&self, component: &Component) -> (usize, usize) {
        match self.components.len() {
            1 => self.mcus(),
            _ => (
                (self.width * component.across).div_ceil(8 * self.most.0),
                (self.height * component.down).div_ceil(8 * self.most.1),
            ),
        }
    }

    /// All blocks with those that fill the MCUs.
    pub(super) fn blocks(&self) -> usize {
        let padded = self
            .components
            .iter()
            .map(|component| self.padded(component));
        padded.map(|(columns, rows)| columns * rows).sum()
    }
}

/// Kinds of frames by their marker.
fn check_kind(kind: u8) -> Result<(), Reason> {
    match kind {
        0xc0..=0xc2 => Ok(()),
        0xc3 => Err(unread("a lossless JPEG")),
        0xc5..=0xc7 => Err(unread("a hierarchical JPEG")),
        0xf7 => Err(unread("a JPEG-LS")),
        _ => Err(unread("a JPEG of arithmetic coding")),
    }
}

/// A picture that has to be converted.
pub(super) fn unread(what: impl Into<Reason>) -> Reason {
    let what = what.into();
    format!("this is {what}, which cannot be read: save it again as PNG or as a usual JPEG").into()
}
