//! Contents by number: a content is a fixed sequence of choices, hence a number in mixed radix.
//!
//! Numbering makes two promises provable instead of probable: a seeded permutation of the numbers, cut in
//! two, gives a train and an eval split that share no content, and neither repeats one before all are used.

use crate::rng::{Purpose, stream};

/// Rounds of the permutation; four make a Feistel network of random functions pseudo-random.
const ROUNDS: usize = 4;

/// Reads a number as a sequence of choices.
///
/// The radix of a choice must not depend on the outcome of an earlier one; then every number below
/// [`Choices::size`] gives another sequence, and reading any one number tells the size.
#[derive(Debug)]
pub(super) struct Choices {
    rest: u64,
    size: u64,
}

impl Choices {
    /// The choices of content `number`.
    pub fn of(number: u64) -> Self {
        Self { rest: number, size: 1 }
    }

    /// How many sequences the choices read so far can tell apart.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// One of `0 .. n`; `n` must be positive.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let choice = self.rest % n;
        self.rest /= n;
        self.size *= n;
        choice as usize
    }

    /// One item of a list that is not empty.
    pub fn one<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// `k` different items in any order; as many choices as k-permutations.
    pub fn ordered<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        let mut left = items.to_vec();
        (0..k)
            .map(|_| {
                let at = self.below(left.len());
                left.remove(at)
            })
            .collect()
    }

    /// `k` different items in the order of the list; as many choices as k-subsets.
    pub fn subset<T: Clone>(&mut self, items: &[T], k: usize) -> Vec<T> {
        let mut rank = self.below(binomial(items.len(), k));
        let mut chosen = Vec::with_capacity(k);
        for (at, item) in items.iter().enumerate() {
            if chosen.len() == k {
                break;
            }
            let with_item = binomial(items.len() - at - 1, k - chosen.len() - 1);
            if rank < with_item {
                chosen.push(item.clone());
            } else {
                rank -= with_item;
            }
        }
        chosen
    }
}

/// Number of `k`-subsets of `n` things.
fn binomial(n: usize, k: usize) -> usize {
    if k > n { 0 } else { (0..k).fold(1, |count, i| count * (n - i) / (i + 1)) }
}

/// Where the seeded permutation called `name` sends `rank`, both below `size`.
///
/// A balanced Feistel network over the next even number of bits, walked until it lands below `size`.
pub(super) fn permuted(seed: u64, name: &str, size: u64, rank: u64) -> u64 {
    let half_bits = (u64::BITS - size.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let mut number = rank;
    loop {
        let (mut left, mut right) = (number >> half_bits, number & mask);
        for round in 0..ROUNDS {
            let at = ["order".into(), name.into(), round.into(), right.into()];
            let noise = stream(seed, Purpose::World, &at).bits() & mask;
            (left, right) = (right, left ^ noise);
        }
        number = left << half_bits | right;
        if number < size {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_number_is_another_sequence() {
        let read = |number| {
            let mut choices = Choices::of(number);
            let all = (
                choices.subset(&[1, 2, 3, 4, 5], 3),
                choices.ordered(&['a', 'b', 'c'], 2),
                choices.one(&[7, 8]),
            );
            (all, choices.size())
        };
        let size = read(0).1;
        assert_eq!(size, 10 * 6 * 2);
        let all: BTreeSet<_> = (0..size).map(|number| read(number).0).collect();
        assert_eq!(all.len() as u64, size);
    }

    #[test]
    fn permutations_are_onto_and_seeded() {
        for size in [1, 2, 3, 17, 64, 1000] {
            let all: BTreeSet<u64> = (0..size).map(|rank| permuted(3, "x", size, rank)).collect();
            assert_eq!(all, (0..size).collect(), "size {size}");
        }
        let row = |seed, name| (0..50).map(|rank| permuted(seed, name, 1000, rank)).collect::<Vec<_>>();
        assert_ne!(row(3, "x"), row(4, "x"));
        assert_ne!(row(3, "x"), row(3, "y"));
    }
}
