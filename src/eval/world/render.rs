//! The camera, and what it makes of light.

use crate::picture::{Picture, Size as Sides};

use super::{
    Scene,
    geometry::Ray,
    trace::Stage,
    vector::{Vec3, vec3},
};

/// Pixels along each side of a picture.
pub const SIDE: usize = 128;
/// The size of a sketch.
pub(super) const SKETCH: Sides = Sides::new(SIDE / 2, SIDE / 2);

/// Where a pixel is sampled, no two in a row or a column.
const SAMPLES: [(f32, f32); 4] = [
    (0.375, 0.125),
    (0.875, 0.375),
    (0.125, 0.625),
    (0.625, 0.875),
];

const EYE: Vec3 = vec3(0.0, 4.9, 6.0);
const AIM: Vec3 = vec3(0.0, 0.5, -0.1);
/// Half of the picture's side, one unit from the eye.
const HALF: f32 = 0.33;
/// Light that is told from black and from white.
const EXPOSURE: f32 = 0.85;

struct Camera {
    ahead: Vec3,
    right: Vec3,
    up: Vec3,
}

impl Scene {
    /// The picture of this scene.
    pub fn render(&self) -> Picture {
        self.rendered(SIDE)
    }

    /// The picture at half its size, in a quarter of the time.
    pub(super) fn sketch(&self) -> Picture {
        self.rendered(SKETCH.width)
    }

    fn rendered(&self, side: usize) -> Picture {
        let (stage, camera) = (Stage::new(self), Camera::new());
        let scale = SIDE as f32 / side as f32;
        let pixel = |i: usize| {
            let (column, row) = ((i % side) as f32, (i / side) as f32);
            let sum = SAMPLES.iter().enumerate().fold(Vec3::ZERO, |sum, (k, at)| {
                let ray = camera.ray(scale * (column + at.0), scale * (row + at.1));
                sum + exposed(stage.light(ray, k))
            });
            let mean = sum * (1.0 / SAMPLES.len() as f32);
            [mean.x, mean.y, mean.z].map(byte)
        };
        let bytes = (0..side * side).flat_map(pixel).collect();
        Picture::new(Sides::new(side, side), bytes).expect("three bytes for each pixel")
    }

    /// The pixel (column, row) that shows the middle of a thing, or what hides it.
    pub fn pixel_of(&self, thing: usize) -> (usize, usize) {
        Camera::new().pixel(Stage::new(self).middle(thing))
    }

    /// Whether each pixel shows a thing in its middle, row by row.
    pub fn covered(&self) -> Vec<bool> {
        let (stage, camera) = (Stage::new(self), Camera::new());
        let middle = |i: usize| {
            let (column, row) = ((i % SIDE) as f32 + 0.5, (i / SIDE) as f32 + 0.5);
            stage.shows_thing(camera.ray(column, row))
        };
        (0..SIDE * SIDE).map(middle).collect()
    }
}

impl Camera {
    fn new() -> Self {
        let ahead = (AIM - EYE).unit();
        let right = ahead.cross(vec3(0.0, 1.0, 0.0)).unit();
        let up = right.cross(ahead);
        Self { ahead, right, up }
    }

    /// The pixel in whose direction a point is; the nearest one if it is beside the picture.
    fn pixel(&self, point: Vec3) -> (usize, usize) {
        let to = point - EYE;
        let place = |axis: Vec3| to.dot(axis) / (to.dot(self.ahead) * HALF);
        let pixel = |x: f32| ((x + 1.0) * 0.5 * SIDE as f32).clamp(0.0, SIDE as f32 - 1.0) as usize;
        (pixel(place(self.right)), pixel(-place(self.up)))
    }

    fn ray(&self, column: f32, row: f32) -> Ray {
        let place = |i: f32| HALF * (2.0 * i / SIDE as f32 - 1.0);
        let way = self.ahead + self.right * place(column) - self.up * place(row);
        Ray {
            origin: EYE,
            way: way.unit(),
        }
    }
}

/// What is seen of light, from 0 to 1: bright light fades into white (K. Narkowicz, 2016).
fn exposed(light: Vec3) -> Vec3 {
    let film = |x: f32| {
        let x = EXPOSURE * x;
        let y = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14);
        y.clamp(0.0, 1.0)
    };
    vec3(film(light.x), film(light.y), film(light.z))
}

/// A share of the brightest light as a byte of a picture.
fn byte(x: f32) -> u8 {
    (x.sqrt() * 255.0 + 0.5) as u8
}
