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
use crate::stats::{self, Slot};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;

static OPS: Ops = Ops::new();

/// The policy that the callbacks read.
///
/// # Invariants
///
/// Written only while neither callback is registered.
struct PolicyCell(UnsafeCell<Option<Policy>>);

// SAFETY: by the invariant, it is not written while it is read.
unsafe impl Sync for PolicyCell {}

static POLICY: PolicyCell = PolicyCell(UnsafeCell::new(None));

/// Whether the policy allows to defer this call; counts it. Called from the callbacks.
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
    if let Some(slot) = stats::this_slot() {
        slot.calls.add_one();
        match checked {
            Ok(()) => {}
            Err(Kept::Caller) => slot.kept_caller.add_one(),
            Err(Kept::Range) => slot.kept_range.add_one(),
        }
    }
    checked.is_ok()
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
        return;
    }
    count(|slot| &slot.redirected);
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
    let would_spare = |cpu| cpu != this_cpu && Context::of(cpu).is_some_and(Context::is_quiet);
    if ALLOWED.iter().any(would_spare) {
        count(|slot| &slot.would_defer);
    }
}

/// What an interrupted CPU is told.
struct Order {
    range: Range,
    deferred: AtomicBool,
}

/// Replaces `flush_tlb_kernel_range()` (arch/x86/mm/tlb.c) for calls that the policy allows.
///
/// The caller has cleared the page-table entries. When this returns, every CPU has flushed the
/// range or will before it uses a kernel mapping again. Process context, interrupts on.
///
/// # Safety
///
/// Entered only by way of [`on_flush`].
unsafe extern "C" fn deferring_flush(start: c_ulong, end: c_ulong) {
    let mut order = Order {
        range: Range { start, end },
        deferred: AtomicBool::new(false),
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
    if order.deferred.load(Relaxed) {
        stale_limit::flush_deferred();
    }
}

/// Whether the CPU has to be interrupted; if not, it owes the flush.
///
/// # Safety
///
/// Called by `on_each_cpu_cond_mask()` with an [`Order`].
unsafe extern "C" fn must_interrupt(cpu: c_int, order: *mut c_void) -> bool {
    let cpu = cpu as u32;
    if !ALLOWED.contains(cpu) || cpu == percpu::current_cpu() {
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
            // SAFETY: the sender's order, which lives until it returns; CPUs that were already
            // told to flush read it, hence an atomic.
            unsafe { &*order.cast::<Order>() }
                .deferred
                .store(true, Relaxed);
            false
        }
        Verdict::NotQuiet => {
            slot.ipi_not_quiet.add_one();
            true
        }
        Verdict::Raced => {
            slot.ipi_raced.add_one();
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
