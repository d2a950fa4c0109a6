//! Training curves: one figure for each of some metrics, all arms in it.

use super::axes::{Axis, Frame, Swatch, axis_name, legend};
use super::published::accuracy_curves;
use super::sheet::{Look, Point, Sheet};
use super::{ArmData, Figure, FigureData, figure, numbers};
use crate::store::StepLine;
use anyhow::Result;
use std::collections::BTreeMap;

/// Longer curves are smoothed.
const LONGEST_RAW: usize = 40;
/// Steps of the trailing mean.
const WINDOW: usize = 10;
/// Points drawn of a curve.
const MOST_POINTS: usize = 400;
/// Height of a plot.
const HEIGHT: f64 = 170.0;
/// Opacity of a band.
const BAND: f64 = 0.18;
/// Between two marks on a line.
const MARK_GAP: f64 = 45.0;
/// Arms that the paper's Figure 5 has curves of, by their keys.
const PUBLISHED_ARMS: [(&str, &str); 3] = [("grpo", "GRPO"), ("dapo", "DAPO"), ("vppo", "VPPO")];

/// What is drawn of a metric.
struct Metric {
    name: &'static str,
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    /// Factor to the unit.
    factor: f64,
    percent: bool,
    caption: &'static str,
}

const METRICS: [Metric; 4] = [
    Metric {
        name: "training_accuracy",
        key: "correct_frac",
        title: "Training accuracy",
        unit: "correct responses",
        factor: 100.0,
        percent: true,
        caption: "Share of correct responses among all that were sampled for training, those of groups that an arm's \
                  filter then drops included. The reward is 1 for a correct response and else 0, so this is the mean \
                  reward too (before an overlong penalty, where an arm has one).",
    },
    Metric {
        name: "training_entropy",
        key: "entropy",
        title: "Entropy of the policy",
        unit: "nats per token",
        factor: 1.0,
        percent: false,
        caption: "Mean entropy of the sampling policy over all tokens that were sampled for training.",
    },
    Metric {
        name: "training_length",
        key: "response_tokens_mean",
        title: "Response length",
        unit: "tokens per response",
        factor: 1.0,
        percent: false,
        caption: "Mean length of all responses that were sampled for training, the end token counted.",
    },
    Metric {
        name: "training_kept_groups",
        key: "kept_groups_frac",
        title: "Groups kept by the filter",
        unit: "of the sampled groups",
        factor: 100.0,
        percent: true,
        caption: "Share of the sampled groups that an arm's filter keeps; an arm without a filter (GRPO) keeps all.",
    },
];

/// Mean, least and greatest value of the seeds at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BandPoint {
    step: u64,
    mean: f64,
    low: f64,
    high: f64,
    seeds: usize,
}

/// The curve of an arm.
struct Curve<'a> {
    arm: &'a ArmData,
    look: Look,
    points: Vec<BandPoint>,
}

/// One figure per metric that an arm has, and the paper's curves where the study has the paper's arms.
pub(super) fn figures(data: &FigureData) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    for metric in &METRICS {
        figures.extend(metric_figure(data, metric)?);
    }
    let has = |(key, _): &(&str, &str)| data.arms.iter().any(|arm| arm.key == *key && !arm.seeds.is_empty());
    if PUBLISHED_ARMS.iter().all(has) {
        figures.push(published_figure(data)?);
    }
    Ok(figures)
}

fn metric_figure(data: &FigureData, metric: &Metric) -> Result<Option<Figure>> {
    let longest = data.arms.iter().flat_map(|arm| &arm.seeds).map(Vec::len).max().unwrap_or_default();
    let window = if longest > LONGEST_RAW { WINDOW } else { 1 };
    let arms = data.arms.iter().enumerate();
    let curves = arms.map(|(number, arm)| curve(arm, number, metric, window));
    let curves: Vec<Curve> = curves.filter(|curve| !curve.points.is_empty()).collect();
    if curves.is_empty() {
        return Ok(None);
    }
    let sheet = sheet(metric, &curves, window);
    let caption = caption(data, metric, &curves, window);
    figure(metric.name, metric.title, caption, &sheet, csv(metric, &curves)?).map(Some)
}

fn curve<'a>(arm: &'a ArmData, number: usize, metric: &Metric, window: usize) -> Curve<'a> {
    let seeds = arm.seeds.iter().map(|lines| smoothed(&values(lines, metric), window));
    Curve { arm, look: Look::of(number), points: thinned(band(seeds), MOST_POINTS) }
}

fn values(lines: &[StepLine], metric: &Metric) -> Vec<(u64, f64)> {
    let value = |line: &StepLine| Some((line.step, metric.factor * line.metrics.get(metric.key)?));
    lines.iter().filter_map(value).collect()
}

