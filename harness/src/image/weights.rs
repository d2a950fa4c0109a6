//! Weights of Pillow's antialiased bicubic filter along one axis, and the sources of its nearest neighbour.

use std::ops::Range;

/// Half the width of the bicubic kernel in pixels.
const BICUBIC_SUPPORT: f64 = 2.0;

/// For each new pixel of an axis, the old pixels that it is a weighted sum of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taps<W> {
    weights: Vec<W>,
    /// The first old pixel, and the weights of this one and those after it.
    spans: Vec<(usize, Range<usize>)>,
}

impl<W> Taps<W> {
    /// For each new pixel the first old one and the weights from there on.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[W])> {
        self.spans.iter().map(|(first, span)| (*first, &self.weights[span.clone()]))
    }

    /// The same taps with other weights.
    pub fn map<V>(self, convert: impl Fn(W) -> V) -> Taps<V> {
        Taps { weights: self.weights.into_iter().map(convert).collect(), spans: self.spans }
    }
}

/// Bicubic weights, with sum 1, for each of `new` pixels over `old` ones. When shrinking, the kernel is widened
/// by the scale.
pub(super) fn bicubic_taps(old: usize, new: usize) -> Taps<f64> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let support = BICUBIC_SUPPORT * stretch;
    let mut taps = Taps { weights: Vec::new(), spans: Vec::with_capacity(new) };
    for index in 0..new {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(old);
        let start = taps.weights.len();
        taps.weights
            .extend((first..end).map(|old| bicubic_kernel((old as f64 - centre + 0.5) * (1.0 / stretch))));
        let total: f64 = taps.weights[start..].iter().sum();
        taps.weights[start..].iter_mut().for_each(|weight| *weight /= total);
        taps.spans.push((first, start..taps.weights.len()));
    }
    taps
}

/// Keys' cubic convolution kernel with a = -0.5.
fn bicubic_kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// For each of `new` pixels the old one under its centre; the position is summed up, as Pillow does.
pub(super) fn nearest_sources(old: usize, new: usize) -> Vec<usize> {
    let step = old as f64 / new as f64;
    let positions = std::iter::successors(Some(0.5 * step), |position| Some(position + step));
    positions.take(new).map(|position| (position as usize).min(old - 1)).collect()
}

/// Whether Pillow 13 resizes the columns before the rows: where the height loses more than twice as many
/// pixels as the width. Before 13 it was rows first (in 12.2 and 12.3 except for pictures 100 times as high
/// as wide); the choice moves single values by a level.
pub(super) fn columns_first(old: (usize, usize), new: (usize, usize)) -> bool {
    old.1.saturating_sub(new.1) > 2 * old.0.saturating_sub(new.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (old, new) in [(1, 7), (7, 1), (100, 33), (33, 100), (5, 5), (1_000, 448)] {
            let taps = bicubic_taps(old, new);
            assert_eq!(taps.iter().count(), new);
            for (first, weights) in taps.iter() {
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{old} -> {new}");
                assert!(first + weights.len() <= old);
            }
        }
    }

    #[test]
    fn nearest_takes_the_pixel_under_the_centre() {
        assert_eq!(nearest_sources(4, 2), [1, 3]);
        assert_eq!(nearest_sources(2, 5), [0, 0, 1, 1, 1]);
    }

    #[test]
    fn the_axis_that_loses_most_comes_first() {
        assert!(columns_first((100, 100), (90, 70)));
        assert!(!columns_first((100, 100), (90, 80)));
        assert!(!columns_first((10, 10), (20, 20)));
    }
}
