// SPDX-License-Identifier: GPL-2.0

//! The last decisions of senders, in one ring for each CPU, without locks.
//!
//! Whoever adds a record takes a ticket, claims the slot that the ticket names, writes, and publishes:
//!
//! ```text
//! writer with ticket t, slot t % length      reader of a slot
//! sequence: from even and older to 2t + 1    sequence is even and not 0
//! release fence                              read the words
//! write the words                            acquire fence
//! sequence = 2t + 2 (release)                sequence is still the same
//! ```
//!
//! Nothing is assumed about the context of a writer: it may be preempted or interrupted anywhere, by
//! another writer, too, and may move to another CPU. Nobody waits for anybody. A writer that finds its
//! slot claimed, or with a newer record in it, leaves its own out: for that the ring has to go round
//! once while one writer is in it. A reader that finds a slot claimed, or changed meanwhile, leaves it
//! out.
//!
//! Like `ctx_tracking.rs`, this depends on `core` alone, and is tested on the build host. All that
//! several CPUs use is atomic, so there is no data race; on x86-64 the fences are no instructions, and
//! a ticket and a claim are one locked instruction each.

use crate::atomics::{
    fence, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How many records each CPU keeps, and how many are shown.
pub(crate) const LENGTH: usize = 256;

/// What became of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Kept: the range reaches outside vmalloc.
    #[default]
    KeptRange,
    /// Kept: the caller is not allowed.
    KeptCaller,
    /// Kept: deferral was blocked, shadow mode included.
    KeptBlocked,
    /// Kept in shadow mode, and would have spared at least one CPU.
    WouldDefer,
    /// Handled by the module.
    Redirected,
}

impl Decision {
    const ALL: [Self; 5] = [
        Self::KeptRange,
        Self::KeptCaller,
        Self::KeptBlocked,
        Self::WouldDefer,
        Self::Redirected,
    ];

    /// The name in the views.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KeptRange => "kept_range",
            Self::KeptCaller => "kept_caller",
            Self::KeptBlocked => "kept_blocked",
            Self::WouldDefer => "would_defer",
            Self::Redirected => "redirected",
        }
    }

    /// Whether CPUs with this fate were counted. The kernel interrupts for what is kept, uncounted.
    pub(crate) const fn counts(self, fate: Fate) -> bool {
        match self {
            Self::KeptRange | Self::KeptCaller | Self::KeptBlocked => false,
            Self::WouldDefer => matches!(fate, Fate::Deferred | Fate::NotQuiet),
            Self::Redirected => true,
        }
    }
}

/// What a flush meant for another CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was spared the interrupt.
    Deferred,
    /// Interrupted, as it was not quiet.
    NotQuiet,
    /// Interrupted, as it left user mode, or deferral was blocked, while the bit was set.
    Raced,
    /// Interrupted, as deferral is not allowed for it.
    NotAllowed,
}

impl Fate {
    /// In the order of the columns.
    pub(crate) const ALL: [Self; 4] = [
        Self::Deferred,
        Self::NotQuiet,
        Self::Raced,
        Self::NotAllowed,
    ];
}

/// How many CPUs met which [`Fate`]: 16 bits each, for at most 65535 CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(u64);

impl Counts {
    /// From [`Counts::raw`].
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// All four in one word.
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// With one more CPU that met this fate.
    #[inline]
    pub(crate) const fn plus_one(self, fate: Fate) -> Self {
        Self(self.0.wrapping_add(1 << (16 * fate as u32)))
    }

    /// How many CPUs met this fate.
    #[inline]
    pub(crate) const fn of(self, fate: Fate) -> u16 {
        (self.0 >> (16 * fate as u32)) as u16
    }
}

/// One decision of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// When, in nanoseconds.
    pub(crate) time: u64,
    /// The CPU that sent.
    pub(crate) cpu: u32,
    /// What was decided.
    pub(crate) decision: Decision,
    /// For how many CPUs.
    pub(crate) counts: Counts,
    /// First address to be flushed.
    pub(crate) start: usize,
    /// First address behind it.
    pub(crate) end: usize,
    /// Where the flush returns to; 0 if that is not known.
    pub(crate) caller: usize,
}

const WORDS: usize = 6;

impl Record {
    fn to_words(self) -> [u64; WORDS] {
        [
            self.time,
            u64::from(self.cpu) << 32 | self.decision as u64,
            self.counts.0,
            self.start as u64,
            self.end as u64,
            self.caller as u64,
        ]
    }

    fn from_words([time, cpu_and_decision, counts, start, end, caller]: [u64; WORDS]) -> Self {
        let decision = (cpu_and_decision & 0xffff_ffff) as usize;
        Self {
            time,
            cpu: (cpu_and_decision >> 32) as u32,
            decision: Decision::ALL.get(decision).copied().unwrap_or_default(),
            counts: Counts(counts),
            start: start as usize,
            end: end as usize,
            caller: caller as usize,
        }
    }
}

/// The bit of a slot's sequence that says that somebody writes.
const CLAIMED: u64 = 1;

