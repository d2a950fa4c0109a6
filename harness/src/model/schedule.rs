//! Which sequences are decoded together, and which pages of the cache each of them owns: numbers only, no tensors.
//!
//! A page holds the keys and values of [`PAGE`] tokens in every layer. A group (one prompt and the sequences that
//! continue it) holds its prompt's pages once for all its sequences; a sequence's own tokens begin on a page of its own,
//! so that no page is ever copied. Groups wait in order. A sequence is admitted as soon as there is room and leaves as
//! soon as it ends, so that its place is filled at once instead of when the slowest sequence ends. When pages run out
//! in between, the youngest running sequence gives back its pages and waits again, first in line, with the tokens it
//! has; the oldest never does, so that work always goes on.
//!
//! Source: vLLM's scheduler (paged cache, recomputation of the preempted). Deviations: prompts are shared by
//! construction instead of by hash; a sequence is admitted only if one free page is left for each running sequence that
//! may still need one, so that it is not thrown out again at once.

use crate::settings::DecodeLimits;
use anyhow::{Result, ensure};
use std::collections::VecDeque;

/// Tokens per page.
pub(crate) const PAGE: usize = crate::cost::memory::PAGE as usize;

/// A prompt and the sequences that continue it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupSize {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Sequences that continue it.
    pub sequences: usize,
}

/// A sequence with tokens still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Its number, counted over all groups in order.
    pub id: usize,
    /// Its group.
    pub group: usize,
    /// Tokens drawn so far.
    pub tokens: usize,
    /// The first of them whose keys and values lie in `pages`.
    pub stored: usize,
    /// Pages of its own tokens, in order; empty while it waits.
    pub pages: Vec<u32>,
}

struct Group {
    prompt: usize,
    /// The prompt's pages; empty while they are not held.
    pages: Vec<u32>,
    running: usize,
    /// Sequences that have not ended.
    open: usize,
}

/// The state of one job.
pub(crate) struct Scheduler {
    total: usize,
    free: Vec<u32>,
    groups: Vec<Group>,
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    /// Groups that hold their prompt's pages while none of their sequences runs.
    idle: Vec<usize>,
    /// Most sequences that run at the same time.
    most: usize,
    /// Most pages of one sequence's own tokens.
    own: usize,
    preemptions: u64,
}

fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

impl Scheduler {
    /// A job: `longest` is the largest number of own tokens that a sequence keeps in the cache.
    ///
    /// # Errors
    /// A cache that cannot hold the largest prompt with one full sequence.
    pub fn new(sizes: &[GroupSize], longest: usize, limits: DecodeLimits) -> Result<Self> {
        let sequences: usize = sizes.iter().map(|g| g.sequences).sum();
        let most = if limits.max_sequences == 0 { sequences } else { limits.max_sequences.min(sequences) };
        let own = pages_for(longest);
        let mut prompts: Vec<usize> =
            sizes.iter().filter(|g| g.sequences > 0).map(|g| pages_for(g.prompt)).collect();
        prompts.sort_unstable_by(|a, b| b.cmp(a));
        let least = prompts.first().map_or(0, |prompt| prompt + own);
        // The largest prompts at the same time, and every sequence at its full length.
        let needed = prompts.iter().take(most).sum::<usize>() + most * own;
        let total = if limits.kv_tokens == 0 { needed } else { needed.min(limits.kv_tokens / PAGE) };
        ensure!(
            total >= least,
            "the key-value cache of {} tokens is too small: the longest prompt and one response of full length need {} \
             tokens; raise kv_tokens or lower max_new_tokens",
            limits.kv_tokens,
            least * PAGE
        );
        let groups = sizes
            .iter()
            .map(|g| Group { prompt: g.prompt, pages: vec![], running: 0, open: g.sequences })
            .collect();
        let owners = sizes.iter().enumerate().flat_map(|(group, g)| std::iter::repeat_n(group, g.sequences));
        let waiting = owners
            .enumerate()
            .map(|(id, group)| Sequence { id, group, tokens: 0, stored: 0, pages: vec![] })
            .collect();
        Ok(Self {
            total,
            free: (0..total as u32).rev().collect(),
            groups,
            waiting,
            running: vec![],
            idle: vec![],
            most,
            own,
            preemptions: 0,
        })
    }

    /// Pages of the cache.
    pub fn total_pages(&self) -> usize {
        self.total
    }

    /// Pages that hold something.
    pub fn used_pages(&self) -> usize {
        self.total - self.free.len()
    }

