//! Scenes as pictures: every pixel is the mean of a grid of exact samples.

use std::f32::consts::{PI, TAU};

use super::{Background, Colour, Ground, Place, Scene, Shape, Size, Texture, Thing};
use crate::picture::{Picture, Size as Sides};

/// Pixels along each side of a picture.
pub const SIDE: usize = 64;
/// Samples along each side of a pixel.
const SAMPLES: usize = 4;

/// No shape reaches farther from its centre, in radii.
const FARTHEST: f32 = 1.3;

type Rgb = [f32; 3];

impl Scene {
    /// The picture of this scene.
    pub fn render(&self) -> Picture {
        let pixel = |i: usize| mean(samples(i % SIDE, i / SIDE).map(|at| self.sample(at)));
        let bytes = (0..SIDE * SIDE).flat_map(pixel).map(byte).collect();
        Picture::new(Sides::new(SIDE, SIDE), bytes).expect("three bytes for each pixel")
    }

    fn sample(&self, at: (f32, f32)) -> Rgb {
        let thing = self.things.iter().rev().find(|thing| thing.covers(at));
        thing.map_or_else(|| self.background.sample(at), |thing| thing.sample(at))
    }
}

fn samples(column: usize, row: usize) -> impl Iterator<Item = (f32, f32)> {
    let place = |i: usize| (i as f32 + 0.5) / SAMPLES as f32;
    (0..SAMPLES * SAMPLES).map(move |i| {
        (
            column as f32 + place(i % SAMPLES),
            row as f32 + place(i / SAMPLES),
        )
    })
}

fn mean(samples: impl Iterator<Item = Rgb>) -> Rgb {
    let sum = samples.fold([0.0; 3], add);
    sum.map(|x| x / (SAMPLES * SAMPLES) as f32)
}

fn add(a: Rgb, b: Rgb) -> Rgb {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn byte(x: f32) -> u8 {
    (x.clamp(0.0, 1.0) * 255.0).round() as u8
}

impl Thing {
    /// Pixels from the centre to the rim.
    fn radius(&self) -> f32 {
        let usual = match self.size {
            Size::Small => 7.5,
            Size::Large => 12.0,
        };
        usual * self.untold.scale
    }

    fn centre(&self) -> (f32, f32) {
        let (x, y) = match self.place {
            Place::Left => (17.0, 32.0),
            Place::Right => (47.0, 32.0),
            Place::Top => (32.0, 17.0),
            Place::Bottom => (32.0, 47.0),
            Place::Middle => (32.0, 32.0),
        };
        (x + self.untold.offset.0, y + self.untold.offset.1)
    }

    /// Whether the point lies in the thing.
    fn covers(&self, (x, y): (f32, f32)) -> bool {
        let (cx, cy) = self.centre();
        let (x, y) = ((x - cx) / self.radius(), (y - cy) / self.radius());
        if x * x + y * y > FARTHEST * FARTHEST {
            return false;
        }
        let (sin, cos) = self.untold.turn.sin_cos();
        self.shape.covers(x * cos + y * sin, y * cos - x * sin)
    }

    fn sample(&self, (x, y): (f32, f32)) -> Rgb {
        let (cx, cy) = self.centre();
        let marked = self.texture.marks((x - cx) / 8.0, (y - cy) / 8.0);
        let colour = add(self.colour.rgb(), self.untold.tint);
        if marked {
            contrast(colour, 0.45)
        } else {
            colour
        }
    }
}

impl Background {
    fn sample(&self, (x, y): (f32, f32)) -> Rgb {
        let marked = self.texture.marks(x / 13.0, y / 13.0);
        let colour = add(self.colour.rgb(), self.tint);
        if marked {
            contrast(colour, 0.18)
        } else {
            colour
        }
    }
}

/// The colour moved towards black, or towards white where it is dark.
fn contrast(rgb: Rgb, share: f32) -> Rgb {
    let bright = 0.3 * rgb[0] + 0.6 * rgb[1] + 0.1 * rgb[2] > 0.4;
    let end = if bright { 0.0 } else { 1.0 };
    rgb.map(|x| x + share * (end - x))
}

impl Shape {
    /// Whether a point is inside, where the rim is about 1 from the centre and
    /// y points down.
    fn covers(self, x: f32, y: f32) -> bool {
        match self {
            Self::Circle => x * x + y * y < 1.0,
            Self::Square => x.abs().max(y.abs()) < 0.86,
            Self::Triangle => y < 0.8 && y > 1.9 * x.abs() - 1.0,
            Self::Cross => x.abs().max(y.abs()) < 1.0 && x.abs().min(y.abs()) < 0.33,
            Self::Star => {
                let turn = (x.atan2(-y) + TAU) % (TAU / 5.0) - PI / 5.0; // from the middle of an edge pair
                let rim = star_rim(PI / 5.0 - turn.abs());
                x * x + y * y < rim * rim
            }
            Self::Heart => {
                let (x, y) = (1.15 * x, 0.15 - 1.15 * y);
                (x * x + y * y - 0.65).powi(3) < 1.3 * x * x * y * y * y
            }
        }
    }
}

/// How far the rim of a five-pointed star is at an angle from a point's tip.
fn star_rim(angle: f32) -> f32 {
    let (tip, inner, half) = (1.1, 0.48, PI / 5.0);
    // The edge from the tip (angle 0) to the inner corner (angle pi / 5).
    tip * inner * half.sin() / (inner * (half - angle).sin() + tip * angle.sin())
}

impl Texture {
    /// Whether a point bears the second shade; the pattern repeats after 1.
    fn marks(self, x: f32, y: f32) -> bool {
        let (u, v) = (x - x.floor(), y - y.floor());
        match self {
            Self::Plain => false,
            Self::Striped => v < 0.5,
            Self::Dotted => (u - 0.5).powi(2) + (v - 0.5).powi(2) < 0.1,
            Self::Checkered => (u < 0.5) == (v < 0.5),
        }
    }
}

impl Colour {
    fn rgb(self) -> Rgb {
        shares(match self {
            Self::Red => [0xDC, 0x28, 0x28],
            Self::Green => [0x28, 0xA0, 0x3C],
            Self::Blue => [0x28, 0x50, 0xDC],
            Self::Yellow => [0xF0, 0xD2, 0x28],
            Self::Purple => [0x8C, 0x32, 0xAA],
            Self::Orange => [0xF5, 0x82, 0x1E],
            Self::White => [0xF0, 0xF0, 0xF0],
            Self::Black => [0x19, 0x19, 0x19],
        })
    }
}

impl Ground {
    fn rgb(self) -> Rgb {
        shares(match self {
            Self::Grey => [0x96, 0x96, 0x96],
            Self::Brown => [0x6E, 0x4B, 0x32],
            Self::Pink => [0xF5, 0xB4, 0xC3],
            Self::Cyan => [0x82, 0xD7, 0xDC],
            Self::Tan => [0xCD, 0xAF, 0x7D],
            Self::Teal => [0x14, 0x5F, 0x64],
        })
    }
}

fn shares(bytes: [u8; 3]) -> Rgb {
    bytes.map(|byte| f32::from(byte) / 255.0)
}
