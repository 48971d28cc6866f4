// SPDX-License-Identifier: GPL-2.0

//! The sender's hook: an ftrace callback on `flush_tlb_kernel_range()`.
//!
//! It looks at who flushes what. What the policy allows is redirected to [`deferring_flush`];
//! everything else runs as the kernel wrote it.

use crate::bindings;
use crate::ctx_tracking::{self, Verdict};
use crate::flush;
use crate::hooks::drain::{count_local, drain_all, BLOCKED};
use crate::hooks::ftrace::{Hook, Ops};
use crate::hooks::stale_limit;
use crate::insn::CALL_LENGTH;
use crate::percpu::{self, Context, ALLOWED};
use crate::policy::{Kept, Policy, Range};
use crate::recent;
use crate::ring::{Counts, Decision, Fate, Record};
use crate::stats::{self, Slot};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;

static OPS: Ops = Ops::new();

/// The policy that the callbacks read.
///
/// # Invariants
///
/// Written only while neither callback is registered, and nobody is in the wrapper.
struct PolicyCell(UnsafeCell<Option<Policy>>);

// SAFETY: by the invariant, it is not written while it is read.
unsafe impl Sync for PolicyCell {}

static POLICY: PolicyCell = PolicyCell(UnsafeCell::new(None));

/// Whether the policy allows to defer this call; counts it, and notes it if not. Called from the
/// callbacks.
fn is_deferrable(flushed: Range, return_address: usize) -> bool {
    // SAFETY: a callback runs, so nobody writes.
    let Some(policy) = (unsafe { &*POLICY.0.get() }) else {
        return false;
    };
    // SAFETY: asked for only if the bytes lie in a function of the kernel, whose text is always
    // mapped. It may be patched meanwhile: any mixture of old and new bytes but the whole CALL
    // keeps the flush, and whoever calls it has executed the CALL.
    let bytes_before = || unsafe {
        (return_address.wrapping_sub(CALL_LENGTH) as *const [u8; CALL_LENGTH]).read_volatile()
    };
    let checked = policy.check(flushed, return_address, bytes_before);
    count(|slot| &slot.calls);
    match checked {
        Ok(()) => return true,
        Err(Kept::Caller) => {
            count(|slot| &slot.kept_caller);
            note_kept(Decision::KeptCaller, flushed, return_address);
        }
        Err(Kept::Range) => {
            count(|slot| &slot.kept_range);
            note_kept(Decision::KeptRange, flushed, return_address);
        }
    }
    false
}

/// Adds a flush that runs as the kernel wrote it to the view `recent`.
fn note_kept(decision: Decision, flushed: Range, caller: usize) {
    note_counted(decision, Counts::default(), flushed, caller);
}

fn note_counted(decision: Decision, counts: Counts, flushed: Range, caller: usize) {
    recent::add(Record {
        time: recent::now(),
        cpu: percpu::current_cpu(),
        decision,
        counts,
        start: flushed.start,
        end: flushed.end,
        caller,
    });
}

fn count(counter: impl Fn(&Slot) -> &stats::Counter) {
    if let Some(slot) = stats::this_slot() {
        counter(slot).add_one();
    }
}

/// # Safety
///
/// Called by ftrace at the start of `flush_tlb_kernel_range(start, end)`.
unsafe extern "C" fn on_flush(
    _ip: c_ulong,
    return_address: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    registers: *mut bindings::ftrace_regs,
) {
    let registers = registers.cast::<bindings::__arch_ftrace_regs>();
    // SAFETY: ftrace saved the arguments; nobody else touches them now.
    let registers = unsafe { &mut (*registers).regs };
    let flushed = Range {
        start: registers.di,
        end: registers.si,
    };
    if !is_deferrable(flushed, return_address) {
        return;
    }
    if BLOCKED.is_blocked() {
        count(|slot| &slot.kept_blocked);
        note_kept(Decision::KeptBlocked, flushed, return_address);
        return;
    }
    count(|slot| &slot.redirected);
    // The third argument.
    registers.dx = return_address;
    registers.ip = deferring_flush as usize as c_ulong;
}

/// # Safety
///
/// As for [`on_flush`].
unsafe extern "C" fn on_flush_in_shadow(
    _ip: c_ulong,
    return_address: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    registers: *mut bindings::ftrace_regs,
) {
    let registers = registers.cast::<bindings::__arch_ftrace_regs>();
    // SAFETY: as above; only read.
    let registers = unsafe { &(*registers).regs };
    let flushed = Range {
        start: registers.di,
        end: registers.si,
    };
    if !is_deferrable(flushed, return_address) {
        return;
    }
    count(|slot| &slot.kept_blocked);
    let this_cpu = percpu::current_cpu();
    let mut counts = Counts::default();
    for cpu in ALLOWED.iter() {
        if cpu != this_cpu && percpu::is_online(cpu) {
            counts = counts.plus_one(match Context::of(cpu).is_some_and(Context::is_quiet) {
                true => Fate::Deferred,
                false => Fate::NotQuiet,
            });
        }
    }
    if counts.of(Fate::Deferred) == 0 {
        note_kept(Decision::KeptBlocked, flushed, return_address);
        return;
    }
    count(|slot| &slot.would_defer);
    note_counted(Decision::WouldDefer, counts, flushed, return_address);
}

/// What an interrupted CPU is told, and what the sender notes of it.
///
/// # Invariants
///
/// The range stays as it is. Only the sender changes the rest, in [`must_interrupt`]; CPUs that were
/// already told to flush look at the order meanwhile, hence atomics.
struct Order {
    range: Range,
    sender: AtomicU32,
    counts: AtomicU64,
}

