// SPDX-License-Identifier: GPL-2.0

//! What a spinner notes: each time at which its clock jumped.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many gaps are kept one by one; later ones are only summed up.
const KEPT: usize = 1 << 18;

/// One gap, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    /// When it began.
    pub(super) start: u64,
    /// How long it was.
    pub(super) length: u64,
}

/// Gaps summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    /// How many.
    pub(super) number: u64,
    /// Their lengths together, in nanoseconds.
    pub(super) total_ns: u64,
    /// The longest, in nanoseconds.
    pub(super) longest_ns: u64,
    /// How many by length: from so many nanoseconds, a power of two, to twice as many.
    pub(super) by_length_ns: BTreeMap<u64, u64>,
}

impl Sum {
    /// Adds one.
    pub(super) fn add(&mut self, length: u64) {
        self.number += 1;
        self.total_ns += length;
        self.longest_ns = self.longest_ns.max(length);
        *self
            .by_length_ns
            .entry(1 << length.max(1).ilog2())
            .or_default() += 1;
    }

    /// Adds what is in another.
    pub(super) fn merge(&mut self, other: &Self) {
        self.number += other.number;
        self.total_ns += other.total_ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        for (length, number) in &other.by_length_ns {
            *self.by_length_ns.entry(*length).or_default() += number;
        }
    }
}

/// What a spinner has to say when it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// How often it read the clock.
    pub(super) steps: u64,
    /// The gaps in order.
    pub(super) gaps: Vec<Gap>,
    /// Those for which there was no room.
    pub(super) later: Sum,
}

/// Memory that is there before it is needed: nothing here allocates.
pub(super) struct Log {
    gaps: Vec<Gap>,
    used: usize,
    number: u64,
    total_ns: u64,
    longest_ns: u64,
    by_power: [u64; 64],
}

impl Log {
    /// An empty log whose pages were all written to.
    pub(super) fn new() -> Self {
        Self::with_room(KEPT)
    }

    fn with_room(kept: usize) -> Self {
        // Not zeros, which the allocator would leave to the first page fault.
        let gaps = vec![
            Gap {
                start: 1,
                length: 1
            };
            kept
        ];
        Self {
            gaps,
            used: 0,
            number: 0,
            total_ns: 0,
            longest_ns: 0,
            by_power: [0; 64],
        }
    }

    /// Notes a gap. Stays in user mode.
    pub(super) fn note(&mut self, start: u64, length: u64) {
        if let Some(slot) = self.gaps.get_mut(self.used) {
            *slot = Gap { start, length };
            self.used += 1;
            return;
        }
        self.number += 1;
        self.total_ns += length;
        self.longest_ns = self.longest_ns.max(length);
        if let Some(count) = self.by_power.get_mut(length.max(1).ilog2() as usize) {
            *count += 1;
        }
    }

    /// What it says in the end.
    pub(super) fn into_seen(mut self, steps: u64) -> Seen {
        self.gaps.truncate(self.used);
        let by_length_ns = (0..)
            .zip(self.by_power)
            .filter(|(_, count)| *count > 0)
            .map(|(power, count)| (1 << power, count))
            .collect();
        Seen {
            steps,
            gaps: self.gaps,
            later: Sum {
                number: self.number,
                total_ns: self.total_ns,
                longest_ns: self.longest_ns,
                by_length_ns,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Gap, Log, Sum};
    use std::collections::BTreeMap;

    #[test]
    fn what_finds_no_room_is_summed_up_alike() {
        let mut log = Log::with_room(1);
        let mut sum = Sum::default();
        for (start, length) in [(10, 5), (20, 1000), (30, 1023), (40, 1024)] {
            log.note(start, length);
            if start > 10 {
                sum.add(length);
            }
        }
        let seen = log.into_seen(7);
        assert_eq!(
            seen.gaps,
            [Gap {
                start: 10,
                length: 5
            }]
        );
        assert_eq!(seen.later, sum);
        assert_eq!(sum.by_length_ns, BTreeMap::from([(512, 2), (1024, 1)]));
        assert_eq!((sum.number, sum.total_ns, sum.longest_ns), (3, 3047, 1024));
    }

    #[test]
    fn sums_are_put_together() {
        let mut one = Sum::default();
        let mut all = Sum::default();
        for length in [3, 700] {
            one.add(length);
            all.add(length);
        }
        let mut other = Sum::default();
        other.add(900);
        all.add(900);
        one.merge(&other);
        assert_eq!(one, all);
    }
}
