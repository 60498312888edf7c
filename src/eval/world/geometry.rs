//! Forms as signed distances, found by rays that step as far as nothing can be nearer
//! (J. C. Hart, Sphere tracing, 1996).

use super::{
    Shape,
    vector::{Vec3, vec3},
};

/// A ray (origin, unit direction).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ray {
    pub(super) origin: Vec3,
    pub(super) way: Vec3,
}

impl Ray {
    pub(super) fn at(self, t: f32) -> Vec3 {
        self.origin + self.way * t
    }
}

/// Steps of a ray before it counts as missing.
const STEPS: usize = 64;
/// What is as near as this is hit, in radii of a form.
const NEAR: f32 = 3e-3;

/// A form on the table, turned and scaled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solid {
    shape: Shape,
    /// The point of the table below its middle.
    foot: Vec3,
    scale: f32,
    shrink: f32,
    /// Cosine and sine of its turn about the vertical axis.
    turn: (f32, f32),
    /// The ball around it: its middle, and its radius.
    ball: (Vec3, f32),
}

impl Solid {
    /// A form whose turn is given by the tangent of half its angle.
    pub(super) fn new(shape: Shape, foot: Vec3, scale: f32, turn: f32) -> Self {
        let turn = turn + usual_turn(shape);
        let whole = 1.0 + turn * turn;
        let unplaced = Self {
            shape,
            foot,
            scale,
            shrink: 1.0 / scale,
            turn: ((1.0 - turn * turn) / whole, 2.0 * turn / whole),
            ball: (foot, 0.0),
        };
        let (middle, radius) = bound(shape);
        let middle = foot + unplaced.turned_back(middle) * scale;
        Self {
            ball: (middle, radius * scale),
            ..unplaced
        }
    }

    /// A point in the frame of the form: on its foot, of radius one.
    pub(super) fn inside(&self, point: Vec3) -> Vec3 {
        self.turned(point - self.foot) * self.shrink
    }

    fn turned(&self, v: Vec3) -> Vec3 {
        let (cos, sin) = self.turn;
        vec3(cos * v.x - sin * v.z, v.y, sin * v.x + cos * v.z)
    }

    fn turned_back(&self, v: Vec3) -> Vec3 {
        let (cos, sin) = self.turn;
        vec3(cos * v.x + sin * v.z, v.y, cos * v.z - sin * v.x)
    }

    /// The middle of the ball around it.
    pub(super) fn middle(&self) -> Vec3 {
        self.ball.0
    }

    /// The signed distance of a point.
    pub(super) fn distance(&self, point: Vec3) -> f32 {
        distance(self.shape, self.inside(point)) * self.scale
    }

    /// A lower bound of the distance of a point that takes little time.
    pub(super) fn bound(&self, point: Vec3) -> f32 {
        let (middle, radius) = self.ball;
        (point - middle).length() - radius
    }

    /// Whether a ray from a point to a ball may meet it.
    pub(super) fn may_hide(&self, from: Vec3, (middle, radius): (Vec3, f32)) -> bool {
        let (to, (own, size)) = (middle - from, self.ball);
        // The rays are a cone about its axis.
        let (length, sight) = (to.length(), own - from);
        let sin = (radius / length).min(1.0);
        let along = sight.dot(to) / length;
        let aside = (sight.dot(sight) - along * along).max(0.0).sqrt();
        along > -size && aside * (1.0 - sin * sin).sqrt() - along * sin < size
    }

    /// How far along the ray the surface is reached, from either side.
    pub(super) fn hit(&self, ray: Ray) -> Option<f32> {
        let (start, end) = span(self.ball, ray)?;
        let (mut t, end) = (start * self.shrink, end * self.shrink);
        let ray = Ray {
            origin: self.inside(ray.origin),
            way: self.turned(ray.way),
        };
        let side = distance(self.shape, ray.at(t)).signum();
        for _ in 0..STEPS {
            let gap = side * distance(self.shape, ray.at(t));
            if gap < NEAR {
                return Some(t * self.scale);
            }
            t += gap;
            if t > end {
                return None;
            }
        }
        None
    }

