//! Light along rays: a few bounces of mirrors and glass, soft shadows, and the dimness of
//! corners.

use super::{
    Colour, Material, Place, Scene, Size, Surface, Thing,
    geometry::{Ray, Solid},
    light::Lamp,
    material::Finish,
    vector::{Vec3, vec3},
};

/// Where the wall is.
const WALL: f32 = -2.4;
/// Rays begin so far from the surface that they leave.
const OFF: f32 = 8e-3;
/// Mirrors and glass in a row.
const BOUNCES: usize = 5;
/// What is farther away from a surface does not dim it.
const FAR: f32 = 0.6;
/// How much faster light is in air than in glass.
const INDEX: f32 = 1.45;

/// A scene to shoot rays at.
pub(super) struct Stage {
    bodies: Vec<Body>,
    surface: Surface,
    wall: Vec3,
    lamp: Lamp,
}

struct Body {
    solid: Solid,
    material: Material,
    colour: Colour,
    tint: f32,
}

/// Where a ray ends.
struct Hit<'a> {
    point: Vec3,
    normal: Vec3,
    finish: Finish,
    /// The thing that was hit; none for the table and the wall.
    body: Option<&'a Body>,
}

impl Body {
    fn new(thing: &Thing) -> Self {
        let (x, z) = thing.untold.offset;
        // No thing stands right behind another.
        let (right, front) = match thing.place {
            Place::BackLeft => (-1.6, -0.95),
            Place::BackRight => (0.6, -0.95),
            Place::FrontLeft => (-0.5, 0.9),
            Place::FrontRight => (1.25, 0.9),
        };
        let radius = match thing.size {
            Size::Small => 0.56,
            Size::Large => 0.8,
        };
        let foot = vec3(right + x, 0.0, front + z);
        let scale = radius * thing.untold.scale;
        Self {
            solid: Solid::new(thing.shape, foot, scale, thing.untold.turn),
            material: thing.material,
            colour: thing.colour,
            tint: thing.untold.tint,
        }
    }

    fn finish(&self, point: Vec3) -> Finish {
        let point = self.solid.inside(point);
        Finish::of(self.material, self.colour, self.tint, point)
    }

    /// What is left of light along a ray that meets the thing.
    fn shade(&self, ray: Ray, t: f32) -> Vec3 {
        let point = ray.at(t);
        match self.finish(point) {
            Finish::Glass(colour) => {
                // Light gathers in the middle of the shadow.
                let cos = self.solid.normal(point).dot(ray.way).abs();
                colour * colour * (0.3 + 0.8 * cos * cos)
            }
            _ => Vec3::ZERO,
        }
    }
}

impl Stage {
    pub(super) fn new(scene: &Scene) -> Self {
        Self {
            bodies: scene.things.iter().map(Body::new).collect(),
            surface: scene.surface,
            wall: scene.wall.paint(),
            lamp: scene.light.lamp(),
        }
    }

    /// The light that comes along a ray; `sample`, from 0 to 3, selects points of the lamp.
    pub(super) fn light(&self, ray: Ray, sample: usize) -> Vec3 {
        self.seen(ray, sample, 0)
    }

    /// The middle of a thing.
    pub(super) fn middle(&self, thing: usize) -> Vec3 {
        self.bodies[thing].solid.middle()
    }

    /// Whether a ray meets a thing before the table and the wall.
    pub(super) fn shows_thing(&self, ray: Ray) -> bool {
        self.hit(ray).is_some_and(|hit| hit.body.is_some())
    }

    fn seen(&self, ray: Ray, sample: usize, bounces: usize) -> Vec3 {
        let Some(hit) = self.hit(ray) else {
            return self.lamp.room(ray);
        };
        let deeper = |ray| self.seen(ray, sample, bounces + 1);
        let last = bounces == BOUNCES;
        match hit.finish {
            Finish::Painted { albedo, gloss } => {
                let cos = -ray.way.dot(hit.normal);
                let share = fresnel(gloss, cos);
                let scattered = albedo * self.lit(&hit, sample, bounces) * (1.0 - share);
                if gloss == 0.0 || bounces > 1 {
                    return scattered;
                }
                scattered + deeper(hit.mirrored(ray)) * share
            }
            Finish::Metal(colour) if last => colour * self.lamp.ambient(hit.normal),
            Finish::Metal(colour) => {
                let cos = -ray.way.dot(hit.normal);
                let colour = colour.towards(Vec3::ONE, fresnel(0.0, cos));
                let sheen = colour * self.lit(&hit, sample, bounces) * 0.12;
                colour * deeper(hit.mirrored(ray)) * 0.9 + sheen
            }
            Finish::Glass(colour) if last => colour * self.lamp.ambient(hit.normal),
            Finish::Glass(colour) => {
                let body = hit.body.expect("things are of glass");
                let (mirrored, through) = through(body, &hit, ray);
                let share = fresnel(0.07, -ray.way.dot(hit.normal));
                let glow = match through {
                    Some(ray) => colour * colour * deeper(ray),
                    None => colour * self.lamp.ambient(hit.normal),
                };
                glow * (1.0 - share) + deeper(mirrored) * share
            }
        }
    }

