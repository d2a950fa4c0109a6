//! Axes, the frame of a plot, and legends.

use super::font::text_width;
use super::sheet::{Align, GRID, LABEL, Look, MARGIN, Point, Sheet, TEXT, TICK, WIDTH, shortened, wrap};

/// Width of lines of the frame.
const THIN: f64 = 1.0;
/// From an axis to its numbers.
const GAP: f64 = 5.0;
/// Height of a row of numbers below an axis.
pub(super) const TICK_ROW: f64 = 18.0;
/// Height of a row of a legend.
const LEGEND_ROW: f64 = 17.0;
/// Width of what stands for a series in a legend, with the space behind it.
const SWATCH: f64 = 20.0;

/// A range of values with the numbers that are written on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From `low` to `high` or a little further, so that both ends are numbered; at most about `most` numbers.
    pub fn wide(low: f64, high: f64, most: usize, unit: &str) -> Axis {
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        let step = tick_step(high - low, most);
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let ticks = ticks(first, last, step, unit);
        Axis { low: first * step, high: last * step, logarithmic: false, ticks }
    }

    /// Exactly from `low` to `high`.
    pub fn exact(low: f64, high: f64, most: usize, unit: &str) -> Axis {
        let high = if high > low { high } else { low + 1.0 };
        let step = tick_step(high - low, most);
        let ticks = ticks((low / step - 1e-9).ceil(), (high / step + 1e-9).floor(), step, unit);
        Axis { low, high, logarithmic: false, ticks }
    }

    /// Powers of ten from at most `low` to at least `high`, both above zero.
    pub fn logarithmic(low: f64, high: f64, unit: &str) -> Axis {
        let first = (low.log10() + 1e-9).floor() as i32;
        let last = ((high.log10() - 1e-9).ceil() as i32).max(first + 1);
        let power = |exponent: i32| 10f64.powi(exponent);
        let label = |exponent: i32| format!("{:.*}{unit}", (-exponent).max(0) as usize, power(exponent));
        let ticks = (first..=last).map(|exponent| (power(exponent), label(exponent))).collect();
        Axis { low: power(first), high: power(last), logarithmic: true, ticks }
    }

    /// Steps of training, from `first` to `last`.
    pub fn steps(first: f64, last: f64) -> Axis {
        let mut axis = Axis::exact(first, last, 7, "");
        axis.ticks.retain(|(value, _)| value.fract() == 0.0);
        axis.ticks.iter_mut().for_each(|(value, label)| *label = format!("{value:.0}"));
        axis
    }

    /// With these numbers instead.
    pub fn numbered(self, ticks: Vec<(f64, String)>) -> Axis {
        Axis { ticks, ..self }
    }

    /// Where a value lies: 0 at the low end, 1 at the high one.
    fn share(&self, value: f64) -> f64 {
        let at = |value: f64| if self.logarithmic { value.log10() } else { value };
        (at(value) - at(self.low)) / (at(self.high) - at(self.low))
    }

    fn widest(&self) -> f64 {
        self.ticks.iter().map(|(_, label)| text_width(label, TICK)).fold(0.0, f64::max)
    }
}

fn ticks(first: f64, last: f64, step: f64, unit: &str) -> Vec<(f64, String)> {
    let decimals = decimals(step);
    let count = (last - first).round() as i64;
    let value = |i: i64| (first + i as f64) * step;
    (0..=count).map(|i| (value(i), format!("{:.decimals$}{unit}", value(i) + 0.0))).collect()
}

/// 1, 2, 2.5 or 5 times a power of ten, so that the range has at most `most` steps.
fn tick_step(range: f64, most: usize) -> f64 {
    let raw = range / most.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|step| *step >= raw * (1.0 - 1e-9)).unwrap_or(raw)
}

/// Decimals that a multiple of `step` needs.
fn decimals(step: f64) -> usize {
    let exact = |places: i32| {
        let scaled = step * 10f64.powi(places);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    };
    (0..12).find(|&places| exact(places)).unwrap_or(12) as usize
}

/// The place of a plot on a sheet, with its axes.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x: Axis,
    pub y: Axis,
}

impl Frame {
    /// A plot of this height below what is on the sheet, as wide as the numbers of its axes allow. The sheet grows by it and
    /// by the numbers below.
    pub fn below(sheet: &mut Sheet, height: f64, x: Axis, y: Axis) -> Frame {
        let top = sheet.height + GAP + 3.0;
        let last = x.ticks.last().map_or(0.0, |(_, label)| text_width(label, TICK) / 2.0);
        let frame = Frame {
            left: MARGIN + y.widest() + GAP,
            right: WIDTH - MARGIN - last.min(14.0),
            top,
            bottom: top + height,
            x,
            y,
        };
        sheet.height = frame.bottom + TICK_ROW;
        frame
    }

    pub fn across(&self, x: f64) -> f64 {
        self.left + self.x.share(x) * (self.right - self.left)
    }

    pub fn down(&self, y: f64) -> f64 {
        self.bottom - self.y.share(y) * (self.bottom - self.top)
    }

    pub fn at(&self, x: f64, y: f64) -> Point {
        (self.across(x), self.down(y))
    }

    /// Lines across at the numbers of the vertical axis, and these.
    pub fn rows(&self, sheet: &mut Sheet) {
        for (value, label) in &self.y.ticks {
            let y = self.down(*value);
            sheet.line((self.left, y), (self.right, y), GRID, THIN);
            sheet.text((self.left - GAP, y), label, TICK, Align::Right);
        }
    }