    /// The outward normal at a point of the surface.
    pub(super) fn normal(&self, point: Vec3) -> Vec3 {
        let (p, h) = (self.inside(point), 2e-3);
        // The corners of a tetrahedron.
        let corners = [
            vec3(1.0, -1.0, -1.0),
            vec3(-1.0, -1.0, 1.0),
            vec3(-1.0, 1.0, -1.0),
            vec3(1.0, 1.0, 1.0),
        ];
        let slope = corners.into_iter().fold(Vec3::ZERO, |sum, corner| {
            sum + corner * distance(self.shape, p + corner * h)
        });
        self.turned_back(slope.unit())
    }
}

/// The part of a ray in a ball, none where it passes by.
fn span((centre, radius): (Vec3, f32), ray: Ray) -> Option<(f32, f32)> {
    let to = centre - ray.origin;
    let middle = to.dot(ray.way);
    let rest = radius * radius - (to.dot(to) - middle * middle);
    if rest <= 0.0 {
        return None;
    }
    let half = rest.sqrt();
    (middle + half > 0.0).then(|| ((middle - half).max(0.0), middle + half))
}

/// A ball around a form of radius one.
fn bound(shape: Shape) -> (Vec3, f32) {
    match shape {
        Shape::Cube => (vec3(0.0, 0.8, 0.0), 1.37),
        Shape::Ball => (vec3(0.0, 1.0, 0.0), 1.0),
        Shape::Cylinder => (vec3(0.0, 0.9, 0.0), 1.18),
        Shape::Cone => (vec3(0.0, 0.8, 0.0), 1.26),
        Shape::Ring => (vec3(0.0, 1.0, 0.0), 1.01),
        Shape::Mug => (vec3(0.18, 0.78, 0.0), 1.17),
    }
}

/// The tangent of half the angle that shows a form best.
fn usual_turn(shape: Shape) -> f32 {
    match shape {
        Shape::Cube => 0.26,
        Shape::Ring => 0.22,
        Shape::Mug => 0.12,
        _ => 0.0,
    }
}

/// The signed distance of a point from a form of radius one that stands at y = 0.
fn distance(shape: Shape, p: Vec3) -> f32 {
    match shape {
        Shape::Cube => {
            let side = |x: f32| x.abs() - 0.72;
            let q = vec3(side(p.x), side(p.y - 0.8), side(p.z));
            let out = vec3(q.x.max(0.0), q.y.max(0.0), q.z.max(0.0)).length();
            out + q.x.max(q.y).max(q.z).min(0.0) - 0.08
        }
        Shape::Ball => (p - vec3(0.0, 1.0, 0.0)).length() - 1.0,
        Shape::Cylinder => rounded(axial(p), (0.76, 0.9), 0.06),
        Shape::Cone => {
            let (r, y) = axial(p);
            // The side runs from (0.92, 0) to (0, 1.95).
            let side = (r * 1.95 + (y - 1.95) * 0.92) / 2.156_2;
            let base = 0.06 - y;
            (side + 0.06).max(base).min(0.0) + length((side + 0.06).max(0.0), base.max(0.0)) - 0.06
        }
        Shape::Ring => torus(p - vec3(0.0, 1.0, 0.0), 0.72, 0.27),
        Shape::Mug => mug(p),
    }
}

fn mug(p: Vec3) -> f32 {
    let (r, y) = axial(p);
    let wall = length(r - 0.66, y - y.clamp(0.07, 1.5)) - 0.07;
    let floor = rounded((r, y), (0.66, 0.1), 0.02);
    let handle = torus(p - vec3(0.78, 0.8, 0.0), 0.38, 0.1);
    // Of the handle only what is outside of the wall.
    wall.min(floor).min(handle.max(0.66 - r))
}

/// The distance from the vertical axis, and the height.
fn axial(p: Vec3) -> (f32, f32) {
    (length(p.x, p.z), p.y)
}

/// From a cylinder of this radius and half height that stands at y = 0.
fn rounded((r, y): (f32, f32), (radius, half): (f32, f32), edge: f32) -> f32 {
    let (a, b) = (r - radius + edge, (y - half).abs() - half + edge);
    a.max(b).min(0.0) + length(a.max(0.0), b.max(0.0)) - edge
}

/// From a ring about the axis z.
fn torus(p: Vec3, radius: f32, thickness: f32) -> f32 {
    length(length(p.x, p.y) - radius, p.z) - thickness
}

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}
