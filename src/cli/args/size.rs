//! The working size of pictures.

use clap::{Args, ValueEnum};
use icd::{
    model::Model,
    picture::{
        Size,
        fit::{Canvas, Fit},
    },
};

use super::values::SizeValue;

/// How large a picture is worked on.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Size")]
pub(crate) struct SizeArgs {
    /// The size to work at: N for a square, or WxH [default: the model's].
    #[arg(long, value_name = "N|WxH")]
    size: Option<SizeValue>,
    /// How a picture of another shape is fitted [default: aspect, or stretch where a size
    /// is given].
    #[arg(long)]
    fit: Option<FitValue>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FitValue {
    /// Its own aspect ratio, at as many pixels as the size has.
    #[value(alias = "keep")]
    Aspect,
    /// Stretched to the size.
    Stretch,
    /// Scaled to cover the size, the rest cut off.
    Crop,
    /// Scaled to fit inside, the rest filled.
    Pad,
}

impl SizeArgs {
    /// The canvas for pictures of this model.
    pub(crate) fn canvas(&self, model: &Model) -> icd::Result<Canvas> {
        let side = model.unet_config().sample_size * model.latent_factor()?;
        let fit = match (self.fit, self.size) {
            (Some(FitValue::Aspect), _) | (None, None) => Fit::Aspect,
            (Some(FitValue::Stretch), _) | (None, Some(_)) => Fit::Stretch,
            (Some(FitValue::Crop), _) => Fit::Crop,
            (Some(FitValue::Pad), _) => Fit::Pad,
        };
        let own = Size::new(side, side);
        Ok(Canvas {
            size: self.size.map_or(own, SizeValue::size),
            fit,
        })
    }
}