/// The mean of each value and the ones before it, `window` in all or fewer at the beginning.
fn smoothed(values: &[(u64, f64)], window: usize) -> Vec<(u64, f64)> {
    let mean = |(i, &(step, _)): (usize, &(u64, f64))| {
        let last = &values[(i + 1).saturating_sub(window)..=i];
        (step, last.iter().map(|(_, value)| value).sum::<f64>() / last.len() as f64)
    };
    values.iter().enumerate().map(mean).collect()
}

/// Seeds together, at every step that one of them has.
fn band(seeds: impl Iterator<Item = Vec<(u64, f64)>>) -> Vec<BandPoint> {
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in seeds.flatten() {
        by_step.entry(step).or_default().push(value);
    }
    let point = |(step, values): (u64, Vec<f64>)| BandPoint {
        step,
        mean: values.iter().sum::<f64>() / values.len() as f64,
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        seeds: values.len(),
    };
    by_step.into_iter().map(point).collect()
}

/// Every n-th point and the last, so that no more than `most` and one are left.
fn thinned(points: Vec<BandPoint>, most: usize) -> Vec<BandPoint> {
    let (every, last) = (points.len().div_ceil(most).max(1), points.len().saturating_sub(1));
    let kept = |(i, point): (usize, BandPoint)| (i % every == 0 || i == last).then_some(point);
    points.into_iter().enumerate().filter_map(kept).collect()
}

fn sheet(metric: &Metric, curves: &[Curve<'_>], window: usize) -> Sheet {
    let mut sheet = Sheet::titled(metric.title, &subtitle(metric, curves, window));
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (first, last) =
        points().fold((u64::MAX, 0), |(first, last), point| (first.min(point.step), last.max(point.step)));
    let low = points().map(|point| point.low).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.high).fold(f64::NEG_INFINITY, f64::max);
    let x = Axis::steps(first as f64, last as f64);
    let y = Axis::wide(low, high, 5, if metric.percent { " %" } else { "" });
    let frame = Frame::below(&mut sheet, HEIGHT, x, y);
    frame.rows(&mut sheet);
    curves.iter().for_each(|curve| draw_band(&mut sheet, &frame, curve));
    for curve in curves {
        let line = curve.points.iter().map(|point| frame.at(point.step as f64, point.mean)).collect();
        draw_line(&mut sheet, line, curve.look);
    }
    frame.base_line(&mut sheet);
    axis_name(&mut sheet, &frame, "training step");
    let entry = |curve: &Curve| (curve.arm.label.clone(), curve.look, Swatch::Line);
    legend(&mut sheet, &curves.iter().map(entry).collect::<Vec<_>>());
    sheet
}

