//! Units against plain formulas.

use super::{
    super::{
        lines::{COLUMNS, Line, Operands, ROWS, Start, Steps, Sums, TERMS, pair, widened},
        tests::units,
    },
    Session, Unit,
};

/// Values of all sizes and signs, without a period.
fn noise(count: usize, seed: u32) -> Vec<Line> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = f32::from_bits((state >> 9 & 0x7F_FFFF) | 127 << 23) - 1.5;
        pair(size, size * 3.7 - 1.0)
    };
    (0..count)
        .map(|_| Line(std::array::from_fn(|_| next())))
        .collect()
}

/// (lines of each step from the first, first lines of the tiles, lines of the left side)
fn shapes() -> Vec<(Vec<usize>, Vec<usize>, usize)> {
    vec![
        (vec![0], vec![0], 16),
        (vec![0], vec![0, 16], 32),
        (vec![0, 32, 64], vec![0, 16], 96),
        (vec![0, 1, 2, 10, 11, 12, 20, 21, 22], vec![3, 30], 80),
        (vec![5, 0, 3], vec![7, 1], 40),
        ((0..40).map(|i| i * 48).collect(), vec![32, 16], 40 * 48),
        ((0..101).map(|i| i * 16).collect(), vec![0], 101 * 16),
        (vec![], vec![0], 16),
    ]
}

fn computed(unit: Unit, shape: &(Vec<usize>, Vec<usize>, usize), start: Start) -> Sums {
    let (offsets, rows, lines) = shape;
    let (a, b) = (noise(*lines, 1), noise(offsets.len() * 2 * ROWS, 2));
    let operands = Operands {
        a: &a,
        rows: (rows[0], rows.get(1).copied()),
        count: 2 * ROWS,
        steps: &Steps::at(offsets.iter().copied()),
        b: &b,
    };
    let mut sums = Sums([[0.75; COLUMNS]; 2 * ROWS]);
    Session::new(unit).multiply(operands, start, &mut sums);
    sums
}

/// The formula in f64 of the sum at a row and a column.
fn plain(shape: &(Vec<usize>, Vec<usize>, usize), start: Start, row: usize, column: usize) -> f64 {
    let (offsets, rows, lines) = shape;
    let (a, b) = (noise(*lines, 1), noise(offsets.len() * 2 * ROWS, 2));
    let mut sum = if start == Start::Zero { 0.0 } else { 0.75 };
    for (step, offset) in offsets.iter().enumerate() {
        let row = a[rows[row / ROWS] + row % ROWS + offset];
        let b = &b[step * 2 * ROWS + column / ROWS * ROWS..][..ROWS];
        for (a, b) in row.0.iter().zip(b) {
            let (a, b) = (widened(*a), widened(b.0[column % ROWS]));
            sum += f64::from(a[0]) * f64::from(b[0]) + f64::from(a[1]) * f64::from(b[1]);
        }
    }
    sum
}

#[test]
fn sums_are_those_of_the_products() {
    for unit in units() {
        for shape in shapes() {
            for start in [Start::Zero, Start::Sums] {
                let sums = computed(unit, &shape, start);
                for row in (0..shape.1.len() * ROWS).step_by(3) {
                    for column in (0..COLUMNS).step_by(5) {
                        let (found, expected) = (
                            f64::from(sums.0[row][column]),
                            plain(&shape, start, row, column),
                        );
                        let gap = (found - expected).abs() / (1.0 + 32.0 * shape.0.len() as f64);
                        assert!(gap < 1e-6, "{unit:?} {shape:?}: {found} for {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn part_of_the_rows_and_of_the_last_step_is_enough() {
    let zeros = |lines: &[Line], from: usize| -> Vec<Line> {
        let zeroed = |line: &Line| {
            Line(std::array::from_fn(
                |i| if i < from { line.0[i] } else { 0 },
            ))
        };
        lines.iter().map(zeroed).collect()
    };
    let b = noise(3 * 2 * ROWS, 2);
    for (pairs, count) in [(1, 1), (4, 8), (9, 9), (15, 17), (16, 31)] {
        let mut a = noise(3 * 2 * ROWS, 1);
        let last = zeros(&a[2 * 2 * ROWS..], pairs);
        a.splice(2 * 2 * ROWS.., last);
        let steps = Steps::at((0..3).map(|step| step * 2 * ROWS));
        for unit in units() {
            let sums = |steps: &Steps, count: usize| {
                let operands = Operands {
                    a: &a,
                    rows: (0, Some(ROWS)),
                    count,
                    steps,
                    b: &b,
                };
                let mut sums = Sums::default();
                Session::new(unit).multiply(operands, Start::Zero, &mut sums);
                sums.0
            };
            let short = steps.clone().of_terms(2 * TERMS + 2 * pairs);
            let (all, part) = (sums(&steps, 2 * ROWS), sums(&short, count));
            assert_eq!(part[..count], all[..count], "{unit:?}, {pairs} pairs");
        }
    }
}

#[test]
fn the_emulation_has_the_bits_of_tiles() {
    let Some(unit) = Unit::tiles() else { return };
    for shape in shapes() {
        for start in [Start::Zero, Start::Sums] {
            let [tiles, emulated] =
                [unit, Unit::Emulated].map(|unit| computed(unit, &shape, start));
            let rows = shape.1.len() * ROWS;
            let bits = |sums: &Sums| {
                sums.0[..rows]
                    .as_flattened()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect::<Vec<_>>()
            };
            assert!(bits(&tiles) == bits(&emulated), "{shape:?}");
        }
    }
}

#[test]
#[should_panic = "assertion"]
fn lines_that_do_not_exist_are_refused() {
    let (a, b) = (noise(31, 1), noise(32, 2));
    let operands = Operands {
        a: &a,
        rows: (0, Some(16)),
        count: 2 * ROWS,
        steps: &Steps::at(std::iter::once(0)),
        b: &b,
    };
    Session::new(Unit::Emulated).multiply(operands, Start::Zero, &mut Sums::default());
}

#[test]
fn sessions_may_be_nested_and_end_on_their_threads() {
    for unit in units() {
        let outer = Session::new(unit);
        std::thread::scope(|scope| {
            scope.spawn(|| computed(unit, &shapes()[2], Start::Zero));
        });
        let inner = computed(unit, &shapes()[2], Start::Zero);
        drop(outer);
        assert_eq!(inner.0, computed(unit, &shapes()[2], Start::Zero).0);
    }
}
