//! The cosine transform of a block, there and back: libjpeg's `jfdctint.c` and `jidctint.c`,
//! after Loeffler, Ligtenberg and Moschytz (1989).

/// Side of a block.
pub(super) const BLOCK: usize = 8;

/// Steps of the coefficients of a block, row by row.
pub(super) type Table = [u16; BLOCK * BLOCK];
type Coefficients = [i32; BLOCK * BLOCK];

/// Fractional bits of the factors, and of values between the passes.
const BITS: u32 = 13;
const BETWEEN: u32 = 2;

/// Factors in fixed point.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// Samples that are transformed, divided by their steps and rounded, and transformed back.
pub(super) fn through(samples: &[u8; BLOCK * BLOCK], table: &Table) -> [u8; BLOCK * BLOCK] {
    let mut values = samples.map(|sample| i32::from(sample) - 128);
    along(&mut values, Axis::Rows, |line| forward(line, Pass::First));
    along(&mut values, Axis::Columns, |line| {
        forward(line, Pass::Second)
    });
    for (value, step) in values.iter_mut().zip(table) {
        *value = rounded(*value, i32::from(*step));
    }
    along(&mut values, Axis::Columns, |line| {
        inverse(line, Pass::First)
    });
    along(&mut values, Axis::Rows, |line| inverse(line, Pass::Second));
    values.map(|value| (value + 128).clamp(0, 255) as u8)
}

/// The nearest multiple of a step of a coefficient, which is eight times too large.
fn rounded(value: i32, step: i32) -> i32 {
    let eight = 8 * step;
    let count = (value.abs() + eight / 2) / eight;
    count * value.signum() * step
}

#[derive(Clone, Copy)]
enum Axis {
    Rows,
    Columns,
}

#[derive(Clone, Copy)]
enum Pass {
    First,
    Second,
}

type Line = [i32; BLOCK];

fn along(values: &mut Coefficients, axis: Axis, transform: impl Fn(Line) -> Line) {
    for line in 0..BLOCK {
        let place = |i: usize| match axis {
            Axis::Rows => line * BLOCK + i,
            Axis::Columns => i * BLOCK + line,
        };
        let transformed = transform(std::array::from_fn(|i| values[place(i)]));
        for (i, value) in transformed.into_iter().enumerate() {
            values[place(i)] = value;
        }
    }
}

/// Shifted to the right and rounded.
fn descaled(value: i32, bits: u32) -> i32 {
    (value + (1 << (bits - 1))) >> bits
}

fn forward(x: Line, pass: Pass) -> Line {
    let sums: [i32; 4] = std::array::from_fn(|i| x[i] + x[7 - i]);
    let gaps: [i32; 4] = std::array::from_fn(|i| x[i] - x[7 - i]);
    let (outer, inner) = (sums[0] + sums[3], sums[1] + sums[2]);
    let (high, low) = (sums[0] - sums[3], sums[1] - sums[2]);
    let (plain, bits): (fn(i32) -> i32, u32) = match pass {
        Pass::First => (|value| value << BETWEEN, BITS - BETWEEN),
        Pass::Second => (|value| descaled(value, BETWEEN), BITS + BETWEEN),
    };
    let z = (high + low) * F_0_541;
    let [seven, five, three, one] = odd([gaps[3], gaps[2], gaps[1], gaps[0]]);
    [
        plain(outer + inner),
        descaled(one, bits),
        descaled(z + high * F_0_765, bits),
        descaled(three, bits),
        plain(outer - inner),
        descaled(five, bits),
        descaled(z - low * F_1_847, bits),
        descaled(seven, bits),
    ]
}

/// The odd half of both transforms, of four values from the last to the first.
fn odd([a, b, c, d]: [i32; 4]) -> [i32; 4] {
    let (ad, bc, ac, bd) = (a + d, b + c, a + c, b + d);
    let all = (ac + bd) * F_1_175;
    let (ad, bc) = (-ad * F_0_899, -bc * F_2_562);
    let (ac, bd) = (all - ac * F_1_961, all - bd * F_0_390);
    [
        a * F_0_298 + ad + ac,
        b * F_2_053 + bc + bd,
        c * F_3_072 + bc + ac,
        d * F_1_501 + ad + bd,
    ]
}

fn inverse(x: Line, pass: Pass) -> Line {
    let z = (x[2] + x[6]) * F_0_541;
    let (low, high) = (z - x[6] * F_1_847, z + x[2] * F_0_765);
    let (sum, gap) = ((x[0] + x[4]) << BITS, (x[0] - x[4]) << BITS);
    let even = [sum + high, gap + low, gap - low, sum - high];
    let odd = odd([x[7], x[5], x[3], x[1]]);
    let bits = match pass {
        Pass::First => BITS - BETWEEN,
        Pass::Second => BITS + BETWEEN + 3,
    };
    std::array::from_fn(|i| match i < 4 {
        true => descaled(even[i] + odd[3 - i], bits),
        false => descaled(even[7 - i] - odd[i - 4], bits),
    })
}
