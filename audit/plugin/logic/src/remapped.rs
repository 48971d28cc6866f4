// SPDX-License-Identifier: GPL-2.0

//! What was taken away from the vmalloc range, and when it may have been given to somebody else.
//!
//! vunmap() clears page-table entries; the address can be had again after the flush that follows,
//! at once or with the next lazy purge. That flush often spans much that is still in use, so both
//! are watched: an address counts as remapped from the first flush that covers it and began after
//! its entries were cleared.
//!
//! What a function has done is done when it returns. Entries that are being cleared while a flush
//! runs are none of that flush's, and a CPU that goes to user mode while a flush runs may have been
//! left out of it: so the flush has its number, and its effect, at its end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

/// How many are remembered; fewer in tests, which fill it.
const HISTORY: usize = if cfg!(test) { 1 << 10 } else { 1 << 18 };

/// A part of the vmalloc range that was flushed after it had been unmapped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flushed {
    sequence: u64,
    range: Range<u64>,
}

/// A part of the vmalloc range that was unmapped and not yet flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    end: u64,
    /// Which unmapping it was.
    unmapping: u64,
}

/// The functions that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Clears the page-table entries of a range.
    Unmap,
    /// Flushes a range, or sees to it that it is flushed.
    Flush,
}

/// A call that has not returned.
#[derive(Clone, Debug)]
struct Call {
    function: Function,
    range: Range<u64>,
    /// The newest unmapping that had ended when it began.
    newest_unmapping: u64,
}

/// The ranges that were unmapped, in order.
#[derive(Debug, Default)]
pub struct Remapped {
    /// By the address of the return address, which is one task's alone.
    calls: HashMap<u64, Call>,
    /// By start; none overlaps another.
    waiting: BTreeMap<u64, Waiting>,
    flushed: VecDeque<Flushed>,
    sequence: u64,
    /// The newest of those that are not remembered any more.
    forgotten: u64,
    /// Ranges that were unmapped.
    pub unmapped: u64,
    /// Calls that were not seen to return.
    pub lost: u64,
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
    /// A function is called, with its return address at `frame`.
    pub fn called(&mut self, frame: u64, function: Function, range: Range<u64>) {
        let call = Call {
            function,
            range,
            newest_unmapping: self.unmapped,
        };
        if self.calls.insert(frame, call).is_some() {
            self.lost += 1;
        }
    }

    /// A function returns to the address at `frame`. Returns whether it is one of those that were
    /// called.
    pub fn returned(&mut self, frame: u64) -> bool {
        let Some(call) = self.calls.remove(&frame) else {
            return false;
        };
        match call.function {
            Function::Unmap => self.unmap(call.range),
            Function::Flush => self.flush(&call.range, call.newest_unmapping),
        }
        true
    }

    /// Calls that have not returned.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Page-table entries have been cleared.
    fn unmap(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.unmapped += 1;
        // What was unmapped before and is again was somebody's in between.
        self.take(&range, u64::MAX);
        let waiting = Waiting {
            end: range.end,
            unmapping: self.unmapped,
        };
        self.waiting.insert(range.start, waiting);
    }

    /// A range has been flushed, and in it all that was unmapped up to that unmapping.
    fn flush(&mut self, range: &Range<u64>, newest_unmapping: u64) {
        for range in self.take(range, newest_unmapping) {
            self.sequence += 1;
            self.flushed.push_back(Flushed {
                sequence: self.sequence,
                range,
            });
            if self.flushed.len() > HISTORY
                && let Some(oldest) = self.flushed.pop_front()
            {
                self.forgotten = oldest.sequence;
            }
        }
    }