/// Room for one record.
///
/// # Invariants
///
/// - `sequence` only grows. It is 0 while nothing was ever written, `2t + 1` while the writer with
///   ticket t writes, and `2t + 2` when all `words` are that writer's.
/// - `words` are written only between these two, by the writer that made the first of the steps: one
///   at a time.
#[repr(C, align(64))]
pub(crate) struct Slot {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Slot {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// The sequence when the writer with this ticket has published its record.
    #[inline]
    const fn published(ticket: u64) -> u64 {
        ticket.wrapping_add(1).wrapping_mul(2)
    }

    /// Claims the slot for a ticket. `false` if somebody else has it, or a newer record is in it.
    #[inline]
    fn claim(&self, ticket: u64) -> bool {
        let old = self.sequence.load(Relaxed);
        let claimed = Self::published(ticket).wrapping_sub(1);
        // Acquire: the words of the writer before come before this one's.
        old & CLAIMED == 0
            && old < claimed
            && self
                .sequence
                .compare_exchange(old, claimed, Acquire, Relaxed)
                .is_ok()
    }

    #[inline]
    fn write(&self, ticket: u64, record: Record) {
        #[cfg(not(variant = "torn_recent"))]
        if !self.claim(ticket) {
            return;
        }
        #[cfg(variant = "torn_recent")]
        self.sequence.store(Self::published(ticket), Relaxed);
        // Whoever sees one of these words also sees the claim.
        fence(Release);
        for (to, from) in self.words.iter().zip(record.to_words()) {
            to.store(from, Relaxed);
            #[cfg(any(variant = "torn_recent", variant = "slow_recent"))]
            test::delay();
        }
        #[cfg(not(variant = "torn_recent"))]
        self.sequence.store(Self::published(ticket), Release);
    }

    /// The record, if there is a whole one.
    fn read(&self) -> Option<Record> {
        let before = self.sequence.load(Acquire);
        if before == 0 || before & CLAIMED != 0 {
            return None;
        }
        let mut words = [0; WORDS];
        for (to, from) in words.iter_mut().zip(&self.words) {
            *to = from.load(Relaxed);
        }
        fence(Acquire);
        (self.sequence.load(Relaxed) == before).then(|| Record::from_words(words))
    }
}

/// The next ticket of a ring.
///
/// # Invariants
///
/// Larger than every ticket in use, so no two writers have the same.
#[repr(C, align(64))]
pub(crate) struct Tickets(AtomicU64);

impl Tickets {
    /// Nobody has got one.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

/// The records that were added on one CPU.
pub(crate) struct Ring<'a> {
    tickets: &'a Tickets,
    slots: &'a [Slot],
}

impl<'a> Ring<'a> {
    /// Of slots that are used with these tickets and with no others.
    #[inline]
    pub(crate) const fn new(tickets: &'a Tickets, slots: &'a [Slot]) -> Self {
        Self { tickets, slots }
    }

    /// Adds a record. Meant for the CPU that runs this, which makes it fast and not more.
    ///
    /// Any context, but a receiver's.
    #[inline]
    pub(crate) fn add(&self, record: Record) {
        let ticket = self.tickets.0.fetch_add(1, Relaxed);
        let index = ticket.checked_rem(self.slots.len() as u64);
        if let Some(slot) = index.and_then(|index| self.slots.get(index as usize)) {
            slot.write(ticket, record);
        }
    }

    /// The whole records, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Record> + 'a {
        self.slots.iter().filter_map(Slot::read)
    }
}

/// Picks the newest records, as many as a buffer holds.
///
/// # Invariants
///
/// The first `used` records of the buffer are sorted.
pub(crate) struct Newest<'a> {
    buffer: &'a mut [Record],
    used: usize,
}

impl<'a> Newest<'a> {
    /// Starts with none.
    pub(crate) fn new(buffer: &'a mut [Record]) -> Self {
        // INVARIANT: none is sorted.
        Self { buffer, used: 0 }
    }

    /// One more. It takes the place of the oldest if there is no room left.
    pub(crate) fn add(&mut self, record: Record) {
        let key = |record: &Record| (record.time, record.cpu);
        let at = self
            .sorted()
            .partition_point(|other| key(other) <= key(&record));
        // INVARIANT: it goes behind those that are older, and the others keep their order.
        if let Some(free) = self.buffer.get_mut(self.used) {
            *free = record;
            self.used += 1;
            if let Some(newer) = self.buffer.get_mut(at..self.used) {
                newer.rotate_right(1);
            }
        } else if let Some(older @ [_, ..]) = self.buffer.get_mut(..at) {
            older.rotate_left(1);
            if let Some(last) = older.last_mut() {
                *last = record;
            }
        }
    }

    /// The newest, the oldest of them first.
    pub(crate) fn sorted(&self) -> &[Record] {
        self.buffer.get(..self.used).unwrap_or_default()
    }
}

/// Widens race windows in the test-only variants, so that a test finds the damage in seconds.
#[cfg(any(variant = "torn_recent", variant = "slow_recent"))]
mod test {
    /// About half a millisecond under emulation.
    pub(super) fn delay() {
        for i in 0..100_000 {
            core::hint::black_box(i);
        }
    }
}
