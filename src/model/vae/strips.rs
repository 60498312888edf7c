//! A feature map between two layers of the autoencoder, whole or in strips of rows.
//!
//! A layer computes its output strip by strip and drops its input as it proceeds, so
//! only one large activation is in memory at a time. Two operations reach beyond
//! a strip: a 3x3 convolution needs one more row at each edge, so some rows are
//! computed for both adjacent strips; and a group norm needs sums over the whole
//! feature map, which a previous pass accumulates; the intermediate values of this pass
//! before a block's second norm are recomputed later.

use std::ops::Range;

use candle_core::{Result as TensorResult, Tensor};

use super::tiling::StripPlan;
use crate::{
    error::Result,
    model::resnet::Resnet,
    nn::{Conv2d, ConvEpilogue, GroupNorm, GroupSums},
};

/// A range of rows of a feature map.
#[derive(Clone, Debug)]
struct Band {
    /// (b, rows, w, c)
    x: Tensor,
    /// Index of the first row.
    top: usize,
    /// Height of the whole feature map.
    height: usize,
}

impl Band {
    fn range(&self) -> Range<usize> {
        self.top..self.top + self.x.dims()[1]
    }

    /// The intersection with `rows`.
    fn rows(&self, rows: &Range<usize>) -> Result<Self> {
        let Range { start, end } = self.range();
        let (start, end) = (start.max(rows.start), end.min(rows.end));
        let count = end.saturating_sub(start);
        Ok(Self {
            x: self
                .x
                .narrow(1, start.min(end) - self.top, count)?
                .contiguous()?,
            top: start,
            ..*self
        })
    }

    /// The same rows of the output of `layer`.
    fn map(&self, layer: impl Fn(&Tensor) -> TensorResult<Tensor>) -> Result<Self> {
        let x = layer(&self.x)?;
        Ok(Self { x, ..*self })
    }

    /// The rows of a 3x3 convolution's output whose neighbours were both available: all but
    /// the first and the last, except at the edges of the feature map.
    fn known(&self) -> Result<Self> {
        let Range { start, end } = self.range();
        let (above, below) = (start > 0, end < self.height);
        self.rows(&(start + usize::from(above)..end - usize::from(below)))
    }

    fn convolved(&self, conv: &Conv2d) -> Result<Self> {
        self.map(|x| conv.forward(x))?.known()
    }
}

/// A feature map: its strips from top to bottom, and a pending upsampling convolution
/// that is applied when rows are read.
#[derive(Debug)]
pub(super) struct Strips<'a> {
    bands: Vec<Band>,
    /// (b, h, w, c) before upsampling.
    size: [usize; 4],
    enlarging: Option<&'a Conv2d>,
    plan: StripPlan,
}

impl<'a> Strips<'a> {
    /// A feature map (b, h, w, c) in one piece.
    pub(super) fn whole(x: Tensor, plan: StripPlan) -> Result<Self> {
        let (b, height, w, c) = x.dims4()?;
        Ok(Self {
            bands: vec![Band { x, top: 0, height }],
            size: [b, height, w, c],
            enlarging: None,
            plan,
        })
    }

    /// A feature map of these strips, joined if the plan allows it whole.
    fn of(bands: Vec<Band>, plan: StripPlan) -> Result<Self> {
        let first = bands.first().expect("a picture has rows");
        let (b, _, w, c) = first.x.dims4()?;
        let strips = Self {
            size: [b, first.height, w, c],
            bands,
            enlarging: None,
            plan,
        };
        match plan.cuts(strips.bytes(c)) {
            true => Ok(strips),
            false => Self::whole(strips.joined()?, plan),
        }
    }

    /// The feature map (b, h, w, c) in one piece.
    pub(super) fn joined(self) -> Result<Tensor> {
        let bands: Vec<_> = self.bands.into_iter().map(|band| band.x).collect();
        Ok(Tensor::cat(&bands, 1)?.contiguous()?)
    }

    /// The output of a residual block.
    pub(super) fn through(self, block: &Resnet) -> Result<Self> {
        if let Some(x) = self.piece(block.outputs()) {
            return Self::whole(block.forward(x, None)?, self.plan);
        }
        let first = self.sums(&block.norm1, 0, Ok)?;
        let enter = |x: &Band| {
            x.map(|x| block.norm1.forward_silu_by(&first, x))?
                .convolved(&block.conv1)
        };
        let second = self.sums(&block.norm2, 1, |x| enter(&x))?;
        let height = self.height();
        self.remade(height, around(2), |x| {
            let y = enter(&x)?.map(|y| block.norm2.forward_silu_by(&second, y))?;
            let x = x.rows(&y.range())?;
            y.map(|y| block.output(y, &x.x))?.known()
        })
    }

    /// The output of a 3x3 convolution.
    pub(super) fn convolved(self, conv: &Conv2d) -> Result<Self> {
        if let Some(x) = self.piece(conv.outputs()) {
            return Self::whole(conv.forward(x)?, self.plan);
        }
        let height = self.height();
        self.remade(height, around(1), |x| x.convolved(conv))
    }

    /// The output of a 3x3 convolution with stride 2, padded at the right and bottom.
    pub(super) fn halved(self, conv: &Conv2d) -> Result<Self> {
        if let Some(x) = self.piece(conv.outputs()) {
            return Self::whole(conv.forward(x)?, self.plan);
        }
        let height = self.height() / 2;
        let sees = |rows: Range<usize>| 2 * rows.start..2 * rows.end + 1;
        self.remade(height, sees, |x| {
            Ok(Band {
                x: conv.forward(&x.x)?,
                top: x.top / 2,
                height,
            })
        })
    }

