// SPDX-License-Identifier: GPL-2.0

//! Hardware breakpoints on kernel addresses.
//!
//! `perf record -e mem:ADDRESS:x` and its like write no kernel text, but their handlers may run
//! before the receiver, on an instruction there or on data that the entry code touches. While any CPU
//! has one, nothing is deferred. The watch's ftrace callback comes here at the start of
//! `arch_install_hw_breakpoint()` and `arch_uninstall_hw_breakpoint()`
//! (arch/x86/kernel/hw_breakpoint.c), which change the debug registers of the CPU that runs them.

use crate::bindings;
use crate::hooks::drain::BLOCKED;
use crate::stats;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// Whether an address belongs to the kernel: the upper half of the address space.
const fn is_kernel_address(address: usize) -> bool {
    (address as isize) < 0
}

/// # Safety
///
/// `event` is a `struct perf_event` of a breakpoint.
unsafe fn is_on_kernel_address(event: *const c_void) -> bool {
    // SAFETY: this function's contract; `hw.info.address` of the event.
    let address = unsafe {
        event
            .byte_add(bindings::DEFERRED_FLUSH_BREAKPOINT_ADDRESS)
            .cast::<usize>()
            .read()
    };
    is_kernel_address(address) && cfg!(not(variant = "no_breakpoint_watch"))
}

/// This CPU is about to set a breakpoint. Interrupts are off and any lock may be held, a run queue's
/// too, so nothing is logged here.
///
/// # Safety
///
/// `event` is the argument of `arch_install_hw_breakpoint()`.
pub(crate) unsafe fn on_install(event: *const c_void) {
    // SAFETY: this function's contract.
    if unsafe { is_on_kernel_address(event) } && BLOCKED.add_breakpoint() {
        stats::SUSPENSIONS.add_one();
    }
}

/// This CPU is about to take a breakpoint back. It runs no code before the receiver until it has.
///
/// # Safety
///
/// `event` is the argument of `arch_uninstall_hw_breakpoint()`.
pub(crate) unsafe fn on_uninstall(event: *const c_void) {
    // SAFETY: this function's contract.
    if unsafe { is_on_kernel_address(event) } {
        BLOCKED.remove_breakpoint();
    }
}

/// # Safety
///
/// A cross-CPU function with an `AtomicBool`.
unsafe extern "C" fn look_at_this_cpu(found: *mut c_void) {
    let (dr0, dr1, dr2, dr3, dr7): (usize, usize, usize, usize, usize);
    // SAFETY: reads registers.
    unsafe {
        asm!(
            "mov {0}, dr0",
            "mov {1}, dr1",
            "mov {2}, dr2",
            "mov {3}, dr3",
            "mov {4}, dr7",
            out(reg) dr0,
            out(reg) dr1,
            out(reg) dr2,
            out(reg) dr3,
            out(reg) dr7,
            options(nomem, nostack, preserves_flags),
        );
    }
    let is_set = [dr0, dr1, dr2, dr3]
        .into_iter()
        .zip(0u32..)
        // Two bits each: enabled locally, enabled globally.
        .any(|(address, i)| dr7.wrapping_shr(2 * i) & 3 != 0 && is_kernel_address(address));
    if is_set {
        // SAFETY: `refuse_existing` waits for all CPUs.
        unsafe { &*found.cast::<AtomicBool>() }.store(true, SeqCst);
    }
}

/// Refuses to go on while there is a breakpoint that was set before the watch: -EBUSY, with a line
/// in the log. Process context; interrupts every CPU.
pub(crate) fn refuse_existing() -> Result {
    let found = AtomicBool::new(false);
    // SAFETY: the callback matches the prototype and does not sleep; `found` outlives the call, as
    // it waits.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            Some(always),
            Some(look_at_this_cpu),
            (&raw const found).cast_mut().cast(),
            true,
            &raw const bindings::__cpu_online_mask,
        );
    }
    if found.load(SeqCst) || BLOCKED.has_breakpoint() {
        pr_err!("a hardware breakpoint is set on a kernel address: remove it first\n");
        return Err(EBUSY);
    }
    Ok(())
}

/// # Safety
///
/// Called by `on_each_cpu_cond_mask()`.
unsafe extern "C" fn always(_cpu: c_int, _info: *mut c_void) -> bool {
    true
}
