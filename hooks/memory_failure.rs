// SPDX-License-Identifier: GPL-2.0

//! Memory errors: the processor should not read ahead through an old translation to bad memory.
//!
//! A notifier on the machine-check decode chain (arch/x86/kernel/cpu/mce/core.c) drains before the
//! kernel's own takes the page out. Every event drains, corrected ones too: they are rare, and
//! whether an address is meant depends on the vendor.
//!
//! It is a second line. Where the kernel takes a page out of the direct map (`set_mce_nospec()`), it
//! interrupts every CPU anyway; and like the kernel itself, which purges lazily, this does not
//! promise that no translation is left: what is purged later is deferred as usual.

use crate::bindings;
use crate::hooks::drain::drain_online;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use kernel::ffi::{c_int, c_ulong, c_void};

/// `NOTIFY_DONE`.
const NOTIFY_DONE: c_int = 0;

/// # Safety
///
/// Called by the decode chain, in process context.
unsafe extern "C" fn on_machine_check(
    _block: *mut bindings::notifier_block,
    _action: c_ulong,
    _event: *mut c_void,
) -> c_int {
    #[cfg(not(variant = "no_mce_drain"))]
    drain_online();
    NOTIFY_DONE
}

struct Block(UnsafeCell<bindings::notifier_block>);

// SAFETY: written by `MemoryFailureNotifier::register` alone, while it is not registered.
unsafe impl Sync for Block {}

static BLOCK: Block = Block(UnsafeCell::new(
    // SAFETY: all-zero is how C makes a static `struct notifier_block`.
    unsafe { MaybeUninit::zeroed().assume_init() },
));

/// The notifier is registered.
pub(crate) struct MemoryFailureNotifier(());

impl MemoryFailureNotifier {
    /// Registers the notifier before the kernel's own that handles uncorrected errors. Process
    /// context; may sleep.
    ///
    /// Called under the lock of `control.rs`, so there is at most one.
    pub(crate) fn register() -> Self {
        let block = BLOCK.0.get();
        // SAFETY: not registered, so nobody reads it.
        unsafe {
            (*block).notifier_call = Some(on_machine_check);
            (*block).priority = bindings::mce_notifier_prios_MCE_PRIO_HIGHEST as c_int;
        }
        // SAFETY: a static of this module, complete.
        unsafe { bindings::mce_register_decode_chain(block) };
        Self(())
    }
}

impl Drop for MemoryFailureNotifier {
    fn drop(&mut self) {
        // SAFETY: registered; returns when no callback runs any more.
        unsafe { bindings::mce_unregister_decode_chain(BLOCK.0.get()) };
    }
}
