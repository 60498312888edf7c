//! Mattes: how opaque each pixel of a layer is.
//!
//! A matte only ever shrinks: where it is 0 it stays 0 when it is scaled, multiplied or
//! feathered, so that the picture below the layer keeps its pixels there.

mod scale;

use candle_core::{DType, Tensor};

use super::{
    CHANNELS, Picture, Size,
    window::{Extent, Window},
};
use crate::error::{Error, Result};
use scale::samples;

/// The opacity of each pixel, from 0 to 1, row by row from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Matte {
    size: Size,
    values: Vec<f32>,
}

/// The width of the transition inside masks and blends, of the picture's shorter side: at
/// 512x512 a pixel of the latent, which no mask confines more closely.
const FEATHER: f32 = 1.0 / 64.0;

impl Matte {
    /// The luma of a picture over 255.
    pub fn of_luma(picture: &Picture) -> Self {
        let (pixels, _) = picture.pixels().as_chunks::<CHANNELS>();
        let values = pixels.iter().map(|pixel| f32::from(luma(*pixel)) / 255.0);
        Self {
            size: picture.size(),
            values: values.collect(),
        }
    }

    /// 1 in a window, 0 in the rest of its frame.
    pub fn of_window(window: &Window) -> Self {
        let Window {
            left, top, size, ..
        } = *window;
        let row = |inside: bool| {
            let inside = move |x| inside && (left..left + size.width).contains(&x);
            (0..window.frame.width).map(move |x| f32::from(u8::from(inside(x))))
        };
        let rows = 0..window.frame.height;
        let values = rows.flat_map(|y| row((top..top + size.height).contains(&y)));
        Self {
            size: window.frame,
            values: values.collect(),
        }
    }

