//! Patterns of surfaces, from hashed noise and polynomials.

/// Smooth noise from 0 to 1 on a grid of one unit.
pub(super) fn noise(x: f32, y: f32) -> f32 {
    let (column, row) = (x.floor(), y.floor());
    let (u, v) = (smooth(x - column), smooth(y - row));
    let (column, row) = (column as i32, row as i32);
    let corner = |i, j| lot(column.wrapping_add(i), row.wrapping_add(j));
    let top = mix(corner(0, 0), corner(1, 0), u);
    mix(top, mix(corner(0, 1), corner(1, 1), u), v)
}

/// From 0 at whole numbers up to 1 between them and back.
pub(super) fn wave(x: f32) -> f32 {
    let t = x - x.floor();
    let bump = 4.0 * t * (1.0 - t);
    bump * bump * (3.0 - 2.0 * bump)
}

/// From 0 at `from` to 1 at `to`.
pub(super) fn step(from: f32, to: f32, x: f32) -> f32 {
    smooth(((x - from) / (to - from)).clamp(0.0, 1.0))
}

pub(super) fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// Grain along x: dark lines where it is 1.
pub(super) fn grain(x: f32, y: f32) -> f32 {
    let drift = noise(0.5 * x + 11.0, 1.3 * y) * 1.6;
    let rings = wave(2.2 * y + drift);
    let fine = noise(1.1 * x, 9.0 * y + 7.0);
    0.65 * rings + 0.35 * fine
}

/// Veins of marble: 1 in their middle.
pub(super) fn veins(x: f32, y: f32) -> f32 {
    let (x, y) = (0.8 * x + 0.35 * y, 0.8 * y - 0.25 * x);
    let bend = noise(1.9 * x + 3.0, 1.9 * y + 5.0) - 0.5;
    let ridge = |at: f32, width: f32| 1.0 - step(0.0, width, (at - 0.5).abs());
    let wide = ridge(noise(0.62 * x + 1.0, 1.0 * y + 0.4) + 0.34 * bend, 0.07);
    let thin = ridge(noise(1.1 * x + 31.0, 1.4 * y + 7.0) + 0.22 * bend, 0.05);
    let cloud = noise(0.8 * x + 21.0, 0.8 * y);
    (0.75 * wide * (0.4 + 0.6 * cloud) + 0.35 * thin + 0.22 * cloud).min(1.0)
}

/// Boards along x of this width: the number of the board, and 1 in the gap beside it.
pub(super) fn boards(y: f32, width: f32) -> (i32, f32) {
    let at = y / width;
    let board = at.floor();
    let edge = (at - board).min(board + 1.0 - at);
    (board as i32, 1.0 - step(0.0, 0.035, edge))
}

/// A number from 0 to 1 for each field of a grid.
pub(super) fn lot(column: i32, row: i32) -> f32 {
    let mut x = (column as u32).wrapping_mul(0x9E37_79B1) ^ (row as u32).wrapping_mul(0x85EB_CA77);
    for factor in [0x7FEB_352D_u32, 0x846C_A68B] {
        x = (x ^ (x >> 15)).wrapping_mul(factor);
    }
    ((x ^ (x >> 16)) >> 8) as f32 / (1 << 24) as f32
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}
