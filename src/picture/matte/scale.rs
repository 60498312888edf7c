//! The samples of a line of cells at another length.

/// How one value is made of a line of cells.
pub(super) enum Sample {
    /// The mean of cells from the first on, by the share of each that is covered.
    Mean { first: usize, covered: Vec<f32> },
    /// A cell and, by a share, its border with a neighbour.
    Between {
        cell: usize,
        neighbour: usize,
        share: f32,
    },
}

impl Sample {
    /// The value, of cells from 0 to 1.
    pub(super) fn of(&self, cell: impl Fn(usize) -> f32) -> f32 {
        match self {
            Self::Mean { first, covered } => {
                let values = covered.iter().zip(*first..);
                let sum: f32 = values.map(|(share, i)| share * cell(i)).sum();
                sum / covered.iter().sum::<f32>()
            }
            Self::Between {
                cell: own,
                neighbour,
                share,
            } => {
                let own = cell(*own);
                own + share * (border(own, cell(*neighbour)) - own)
            }
        }
    }
}

/// The value at the border of two cells: their harmonic mean, which is 0 beside 0.
fn border(a: f32, b: f32) -> f32 {
    match a + b > 0.0 {
        true => a * (2.0 * b / (a + b)),
        false => 0.0,
    }
}

/// The samples of `to` pixels that show `length` of a line of `cells` from `start` on,
/// both as fractions of the line. Beyond the line its ends repeat.
pub(super) fn samples(cells: usize, (start, length): (f64, f64), to: usize) -> Vec<Sample> {
    let pixel = length * cells as f64 / to as f64;
    let sample = |place: usize| {
        let centre = start * cells as f64 + (place as f64 + 0.5) * pixel;
        match pixel > 1.0 {
            true => mean(cells, centre - pixel / 2.0, centre + pixel / 2.0),
            false => between(cells, centre),
        }
    };
    (0..to).map(sample).collect()
}

/// The mean of the cells from one place to another.
fn mean(cells: usize, from: f64, to: f64) -> Sample {
    let last = cells - 1;
    let first = (from.max(0.0) as usize).min(last); // truncated
    let end = (to.ceil().max(0.0) as usize).clamp(first + 1, cells);
    let covered = |i: usize| {
        let (left, right) = (from.max(i as f64), to.min(i as f64 + 1.0));
        (right - left).max(0.0) as f32
    };
    let covered: Vec<f32> = (first..end).map(covered).collect();
    match covered.iter().sum::<f32>() > 0.0 {
        true => Sample::Mean { first, covered },
        false => between(cells, f64::midpoint(from, to)), // beyond the line
    }
}

/// The value at a place.
fn between(cells: usize, place: f64) -> Sample {
    let place = place.clamp(0.5, cells as f64 - 0.5);
    let cell = (place as usize).min(cells - 1); // truncated
    let offset = place - (cell as f64 + 0.5);
    let neighbour = match offset < 0.0 {
        true => cell.saturating_sub(1),
        false => (cell + 1).min(cells - 1),
    };
    Sample::Between {
        cell,
        neighbour,
        share: (2.0 * offset.abs()) as f32,
    }
}