    /// The values of a mask (1, 1, h, w), limited to 0..1.
    pub fn from_tensor(mask: &Tensor) -> Result<Self> {
        let (1, 1, height, width) = mask.dims4()? else {
            let reason = format!("{:?} is not a mask of shape (1, 1, h, w)", mask.dims());
            return Err(Error::setting(reason));
        };
        let values = mask.to_dtype(DType::F32)?.clamp(0.0, 1.0)?;
        Ok(Self {
            size: Size::new(width, height),
            values: values.flatten_all()?.to_vec1()?,
        })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// What an extent of this matte shows, at the size `to`; beyond the matte its edge
    /// repeats.
    ///
    /// A smaller matte has the mean of what each pixel covers. A larger one is
    /// interpolated, and falls to 0 within the pixels beside those of 0.
    #[must_use]
    pub fn scaled(&self, shown: Extent, to: Size) -> Self {
        let Size { width, height } = self.size;
        let columns = samples(width, shown.columns, to.width);
        let rows = samples(height, shown.rows, to.height);
        let wide: Vec<f32> = self
            .values
            .chunks(width)
            .flat_map(|row| columns.iter().map(move |column| column.of(|x| row[x])))
            .collect(); // (height, to.width)
        let at = |y: usize, x: usize| wide[y * to.width + x];
        let values = rows
            .iter()
            .flat_map(|row| (0..to.width).map(move |x| row.of(|y| at(y, x))));
        Self {
            size: to,
            values: values.collect(),
        }
    }

    /// The intersection with another matte of this size: the product.
    ///
    /// # Panics
    /// If the sizes differ.
    #[must_use]
    pub fn intersected(mut self, other: &Self) -> Self {
        assert_eq!(self.size, other.size, "mattes of one size");
        for (value, other) in self.values.iter_mut().zip(&other.values) {
            *value *= other;
        }
        self
    }

    /// [`feathered`](Self::feathered) by a 64th of the shorter side, as masks and blends are.
    #[must_use]
    pub fn softened(self) -> Self {
        let shorter = self.size.width.min(self.size.height) as f32;
        self.feathered(FEATHER * shorter)
    }

    /// The largest matte within this one that rises from 0 to 1 over `width` pixels or
    /// more, along rows and along columns.
    ///
    /// Hard edges become ramps on their inside; soft ones and flat areas stay. There is
    /// no ramp at the borders of the matte, beyond which nothing is to be met.
    #[must_use]
    pub fn feathered(mut self, width: f32) -> Self {
        let step = width.max(1.0).recip();
        let Size { width, height } = self.size;
        for row in self.values.chunks_mut(width) {
            for x in 1..width {
                row[x] = row[x].min(row[x - 1] + step);
            }
            for x in (1..width).rev() {
                row[x - 1] = row[x - 1].min(row[x] + step);
            }
        }
        let mut limit = |y: usize, by: usize| {
            for x in 0..width {
                let most = self.values[by * width + x] + step;
                let value = &mut self.values[y * width + x];
                *value = value.min(most);
            }
        };
        (1..height).for_each(|y| limit(y, y - 1));
        (1..height).rev().for_each(|y| limit(y - 1, y));
        self
    }
}

/// The luma of a pixel in 8 bits, as Pillow's `convert("L")`: grey stays as it is.
fn luma(pixel: [u8; CHANNELS]) -> u8 {
    const WEIGHTS: [u32; CHANNELS] = [19595, 38470, 7471];
    let weighted = pixel.iter().zip(WEIGHTS);
    let sum: u32 = weighted
        .map(|(value, weight)| u32::from(*value) * weight)
        .sum();
    ((sum + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn matte(width: usize, values: &[f32]) -> Matte {
        let mask = Tensor::new(values, &Device::Cpu).unwrap();
        let mask = mask.reshape((1, 1, (), width)).unwrap();
        Matte::from_tensor(&mask).unwrap()
    }

    #[test]
    fn every_grey_is_its_share_and_colours_are_pillows() {
        assert!((0..=255).all(|grey| luma([grey; 3]) == grey));
        // Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 99]];
        assert_eq!(colours.map(luma), [76, 150, 29, 132]);
        let white = Picture::new(Size::new(1, 1), vec![255; 3]).unwrap();
        assert_eq!(Matte::of_luma(&white).values(), [1.0]);
    }

    #[test]
    fn a_window_is_opaque_and_the_rest_is_not() {
        let window = Window {
            left: 1,
            top: 0,
            size: Size::new(2, 1),
            frame: Size::new(4, 2),
        };
        let found = Matte::of_window(&window);
        assert_eq!(found.values(), [0., 1., 1., 0., 0., 0., 0., 0.]);
    }

    #[test]
    fn what_is_nothing_stays_nothing_at_every_size() {
        let mask = matte(3, &[0., 1., 1., 1., 1., 0., 1., 0.5, 1.]);
        for (width, height) in [(3, 3), (4, 5), (24, 24), (50, 41)] {
            let size = Size::new(width, height);
            let larger = mask.scaled(Extent::WHOLE, size);
            for (i, value) in larger.values().iter().enumerate() {
                let cell =
                    |place: usize, of: usize| ((place as f64 + 0.5) / of as f64 * 3.0) as usize;
                let (x, y) = (cell(i % width, width), cell(i / width, height));
                let black = mask.values()[3 * y + x] == 0.0;
                assert_eq!(black, *value == 0.0, "{size} at {i}: {value}");
                assert!((0.0..=1.0).contains(value));
            }
        }
        assert_eq!(mask.scaled(Extent::WHOLE, mask.size()), mask);
    }

    #[test]
    fn flat_areas_keep_their_value_at_every_size() {
        for share in [0.0, 0.25, 1.0] {
            let flat = matte(5, &[share; 20]);
            for (width, height) in [(1, 1), (3, 4), (5, 3), (17, 2), (40, 32)] {
                let size = Size::new(width, height);
                let scaled = flat.scaled(Extent::WHOLE, size);
                assert!(
                    scaled.values().iter().all(|value| *value == share),
                    "{size}"
                );
            }
        }
    }

    #[test]
    fn a_smaller_matte_has_the_mean() {
        let mask = matte(4, &[0., 1., 1., 0.5, 0., 1., 0., 0.]);
        let found = mask.scaled(Extent::WHOLE, Size::new(2, 1));
        assert_eq!(found.values(), [0.5, 0.375]);
    }

    #[test]
    fn a_feather_lies_inside_and_spares_borders_soft_edges_and_flat_areas() {
        let hard = matte(10, &[1., 1., 1., 0., 1., 1., 1., 1., 1., 1.]).feathered(4.0);
        let expected = [0.75, 0.5, 0.25, 0., 0.25, 0.5, 0.75, 1., 1., 1.];
        assert_eq!(hard.values(), expected);
        let soft = matte(5, &[0., 0.125, 0.25, 0.375, 0.375]);
        assert_eq!(soft.clone().feathered(4.0), soft);
        let column = matte(1, &[0., 1., 1., 1.]).feathered(2.0);
        assert_eq!(column.values(), [0., 0.5, 1., 1.]);
        assert_eq!(matte(2, &[0., 1.]).feathered(0.0).values(), [0., 1.]);
    }

    #[test]
    fn an_intersection_is_the_product() {
        let found = matte(3, &[0., 0.5, 1.]).intersected(&matte(3, &[1., 0.5, 1.]));
        assert_eq!(found.values(), [0., 0.25, 1.]);
    }

    #[test]
    fn a_mask_of_several_rows_is_refused() {
        let mask = Tensor::zeros((2, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(Matte::from_tensor(&mask).is_err());
    }
}
