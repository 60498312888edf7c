//! The lights, each a bright square in a dim room.

use super::{
    Light,
    geometry::Ray,
    vector::{Vec3, vec3},
};

/// A square that shines, and the room around the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lamp {
    centre: Vec3,
    /// From the centre to the middle of two sides.
    sides: [Vec3; 2],
    normal: Vec3,
    /// What a surface gets that faces it one unit away.
    pub(super) power: Vec3,
    /// What comes from above and from below where nothing is in the way.
    sky: [Vec3; 2],
}

impl Light {
    pub(super) fn lamp(self) -> Lamp {
        let middle = vec3(0.0, 0.4, -0.3);
        let (centre, half, power, sky) = match self {
            Self::Warm => (
                vec3(-4.4, 3.7, 0.7),
                0.55,
                vec3(1.0, 0.74, 0.45) * 108.0,
                [vec3(0.20, 0.20, 0.25), vec3(0.13, 0.11, 0.10)],
            ),
            Self::Cool => (
                vec3(4.8, 3.5, 1.1),
                1.1,
                vec3(0.74, 0.9, 1.0) * 98.0,
                [vec3(0.24, 0.24, 0.25), vec3(0.13, 0.12, 0.11)],
            ),
            Self::Soft => (
                vec3(-0.8, 6.2, 0.9),
                1.9,
                vec3(1.0, 0.96, 0.9) * 104.0,
                [vec3(0.26, 0.26, 0.27), vec3(0.15, 0.14, 0.13)],
            ),
        };
        let normal = (middle - centre).unit();
        let across = normal.cross(vec3(0.0, 1.0, 0.0)).unit();
        Lamp {
            centre,
            sides: [across * half, across.cross(normal) * half],
            normal,
            power,
            sky,
        }
    }
}

impl Lamp {
    /// The point of the square in this field of a grid of 4x4.
    pub(super) fn point(&self, (column, row): (usize, usize)) -> Vec3 {
        let place = |i: usize| (i as f32 - 1.5) / 2.0;
        self.centre + self.sides[0] * place(column) + self.sides[1] * place(row)
    }

    /// The ball around it: its middle, and its radius.
    pub(super) fn ball(&self) -> (Vec3, f32) {
        (self.centre, (self.sides[0] + self.sides[1]).length())
    }

    /// How much of its light goes this way from it.
    pub(super) fn towards(&self, way: Vec3) -> f32 {
        self.normal.dot(way).max(0.0)
    }

    /// Whether a ray meets the square.
    fn is_met(&self, ray: Ray) -> bool {
        let along = ray.way.dot(self.normal);
        let t = (self.centre - ray.origin).dot(self.normal) / along;
        if along >= 0.0 || t.is_nan() || t <= 0.0 {
            return false;
        }
        let from = ray.at(t) - self.centre;
        let within = |side: Vec3| from.dot(side).abs() < side.dot(side);
        self.sides.into_iter().all(within)
    }

    /// What comes from the room along a ray that meets no thing.
    pub(super) fn room(&self, ray: Ray) -> Vec3 {
        if self.is_met(ray) {
            let area = 4.0 * self.sides[0].length() * self.sides[1].length();
            return self.power * (0.35 / area).min(0.14);
        }
        self.ambient(ray.way) * 1.6
    }

    /// What comes from this side of the room.
    pub(super) fn ambient(&self, way: Vec3) -> Vec3 {
        let [above, below] = self.sky;
        below.towards(above, 0.5 + 0.5 * way.y)
    }
}