    /// Takes what waits in a range, up to that unmapping; neighbours become one.
    fn take(&mut self, range: &Range<u64>, newest_unmapping: u64) -> Vec<Range<u64>> {
        let found: Vec<_> = self
            .waiting
            .range(..range.end)
            .rev()
            .take_while(|(_, waiting)| waiting.end > range.start)
            .filter(|(_, waiting)| waiting.unmapping <= newest_unmapping)
            .map(|(&start, &waiting)| (start, waiting))
            .collect();
        let mut taken: Vec<Range<u64>> = Vec::new();
        for (start, waiting) in found {
            self.waiting.remove(&start);
            if start < range.start {
                let end = range.start;
                self.waiting.insert(start, Waiting { end, ..waiting });
            }
            if waiting.end > range.end {
                self.waiting.insert(range.end, waiting);
            }
            let part = start.max(range.start)..waiting.end.min(range.end);
            match taken.last_mut() {
                Some(behind) if behind.start == part.end => behind.start = part.start,
                _ => taken.push(part),
            }
        }
        taken
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

    /// How many ranges were flushed after they had been unmapped: the number of the newest event.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::Function::{Flush, Unmap};
    use super::*;

    const FRAME: u64 = 0xffff_c900_0100_3f00;
    const OTHER_FRAME: u64 = 0xffff_c900_0200_3f00;

    impl Remapped {
        fn whole(&mut self, function: Function, range: Range<u64>) {
            self.whole_at(FRAME, function, range);
        }

        fn whole_at(&mut self, frame: u64, function: Function, range: Range<u64>) {
            self.called(frame, function, range);
            assert!(self.returned(frame));
        }
    }

    #[test]
    fn a_flush_counts_only_where_something_was_unmapped() {
        let mut remapped = Remapped::default();
        remapped.whole(Unmap, 0x3000..0x5000);
        assert_eq!(remapped.since(0, 0x3000), Past::Unchanged);
        remapped.whole(Flush, 0x1000..0x9000);
        assert_eq!(remapped.since(0, 0x4fff), Past::Remapped(1));
        assert_eq!(remapped.since(0, 0x5000), Past::Unchanged);
        assert_eq!(remapped.since(0, 0x2fff), Past::Unchanged);
        assert_eq!(remapped.since(1, 0x4fff), Past::Unchanged);
        // Flushed once more: nothing was unmapped meanwhile.
        remapped.whole(Flush, 0x1000..0x9000);
        assert_eq!(remapped.count(), 1);
    }

    #[test]
    fn a_part_that_was_not_flushed_waits() {
        let mut remapped = Remapped::default();
        remapped.whole(Unmap, 0x1000..0x5000);
        remapped.whole(Flush, 0x2000..0x3000);
        assert_eq!(remapped.since(0, 0x1000), Past::Unchanged);
        assert_eq!(remapped.since(0, 0x2000), Past::Remapped(1));
        assert_eq!(remapped.since(0, 0x3000), Past::Unchanged);
        remapped.whole(Flush, 0x0..0x10000);
        assert_eq!(remapped.since(1, 0x1000), Past::Remapped(3));
        assert_eq!(remapped.since(1, 0x3000), Past::Remapped(2));
        assert_eq!(remapped.since(1, 0x2000), Past::Unchanged);
    }

    #[test]
    fn neighbours_are_flushed_as_one() {
        let mut remapped = Remapped::default();
        remapped.whole(Unmap, 0x1000..0x2000);
        remapped.whole(Unmap, 0x4000..0x5000);
        remapped.whole(Unmap, 0x2000..0x4000);
        remapped.whole(Unmap, 0x0..0x1800);
        assert_eq!(remapped.waiting.len(), 4);
        remapped.whole(Flush, 0..0x5000);
        assert_eq!(remapped.count(), 1);
        assert!(remapped.waiting.is_empty());
    }

    #[test]
    fn a_flush_has_its_number_when_it_returns() {
        let mut remapped = Remapped::default();
        remapped.whole(Unmap, 0x3000..0x5000);
        remapped.called(FRAME, Flush, 0x1000..0x9000);
        assert_eq!(remapped.open_calls(), 1);
        // A CPU goes to user mode now: the flush may be deferred for it.
        let left = remapped.count();
        assert_eq!(remapped.since(left, 0x3000), Past::Unchanged);
        assert!(!remapped.returned(OTHER_FRAME));
        assert!(remapped.returned(FRAME));
        assert_eq!(remapped.since(left, 0x3000), Past::Remapped(1));
        assert_eq!(remapped.open_calls(), 0);
    }

    #[test]
    fn a_flush_that_began_before_the_entries_were_cleared_does_not_count() {
        let mut remapped = Remapped::default();
        remapped.called(FRAME, Unmap, 0x3000..0x4000);
        remapped.called(OTHER_FRAME, Flush, 0x0..0x9000);
        remapped.returned(FRAME);
        remapped.returned(OTHER_FRAME);
        assert_eq!(remapped.since(0, 0x3000), Past::Unchanged);
        // Nor one that is over before they are.
        remapped.called(FRAME, Unmap, 0x5000..0x6000);
        remapped.whole_at(OTHER_FRAME, Flush, 0x0..0x9000);
        assert_eq!(remapped.since(0, 0x3000), Past::Remapped(1));
        remapped.returned(FRAME);
        assert_eq!(remapped.since(0, 0x5000), Past::Unchanged);
        remapped.whole(Flush, 0x0..0x9000);
        assert_eq!(remapped.since(1, 0x5000), Past::Remapped(2));
        assert_eq!(remapped.since(1, 0x3000), Past::Unchanged);
    }

    #[test]
    fn of_two_flushes_the_first_to_return_counts() {
        let mut remapped = Remapped::default();
        remapped.whole(Unmap, 0x3000..0x4000);
        remapped.called(FRAME, Flush, 0x0..0x9000);
        remapped.whole_at(OTHER_FRAME, Flush, 0x3000..0x4000);
        assert_eq!(remapped.since(0, 0x3000), Past::Remapped(1));
        remapped.returned(FRAME);
        assert_eq!(remapped.count(), 1);
    }

    #[test]
    fn counts_calls_that_did_not_return() {
        let mut remapped = Remapped::default();
        remapped.called(FRAME, Flush, 0x0..0x9000);
        remapped.called(FRAME, Flush, 0x0..0x9000);
        assert_eq!(remapped.lost, 1);
    }

    #[test]
    fn says_when_it_has_forgotten() {
        let mut remapped = Remapped::default();
        for page in 0..=HISTORY as u64 {
            remapped.whole(Unmap, page << 12..(page << 12) + 8);
            remapped.whole(Flush, page << 12..(page << 12) + 8);
        }
        assert_eq!(remapped.since(0, u64::MAX), Past::Forgotten);
        assert_eq!(remapped.since(1, u64::MAX), Past::Unchanged);
        assert_eq!(
            remapped.since(0, HISTORY as u64 >> 1 << 12),
            Past::Remapped((HISTORY as u64 >> 1) + 1)
        );
    }
}
