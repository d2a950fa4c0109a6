//! Randomness by coordinates: the only place that makes random numbers.
//!
//! A draw is a pure function of (seed, purpose, coordinates), never of what was drawn before. So the order
//! of work, the composition of batches, thread counts, interruption and resume cannot change a draw; all arms
//! of a study share data order, rollout noise, picture masks and evaluation noise (common random numbers).
//! Coordinates are hashed with BLAKE3 into the key of a ChaCha8 stream.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};

/// What a draw is for. Streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights; coordinates: tensor name.
    Weights,
    /// Generated questions of the tiny world; coordinates: split, family, index.
    World,
    /// Order of the training data; coordinates: epoch.
    DataOrder,
    /// Sampling of training rollouts; coordinates: step, draw, item, sample, position.
    Rollout,
    /// Corruption of pictures; coordinates: step, item, sample, picture.
    Corruption,
    /// Sampling in evaluation; coordinates: benchmark, item, sample, position.
    Evaluation,
    /// Random token masks (the "random" guide); coordinates: step, item, sample.
    TokenMask,
    /// Resampling in statistics; coordinates: comparison, resample.
    Statistics,
    /// Order and noise of the supervised warm start; coordinates: step.
    WarmStart,
    /// Tokens, pictures and derivatives that are only timed; coordinates: what, then which.
    Timing,
}

/// One coordinate of a draw.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// A number (step, index, position).
    N(u64),
    /// A name (item id, benchmark, tensor).
    S(&'a str),
}

impl From<u64> for At<'_> {
    fn from(n: u64) -> Self {
        At::N(n)
    }
}
impl From<usize> for At<'_> {
    fn from(n: usize) -> Self {
        At::N(n as u64)
    }
}
impl From<u32> for At<'_> {
    fn from(n: u32) -> Self {
        At::N(n.into())
    }
}
impl<'a> From<&'a str> for At<'a> {
    fn from(s: &'a str) -> Self {
        At::S(s)
    }
}
impl<'a> From<&'a String> for At<'a> {
    fn from(s: &'a String) -> Self {
        At::S(s)
    }
}

/// The stream of one coordinate: a short sequence of numbers that belongs to it alone.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

/// Opens the stream at (seed, purpose, coordinates).
pub fn stream(seed: u64, purpose: Purpose, coordinates: &[At<'_>]) -> Stream {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(format!("{purpose:?}").as_bytes());
    for coordinate in coordinates {
        match coordinate {
            At::N(n) => {
                hasher.update(&[0]);
                hasher.update(&n.to_le_bytes());
            }
            At::S(s) => {
                hasher.update(&[1]);
                hasher.update(&(s.len() as u64).to_le_bytes());
                hasher.update(s.as_bytes());
            }
        }
    }
    Stream(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
}

impl Stream {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Uniform in `0 .. n`, without bias. `n` must be positive; 0 gives 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < limit {
                return (bits % n) as usize;
            }
        }
    }

    /// Uniform in `low ..= high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).max(1) as usize) as i64
    }

    /// Standard normal (Box-Muller in f64; `libm`, so that every machine gives the same bits).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// One item, uniformly. Panics on an empty slice, which no caller may pass.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, purpose: Purpose, at: &[At<'_>]) -> u64 {
        stream(seed, purpose, at).bits()
    }

    #[test]
    fn every_coordinate_changes_the_draw_and_nothing_else_does() {
        let base = first(1, Purpose::Rollout, &["a".into(), 3usize.into()]);
        assert_eq!(base, first(1, Purpose::Rollout, &["a".into(), 3usize.into()]));
        for other in [
            first(2, Purpose::Rollout, &["a".into(), 3usize.into()]),
            first(1, Purpose::Evaluation, &["a".into(), 3usize.into()]),
            first(1, Purpose::Rollout, &["b".into(), 3usize.into()]),
            first(1, Purpose::Rollout, &["a".into(), 4usize.into()]),
            first(1, Purpose::Rollout, &["a".into()]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn moments_are_right() {
        let mut s = stream(7, Purpose::World, &[]);
        let n = 20_000;
        let mean = (0..n).map(|_| s.uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let (mut m1, mut m2) = (0.0, 0.0);
        for _ in 0..n {
            let z = s.normal();
            m1 += z / n as f64;
            m2 += z * z / n as f64;
        }
        assert!(m1.abs() < 0.03 && (m2 - 1.0).abs() < 0.05, "{m1} {m2}");
        let mut counts = [0; 7];
        (0..7_000).for_each(|_| counts[s.below(7)] += 1);
        assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    }
}
