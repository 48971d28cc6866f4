// SPDX-License-Identifier: GPL-2.0

//! The watch on kernel text that runs before a deferred flush.
//!
//! A tracer, a kprobe or BPF on that code would use memory that may have been mapped while the CPU
//! was in user mode. An ftrace callback on `__text_poke()` (arch/x86/kernel/alternative.c) sees each
//! write to kernel text before it happens. The first one into a watched range blocks deferral and
//! drains every CPU, so that the new code never runs with a flush owed. Each of them also schedules
//! a look whether the code is as it was, after which deferral goes on.

use crate::bindings;
use crate::ctx_tracking::Reason;
use crate::hooks::drain::{drain_online, BLOCKED};
use crate::hooks::ftrace::{Hook, Ops};
use crate::hooks::is_stuck;
use crate::hooks::receiver::Receiver;
use crate::hooks::symbols::{
    is_fentry_site, is_foreign_code, is_kprobe_int3, read_text, Symbolic, Symbols,
};
use crate::hooks::work::{self, Work};
use crate::insn::{self, CALL_LENGTH, INT3, JMP_REL32};
use crate::policy::Range;
use crate::stats;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::static_lock_class;

static OPS: Ops = Ops::new();

/// The look whether a tracer has gone.
static RESUME: Work = Work::new();

/// How long after a write that look comes. Patching writes several times in a row, and a tracer
/// that is taken away is often put back.
const RESUME_MILLISECONDS: u32 = 250;

/// The ranges that the callback looks for.
///
/// # Invariants
///
/// Written only while the callback is not registered.
struct Ranges(UnsafeCell<KVec<Range>>);

// SAFETY: by the invariant, it is not written while it is read.
unsafe impl Sync for Ranges {}

static RANGES: Ranges = Ranges(UnsafeCell::new(KVec::new()));

/// Where the last write to watched code went; 0 if there was none.
static LAST_WRITE: AtomicUsize = AtomicUsize::new(0);

/// How many writes to the receiver's site were seen.
static SITE_WRITES: AtomicU64 = AtomicU64::new(0);

/// The address of the last write to watched code.
pub(crate) fn last_write() -> usize {
    LAST_WRITE.load(Relaxed)
}

fn interrupts_are_on() -> bool {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    let flags: u64;
    // SAFETY: reads the flags by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & INTERRUPT_FLAG != 0
}

/// # Safety
///
/// Called by ftrace at the start of `__text_poke(func, addr, src, len)`, with `text_mutex` held.
unsafe extern "C" fn on_text_poke(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    registers: *mut bindings::ftrace_regs,
) {
    // SAFETY: ftrace saved the arguments.
    let registers = unsafe { &(*registers.cast::<bindings::__arch_ftrace_regs>()).regs };
    let written = Range::new(registers.si, registers.cx);
    // SAFETY: the callback is registered, so nobody writes.
    let ranges = unsafe { &*RANGES.0.get() };
    if !ranges.iter().any(|range| range.overlaps(written)) {
        return;
    }
    if cfg!(variant = "blind_watch") {
        return;
    }
    if ranges.first().is_some_and(|site| site.overlaps(written)) {
        SITE_WRITES.fetch_add(1, Relaxed);
    }
    if cfg!(variant = "no_watch") {
        return;
    }
    let is_turned_off = BLOCKED.has(Reason::Mode);
    if !BLOCKED.has(Reason::Tracer) {
        LAST_WRITE.store(written.start, Relaxed);
    }
    let is_first = BLOCKED.block_for_write();
    #[cfg(not(variant = "no_drain"))]
    // With interrupts off (kgdb) nobody can be waited for, and any lock may be held.
    if interrupts_are_on() {
        // The receiver's own removal comes by here, too.
        if cfg!(not(variant = "no_second_drain")) || !is_turned_off {
            drain_online();
        }
        RESUME.schedule(RESUME_MILLISECONDS);
    } else if cfg!(variant = "kgdb_waits") {
        drain_online();
    }
    #[cfg(any(variant = "slow_poke", variant = "hasty_resume"))]
    crate::ctx_tracking::test::long_delay();
    if is_first && !is_turned_off {
        stats::SUSPENSIONS.add_one();
        pr_info!(
            "suspended: code that runs before a deferred flush is being changed at {}\n",
            Symbolic(written.start)
        );
    }
}

/// A watched range and what its bytes have to be.
struct Expected {
    range: Range,
    bytes: KVec<u8>,
}

/// What a look at the watched code found.
pub(crate) enum Look {
    /// All bytes are as they were when [`TextWatch::check`] remembered them, and that holds for
    /// this generation.
    Unchanged(u64),
    /// The byte at this address is not.
    Changed(usize),
}

/// The watch is registered.
pub(crate) struct TextWatch {
    hook: Option<Hook>,
    _resume: work::Ready,
    writes_before: u64,
    expected: KVec<Expected>,
}

