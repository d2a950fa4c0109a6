//! How much whole responses depend on the picture, as the mean over their tokens: the paper's Figure 4.

use super::axes::{Axis, Frame, TICK_ROW};
use super::font::text_width;
use super::published::PublishedDependency;
use super::sheet::{Align, LABEL, Look, MARGIN, Sheet, TEXT, TICK, WIDTH, shortened};
use super::tokens::PAPER;
use super::{Figure, FigureData, Series, figure, numbers};
use anyhow::Result;

/// Height of the bars of one series.
const STRIP: f64 = 40.0;
/// Below it, where no axis is.
const STRIP_GAP: f64 = 4.0;
/// Height of the line that names a series.
const NAME: f64 = 18.0;
/// Bins of responses where the paper's do not suit.
const BINS: usize = 40;
/// Share of the responses that the bins span; the others are in the last.
const SPANNED: f64 = 0.99;
/// Where that share of the responses must lie for the paper's bins to suit, in widths of the paper's whole range.
const SUITS: [f64; 2] = [0.3, 1.3];

/// Bins of one width; the first and the last hold what lies outside too.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bins {
    low: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// The paper's where they suit the values, else bins from zero that span nearly all.
    fn new(values: &mut [f64], paper: &PublishedDependency) -> Bins {
        values.sort_unstable_by(f64::total_cmp);
        let last = (SPANNED * values.len() as f64).ceil() as usize;
        let spanned = values.get(last.saturating_sub(1)).copied().unwrap_or_default();
        let published = Bins::published(paper);
        let [least, most] = SUITS.map(|share| share * published.end());
        if (least..most).contains(&spanned) {
            return published;
        }
        let width = if spanned > 0.0 { rounded_up(spanned / BINS as f64) } else { 1.0 / BINS as f64 };
        Bins { low: 0.0, width, count: BINS }
    }

    fn published(paper: &PublishedDependency) -> Bins {
        let (edges, count) = (&paper.response_edges, paper.response_counts.len());
        let width = (edges[count] - edges[0]) / count as f64;
        Bins { low: edges[0], width, count }
    }

    fn end(&self) -> f64 {
        self.low + self.width * self.count as f64
    }

    fn shares(&self, values: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; self.count];
        for value in values {
            let bin = ((value - self.low) / self.width).max(0.0) as usize;
            shares[bin.min(self.count - 1)] += 1.0 / values.len() as f64;
        }
        shares
    }
}

/// To two digits, upwards.
fn rounded_up(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    (value / unit - 1e-9).ceil() * unit
}

/// One series, ready to be drawn.
struct Strip {
    label: String,
    look: Look,
    shares: Vec<f64>,
    mean: f64,
    note: String,
}

/// The figure: a histogram for every series over a common axis, and below them the paper's.
pub(super) fn response_figure(
    data: &FigureData,
    series: &[Series<'_>],
    paper: &PublishedDependency,
) -> Result<Figure> {
    let title = "How much responses depend on the picture";
    let means: Vec<Vec<f64>> = series
        .iter()
        .map(|series| series.tokens.responses.iter().map(|response| response.mean()).collect())
        .collect();
    let bins = Bins::new(&mut means.concat(), paper);
    let strips: Vec<Strip> =
        series.iter().zip(&means).map(|(series, means)| strip(series, means, bins)).collect();
    let published = published_strip(paper);
    let mut sheet = Sheet::titled(title, "share of the responses by their tokens' mean dependency");
    panel(&mut sheet, bins, &strips);
    axis_name_below(&mut sheet);
    panel(&mut sheet, Bins::published(paper), std::slice::from_ref(&published));
    axis_name_below(&mut sheet);
    let caption = caption(data, series, &means, bins, paper);
    let csv = csv(&strips, bins, &published, Bins::published(paper))?;
    figure("trajectory_dependency", title, caption, &sheet, csv)
}

fn strip(series: &Series<'_>, means: &[f64], bins: Bins) -> Strip {
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    let squares: f64 = means.iter().map(|value| (value - mean) * (value - mean)).sum();
    let deviation = if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
    let (label, look, shares) = (series.label.clone(), series.look, bins.shares(means));
    let note = format!("mean {}, s.d. {}", numbers::shown(mean), numbers::shown(deviation));
    Strip { label, look, shares, mean, note }
}

/// Mean and deviation are those of the published bins.
fn published_strip(paper: &PublishedDependency) -> Strip {
    let (counts, bins) = (&paper.response_counts, Bins::published(paper));
    let all: f64 = counts.iter().sum();
    let middle = |bin: usize| bins.low + (bin as f64 + 0.5) * bins.width;
    let mean = counts.iter().enumerate().map(|(bin, count)| count * middle(bin)).sum::<f64>() / all;
    let square = |bin: usize| (middle(bin) - mean) * (middle(bin) - mean);
    let variance = counts.iter().enumerate().map(|(bin, count)| count * square(bin)).sum::<f64>() / all;
    Strip {
        label: PAPER.into(),
        look: Look::published(),
        shares: counts.iter().map(|count| count / all).collect(),
        mean,
        note: format!("mean {}, s.d. {}", numbers::shown(mean), numbers::shown(variance.sqrt())),
    }
}

/// Strips of one scale over one axis.
fn panel(sheet: &mut Sheet, bins: Bins, strips: &[Strip]) {
    let highest = strips.iter().flat_map(|strip| &strip.shares).copied().fold(0.0, f64::max);
    let y = Axis::exact(0.0, 100.0 * highest, 2, " %");
    let x = Axis::exact(if bins.low < bins.width * 2.0 { 0.0 } else { bins.low }, bins.end(), 6, "");
    for strip in strips {
        name(sheet, strip);
        let frame = Frame::below(sheet, STRIP, x.clone(), y.clone());
        sheet.height = frame.bottom + STRIP_GAP;
        frame.rows(sheet);
        bars(sheet, &frame, bins, strip);
        if std::ptr::eq(strip, &strips[strips.len() - 1]) {
            frame.base_line(sheet);
            sheet.height = frame.bottom + TICK_ROW;
        } else {
            sheet.line((frame.left, frame.bottom), (frame.right, frame.bottom), TEXT, 1.0);
        }
    }
}

fn name(sheet: &mut Sheet, strip: &Strip) {
    let y = sheet.height + NAME / 2.0 + 3.0;
    let room = WIDTH - 2.0 * MARGIN - text_width(&strip.note, TICK) - 10.0;
    sheet.text((MARGIN, y), &shortened(&strip.label, LABEL, room), LABEL, Align::Left);
    sheet.text((WIDTH - MARGIN, y), &strip.note, TICK, Align::Right);
    sheet.height += NAME;
}

/// The bars, and a line at the mean.
fn bars(sheet: &mut Sheet, frame: &Frame, bins: Bins, strip: &Strip) {
    for (bin, share) in strip.shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let from = bins.low + bin as f64 * bins.width;
        let (left, right) = (frame.across(from), frame.across(from + bins.width));
        sheet.rect((left + 0.25, frame.down(100.0 * share)), (right - 0.25, frame.bottom), strip.look.colour);
    }
    let mean = frame.across(strip.mean.clamp(bins.low, bins.end()));
    sheet.line((mean, frame.top - 2.0), (mean, frame.bottom), TEXT, 1.0);
}

