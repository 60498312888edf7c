//! What surfaces look like.

use super::{
    Colour, Material, Surface, Wall,
    texture::{boards, grain, lot, mix, step, veins},
    vector::{Vec3, vec3},
};

/// How a point of a surface treats light.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    /// Scatters `albedo`, and mirrors `gloss` of what meets it head-on.
    Painted { albedo: Vec3, gloss: f32 },
    /// Mirrors this colour.
    Metal(Vec3),
    /// Lets this colour through.
    Glass(Vec3),
}

impl Finish {
    /// The finish of a thing at a point in its own frame, brighter by `tint`.
    pub(super) fn of(material: Material, colour: Colour, tint: f32, p: Vec3) -> Self {
        let paint = colour.paint() * tint;
        match material {
            Material::Matte => Self::Painted {
                albedo: paint,
                gloss: 0.0,
            },
            Material::Metal => Self::Metal(colour.metal() * tint),
            Material::Glass => Self::Glass(colour.glass()),
            Material::Wood => {
                let line = grain(0.8 * p.y + 0.3 * p.x, 0.9 * p.x + 0.55 * p.z + 0.15 * p.y);
                let light = paint.towards(vec3(0.5, 0.3, 0.13) * tint, 0.32);
                let dark = light * vec3(0.46, 0.4, 0.36);
                Self::Painted {
                    albedo: light.towards(dark, step(0.25, 0.8, line)),
                    gloss: 0.02,
                }
            }
            Material::Striped => {
                let at = 2.5 * p.y + 0.12;
                let edge = (at - at.floor() - 0.5).abs();
                let second = colour.second() * tint;
                Self::Painted {
                    albedo: second.towards(paint, step(0.21, 0.29, edge)),
                    gloss: 0.04,
                }
            }
        }
    }
}

impl Colour {
    fn paint(self) -> Vec3 {
        linear(match self {
            Self::Red => [0xD8, 0x2A, 0x26],
            Self::Orange => [0xF0, 0x80, 0x1C],
            Self::Yellow => [0xF4, 0xCE, 0x2C],
            Self::Green => [0x2E, 0xA0, 0x44],
            Self::Blue => [0x2C, 0x5C, 0xD8],
            Self::Purple => [0x8A, 0x3C, 0xB4],
            Self::White => [0xEC, 0xEA, 0xE6],
            Self::Black => [0x2A, 0x2A, 0x2E],
        })
    }

    /// The stripes beside the paint.
    fn second(self) -> Vec3 {
        match self {
            Self::White => linear([0x78, 0x78, 0x7C]),
            _ => linear([0xF0, 0xEC, 0xE4]),
        }
    }

    /// What metal of this colour mirrors.
    fn metal(self) -> Vec3 {
        match self {
            Self::White => vec3(0.93, 0.93, 0.93),
            Self::Black => vec3(0.2, 0.2, 0.22),
            _ => self.paint().towards(Vec3::ONE, 0.1) * 1.05,
        }
    }

    /// What glass of this colour lets through, once through its surface.
    fn glass(self) -> Vec3 {
        match self {
            Self::White => vec3(0.93, 0.95, 0.95),
            Self::Black => vec3(0.42, 0.42, 0.45),
            _ => {
                let paint = self.paint();
                vec3(paint.x.sqrt(), paint.y.sqrt(), paint.z.sqrt()).towards(Vec3::ONE, 0.08)
            }
        }
    }
}

impl Surface {
    /// The table at a point (right, to the viewer).
    pub(super) fn finish(self, x: f32, z: f32) -> Finish {
        let (albedo, gloss) = match self {
            Self::Wood => {
                let (board, gap) = boards(z + 0.4, 1.15);
                let shade = mix(0.82, 1.1, lot(board, 3));
                let line = grain(0.55 * x + 5.0 * board as f32, 1.1 * z);
                let light = linear([0xC4, 0x90, 0x60]) * shade;
                let dark = linear([0x8E, 0x5A, 0x34]) * shade;
                let wood = light.towards(dark, 0.75 * step(0.2, 0.9, line));
                (wood * (1.0 - 0.5 * gap), 0.03)
            }
            Self::Marble => {
                let stone = linear([0xE6, 0xE3, 0xDE]);
                (
                    stone.towards(linear([0x84, 0x86, 0x8E]), 0.8 * veins(x, z)),
                    0.06,
                )
            }
            Self::Checkered => (checks(x, z), 0.0),
            Self::Slate => {
                let cloud = super::texture::noise(0.9 * x + 2.0, 0.9 * z);
                (linear([0x4A, 0x50, 0x58]) * mix(0.85, 1.1, cloud), 0.09)
            }
        };
        Finish::Painted { albedo, gloss }
    }
}

/// A cloth woven of two colours: both threads, one, or none.
fn checks(x: f32, z: f32) -> Vec3 {
    let side = |at: f32| {
        let t = at / 1.16 - (at / 1.16).floor();
        step(-0.03, 0.03, 0.25 - (t - 0.5).abs())
    };
    let share = 0.5 * (side(x + 0.29) + side(z));
    linear([0xEE, 0xE8, 0xDC]).towards(linear([0xA8, 0x34, 0x38]), 0.9 * share)
}

impl Wall {
    /// What the wall scatters.
    pub(super) fn paint(self) -> Vec3 {
        linear(match self {
            Self::Grey => [0x96, 0x98, 0x9A],
            Self::Cream => [0xEA, 0xDC, 0xBC],
            Self::Pink => [0xE8, 0xAC, 0xB4],
            Self::Teal => [0x2C, 0x80, 0x80],
            Self::Navy => [0x38, 0x4A, 0x7C],
            Self::Olive => [0x82, 0x88, 0x48],
        })
    }
}

/// Bytes of a picture as light.
fn linear(bytes: [u8; 3]) -> Vec3 {
    let [x, y, z] = bytes.map(|byte| {
        let share = f32::from(byte) / 255.0;
        share * share
    });
    vec3(x, y, z)
}