impl Order {
    fn counts(&self) -> Counts {
        Counts::from_raw(self.counts.load(Relaxed))
    }

    fn count(&self, fate: Fate) {
        self.counts
            .store(self.counts().plus_one(fate).raw(), Relaxed);
    }
}

/// Replaces `flush_tlb_kernel_range()` (arch/x86/mm/tlb.c) for calls that the policy allows.
///
/// The caller has cleared the page-table entries. When this returns, every CPU has flushed the
/// range or will before it uses a kernel mapping again. Process context, interrupts on.
///
/// # Safety
///
/// Entered only by way of [`on_flush`], which passes on where it returns to. Should a BPF program be
/// attached to the function, too, that may be lost; it is only shown.
unsafe extern "C" fn deferring_flush(start: c_ulong, end: c_ulong, caller: c_ulong) {
    let time = recent::now();
    let mut order = Order {
        range: Range { start, end },
        sender: AtomicU32::new(percpu::current_cpu()),
        counts: AtomicU64::new(0),
    };
    ctx_tracking::sender_barrier();
    // SAFETY: both callbacks match the prototypes, take an `Order`, and do not sleep; `order` lives
    // until all of them have run, as this waits.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            Some(must_interrupt),
            Some(flush_this_cpu),
            (&raw mut order).cast(),
            true,
            &raw const bindings::__cpu_online_mask,
        );
    }
    let counts = order.counts();
    if counts.of(Fate::Deferred) != 0 {
        stale_limit::flush_deferred();
    }
    // SAFETY: a sender runs, so nobody writes.
    let policy = unsafe { &*POLICY.0.get() };
    let is_known = |policy: &Policy| policy.returns_to_purger(caller);
    recent::add(Record {
        time,
        cpu: order.sender.load(Relaxed),
        decision: Decision::Redirected,
        counts,
        start,
        end,
        caller: match policy.as_ref().is_some_and(is_known) {
            true => caller,
            false => 0,
        },
    });
}

/// Whether the CPU has to be interrupted; if not, it owes the flush.
///
/// # Safety
///
/// Called by `on_each_cpu_cond_mask()` with an [`Order`].
unsafe extern "C" fn must_interrupt(cpu: c_int, order: *mut c_void) -> bool {
    let cpu = cpu as u32;
    // SAFETY: the sender's order, which lives until it returns; by its invariant it is not written
    // but by atomics.
    let order = unsafe { &*order.cast::<Order>() };
    // The sender stays on its CPU meanwhile, and is asked about it, too.
    if cpu == percpu::current_cpu() {
        order.sender.store(cpu, Relaxed);
        return true;
    }
    if !ALLOWED.contains(cpu) {
        order.count(Fate::NotAllowed);
        return true;
    }
    let (Some(context), Some(local), Some(slot)) =
        (Context::of(cpu), percpu::of(cpu), stats::slot(cpu))
    else {
        return true;
    };
    if local.word.is_clear() {
        slot.start_pending();
    }
    match ctx_tracking::offer(&local.word, &BLOCKED, || context.is_quiet()) {
        Verdict::Deferred => {
            slot.deferred.add_one();
            order.count(Fate::Deferred);
            false
        }
        Verdict::NotQuiet => {
            slot.ipi_not_quiet.add_one();
            order.count(Fate::NotQuiet);
            true
        }
        Verdict::Raced => {
            slot.ipi_raced.add_one();
            order.count(Fate::Raced);
            true
        }
    }
}

/// # Safety
///
/// A cross-CPU function with an [`Order`]: interrupts are off.
unsafe extern "C" fn flush_this_cpu(order: *mut c_void) {
    // SAFETY: the sender waits, so its order is still there.
    let range = unsafe { (*order.cast::<Order>()).range };
    // SAFETY: cross-CPU functions run with interrupts off.
    unsafe { flush::flush_kernel_range(range) };
    count_local(&percpu::this().flush_interrupt);
}

/// Which callback to hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Redirect what may be deferred.
    Deferring,
    /// Count it only.
    Shadow,
}

/// The sender's hook is installed.
pub(crate) struct Wrapper {
    hook: Option<Hook>,
    kind: Kind,
}

impl Wrapper {
    /// Hooks the fentry site of `flush_tlb_kernel_range`.
    ///
    /// -EBUSY if somebody else may redirect it. Process context; may sleep. Called under the lock
    /// of `control.rs`.
    pub(crate) fn install(kind: Kind, site: usize, policy: Policy) -> Result<Self> {
        // SAFETY: neither callback is registered, as there is at most one `Wrapper`.
        unsafe { *POLICY.0.get() = Some(policy) };
        let callback = match kind {
            Kind::Deferring => on_flush,
            Kind::Shadow => on_flush_in_shadow,
        };
        let hook = Hook::function(
            &OPS,
            c"flush_tlb_kernel_range",
            site,
            callback,
            kind == Kind::Deferring,
        )?;
        Ok(Self {
            hook: Some(hook),
            kind,
        })
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        self.hook = None;
        // A task may be preempted in the wrapper, which it does not leave by sleeping.
        // SAFETY: process context; sleeps.
        unsafe { bindings::synchronize_rcu_tasks() };
        #[cfg(not(any(variant = "no_off_drain", variant = "no_second_drain")))]
        if self.kind == Kind::Deferring {
            // A sender that saw the block may have left its bit behind.
            drain_all();
        }
    }
}
