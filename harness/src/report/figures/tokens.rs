//! How many tokens depend how much on the picture: the paper's Figure 3.

use super::axes::{Axis, Frame, Swatch, axis_name, legend};
use super::published::PublishedDependency;
use super::sheet::{Look, Sheet};
use super::{Figure, FigureData, Series, TokenData, figure, numbers};
use anyhow::Result;

/// Height of the plot.
const HEIGHT: f64 = 210.0;
/// Share of a bin's width that its bar has.
const BAR: f64 = 0.92;
/// Share of a bin's width over which the arms' dots are spread.
const SPREAD: f64 = 0.78;
const DOT: f64 = 3.0;
/// What the published values are called.
pub(super) const PAPER: &str = "paper (7B, MathVerse vision-dominant)";

/// Counts as shares of their sum.
fn shares(counts: &[usize]) -> Vec<f64> {
    let all = counts.iter().sum::<usize>().max(1) as f64;
    counts.iter().map(|&count| count as f64 / all).collect()
}

/// The figure: shares of all series in the paper's bins, and the paper's.
pub(super) fn token_figure(
    data: &FigureData,
    series: &[Series<'_>],
    paper: &PublishedDependency,
) -> Result<Figure> {
    let title = "How much tokens depend on the picture";
    let counts: Vec<Vec<usize>> =
        series.iter().map(|series| counts(series.tokens, &paper.token_edges)).collect();
    let sheet = sheet(title, series, &counts, paper);
    let caption = format!(
        "Share of the tokens by visual dependency (KL divergence of the next-token distribution under the corrupted picture \
         from that under the true one, paper eq. 3), on a logarithmic scale and in bins that widen from 1; a bin without \
         tokens has no dot. {} Bars: the paper's Figure 3, published for Qwen2.5-VL-7B before training on other questions; \
         its last bar, at 10, suggests the one-sample estimate that the authors' code holds below 10, not the whole \
         divergence. It is no measurement of this run.",
        data.of_responses(series)
    );
    figure("token_dependency", title, caption, &sheet, csv(series, &counts, paper)?)
}

/// Tokens in each bin from an edge to the next, the last without an end.
fn counts(tokens: &TokenData, edges: &[f64]) -> Vec<usize> {
    let mut counts = vec![0; edges.len()];
    for value in tokens.dependency_t() {
        let bin = edges.partition_point(|edge| *edge <= value).saturating_sub(1);
        counts[bin] += 1;
    }
    counts
}

fn sheet(title: &str, series: &[Series<'_>], counts: &[Vec<usize>], paper: &PublishedDependency) -> Sheet {
    let mut sheet = Sheet::titled(title, "share of the tokens");
    let shares: Vec<Vec<f64>> = counts.iter().map(|counts| shares(counts)).collect();
    let seen = shares.iter().chain([&paper.token_shares]).flatten().copied().filter(|share| *share > 0.0);
    let least = 100.0 * seen.fold(1.0, f64::min);
    let bins = paper.token_edges.len();
    let x = Axis::exact(0.0, bins as f64, bins, "").numbered(edge_names(&paper.token_edges));
    let frame = Frame::below(&mut sheet, HEIGHT, x, Axis::logarithmic(least, 100.0, " %"));
    frame.rows(&mut sheet);
    bars(&mut sheet, &frame, &paper.token_shares);
    for (number, (series, shares)) in series.iter().zip(&shares).enumerate() {
        let place = 0.5 + SPREAD * ((number as f64 + 0.5) / counts.len() as f64 - 0.5);
        for (bin, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            sheet.dot(frame.at(bin as f64 + place, 100.0 * share), DOT, series.look);
        }
    }
    frame.base_line(&mut sheet);
    axis_name(&mut sheet, &frame, "visual dependency, nats");
    let entry = |series: &Series| (series.label.clone(), series.look, Swatch::Dot);
    let paper = (PAPER.to_owned(), Look::published(), Swatch::Bar);
    legend(&mut sheet, &series.iter().map(entry).chain([paper]).collect::<Vec<_>>());
    sheet
}

/// The published shares.
fn bars(sheet: &mut Sheet, frame: &Frame, shares: &[f64]) {
    for (bin, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let (from, to) = (bin as f64 + (1.0 - BAR) / 2.0, bin as f64 + (1.0 + BAR) / 2.0);
        let corner = frame.at(from, 100.0 * share);
        sheet.rect(corner, (frame.across(to), frame.bottom), Look::published().colour);
    }
}

/// Each edge where its bin begins, in whole bins from the left.
fn edge_names(edges: &[f64]) -> Vec<(f64, String)> {
    let mut names: Vec<(f64, String)> =
        edges.iter().enumerate().map(|(bin, edge)| (bin as f64, edge.to_string())).collect();
    names.push((edges.len() as f64, "∞".into()));
    names
}

fn csv(series: &[Series<'_>], counts: &[Vec<usize>], paper: &PublishedDependency) -> Result<String> {
    let edges = &paper.token_edges;
    let high = |bin: usize| edges.get(bin + 1).map_or(String::new(), f64::to_string);
    let row = |name: &str, bin: usize, count: String, share: f64| {
        vec![name.into(), edges[bin].to_string(), high(bin), count, numbers::number(100.0 * share)]
    };
    let mut rows = vec![];
    for (series, counts) in series.iter().zip(counts) {
        for (bin, share) in shares(counts).into_iter().enumerate() {
            rows.push(row(&series.label, bin, counts[bin].to_string(), share));
        }
    }
    for (bin, share) in paper.token_shares.iter().enumerate() {
        rows.push(row(PAPER, bin, String::new(), *share));
    }
    numbers::table(&["series", "low", "high", "tokens", "share_pct"], rows)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tokens;
    use super::*;

    #[test]
    fn tokens_are_counted_by_hand() {
        let edges = [0.0, 0.2, 1.0, 10.0];
        let data = tokens(&[("q", &[0.0, 0.1999, 0.2]), ("r", &[0.9, 1.0, 9.9, 10.0, 500.0])]);
        assert_eq!(counts(&data, &edges), [2, 2, 2, 2]);
        assert_eq!(shares(&[2, 2, 2, 2]), [0.25; 4]);
        assert_eq!(shares(&[0, 0]), [0.0, 0.0]);
    }
}