    /// Lines down at the numbers of the horizontal axis.
    pub fn columns(&self, sheet: &mut Sheet) {
        for (value, _) in &self.x.ticks {
            let x = self.across(*value);
            sheet.line((x, self.top), (x, self.bottom), GRID, THIN);
        }
    }

    /// The horizontal axis with its numbers, over what was drawn.
    pub fn base_line(&self, sheet: &mut Sheet) {
        sheet.line((self.left, self.bottom), (self.right, self.bottom), TEXT, THIN);
        for (value, label) in &self.x.ticks {
            let x = self.across(*value);
            sheet.line((x, self.bottom), (x, self.bottom + 3.0), TEXT, THIN);
            sheet.text((x, self.bottom + 3.0 + TICK_ROW / 2.0), label, TICK, Align::Middle);
        }
    }
}

/// What stands for a series in a legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swatch {
    Line,
    Bar,
    Dot,
}

/// The names of series below what is on the sheet, as many in a row as fit.
pub(super) fn legend(sheet: &mut Sheet, entries: &[(String, Look, Swatch)]) {
    sheet.height += 4.0;
    let (mut x, width) = (MARGIN, WIDTH - 2.0 * MARGIN);
    for (label, look, swatch) in entries {
        let label = shortened(label, LABEL, width - SWATCH);
        let wide = SWATCH + text_width(&label, LABEL) + 14.0;
        if x > MARGIN && x + wide - 14.0 > WIDTH - MARGIN {
            x = MARGIN;
            sheet.height += LEGEND_ROW;
        }
        let y = sheet.height + LEGEND_ROW / 2.0;
        draw_swatch(sheet, (x, y), *look, *swatch);
        sheet.text((x + SWATCH, y), &label, LABEL, Align::Left);
        x += wide;
    }
    sheet.height += LEGEND_ROW;
}

fn draw_swatch(sheet: &mut Sheet, (x, y): Point, look: Look, swatch: Swatch) {
    let (middle, end) = (x + SWATCH / 2.0 - 3.0, x + SWATCH - 6.0);
    match swatch {
        Swatch::Line => {
            sheet.line((x, y), (end, y), look.colour, 2.0);
            if look.marked {
                sheet.dot((middle, y), 3.0, look);
            }
        }
        Swatch::Bar => {
            sheet.rect((x, y - 4.0), (end, y + 4.0), look.colour);
            sheet.mark_on_bar((middle, y), look);
        }
        Swatch::Dot => sheet.dot((middle, y), 3.2, look),
    }
}

/// The name of a horizontal axis, below its numbers.
pub(super) fn axis_name(sheet: &mut Sheet, frame: &Frame, name: &str) {
    for line in wrap(name, LABEL, frame.right - frame.left) {
        let middle = (frame.left + frame.right) / 2.0;
        sheet.text((middle, sheet.height + LEGEND_ROW / 2.0), &line, LABEL, Align::Middle);
        sheet.height += LEGEND_ROW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn numbers_are_round_and_reach_the_ends() {
        assert_eq!(
            labels(&Axis::wide(58.2, 91.0, 5, " %")),
            ["50 %", "60 %", "70 %", "80 %", "90 %", "100 %"]
        );
        assert_eq!(
            labels(&Axis::wide(0.0, 0.118, 5, "")),
            ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125"]
        );
        assert_eq!(labels(&Axis::wide(-0.25, 0.25, 2, "")), ["-0.25", "0.00", "0.25"]);
        assert_eq!(labels(&Axis::steps(1.0, 80.0)), ["20", "40", "60", "80"]);
        assert_eq!(labels(&Axis::steps(1.0, 3.0)), ["1", "2", "3"]);
        assert_eq!(labels(&Axis::logarithmic(0.03, 95.0, " %")), ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"]);
        assert_eq!(labels(&Axis::logarithmic(100.0, 100.0, "")), ["100", "1000"]);
    }

    #[test]
    fn equal_values_have_an_axis_too() {
        for axis in [Axis::wide(3.0, 3.0, 5, ""), Axis::exact(1.0, 1.0, 5, ""), Axis::steps(1.0, 1.0)] {
            assert!(axis.high > axis.low && !axis.ticks.is_empty() && axis.ticks.len() < 9, "{axis:?}");
        }
    }

    #[test]
    fn values_lie_where_they_should() {
        let mut sheet = Sheet::default();
        let (x, y) = (Axis::exact(0.0, 10.0, 5, ""), Axis::logarithmic(0.01, 100.0, ""));
        let frame = Frame::below(&mut sheet, 100.0, x, y);
        assert_eq!(frame.across(5.0), (frame.left + frame.right) / 2.0);
        assert_eq!(frame.down(1.0), frame.top + 50.0);
        assert_eq!(sheet.height, frame.bottom + TICK_ROW);
    }

    #[test]
    fn a_legend_has_as_many_rows_as_it_needs() {
        let entry = |label: &str| (label.to_owned(), Look::of(0), Swatch::Line);
        let height = |labels: &[&str]| {
            let mut sheet = Sheet::default();
            legend(&mut sheet, &labels.iter().map(|label| entry(label)).collect::<Vec<_>>());
            sheet.height
        };
        assert_eq!(height(&["a", "b", "c"]), 4.0 + LEGEND_ROW);
        assert_eq!(height(&["a", &"long ".repeat(60)]), 4.0 + 2.0 * LEGEND_ROW);
    }
}
