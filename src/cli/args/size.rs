//! The working size of pictures.

use clap::Args;
use icd::{
    model::Model,
    picture::{
        Size,
        fit::{Canvas, Fit},
    },
};

use super::values::size;

/// How large a picture is worked on.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Size")]
pub(crate) struct SizeArgs {
    /// The size to work at: N for a square, or WxH [default: the model's].
    #[arg(long, value_name = "N|WxH", value_parser = size)]
    size: Option<Size>,
    /// How a picture of another shape is fitted [default: aspect, or stretch where a size
    /// is given].
    #[arg(long)]
    fit: Option<Fit>,
}

impl SizeArgs {
    /// Whether the size to work at was given.
    pub(crate) fn is_given(&self) -> bool {
        self.size.is_some()
    }

    /// The canvas for pictures of this model.
    pub(crate) fn canvas(&self, model: &Model) -> icd::Result<Canvas> {
        let by_default = match self.size {
            Some(_) => Fit::Stretch,
            None => Fit::Aspect,
        };
        Ok(Canvas {
            size: match self.size {
                Some(size) => size,
                None => model.size()?,
            },
            fit: self.fit.unwrap_or(by_default),
        })
    }
}
