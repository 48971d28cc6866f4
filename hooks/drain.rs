// SPDX-License-Identifier: GPL-2.0

//! Draining: after deferral was blocked, nothing may stay pending anywhere.

use crate::bindings;
use crate::ctx_tracking::{Blocked, Reason};
use crate::{flush, percpu, stats};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::ffi::{c_int, c_void};

/// The global word that stops deferral.
pub(crate) static BLOCKED: Blocked = Blocked::new();

/// Adds one to a counter of which this CPU is the only writer.
///
/// A plain load and store: cheaper than a locked instruction, and no other context writes it.
#[inline(always)]
pub(crate) fn count_local(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// # Safety
///
/// Called by `on_each_cpu_cond_mask()`, once for each CPU.
unsafe extern "C" fn owes_flush(cpu: c_int, _info: *mut c_void) -> bool {
    let owes = percpu::of(cpu as u32).is_some_and(|local| !local.word.is_clear());
    if owes {
        stats::DRAINED.add_one();
    }
    owes
}

/// Runs the flush that this CPU owes. One that comes from user mode has done so on entry.
///
/// # Safety
///
/// A cross-CPU function: interrupts are off.
pub(crate) unsafe extern "C" fn flush_if_owed(_info: *mut c_void) {
    let local = percpu::this();
    if local.word.is_clear() {
        return;
    }
    // SAFETY: cross-CPU functions run with interrupts off.
    local.word.receive(|| unsafe { flush::flush_all() });
    count_local(&local.flush_interrupt);
}

/// Interrupts every online CPU that owes a flush and waits until it has run.
///
/// For nothing to be owed afterwards, the caller blocks deferral first. A CPU that is interrupted in
/// kernel mode never passes the receiver, so the handler does all of its work. Takes no lock and
/// does not sleep, but waits: interrupts must be on.
pub(crate) fn drain_online() {
    // SAFETY: both callbacks match the prototypes, use no argument, and do not sleep.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            Some(owes_flush),
            Some(flush_if_owed),
            core::ptr::null_mut(),
            true,
            &raw const bindings::__cpu_online_mask,
        );
    }
}

/// [`drain_online`], and forgets what offline CPUs owe: bring-up flushes their whole TLB.
///
/// Process context; may sleep. Not from a CPU-hotplug callback.
pub(crate) fn drain_all() {
    // SAFETY: process context; pairs with the unlock below.
    unsafe { bindings::cpus_read_lock() };
    drain_online();
    for cpu in percpu::NOHZ_FULL.iter() {
        if let Some(local) = percpu::of(cpu) {
            // An online CPU's word is clear by now, or holds a bit whose sender interrupts it.
            if !percpu::is_online(cpu) && cfg!(not(variant = "no_offline_reset")) {
                local.word.reset_offline();
            }
        }
    }
    // SAFETY: taken above.
    unsafe { bindings::cpus_read_unlock() };
}

/// Deferral is allowed as far as the mode is concerned, until this is dropped.
///
/// The last thing to be made when going on, and the first to go: dropping it blocks and drains.
pub(crate) struct Deferring(());

impl Deferring {
    /// Lifts [`Reason::Mode`].
    pub(crate) fn start() -> Self {
        BLOCKED.unblock(Reason::Mode);
        Self(())
    }
}

impl Drop for Deferring {
    fn drop(&mut self) {
        BLOCKED.block(Reason::Mode);
        #[cfg(not(variant = "no_off_drain"))]
        drain_all();
    }
}
