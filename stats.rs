// SPDX-License-Identifier: GPL-2.0

//! Counters of the senders, and the sums that the views show.
//!
//! A receiver counts in its own [`CpuLocal`](crate::percpu::CpuLocal), and only when it flushes.
//! What senders count lies in ordinary memory, one slot a CPU: their own slot for what they did,
//! the target's slot for what happened to it.

use crate::bindings;
use crate::percpu::{self, CpuSet};
use core::sync::atomic::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed},
};
use kernel::prelude::*;

/// A counter. Adding to it never overflows in practice and never panics.
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    #[inline]
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One CPU's slot.
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Flushes that this CPU sent.
    pub(crate) calls: Counter,
    /// Kept: the range reaches outside vmalloc.
    pub(crate) kept_range: Counter,
    /// Kept: the caller is not allowed.
    pub(crate) kept_caller: Counter,
    /// Kept: deferral was blocked, shadow mode included.
    pub(crate) kept_blocked: Counter,
    /// Redirected to the wrapper.
    pub(crate) redirected: Counter,
    /// In shadow mode: flushes that would have spared at least one CPU.
    pub(crate) would_defer: Counter,
    /// As a target: deferred for this CPU.
    pub(crate) deferred: Counter,
    /// As a target: interrupted, as it was not quiet.
    pub(crate) ipi_not_quiet: Counter,
    /// As a target: interrupted, as it left user mode while the bit was set.
    pub(crate) ipi_raced: Counter,
    /// As a target: the time in jiffies when it began to owe a flush.
    pending_since: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            calls: Counter::new(),
            kept_range: Counter::new(),
            kept_caller: Counter::new(),
            kept_blocked: Counter::new(),
            redirected: Counter::new(),
            would_defer: Counter::new(),
            deferred: Counter::new(),
            ipi_not_quiet: Counter::new(),
            ipi_raced: Counter::new(),
            pending_since: AtomicUsize::new(0),
        }
    }

    /// This CPU is about to owe a flush, and owed none so far.
    pub(crate) fn start_pending(&self) {
        self.pending_since.store(jiffies(), Relaxed);
    }

    /// How long this CPU has owed its flush, in milliseconds. If it flushed just when a sender came,
    /// that may be too long.
    pub(crate) fn pending_milliseconds(&self) -> u32 {
        // In this order: the time may be noted anew, and is later then than the time now.
        let since = self.pending_since.load(Acquire);
        let age = jiffies().wrapping_sub(since);
        // SAFETY: pure arithmetic.
        let milliseconds = unsafe { bindings::jiffies64_to_msecs(age as u64) };
        u32::try_from(milliseconds).unwrap_or(u32::MAX)
    }
}

/// The kernel's tick count.
fn jiffies() -> usize {
    // SAFETY: there since boot; another CPU writes it, hence volatile.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(core::ptr::null_mut());

/// CPUs drained because deferral was blocked or turned off.
pub(crate) static DRAINED: Counter = Counter::new();

/// CPUs interrupted because they had owed a flush for `max_stale_ms`.
pub(crate) static EXPIRED: Counter = Counter::new();

/// How often a write to watched code suspended deferral.
pub(crate) static SUSPENSIONS: Counter = Counter::new();

/// The memory of the slots.
///
/// # Invariants
///
/// While this exists, [`SLOTS`] points to `percpu::cpu_bits()` slots.
pub(crate) struct Slots(#[expect(dead_code, reason = "owns what SLOTS points to")] KVVec<Slot>);

impl Slots {
    /// Allocates the slots. Process context; may sleep.
    pub(crate) fn new() -> Result<Self> {
        let count = percpu::cpu_bits() as usize;
        let mut slots = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            slots.push(Slot::new(), GFP_KERNEL)?;
        }
        SLOTS.store(slots.as_mut_ptr(), Relaxed);
        // INVARIANT: just stored.
        Ok(Self(slots))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        SLOTS.store(core::ptr::null_mut(), Relaxed);
    }
}

/// The slot of a CPU. `None` for a CPU that is not possible, and while there are no slots.
#[inline]
pub(crate) fn slot(cpu: u32) -> Option<&'static Slot> {
    let slots = SLOTS.load(Relaxed);
    if slots.is_null() || cpu >= percpu::cpu_bits() {
        return None;
    }
    // SAFETY: by the invariant of `Slots`, the pointer is valid for this index; the owner of
    // `Slots` drops it after the last hook and the last view are gone.
    Some(unsafe { &*slots.add(cpu as usize) })
}

/// The slot of the CPU that runs this.
#[inline]
pub(crate) fn this_slot() -> Option<&'static Slot> {
    slot(percpu::current_cpu())
}

/// Sum of one counter over all CPUs.
pub(crate) fn sum(counter: impl Fn(&Slot) -> &Counter) -> u64 {
    (0..percpu::cpu_bits())
        .filter_map(slot)
        .fold(0, |sum, slot| sum.wrapping_add(counter(slot).get()))
}

/// Sum of one of the receivers' counters over a set of CPUs.
pub(crate) fn sum_received(
    cpus: &CpuSet,
    counter: impl Fn(&percpu::CpuLocal) -> &AtomicU64,
) -> u64 {
    cpus.iter()
        .filter_map(percpu::of)
        .fold(0, |sum, cpu| sum.wrapping_add(counter(cpu).load(Relaxed)))
}
