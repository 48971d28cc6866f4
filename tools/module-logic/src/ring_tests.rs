// SPDX-License-Identifier: GPL-2.0

//! The rings of `recent`: what they keep, what they pick, and that no record is ever half of one.

use crate::ring::{Counts, Decision, Fate, Newest, Record, Ring, Slot, Tickets, LENGTH};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

/// A record of which each part follows from the others.
fn record(number: u64, cpu: u32) -> Record {
    let decisions = [
        Decision::KeptRange,
        Decision::KeptCaller,
        Decision::KeptBlocked,
        Decision::WouldDefer,
        Decision::Redirected,
    ];
    Record {
        time: number,
        cpu,
        decision: decisions[number as usize % decisions.len()],
        counts: Counts::from_raw(!number),
        start: number as usize * 3,
        end: number as usize * 5,
        caller: number as usize ^ cpu as usize,
    }
}

fn is_whole(seen: &Record) -> bool {
    *seen == record(seen.time, seen.cpu)
}

fn slots(count: usize) -> Vec<Slot> {
    (0..count).map(|_| Slot::new()).collect()
}

#[test]
fn a_slot_is_a_cache_line_and_a_ring_16_kib() {
    assert_eq!(size_of::<Slot>(), 64);
    assert_eq!(size_of::<Slot>() * LENGTH, 16 << 10);
}

#[test]
fn an_empty_ring_has_nothing() {
    let (tickets, slots) = (Tickets::new(), slots(4));
    assert_eq!(Ring::new(&tickets, &slots).iter().count(), 0);
}

#[test]
fn the_last_records_are_kept_whole() {
    let (tickets, slots) = (Tickets::new(), slots(4));
    let ring = Ring::new(&tickets, &slots);
    for number in 0..11 {
        ring.add(record(number, 2));
        let kept: BTreeSet<_> = ring
            .iter()
            .inspect(|r| assert!(is_whole(r)))
            .collect_times();
        let wanted = (number.saturating_sub(3)..=number).collect();
        assert_eq!(kept, wanted, "after {number}");
    }
}

#[test]
fn a_ring_without_slots_takes_nothing_and_does_not_panic() {
    let tickets = Tickets::new();
    let ring = Ring::new(&tickets, &[]);
    ring.add(record(1, 1));
    assert_eq!(ring.iter().count(), 0);
}

trait CollectTimes {
    fn collect_times(self) -> BTreeSet<u64>;
}

impl<I: Iterator<Item = Record>> CollectTimes for I {
    fn collect_times(self) -> BTreeSet<u64> {
        self.map(|record| record.time).collect()
    }
}

#[test]
fn counts_are_separate() {
    let mut counts = Counts::default();
    for (n, fate) in Fate::ALL.into_iter().enumerate() {
        for _ in 0..=n * 8000 {
            counts = counts.plus_one(fate);
        }
    }
    let seen = Fate::ALL.map(|fate| counts.of(fate));
    assert_eq!(seen, [1, 8001, 16001, 24001]);
    assert_eq!(Counts::from_raw(counts.raw()), counts);
}

#[test]
fn what_the_kernel_does_itself_is_not_counted() {
    for fate in Fate::ALL {
        assert!(Decision::Redirected.counts(fate));
        assert!(!Decision::KeptCaller.counts(fate));
        assert!(!Decision::KeptRange.counts(fate));
        assert!(!Decision::KeptBlocked.counts(fate));
    }
    assert!(Decision::WouldDefer.counts(Fate::Deferred));
    assert!(!Decision::WouldDefer.counts(Fate::Raced));
}

#[test]
fn the_newest_are_picked_and_sorted() {
    // Of every length, in every rotation, as rings begin anywhere; and against the order.
    for length in 0..9 {
        for shift in 0..length.max(1) {
            for backwards in [false, true] {
                let mut buffer = [Record::default(); 5];
                let mut newest = Newest::new(&mut buffer);
                for n in 0..length {
                    let n = (n + shift) % length;
                    let n = if backwards { length - 1 - n } else { n };
                    newest.add(record(n + 100, 7));
                }
                let times: Vec<_> = newest.sorted().iter().map(|r| r.time).collect();
                let wanted: Vec<_> = (100 + length - length.min(5)..100 + length).collect();
                assert_eq!(times, wanted, "{length} records from {shift}");
                assert!(newest.sorted().iter().all(is_whole));
            }
        }
    }
}

#[test]
fn the_same_time_is_sorted_by_cpu() {
    let mut buffer = [Record::default(); 3];
    let mut newest = Newest::new(&mut buffer);
    for cpu in [3, 1, 2, 0] {
        newest.add(record(5, cpu));
    }
    let cpus: Vec<_> = newest.sorted().iter().map(|r| r.cpu).collect();
    assert_eq!(cpus, [1, 2, 3]);
}

#[test]
fn nothing_fits_into_no_buffer() {
    let mut newest = Newest::new(&mut []);
    newest.add(record(1, 1));
    assert!(newest.sorted().is_empty());
}

/// Writers that all use one short ring, so that they meet in its slots, and readers.
#[test]
fn readers_see_whole_records_only() {
    const WRITERS: u32 = 3;
    const RECORDS: u64 = 20_000;
    for length in [1, 2, 8] {
        let (tickets, slots) = (Tickets::new(), slots(length));
        let ring = Ring::new(&tickets, &slots);
        let (seen, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| loop {
                    let was_over = is_over.load(Relaxed);
                    for record in ring.iter() {
                        assert!(is_whole(&record), "{record:?}");
                        seen.fetch_add(1, Relaxed);
                    }
                    if was_over {
                        break;
                    }
                });
            }
            let ring = &ring;
            let writers: Vec<_> = (0..WRITERS)
                .map(|cpu| scope.spawn(move || (0..RECORDS).for_each(|n| ring.add(record(n, cpu)))))
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            is_over.store(true, Relaxed);
        });
        assert!(seen.load(Relaxed) > 0);
        assert!(ring.iter().count() <= length);
    }
}