    /// What meets a ray first.
    fn hit(&self, ray: Ray) -> Option<Hit<'_>> {
        let bodies = self.bodies.iter();
        let hits = bodies.filter_map(|body| Some((body.solid.hit(ray)?, body)));
        let thing = hits.min_by(|a, b| a.0.total_cmp(&b.0));
        let (down, back) = (-ray.origin.y / ray.way.y, (WALL - ray.origin.z) / ray.way.z);
        let table = (ray.way.y < 0.0).then_some(down);
        let wall = (ray.way.z < 0.0).then_some(back);
        let flat = [table, wall].into_iter().flatten().fold(f32::MAX, f32::min);
        if let Some((t, body)) = thing.filter(|(t, _)| *t < flat) {
            let point = ray.at(t);
            return Some(Hit {
                point,
                normal: body.solid.normal(point),
                finish: body.finish(point),
                body: Some(body),
            });
        }
        let point = (flat < f32::MAX).then(|| ray.at(flat))?;
        let is_table = table == Some(flat);
        Some(Hit {
            point,
            normal: if is_table {
                vec3(0.0, 1.0, 0.0)
            } else {
                vec3(0.0, 0.0, 1.0)
            },
            finish: match is_table {
                true => self.surface.finish(point.x, point.z),
                false => Finish::Painted {
                    albedo: self.wall,
                    gloss: 0.0,
                },
            },
            body: None,
        })
    }

    /// The light that meets a surface.
    fn lit(&self, hit: &Hit, sample: usize, bounces: usize) -> Vec3 {
        let from = hit.point + hit.normal * OFF;
        let mut bodies = self.bodies.iter();
        let is_open = !bodies.any(|body| body.solid.may_hide(from, self.lamp.ball()));
        let (right, lower) = (sample % 2, sample / 2);
        let fields = [(0, 0), (2, 0), (0, 2), (2, 2)].map(|(x, y)| (x + right, y + lower));
        // In mirrors one sample is enough.
        let fields = match bounces {
            0 => &fields[..],
            _ => &fields[sample..=sample],
        };
        let sum = fields.iter().fold(Vec3::ZERO, |sum, &field| {
            let (direct, ray) = self.direct(from, hit.normal, self.lamp.point(field));
            match is_open || direct == Vec3::ZERO {
                true => sum + direct,
                false => sum + direct * self.left(ray),
            }
        });
        let ambient = self.lamp.ambient(hit.normal) * self.openness(hit);
        sum * (1.0 / fields.len() as f32) + ambient
    }

    /// What a point of the lamp gives a surface where nothing is in the way, and the way.
    fn direct(&self, from: Vec3, normal: Vec3, lamp: Vec3) -> (Vec3, Ray) {
        let to = lamp - from;
        let square = to.dot(to);
        let way = to * (1.0 / square.sqrt());
        let cos = normal.dot(way).max(0.0);
        let share = cos * self.lamp.towards(-way) / (square * std::f32::consts::PI);
        (self.lamp.power * share, Ray { origin: from, way })
    }

    /// What is left of the lamp's light on its way, which no wall crosses.
    fn left(&self, ray: Ray) -> Vec3 {
        let mut left = Vec3::ONE;
        for body in &self.bodies {
            if let Some(t) = body.solid.hit(ray) {
                left = left * body.shade(ray, t);
            }
            if left == Vec3::ZERO {
                break;
            }
        }
        left
    }

    /// How much of the room a surface sees, from 0 to 1.
    fn openness(&self, hit: &Hit) -> f32 {
        let corner = hit.point.y.max(hit.point.z - WALL);
        let is_near = |body: &Body| body.solid.bound(hit.point) < 2.0 * FAR;
        if hit.body.is_none() && corner > FAR && !self.bodies.iter().any(is_near) {
            return 1.0;
        }
        let mut shut = 0.0;
        for (away, weight) in [(0.12, 0.55), (0.3, 0.3), (FAR, 0.15)] {
            let point = hit.point + hit.normal * away;
            let free = self.free(point, away);
            shut += weight * (1.0 - free / away).max(0.0);
        }
        (1.0 - shut).max(0.12)
    }

    /// The distance of the nearest surface, but `most` at most.
    fn free(&self, point: Vec3, most: f32) -> f32 {
        let flat = most.min(point.y).min(point.z - WALL);
        self.bodies
            .iter()
            .fold(flat, |least, body| match body.solid.bound(point) < least {
                true => least.min(body.solid.distance(point)),
                false => least,
            })
    }
}

impl Hit<'_> {
    fn mirrored(&self, ray: Ray) -> Ray {
        Ray {
            origin: self.point + self.normal * OFF,
            way: ray.way.reflected(self.normal).unit(),
        }
    }
}

/// The ray that glass mirrors, and the one that it lets through to the air behind it.
fn through(body: &Body, hit: &Hit, ray: Ray) -> (Ray, Option<Ray>) {
    let entered = ray.way.refracted(hit.normal, 1.0 / INDEX);
    let inner = entered.map(|way| Ray {
        origin: hit.point - hit.normal * OFF,
        way: way.unit(),
    });
    let out = |inner: Ray| {
        let point = inner.at(body.solid.hit(inner)?);
        let normal = body.solid.normal(point);
        // Where all would be mirrored back, it goes on as it is.
        let way = inner.way.refracted(-normal, INDEX).unwrap_or(inner.way);
        Some(Ray {
            origin: point + normal * OFF,
            way: way.unit(),
        })
    };
    (hit.mirrored(ray), inner.and_then(out))
}

/// The share that a surface mirrors, of what meets it head-on `least` (C. Schlick, 1994).
fn fresnel(least: f32, cos: f32) -> f32 {
    let rest = 1.0 - cos.clamp(0.0, 1.0);
    let square = rest * rest;
    least + (1.0 - least) * square * square * rest
}