    /// How often a sequence had to give back its pages.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The sequences that are decoded now, oldest first. Each has pages for all its tokens.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The pages of a group's prompt, in order.
    pub fn prompt_pages(&self, group: usize) -> &[u32] {
        &self.groups[group].pages
    }

    /// Lets waiting sequences run as far as there is room, in order; returns the groups whose prompts are to be computed
    /// into their pages.
    pub fn admit(&mut self) -> Vec<usize> {
        let mut prompts = vec![];
        while self.running.len() < self.most {
            let Some(next) = self.waiting.pop_front() else { break };
            if !self.has_room(&next) {
                self.waiting.push_front(next);
                break;
            }
            let group = next.group;
            self.idle.retain(|&idle| idle != group);
            if self.groups[group].pages.is_empty() {
                self.groups[group].pages = self.take(pages_for(self.groups[group].prompt));
                prompts.push(group);
            }
            self.groups[group].running += 1;
            let pages = self.take(self.own_pages(next.tokens + 1));
            self.running.push(Sequence { pages, ..next });
        }
        prompts
    }

    /// All tokens of the running sequences are in their pages.
    pub fn stored(&mut self) {
        self.running.iter_mut().for_each(|sequence| sequence.stored = sequence.tokens);
    }

    /// Every running sequence got one more token; those whose flag is set end with it. Afterwards every sequence that
    /// still runs has a page for its newest token. Returns the groups of which all sequences have ended.
    pub fn drawn(&mut self, ended: &[bool]) -> Vec<usize> {
        let mut complete = vec![];
        let mut flags = ended.iter();
        for mut sequence in std::mem::take(&mut self.running) {
            sequence.tokens += 1;
            if *flags.next().unwrap_or(&false) {
                let group = sequence.group;
                self.groups[group].open -= 1;
                self.leave(sequence);
                if self.groups[group].open == 0 {
                    self.release(group);
                    complete.push(group);
                }
            } else {
                self.running.push(sequence);
            }
        }
        self.grow();
        complete
    }

