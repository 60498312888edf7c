//! Plots of points as SVG.

use std::fmt::Write;

use super::markup::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 52.0;
/// Lines of the grid along each axis, about.
const LINES: f64 = 6.0;

/// A point of a plot.
pub(super) struct Point {
    name: String,
    detail: String,
    at: (f64, f64),
    is_own: bool,
}

impl Point {
    /// What this run measured.
    pub(super) fn own(name: &str, at: (f64, f64)) -> Self {
        Self {
            name: name.into(),
            detail: format!("{name}: {:.2}, {:.2}", at.0, at.1),
            at,
            is_own: true,
        }
    }

    /// What others published.
    pub(super) fn other(name: &str, detail: String, at: (f64, f64)) -> Self {
        Self {
            name: name.into(),
            detail,
            at,
            is_own: false,
        }
    }
}

/// Points over two axes, both of which are better further out.
pub(super) struct Scatter {
    pub(super) title: String,
    /// Across, and up.
    pub(super) axes: [&'static str; 2],
    pub(super) points: Vec<Point>,
}

impl Scatter {
    /// The plot; a figure with its title.
    pub(super) fn svg(&self) -> String {
        let x = Axis::over(
            self.points.iter().map(|point| point.at.0),
            (LEFT, WIDTH - RIGHT),
        );
        let y = Axis::over(
            self.points.iter().map(|point| point.at.1),
            (HEIGHT - BOTTOM, TOP),
        );
        let title = escaped(&self.title);
        let mut svg = format!(
            "<figure><figcaption>{title}</figcaption><div class=\"plot\">\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        );
        self.draw_grid(&x, &y, &mut svg);
        // One's own points lie on top.
        let mut labels = Labels::default();
        for is_own in [false, true] {
            let own = self.points.iter().filter(|point| point.is_own == is_own);
            for point in own {
                let at = (x.place(point.at.0), y.place(point.at.1));
                draw(point, at, &labels.beside(point, at), &mut svg);
            }
        }
        svg + "</svg></div></figure>"
    }

    fn draw_grid(&self, x: &Axis, y: &Axis, svg: &mut String) {
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut add = |text: String| svg.push_str(&text);
        for line in x.lines() {
            let at = x.place(line);
            add(format!(
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{floor}\"/>"
            ));
            let below = floor + 18.0;
            let text = x.text(line);
            add(format!(
                "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>"
            ));
        }
        for line in y.lines() {
            let at = y.place(line);
            add(format!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>"
            ));
            let (before, middle, text) = (LEFT - 8.0, at + 4.0, y.text(line));
            add(format!(
                "<text x=\"{before}\" y=\"{middle:.1}\" text-anchor=\"end\">{text}</text>"
            ));
        }
        let [across, up] = self.axes.map(escaped);
        let (middle, below) = (f64::midpoint(LEFT, right), HEIGHT - 10.0);
        add(format!(
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{across} →</text>"
        ));
        let middle = f64::midpoint(TOP, floor);
        add(format!(
            "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{up} →</text>"
        ));
    }
}

/// Where a name stands: its anchor, and the place of it.
struct Label {
    anchor: &'static str,
    at: (f64, f64),
}

/// Pixels of a letter, and between lines.
const LETTER: f64 = 7.0;
const LINE: f64 = 14.0;
/// Lines that a name is moved by at most.
const MOVES: usize = 12;

/// The boxes of one's own names, none of which covers another: left, right, and middle.
#[derive(Default)]
struct Labels(Vec<(f64, f64, f64)>);

impl Labels {
    /// Beside a point, to its left near the right edge, and as high or low as there is room.
    /// Names of others are shown one at a time and stay where they are.
    fn beside(&mut self, point: &Point, (x, y): (f64, f64)) -> Label {
        let width = LETTER * point.name.chars().count() as f64;
        let (anchor, at, left) = match x > WIDTH * 0.75 {
            true => ("end", x - 10.0, x - 10.0 - width),
            false => ("start", x + 10.0, x + 10.0),
        };
        let covers = |y: f64, (from, to, middle): &(f64, f64, f64)| {
            *from < left + width && left < *to && (middle - y).abs() < LINE
        };
        let is_free = |y: &f64| !point.is_own || !self.0.iter().any(|one| covers(*y, one));
        let moved = |i: usize| {
            let lines = i.div_ceil(2) as f64 * LINE;
            if i.is_multiple_of(2) {
                y + lines
            } else {
                y - lines
            }
        };
        let y = (0..MOVES).map(moved).find(is_free).unwrap_or(y);
        if point.is_own {
            self.0.push((left, left + width, y));
        }
        Label {
            anchor,
            at: (at, y + 4.0),
        }
    }
}

fn draw(point: &Point, (x, y): (f64, f64), label: &Label, svg: &mut String) {
    let (kind, radius) = match point.is_own {
        true => ("own", 7.0),
        false => ("other", 4.5),
    };
    let (name, detail) = (escaped(&point.name), escaped(&point.detail));
    let (anchor, (beside, above)) = (label.anchor, label.at);
    let _ = write!(
        svg, // a string takes all that is written
        "<g class=\"{kind}\" tabindex=\"0\" role=\"img\" aria-label=\"{detail}\"><title>{detail}</title>\
         <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>\
         <text x=\"{beside:.1}\" y=\"{above:.1}\" text-anchor=\"{anchor}\">{name}</text></g>"
    );
}

/// A range of values on a range of places.
struct Axis {
    values: (f64, f64),
    step: f64,
    places: (f64, f64),
}

impl Axis {
    /// Over all values, with round ends.
    fn over(values: impl Iterator<Item = f64> + Clone, places: (f64, f64)) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = match least <= most {
            true => (least, most),
            false => (0.0, 1.0),
        };
        let finest = (0.02 * least.abs().max(most.abs())).max(1e-3); // equal values are a line
        let step = round_step((most - least).max(finest) / LINES);
        Self {
            values: (
                ((least / step - 0.3).floor()) * step,
                ((most / step + 0.3).ceil()) * step,
            ),
            step,
            places,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value - self.values.0) / (self.values.1 - self.values.0);
        self.places.0 + share * (self.places.1 - self.places.0)
    }

    fn lines(&self) -> impl Iterator<Item = f64> {
        let count = ((self.values.1 - self.values.0) / self.step).round() as usize;
        let (first, step) = (self.values.0, self.step);
        (0..=count).map(move |i| first + i as f64 * step)
    }

    fn text(&self, value: f64) -> String {
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{value:.digits$}")
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let rounds = [1.0, 2.0, 5.0, 10.0].map(|round| round * power);
    rounds
        .into_iter()
        .find(|round| *round >= step)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_covers_another() {
        let mut labels = Labels::default();
        let heights = [300.0, 310.0, 320.0, 400.0].map(|x| {
            let label = labels.beside(&Point::own("colour", (0.0, 0.0)), (x, 100.0));
            label.at.1
        });
        assert_eq!(heights, [104.0, 90.0, 118.0, 104.0]);
    }

    #[test]
    fn axes_have_round_ends_around_all_values() {
        let axis = Axis::over([17.87, 29.65].into_iter(), (0.0, 100.0));
        assert_eq!(
            axis.lines().collect::<Vec<_>>(),
            [16.0, 18.0, 20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 32.0]
        );
        assert!(axis.place(17.87) > 0.0 && axis.place(29.65) < 100.0);
        for values in [vec![], vec![0.0], vec![3.0, 3.0]] {
            let axis = Axis::over(values.into_iter(), (0.0, 100.0));
            assert!(axis.place(3.0).is_finite());
        }
    }
}
