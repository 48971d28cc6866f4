// SPDX-License-Identifier: GPL-2.0

//! What was taken away from the vmalloc range, and when it may have been given to somebody else.
//!
//! vunmap() clears page-table entries; the address can be had again after the flush that follows,
//! at once or with the next lazy purge. That flush often spans much that is still in use, so both
//! are watched: an address counts as remapped from the first flush that covers it after its
//! entries were cleared.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// How many are remembered.
const HISTORY: usize = 1 << 18;

/// A part of the vmalloc range that was flushed after it had been unmapped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flushed {
    sequence: u64,
    range: Range<u64>,
}

/// The ranges that were unmapped, in order.
#[derive(Debug, Default)]
pub struct Remapped {
    /// Unmapped and not yet flushed: start to end, none overlaps another.
    waiting: BTreeMap<u64, u64>,
    flushed: VecDeque<Flushed>,
    sequence: u64,
    /// The newest of those that are not remembered any more.
    forgotten: u64,
    /// Calls of vunmap(), and pages in them.
    pub unmapped: u64,
}

/// The answer to a question about the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It was not remapped since then.
    Unchanged,
    /// It was, by the flush of this number.
    Remapped(u64),
    /// That is too long ago to know.
    Forgotten,
}

impl Remapped {
    /// Page-table entries are about to be cleared.
    pub fn unmap(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.unmapped += 1;
        let mut merged = range;
        // Whatever overlaps or touches lies at most one entry before, and all else behind.
        while let Some((&start, &end)) = self
            .waiting
            .range(..=merged.end)
            .next_back()
            .filter(|&(_, &end)| end >= merged.start)
        {
            self.waiting.remove(&start);
            merged = merged.start.min(start)..merged.end.max(end);
        }
        self.waiting.insert(merged.start, merged.end);
    }

    /// A range is about to be flushed. Returns the number of the newest event.
    pub fn flush(&mut self, range: Range<u64>) -> u64 {
        while let Some((&start, &end)) = self
            .waiting
            .range(..range.end)
            .next_back()
            .filter(|&(_, &end)| end > range.start)
        {
            self.waiting.remove(&start);
            if start < range.start {
                self.waiting.insert(start, range.start);
            }
            if end > range.end {
                self.waiting.insert(range.end, end);
            }
            self.sequence += 1;
            self.flushed.push_back(Flushed {
                sequence: self.sequence,
                range: start.max(range.start)..end.min(range.end),
            });
            if self.flushed.len() > HISTORY
                && let Some(oldest) = self.flushed.pop_front()
            {
                self.forgotten = oldest.sequence;
            }
        }
        self.sequence
    }

    /// Whether an address was remapped after the event of that number.
    #[must_use]
    pub fn since(&self, sequence: u64, address: u64) -> Past {
        if sequence >= self.sequence {
            return Past::Unchanged;
        }
        let found = self
            .flushed
            .iter()
            .rev()
            .take_while(|flushed| flushed.sequence > sequence)
            .find(|flushed| flushed.range.contains(&address));
        match found {
            Some(flushed) => Past::Remapped(flushed.sequence),
            None if sequence < self.forgotten => Past::Forgotten,
            None => Past::Unchanged,
        }
    }

    /// How many ranges were flushed after they had been unmapped.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_counts_only_where_something_was_unmapped() {
        let mut remapped = Remapped::default();
        remapped.unmap(0x3000..0x5000);
        assert_eq!(remapped.since(0, 0x3000), Past::Unchanged);
        remapped.flush(0x1000..0x9000);
        assert_eq!(remapped.since(0, 0x4fff), Past::Remapped(1));
        assert_eq!(remapped.since(0, 0x5000), Past::Unchanged);
        assert_eq!(remapped.since(0, 0x2fff), Past::Unchanged);
        assert_eq!(remapped.since(1, 0x4fff), Past::Unchanged);
        // Flushed once more: nothing was unmapped meanwhile.
        assert_eq!(remapped.flush(0x1000..0x9000), 1);
    }

    #[test]
    fn a_part_that_was_not_flushed_waits() {
        let mut remapped = Remapped::default();
        remapped.unmap(0x1000..0x5000);
        remapped.flush(0x2000..0x3000);
        assert_eq!(remapped.since(0, 0x1000), Past::Unchanged);
        assert_eq!(remapped.since(0, 0x2000), Past::Remapped(1));
        assert_eq!(remapped.since(0, 0x3000), Past::Unchanged);
        remapped.flush(0x0..0x10000);
        assert_eq!(remapped.since(1, 0x1000), Past::Remapped(3));
        assert_eq!(remapped.since(1, 0x3000), Past::Remapped(2));
        assert_eq!(remapped.since(1, 0x2000), Past::Unchanged);
    }

    #[test]
    fn overlapping_ranges_become_one() {
        let mut remapped = Remapped::default();
        remapped.unmap(0x1000..0x2000);
        remapped.unmap(0x4000..0x5000);
        remapped.unmap(0x2000..0x4000);
        remapped.unmap(0x0..0x1800);
        assert_eq!(remapped.waiting, BTreeMap::from([(0, 0x5000)]));
        assert_eq!(remapped.flush(0..0x5000), 1);
    }

    #[test]
    fn says_when_it_has_forgotten() {
        let mut remapped = Remapped::default();
        for page in 0..=HISTORY as u64 {
            remapped.unmap(page << 12..(page << 12) + 8);
            remapped.flush(page << 12..(page << 12) + 8);
        }
        assert_eq!(remapped.since(0, u64::MAX), Past::Forgotten);
        assert_eq!(remapped.since(1, u64::MAX), Past::Unchanged);
        assert_eq!(
            remapped.since(0, HISTORY as u64 >> 1 << 12),
            Past::Remapped((HISTORY as u64 >> 1) + 1)
        );
    }
}