    /// Pages for the newest token of every running sequence, at the cost of the youngest where there are none left.
    fn grow(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            let missing =
                self.own_pages(self.running[at].tokens).saturating_sub(self.running[at].pages.len());
            if self.available() >= missing {
                let pages = self.take(missing);
                self.running[at].pages.extend(pages);
                at += 1;
            } else if let Some(youngest) = self.running.pop() {
                self.preemptions += 1;
                let waiting = Sequence { stored: 0, pages: vec![], ..youngest.clone() };
                self.leave(youngest);
                self.waiting.push_front(waiting);
            }
        }
    }

    /// Frees a running sequence's own pages.
    fn leave(&mut self, sequence: Sequence) {
        self.free.extend(sequence.pages.iter().rev());
        let group = &mut self.groups[sequence.group];
        group.running -= 1;
        if group.running == 0 {
            self.idle.push(sequence.group);
        }
    }

    /// Frees a group's prompt.
    fn release(&mut self, group: usize) {
        self.idle.retain(|&idle| idle != group);
        self.free.extend(std::mem::take(&mut self.groups[group].pages).into_iter().rev());
    }

    /// Whether a waiting sequence fits, with its next token and a page for each running sequence that may need one.
    fn has_room(&self, next: &Sequence) -> bool {
        let group = &self.groups[next.group];
        let held = group.pages.len();
        let spare = if group.running == 0 { held } else { 0 };
        let prompt = pages_for(group.prompt) - held;
        let growing = self.running.iter().filter(|s| s.pages.len() < self.own).count();
        prompt + self.own_pages(next.tokens + 1) + growing <= self.available() - spare
    }

    /// Free pages, and those of prompts that no running sequence needs.
    fn available(&self) -> usize {
        self.free.len() + self.idle.iter().map(|&group| self.groups[group].pages.len()).sum::<usize>()
    }

    /// Takes available pages, free ones first.
    fn take(&mut self, count: usize) -> Vec<u32> {
        while self.free.len() < count
            && let Some(&group) = self.idle.first()
        {
            self.release(group);
        }
        let rest = self.free.len().saturating_sub(count);
        self.free.split_off(rest).into_iter().rev().collect()
    }

    fn own_pages(&self, tokens: usize) -> usize {
        pages_for(tokens).min(self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Runs a job whose sequences end after `lengths` tokens, and checks every state on the way.
    struct Check {
        sizes: Vec<GroupSize>,
        lengths: Vec<usize>,
        /// Number of sequences of lower groups, per group.
        first: Vec<usize>,
        limits: DecodeLimits,
        /// Prompts that are computed and still held.
        computed: BTreeSet<usize>,
        ended: BTreeMap<usize, usize>,
        complete: Vec<usize>,
        peak: usize,
        most_running: usize,
    }

    impl Check {
        fn run(
            sizes: &[GroupSize],
            lengths: &[usize],
            longest: usize,
            limits: DecodeLimits,
        ) -> (Self, Scheduler) {
            let mut scheduler = Scheduler::new(sizes, longest, limits).unwrap();
            let first =
                sizes.iter().scan(0, |at, g| Some(std::mem::replace(at, *at + g.sequences))).collect();
            let mut check = Self {
                sizes: sizes.to_vec(),
                lengths: lengths.to_vec(),
                first,
                limits,
                computed: BTreeSet::new(),
                ended: BTreeMap::new(),
                complete: vec![],
                peak: 0,
                most_running: 0,
            };
            while check.step(&mut scheduler) {}
            (check, scheduler)
        }

        fn step(&mut self, scheduler: &mut Scheduler) -> bool {
            let prompts = scheduler.admit();
            for group in 0..self.sizes.len() {
                if scheduler.prompt_pages(group).is_empty() {
                    self.computed.remove(&group);
                }
            }
            for group in prompts {
                assert!(self.computed.insert(group), "prompt {group} is computed while it is held");
            }
            self.pages_are_sound(scheduler);
            if scheduler.running().is_empty() {
                return false;
            }
            let oldest = scheduler.running()[0].id;
            scheduler.stored();
            let ids: Vec<usize> = scheduler.running().iter().map(|s| s.id).collect();
            let flags: Vec<bool> =
                scheduler.running().iter().map(|s| s.tokens + 1 == self.lengths[s.id]).collect();
            for s in scheduler.running() {
                if s.tokens + 1 == self.lengths[s.id] {
                    assert_eq!(self.ended.insert(s.id, s.tokens + 1), None, "{} ended twice", s.id);
                }
            }
            self.complete.extend(scheduler.drawn(&flags));
            let goes_on = !flags[0];
            assert!(!goes_on || scheduler.running()[0].id == oldest, "the oldest of {ids:?} was preempted");
            self.pages_are_sound(scheduler);
            true
        }

        /// No page has two owners, none is lost, every running sequence has pages for its tokens.
        fn pages_are_sound(&mut self, scheduler: &Scheduler) {
            let mut seen = vec![false; scheduler.total_pages()];
            let mut own = |pages: &[u32]| {
                for &page in pages {
                    assert!(!std::mem::replace(&mut seen[page as usize], true), "page {page} has two owners");
                }
            };
            own(&scheduler.free);
            for (group, size) in self.sizes.iter().enumerate() {
                let pages = scheduler.prompt_pages(group);
                own(pages);
                let ids = self.first[group]..self.first[group] + size.sequences;
                let done = ids.clone().all(|id| self.ended.contains_key(&id));
                assert!(!done || pages.is_empty(), "the prompt of group {group} outlives its sequences");
                assert!(pages.is_empty() || pages.len() == pages_for(size.prompt));
            }
            for s in scheduler.running() {
                own(&s.pages);
                assert!(s.pages.len() >= pages_for(s.tokens).min(scheduler.own));
                assert!(s.stored <= s.tokens);
                assert_eq!(scheduler.prompt_pages(s.group).len(), pages_for(self.sizes[s.group].prompt));
            }
            assert!(seen.iter().all(|&seen| seen), "a page is lost");
            self.peak = self.peak.max(scheduler.used_pages());
            self.most_running = self.most_running.max(scheduler.running().len());
            if self.limits.max_sequences > 0 {
                assert!(scheduler.running().len() <= self.limits.max_sequences);
            }
            if self.limits.kv_tokens > 0 {
                assert!(scheduler.used_pages() * PAGE <= self.limits.kv_tokens);
            }
        }
    }

    fn job() -> impl Strategy<Value = (Vec<GroupSize>, Vec<usize>, usize, DecodeLimits)> {
        let group = (1usize..100, 0usize..6).prop_map(|(prompt, sequences)| GroupSize { prompt, sequences });
        (prop::collection::vec(group, 0..7), 0usize..120, 0usize..12, 0usize..12).prop_flat_map(
            |(sizes, longest, max_sequences, spare)| {
                let sequences: usize = sizes.iter().map(|g| g.sequences).sum();
                let lengths = prop::collection::vec(1..=longest + 1, sequences);
                let least = sizes.iter().map(|g| pages_for(g.prompt)).max().unwrap_or(0) + pages_for(longest);
                // From the least that can work upwards; the last value stands for no limit.
                let kv_tokens = if spare == 11 { 0 } else { (least + spare * spare) * PAGE };
                (Just(sizes), lengths, Just(longest), Just(DecodeLimits { kv_tokens, max_sequences }))
            },
        )
    }

    proptest! {
        #[test]
        fn every_sequence_ends_once_and_no_page_is_shared_or_lost((sizes, lengths, longest, limits) in job()) {
            let (check, scheduler) = Check::run(&sizes, &lengths, longest, limits);
            let ends: Vec<(usize, usize)> = check.ended.into_iter().collect();
            prop_assert_eq!(ends, lengths.iter().copied().enumerate().collect::<Vec<_>>());
            let mut complete = check.complete;
            complete.sort_unstable();
            let asked: Vec<usize> = (0..sizes.len()).filter(|&g| sizes[g].sequences > 0).collect();
            prop_assert_eq!(complete, asked);
            prop_assert_eq!(scheduler.used_pages(), 0);
            if limits.kv_tokens == 0 {
                prop_assert_eq!(scheduler.preemptions(), 0);
                let at_once = lengths.len().min(if limits.max_sequences == 0 { usize::MAX } else { limits.max_sequences });
                prop_assert_eq!(check.most_running, at_once, "without a limit on memory none waits for it");
            }
        }
    }

    fn group(prompt: usize, sequences: usize) -> GroupSize {
        GroupSize { prompt, sequences }
    }

    #[test]
    fn a_prompt_is_held_once_and_a_finished_sequence_is_replaced_at_once() {
        let limits = DecodeLimits { kv_tokens: 0, max_sequences: 2 };
        let mut scheduler = Scheduler::new(&[group(40, 3), group(8, 1)], 31, limits).unwrap();
        assert_eq!(scheduler.admit(), [0]);
        assert_eq!((scheduler.prompt_pages(0).len(), scheduler.used_pages()), (2, 2 + 2));
        scheduler.stored();
        assert!(scheduler.drawn(&[true, false]).is_empty());
        assert_eq!(scheduler.admit(), [0usize; 0], "the third sequence continues a prompt that is held");
        let ids: Vec<usize> = scheduler.running().iter().map(|s| s.id).collect();
        assert_eq!(ids, [1, 2]);
        scheduler.stored();
        assert_eq!(scheduler.drawn(&[true, true]), [0]);
        assert_eq!(scheduler.used_pages(), 0);
        assert_eq!(scheduler.admit(), [1]);
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back_with_its_tokens() {
        // Two pages per full sequence and one for the prompt: room for one whole sequence and half of another.
        let limits = DecodeLimits { kv_tokens: 4 * PAGE, max_sequences: 0 };
        let mut scheduler = Scheduler::new(&[group(5, 2)], 2 * PAGE, limits).unwrap();
        assert_eq!(scheduler.admit(), [0]);
        assert_eq!(scheduler.running().len(), 2);
        while scheduler.preemptions() == 0 {
            scheduler.stored();
            scheduler.drawn(&vec![false; scheduler.running().len()]);
        }
        assert_eq!(scheduler.running().len(), 1);
        assert_eq!((scheduler.waiting[0].id, scheduler.waiting[0].tokens), (1, PAGE + 1));
        scheduler.stored();
        scheduler.drawn(&[true]);
        assert_eq!(scheduler.admit(), [0usize; 0]);
        let back = &scheduler.running()[0];
        assert_eq!((back.id, back.tokens, back.stored, back.pages.len()), (1, PAGE + 1, 0, 2));
    }

    #[test]
    fn a_cache_that_is_too_small_says_what_is_needed() {
        let sizes = [group(33, 1), group(5, 1)];
        let limits = |pages: usize| DecodeLimits { kv_tokens: pages * PAGE + 31, max_sequences: 0 };
        let error = Scheduler::new(&sizes, 64, limits(3)).err().unwrap().to_string();
        assert!(error.contains("of 127 tokens") && error.contains("need 128 tokens"), "{error}");
        assert_eq!(Scheduler::new(&sizes, 64, limits(4)).unwrap().total_pages(), 4);
    }
}