impl TextWatch {
    /// Registers the watch over everything that runs before the receiver and the NMI handler.
    /// `resume` runs some time after each write to watched code.
    ///
    /// Process context; may sleep. Called under the lock of `control.rs`, so there is at most one.
    pub(crate) fn register(symbols: &Symbols, resume: work::Function) -> Result<Self> {
        let mut ranges = KVec::new();
        ranges.push(symbols.receiver_entry, GFP_KERNEL)?;
        for function in symbols.before_nmi_handler.iter() {
            ranges.push(*function, GFP_KERNEL)?;
        }
        // SAFETY: the callback is not registered, as there is at most one `TextWatch`.
        unsafe { *RANGES.0.get() = ranges };
        let mut watch = Self {
            hook: None,
            _resume: work::Ready::new(
                &RESUME,
                work::Class {
                    name: c"deferred_flush_resume",
                    keys: [static_lock_class!(), static_lock_class!()],
                },
                resume,
            ),
            writes_before: SITE_WRITES.load(Relaxed),
            expected: KVec::new(),
        };
        watch.hook = Some(Hook::function(
            &OPS,
            c"__text_poke",
            symbols.text_poke_site,
            on_text_poke,
            false,
        )?);
        Ok(watch)
    }

    /// Whether the watch saw a write to the receiver's site since it was registered.
    pub(crate) fn saw_write(&self) -> bool {
        SITE_WRITES.load(Relaxed) != self.writes_before
    }

    /// Runs `resume` once more, for one that came at a bad time.
    pub(crate) fn look_again_later() {
        RESUME.schedule(RESUME_MILLISECONDS);
    }

    /// Checks that no tracer is on watched code, and remembers the bytes.
    ///
    /// Returns the generation for which that holds, for
    /// [`Blocked::resume`](crate::ctx_tracking::Blocked::resume). -EBUSY, with a line in the log,
    /// if there is one. Process context; may sleep.
    pub(crate) fn check(&mut self, symbols: &Symbols, receiver: &Receiver) -> Result<u64> {
        let generation = settled_generation();
        self.expected.clear();
        let entry = symbols.receiver_entry;
        let bytes = read_text(entry)?;
        let is_ours = receiver
            .site_bytes()
            .is_some_and(|site| bytes.ends_with(&site));
        if !is_ours && cfg!(not(variant = "no_tracer_check")) {
            return Err(busy(symbols.receiver_site));
        }
        self.expect(entry, bytes)?;
        for &function in symbols.before_nmi_handler.iter() {
            let bytes = read_text(function)?;
            if let Some(address) = find_tracer(function, &bytes) {
                return Err(busy(address));
            }
            self.expect(function, bytes)?;
        }
        Ok(generation)
    }

    fn expect(&mut self, range: Range, bytes: KVec<u8>) -> Result {
        Ok(self.expected.push(Expected { range, bytes }, GFP_KERNEL)?)
    }

    /// Compares all watched bytes with what [`check`](Self::check) found. Process context; may
    /// sleep.
    pub(crate) fn look(&self) -> Result<Look> {
        let generation = settled_generation();
        for expected in self.expected.iter() {
            let now = read_text(expected.range)?;
            let changed = now
                .iter()
                .zip(expected.bytes.iter())
                .position(|(a, b)| a != b);
            if let Some(offset) = changed {
                return Ok(Look::Changed(expected.range.start.wrapping_add(offset)));
            }
        }
        Ok(Look::Unchanged(generation))
    }
}

impl Drop for TextWatch {
    fn drop(&mut self) {
        self.hook = None;
        if !is_stuck() {
            // SAFETY: the callback is not registered any more.
            unsafe { *RANGES.0.get() = KVec::new() };
        }
    }
}

/// The number of writes seen, all of which have happened by now.
///
/// The callback runs before the write. A patching task does not sleep between the two, so an
/// RCU-tasks grace period sees each such write done. (With PREEMPT_RT the lock of a page table that
/// it takes could sleep, but nobody else uses `text_poke_mm`.)
fn settled_generation() -> u64 {
    let generation = BLOCKED.generation();
    #[cfg(not(variant = "hasty_resume"))]
    // SAFETY: process context; sleeps.
    unsafe {
        bindings::synchronize_rcu_tasks()
    };
    generation
}

/// Says in the log who is in the way, and returns -EBUSY.
pub(crate) fn busy(address: usize) -> Error {
    pr_err!(
        "code that runs before a deferred flush is changed at {}: remove the tracer there first; \
         if there is none, write off to mode and then on\n",
        Symbolic(address)
    );
    EBUSY
}

/// The address at which somebody changed the function, if there is one.
fn find_tracer(function: Range, bytes: &[u8]) -> Option<usize> {
    if cfg!(variant = "no_tracer_check") {
        return None;
    }
    let entry = insn::fentry_offset(bytes);
    let site = function.start.wrapping_add(entry);
    // An fentry site that nobody uses is a NOP. A CALL there may be the function's own first one.
    if bytes.get(entry..).is_some_and(insn::is_call) && is_fentry_site(site) {
        return Some(site);
    }
    bytes.iter().enumerate().find_map(|(offset, &byte)| {
        let address = function.start.wrapping_add(offset);
        let is_tracer = match byte {
            INT3 => is_kprobe_int3(address),
            JMP_REL32 => insn::jump_target(bytes.get(offset..)?, address.wrapping_add(CALL_LENGTH))
                .is_some_and(is_foreign_code),
            _ => false,
        };
        is_tracer.then_some(address)
    })
}
