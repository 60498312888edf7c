//! The photo's own pixels, kept where an edit may not change them.

use anyhow::Result;
use candle_core::Tensor;
use icd::{
    picture::{
        Picture, Size,
        fit::Fit,
        matte::Matte,
        window::{Extent, Window},
    },
    pipeline::{Edit, Edited},
};

use super::{
    args::result::KeepPixels,
    canvas::{Frame, Placed, ResultSize},
};

/// The width of the transition inside a crop, of its shorter side.
const CROP_FEATHER: f32 = 1.0 / 32.0;

/// The photo whose pixels are kept, and the mask that confines the change of it.
pub(crate) struct Keeper<'a> {
    placed: &'a Placed<'a>,
    mask: Option<&'a Picture>,
}

/// Whether pixels are kept.
pub(crate) enum Keeping<'a> {
    Yes(Keeper<'a>),
    No,
    /// Nor can they be, for this reason.
    Impossible(&'static str),
}

impl<'a> Keeping<'a> {
    /// Whether the results of `edit` at this size keep the pixels of their photo: if there
    /// are any to keep, unless the user says otherwise.
    pub(crate) fn of(
        asked: Option<KeepPixels>,
        (frame, size): (&'a Frame<'a>, ResultSize),
        edit: &Edit,
        mask: Option<&'a Picture>,
    ) -> Self {
        let is_confined = mask.is_some() || !edit.control.blend.is_empty();
        let is_cut = |placed: &Placed| size == ResultSize::Photo && placed.canvas.fit == Fit::Crop;
        match (asked, frame.placed()) {
            (Some(KeepPixels::Off), _) => Self::No,
            // It may be the model's default: nobody asked for anything to be kept.
            (None, None) if mask.is_none() && edit.control.blends_by_difference() => Self::No,
            (_, None) if is_confined => Self::Impossible(
                "with --latents there is no photo whose pixels could be kept: mask and blend \
                 confine the latent only",
            ),
            (_, Some(placed)) if is_confined || is_cut(placed) => {
                Self::Yes(Keeper { placed, mask })
            }
            (Some(KeepPixels::On), _) => Self::Impossible(
                "--keep-pixels: there is nothing to keep: no mask, no blend, and no crop at the \
                 photo's size",
            ),
            (None, _) => Self::No,
        }
    }
}

/// How decoded pictures become results.
pub(crate) struct Finish<'a> {
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) keeper: Option<Keeper<'a>>,
    /// The size of the results.
    pub(crate) size: ResultSize,
}

impl Finish<'_> {
    /// The decoded pictures of the targets of an edit at this size.
    pub(crate) fn pictures(
        &self,
        decoded: &[Picture],
        edited: &Edited,
        size: ResultSize,
    ) -> impl Iterator<Item = Result<Picture>> {
        decoded.iter().enumerate().map(move |(row, decoded)| {
            let finished = self.frame.finished(decoded, size);
            let Some(keeper) = &self.keeper else {
                return Ok(finished);
            };
            let blend = edited.blend_mask.as_ref();
            let blend = blend.map(|masks| masks.narrow(0, row, 1)).transpose()?;
            keeper.composite(&finished, blend.as_ref(), size)
        })
    }
}

impl Keeper<'_> {
    /// A result over the photo of the same size. `blend` is the mask of its local blend
    /// (1, 1, h, w), 1 where the latent could change.
    fn composite(
        &self,
        result: &Picture,
        blend: Option<&Tensor>,
        size: ResultSize,
    ) -> Result<Picture> {
        let matte = self.matte(blend, size)?;
        Ok(self.placed.at(size).composite(result, &matte)?)
    }

    /// Where mask, blend and crop all let the result show.
    fn matte(&self, blend: Option<&Tensor>, at: ResultSize) -> Result<Matte> {
        let windows = self.placed.canvas.windows(self.placed.photo.size());
        let (photo, canvas) = (windows.photo, windows.canvas);
        let (window, mask_shown, blend_shown) = match at {
            ResultSize::Photo => (photo, Extent::WHOLE, photo.frame_in(&canvas)),
            ResultSize::Work => {
                let whole = Window::whole(canvas.frame);
                (whole, canvas.frame_in(&photo), Extent::WHOLE)
            }
        };
        let size = window.frame;
        let crop = Matte::of_window(&window).feathered(CROP_FEATHER * shorter(window.size));
        let mask = self
            .mask
            .map(|mask| Matte::of_luma(mask).scaled(mask_shown, size));
        let blend = blend.map(Matte::from_tensor).transpose()?;
        let blend = blend.map(|blend| blend.scaled(blend_shown, size));
        let confined = mask.into_iter().chain(blend);
        let confined = confined.reduce(|mask, blend| mask.intersected(&blend));
        let feathered = confined.map(Matte::softened);
        Ok(match feathered {
            Some(matte) => matte.intersected(&crop),
            None => crop,
        })
    }
}

fn shorter(size: Size) -> f32 {
    size.width.min(size.height) as f32
}