fn axis_name_below(sheet: &mut Sheet) {
    let middle = (MARGIN, WIDTH - MARGIN);
    let y = sheet.height + LABEL * 0.65;
    sheet.text(((middle.0 + middle.1) / 2.0, y), "mean dependency of a response, nats", LABEL, Align::Middle);
    sheet.height += LABEL * 1.3 + 4.0;
}

fn caption(
    data: &FigureData,
    series: &[Series<'_>],
    means: &[Vec<f64>],
    bins: Bins,
    paper: &PublishedDependency,
) -> String {
    let beyond = means.iter().flatten().filter(|mean| **mean >= bins.end()).count();
    let below = means.iter().flatten().filter(|mean| **mean < bins.low).count();
    let mut text = format!(
        "Responses by the mean visual dependency of their tokens (KL divergence, paper eq. 3 and 4), in bins of {} nats; \
         the line is the mean. {}",
        numbers::shown(bins.width),
        data.of_responses(series)
    );
    for (count, which) in [(below, "first"), (beyond, "last")] {
        if count > 0 {
            let responses = if count == 1 { "response that lies" } else { "responses that lie" };
            text += &format!(" The {which} bin holds {count} {responses} outside the axis.");
        }
    }
    text += &format!(
        " Below, with an axis of its own: the paper's Figure 4, published for Qwen2.5-VL-7B before training on {} responses \
         to other questions; it is no measurement of this run.",
        paper.response_counts.iter().sum::<f64>()
    );
    text
}

fn csv(strips: &[Strip], bins: Bins, published: &Strip, paper: Bins) -> Result<String> {
    let all = strips.iter().map(|strip| (strip, bins)).chain([(published, paper)]);
    let rows = all.flat_map(|(strip, bins)| {
        strip.shares.iter().enumerate().map(move |(bin, share)| {
            let edge = |bin: usize| numbers::number(bins.low + bin as f64 * bins.width);
            vec![strip.label.clone(), edge(bin), edge(bin + 1), numbers::number(100.0 * share)]
        })
    });
    numbers::table(&["series", "low", "high", "share_pct"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> PublishedDependency {
        PublishedDependency::load().unwrap()
    }

    #[test]
    fn bins_are_the_papers_where_they_suit() {
        let published = Bins::published(&paper());
        assert_eq!((published.low, published.count), (0.0084, 50));
        assert!((published.end() - 0.3909).abs() < 1e-9 && (published.width - 0.00765).abs() < 1e-9);
        let bins = |values: &[f64]| Bins::new(&mut values.to_vec(), &paper());
        assert_eq!(bins(&[0.2, 0.01]), published);
        assert_eq!(bins(&[0.01, 1.6]), Bins { low: 0.0, width: 0.04, count: 40 });
        assert_eq!(bins(&[0.0, 0.0]), Bins { low: 0.0, width: 0.025, count: 40 });
        assert_eq!(bins(&[]).count, 40);
    }

    #[test]
    fn the_last_hundredth_does_not_widen_the_axis() {
        let mut values = vec![1.6; 99];
        values.push(50.0);
        assert_eq!(Bins::new(&mut values, &paper()).end(), 1.6);
    }

    #[test]
    fn responses_are_counted_by_hand() {
        let bins = Bins { low: 0.5, width: 0.5, count: 3 };
        assert_eq!(bins.shares(&[0.1, 0.5, 0.99, 1.0, 1.5, 1.99, 2.0, 9.0]), [0.375, 0.125, 0.5]);
    }
}