    /// The output of a 3x3 convolution after 2x upsampling.
    pub(super) fn enlarged(self, conv: &'a Conv2d) -> Result<Self> {
        let enlarged = Self {
            enlarging: Some(conv),
            ..self
        };
        let (bytes, height, plan) = (enlarged.bytes(0), enlarged.height(), enlarged.plan);
        if !plan.cuts(bytes) && enlarged.bands.len() == 1 {
            return Self::whole(enlarged.rows(&(0..height))?.x, plan);
        }
        match bytes <= plan.held {
            true => enlarged.remade(height, around(0), Ok),
            false => Ok(enlarged),
        }
    }

    /// The output of a norm, SiLU and a 3x3 convolution, in one piece.
    pub(super) fn left(self, norm: &GroupNorm, conv: &Conv2d) -> Result<Tensor> {
        if let Some(x) = self.piece(conv.outputs()) {
            return Ok(conv.forward(&norm.forward_silu(x)?)?);
        }
        let (sums, height) = (self.sums(norm, 0, Ok)?, self.height());
        let normed = |x: Band| x.map(|x| norm.forward_silu_by(&sums, x));
        self.remade(height, around(1), |x| normed(x)?.convolved(conv))?
            .joined()
    }

    /// The feature map if it is in one piece and the plan also allows an output with
    /// `channels` in one piece.
    fn piece(&self, channels: usize) -> Option<&Tensor> {
        match (&self.bands[..], self.enlarging) {
            ([band], None) if !self.plan.cuts(self.bytes(channels)) => Some(&band.x),
            _ => None,
        }
    }

    /// Its bytes, with at least `channels` channels.
    fn bytes(&self, channels: usize) -> usize {
        let [b, h, w, c] = self.size;
        let (pixels, own) = match self.enlarging {
            Some(conv) => (4 * b * h * w, conv.outputs()),
            None => (b * h * w, c),
        };
        let value = self.bands[0].x.dtype().size_in_bytes();
        pixels * own.max(channels) * value
    }

    /// Its height.
    fn height(&self) -> usize {
        let [_, height, ..] = self.size;
        match self.enlarging {
            Some(_) => 2 * height,
            None => height,
        }
    }

    /// Computes a feature map of this height strip by strip, each from the input rows that
    /// `sees` gives. Input rows that are no longer needed are dropped.
    fn remade(
        mut self,
        height: usize,
        sees: impl Fn(Range<usize>) -> Range<usize>,
        make: impl Fn(Band) -> Result<Band>,
    ) -> Result<Self> {
        let mut bands = Vec::new();
        for rows in self.plan.strips(height) {
            let input = self.rows(&sees(rows.clone()))?;
            bands.push(make(input)?.rows(&rows)?);
            self.forget(sees(rows.end..rows.end).start);
        }
        Self::of(bands, self.plan)
    }

    /// The group sums of what `make` computes strip by strip from rows up to `reach` away.
    fn sums(
        &self,
        norm: &GroupNorm,
        reach: usize,
        make: impl Fn(Band) -> Result<Band>,
    ) -> Result<GroupSums> {
        let part = |rows: Range<usize>| -> Result<GroupSums> {
            let input = self.rows(&around(reach)(rows.clone()))?;
            Ok(norm.sums(&make(input)?.rows(&rows)?.x)?)
        };
        let parts = self.plan.strips(self.height()).map(part);
        let total = parts.reduce(|total, part| Ok(total?.and(&part?)));
        total.expect("a picture has rows")
    }

    /// The existing rows among these, upsampled if pending.
    fn rows(&self, rows: &Range<usize>) -> Result<Band> {
        let Some(conv) = self.enlarging else {
            return self.held(rows);
        };
        let small = self.held(&self.behind(rows))?;
        let (_, h, w, _) = small.x.dims4()?;
        let enlarging = ConvEpilogue {
            upsample: Some((2 * h, 2 * w)),
            ..ConvEpilogue::default()
        };
        let large = Band {
            x: conv.forward_with(&small.x, enlarging)?,
            top: 2 * small.top,
            height: 2 * small.height,
        };
        large.known()?.rows(rows)
    }

    /// The stored rows that these are computed from.
    fn behind(&self, rows: &Range<usize>) -> Range<usize> {
        match self.enlarging {
            Some(_) => rows.start.saturating_sub(1) / 2..rows.end / 2 + 1,
            None => rows.clone(),
        }
    }

    /// The stored rows among these, in one piece.
    fn held(&self, rows: &Range<usize>) -> Result<Band> {
        let touched = |band: &&Band| band.top < rows.end && rows.start < band.range().end;
        let parts = self.bands.iter().filter(touched);
        let parts: Vec<_> = parts.map(|band| band.rows(rows)).collect::<Result<_>>()?;
        let first = parts.first().expect("rows that are seen are held");
        let pieces: Vec<_> = parts.iter().map(|part| &part.x).collect();
        first.map(|_| Tensor::cat(&pieces, 1))
    }

    /// Drops the strips that lie entirely above this row.
    fn forget(&mut self, row: usize) {
        let first = self.behind(&(row..row)).start;
        self.bands.retain(|band| band.range().end > first);
    }
}

/// A range of rows extended by `more` above (down to row 0) and below.
fn around(more: usize) -> impl Fn(Range<usize>) -> Range<usize> {
    move |rows| rows.start.saturating_sub(more)..rows.end + more
}

#[cfg(test)]
mod tests;
