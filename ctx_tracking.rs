// SPDX-License-Identifier: GPL-2.0

//! The protocol between a sender of a kernel-range flush and a CPU in user mode.
//!
//! Every CPU has one [`Word`]. A sender that finds a CPU quiet, that is in user mode with RCU not
//! watching, sets [`PENDING`] in its word instead of interrupting it; the CPU flushes when it comes
//! back. Two store-buffering (Dekker) patterns make that safe:
//!
//! ```text
//! sender                                 receiver                  blocker
//! clear page-table entries               RMW of the state          set `Blocked`
//! full barrier                           (fully ordered)           full barrier
//! state quiet?                           word clear?               word clear?
//! word |= PENDING                        word = FLUSHING           interrupt the CPU
//! full barrier                           flush
//! state still quiet, not `Blocked`?      word &= !FLUSHING
//! ```
//!
//! Either the sender sees that the CPU left user mode, or the CPU sees the bit; and either the
//! sender sees the block, or the blocker sees the bit. Both may happen: that costs a spare flush.
//!
//! Nothing here depends on the kernel crate, so the same source is tested on the build host. The
//! atomics are those of `core`, because the receiver must not leave `.noinstr.text` and the kernel
//! crate's atomics are calls into ordinary text. On x86-64 that is sound under the kernel's memory
//! model: a `SeqCst` read-modify-write is one locked instruction and `fence(SeqCst)` is `mfence`,
//! both full barriers there, and a relaxed access is one `mov` that the compiler may neither tear
//! nor invent, which is what `READ_ONCE()` and `WRITE_ONCE()` promise.

use crate::atomics::{
    fence, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// A flush is owed to this CPU.
pub(crate) const PENDING: u32 = 1 << 0;

/// This CPU took [`PENDING`] and has not finished the flush yet.
pub(crate) const FLUSHING: u32 = 1 << 1;

/// A CPU's deferred-flush bitmask.
///
/// # Invariants
///
/// - [`PENDING`] is set by any CPU, and only taken by the CPU that owns the word, by the exchange
///   in [`Word::receive`]; other CPUs may clear it only while the owner is offline.
/// - [`FLUSHING`] is set and cleared only by the owner.
/// - Whenever the owner runs with neither bit set, each page-table change whose sender decided
///   [`Verdict::Deferred`] for it has been followed by a full flush there, or the owner has not
///   left the quiet state since.
#[repr(transparent)]
pub(crate) struct Word(AtomicU32);

impl Word {
    /// A word with nothing owed.
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether neither a flush is owed nor one is running.
    ///
    /// Any context, noinstr included.
    #[inline(always)]
    pub(crate) fn is_clear(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// The raw value, for the views.
    pub(crate) fn value(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Runs the flush that is owed. Called by the owner only, with interrupts off.
    ///
    /// The exchange stands before the flush: a bit that is set during the flush belongs to a later
    /// change and has to survive it. `FLUSHING` tells an NMI that falls between the two that the
    /// flush has not happened yet.
    ///
    /// Any context with interrupts off, noinstr included.
    #[inline(always)]
    pub(crate) fn receive(&self, flush: impl FnOnce()) {
        #[cfg(not(variant = "flush_before_exchange"))]
        {
            self.0.swap(FLUSHING, SeqCst);
            #[cfg(variant = "no_first_check")]
            test::await_sender();
            #[cfg(any(variant = "slow_exchange", variant = "nmi_pending_only"))]
            test::long_delay();
            flush();
        }
        #[cfg(variant = "flush_before_exchange")]
        {
            flush();
            test::await_sender();
            self.0.swap(FLUSHING, SeqCst);
        }
        self.0.fetch_and(!FLUSHING, SeqCst);
    }

    /// Forgets what is owed to a CPU that is offline: bring-up flushes its whole TLB.
    ///
    /// The caller holds off CPU hotplug.
    pub(crate) fn reset_offline(&self) {
        self.0.store(0, SeqCst);
    }
}

/// What the state word of context tracking looks like on the running kernel.
#[derive(Clone, Copy)]
pub(crate) struct StateLayout {
    /// `CT_STATE_MASK | CT_RCU_WATCHING`.
    pub(crate) mask: u32,
    /// `CT_STATE_USER`.
    pub(crate) user: u32,
}

impl StateLayout {
    /// Whether a CPU with this state is in user mode with no NMI running on it.
    ///
    /// An NMI from user mode sets the watching bit and leaves the state at user.
    pub(crate) const fn is_quiet(self, state: u32) -> bool {
        state & self.mask == self.user
    }
}

/// What a sender decided for one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The CPU flushes before it uses a kernel mapping again; do not interrupt it.
    Deferred,
    /// The CPU is not in user mode: interrupt it.
    NotQuiet,
    /// The CPU left user mode, or deferral was blocked, while the bit was being set: interrupt it.
    Raced,
}

/// The sender's first barrier: between the caller's page-table changes and the first look at any
/// CPU's state.
#[inline]
pub(crate) fn sender_barrier() {
    fence(SeqCst);
}

/// Decides for one CPU whether its flush waits.
///
/// `is_quiet` reads the CPU's state anew on each call. The caller ran [`sender_barrier`] after its
/// last page-table change.
#[inline]
pub(crate) fn offer(word: &Word, blocked: &Blocked, is_quiet: impl Fn() -> bool) -> Verdict {
    #[cfg(not(any(variant = "no_first_check", variant = "flush_before_exchange")))]
    if !is_quiet() {
        return Verdict::NotQuiet;
    }
    #[cfg(any(
        variant = "slow_sender",
        variant = "no_recheck",
        variant = "no_block_recheck"
    ))]
    test::delay();
    #[cfg(variant = "no_second_drain")]
    test::await_block(blocked);
    // A bit that is set already need not be set again; the barrier and the second look stay, as
    // the owner may just be taking it.
    if word.0.load(Relaxed) & PENDING == 0 {
        word.0.fetch_or(PENDING, SeqCst);
    }
    fence(SeqCst);
    #[cfg(any(variant = "no_first_check", variant = "flush_before_exchange"))]
    test::await_receiver(word);
    #[cfg(variant = "no_recheck")]
    return Verdict::Deferred;
    #[cfg(not(variant = "no_recheck"))]
    if is_quiet() && (cfg!(variant = "no_block_recheck") || !blocked.is_blocked()) {
        Verdict::Deferred
    } else {
        Verdict::Raced
    }
}