fn subtitle(metric: &Metric, curves: &[Curve<'_>], window: usize) -> String {
    let mut text = metric.unit.to_owned();
    if window > 1 {
        text += &format!(", mean of {window} steps");
    }
    if most_seeds(curves) > 1 {
        text += ", band over seeds";
    }
    text
}

fn most_seeds(curves: &[Curve<'_>]) -> usize {
    curves.iter().flat_map(|curve| &curve.points).map(|point| point.seeds).max().unwrap_or_default()
}

fn draw_band(sheet: &mut Sheet, frame: &Frame, curve: &Curve<'_>) {
    if curve.points.len() < 2 || curve.points.iter().all(|point| point.low == point.high) {
        return;
    }
    let low = curve.points.iter().map(|point| frame.at(point.step as f64, point.low));
    let high = curve.points.iter().rev().map(|point| frame.at(point.step as f64, point.high));
    sheet.area(low.chain(high).collect(), curve.look.colour, BAND);
}

/// A line, with marks on it where the colour alone does not tell; a single point is a dot.
fn draw_line(sheet: &mut Sheet, line: Vec<Point>, look: Look) {
    let mut marked = f64::NEG_INFINITY;
    for &point in &line {
        if line.len() == 1 || (look.marked && point.0 - marked >= MARK_GAP) {
            sheet.dot(point, 3.0, look);
            marked = point.0;
        }
    }
    if line.len() > 1 {
        sheet.path(line, look.colour, 1.75);
    }
}

fn caption(data: &FigureData, metric: &Metric, curves: &[Curve<'_>], window: usize) -> String {
    let mut text = format!("{} {}", metric.caption, data.of_run());
    if window > 1 {
        text += &format!(" Lines are means of the last {window} steps, or of fewer at the beginning.");
    }
    if most_seeds(curves) > 1 {
        text += " With several seeds a line is their mean and the band reaches from the least to the greatest of them.";
    }
    let uneven = |curve: &Curve| curve.arm.seeds.windows(2).any(|pair| pair[0].len() != pair[1].len());
    if curves.iter().any(uneven) {
        text += " Some seeds are not finished: where one ends, the line goes on as the mean of the others.";
    }
    text
}

fn csv(metric: &Metric, curves: &[Curve<'_>]) -> Result<String> {
    let name = column(metric);
    let columns = ["mean", "low", "high"].map(|part| format!("{name}_{part}"));
    let header = ["arm", "step", &columns[0], &columns[1], &columns[2], "seeds"];
    let row = |curve: &Curve, point: &BandPoint| {
        let [mean, low, high] = [point.mean, point.low, point.high].map(numbers::number);
        vec![curve.arm.label.clone(), point.step.to_string(), mean, low, high, point.seeds.to_string()]
    };
    let rows = curves.iter().flat_map(|curve| curve.points.iter().map(move |point| row(curve, point)));
    numbers::table(&header, rows)
}

fn column(metric: &Metric) -> String {
    if metric.percent { metric.key.replace("_frac", "_pct") } else { metric.key.to_owned() }
}

/// The paper's Figure 5 alone: its steps and its model are others.
fn published_figure(data: &FigureData) -> Result<Figure> {
    let title = "As published: training accuracy";
    let mut sheet = Sheet::titled(title, "paper, Figure 5: Qwen2.5-VL-7B on ViRL39K, means of 10 steps");
    let (mut entries, mut lines) = (vec![], vec![]);
    let mut rows = vec![];
    for curve in accuracy_curves()? {
        let key = PUBLISHED_ARMS.iter().find(|(_, name)| *name == curve.name).map(|(key, _)| *key);
        let number = data.arms.iter().position(|arm| Some(arm.key.as_str()) == key);
        let look = number.map_or(Look::published(), Look::of);
        entries.push((format!("{} (paper)", curve.name), look, Swatch::Line));
        for (step, accuracy) in &curve.points {
            rows.push(vec![curve.name.clone(), step.to_string(), numbers::number(100.0 * accuracy)]);
        }
        lines.push((curve.points, look));
    }
    let values = || lines.iter().flat_map(|(points, _)| points).map(|(_, accuracy)| 100.0 * accuracy);
    let y = Axis::wide(values().fold(100.0, f64::min), values().fold(0.0, f64::max), 5, " %");
    let frame = Frame::below(&mut sheet, HEIGHT, Axis::exact(0.0, 202.0, 5, ""), y);
    frame.rows(&mut sheet);
    for (points, look) in lines {
        let line = points.iter().map(|(step, accuracy)| frame.at(*step, 100.0 * accuracy)).collect();
        draw_line(&mut sheet, line, look);
    }
    frame.base_line(&mut sheet);
    axis_name(&mut sheet, &frame, "training step");
    legend(&mut sheet, &entries);
    let caption = "The published curves, for orientation: another model, other questions, other steps (202 of 384 prompts), \
                   one run each. Read off the paper's Figure 5; nothing in it was measured here.";
    let csv = numbers::table(&["curve", "step_centre", "accuracy_pct"], rows)?;
    figure("paper_training_accuracy", title, caption.to_owned(), &sheet, csv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_means_by_hand() {
        let values: Vec<(u64, f64)> =
            [4.0, 2.0, 9.0, 1.0].into_iter().zip(1..).map(|(v, s)| (s, v)).collect();
        assert_eq!(smoothed(&values, 3), [(1, 4.0), (2, 3.0), (3, 5.0), (4, 4.0)]);
        assert_eq!(smoothed(&values, 1), values);
        assert_eq!(smoothed(&[], 10), []);
    }

    #[test]
    fn seeds_give_mean_and_range_and_may_be_uneven() {
        let seeds = [vec![(1, 1.0), (2, 4.0)], vec![(1, 3.0)], vec![(1, 5.0), (2, 2.0), (3, 7.0)]];
        let point = |step, mean, low, high, seeds| BandPoint { step, mean, low, high, seeds };
        let expected = [point(1, 3.0, 1.0, 5.0, 3), point(2, 3.0, 2.0, 4.0, 2), point(3, 7.0, 7.0, 7.0, 1)];
        assert_eq!(band(seeds.into_iter()), expected);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_ends() {
        let points = |n: u64| band(std::iter::once((1..=n).map(|step| (step, 0.5)).collect()));
        let steps = |n: u64| thinned(points(n), 4).iter().map(|point| point.step).collect::<Vec<_>>();
        assert_eq!(steps(4), [1, 2, 3, 4]);
        assert_eq!(steps(10), [1, 4, 7, 10]);
        assert_eq!(steps(11), [1, 4, 7, 10, 11]);
        assert_eq!(steps(0), Vec::<u64>::new());
    }
}