/// Why nothing may be deferred. Reasons add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Reason {
    /// The mode is not `on`, or is being left.
    Mode = 1 << 0,
    /// Somebody wrote to watched code.
    Tracer = 1 << 1,
    /// Memory is going offline.
    MemoryOffline = 1 << 2,
}

const REASONS: u64 = 0xff;
const GENERATION: u64 = REASONS + 1;

/// The global word that stops deferral.
///
/// # Invariants
///
/// The low eight bits are the [`Reason`]s in force; the rest counts writes to watched code. A
/// resume that raced with such a write therefore fails its compare-and-exchange.
pub(crate) struct Blocked(AtomicU64);

impl Blocked {
    /// Blocked, as the mode starts as off.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(Reason::Mode as u64))
    }

    /// Whether any reason is in force.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.0.load(Relaxed) & REASONS != 0
    }

    /// Whether this reason is in force.
    pub(crate) fn has(&self, reason: Reason) -> bool {
        self.0.load(Relaxed) & reason as u64 != 0
    }

    /// Adds a reason and returns whether it is new. The caller drains afterwards; the barrier that
    /// stands between the two is here.
    pub(crate) fn block(&self, reason: Reason) -> bool {
        let old = self.0.fetch_or(reason as u64, SeqCst);
        fence(SeqCst);
        old & reason as u64 == 0
    }

    /// Adds [`Reason::Tracer`] and makes every resume that is under way fail. Returns whether the
    /// reason is new.
    pub(crate) fn block_for_write(&self) -> bool {
        self.0.fetch_add(GENERATION, SeqCst);
        self.block(Reason::Tracer)
    }

    /// Takes a reason back.
    pub(crate) fn unblock(&self, reason: Reason) {
        self.0.fetch_and(!(reason as u64), SeqCst);
    }

    /// How many writes to watched code there were.
    pub(crate) fn generation(&self) -> u64 {
        self.0.load(SeqCst) / GENERATION
    }

    /// Takes [`Reason::Tracer`] back if there was no write to watched code since `generation`.
    pub(crate) fn resume(&self, generation: u64) -> bool {
        let mut old = self.0.load(SeqCst);
        loop {
            if old / GENERATION != generation && cfg!(not(variant = "hasty_resume")) {
                return false;
            }
            let new = old & !(Reason::Tracer as u64);
            match self.0.compare_exchange(old, new, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }
}

/// Widens race windows in the test-only variants, so that a test finds the damage in seconds.
#[cfg(any(
    variant = "slow_sender",
    variant = "no_recheck",
    variant = "no_first_check",
    variant = "flush_before_exchange",
    variant = "slow_exchange",
    variant = "nmi_pending_only",
    variant = "no_block_recheck",
    variant = "no_second_drain",
    variant = "slow_poke",
    variant = "hasty_resume"
))]
pub(crate) mod test {
    use super::{Blocked, Word, PENDING};
    use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

    const SHORT: u32 = 20_000;
    const LONG: u32 = 20 * SHORT;

    static SENT: AtomicU32 = AtomicU32::new(0);

    /// About 100 us under emulation.
    #[inline(always)]
    pub(super) fn delay() {
        for i in 0..SHORT {
            core::hint::black_box(i);
        }
    }

    /// Some milliseconds under emulation.
    #[inline(always)]
    pub(crate) fn long_delay() {
        for i in 0..LONG {
            core::hint::black_box(i);
        }
    }

    /// Before the sender's bit: until deferral is blocked, or for some hundred milliseconds.
    #[inline(always)]
    pub(super) fn await_block(blocked: &Blocked) {
        for _ in 0..50 * LONG {
            if blocked.is_blocked() {
                break;
            }
        }
    }

    /// Between the receiver's two steps: until a sender has set a bit, or for a few milliseconds.
    #[inline(always)]
    pub(super) fn await_sender() {
        let before = SENT.load(SeqCst);
        for _ in 0..LONG {
            if SENT.load(SeqCst) != before {
                return;
            }
        }
    }

    /// Between the sender's bit and its look: until the receiver has taken the bit and has had the
    /// time to go back to user mode, or for a few milliseconds.
    #[inline(always)]
    pub(super) fn await_receiver(word: &Word) {
        SENT.fetch_add(1, SeqCst);
        for _ in 0..LONG {
            if word.value() & PENDING == 0 {
                delay();
                return;
            }
        }
    }
}
