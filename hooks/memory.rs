// SPDX-License-Identifier: GPL-2.0

//! Memory that goes offline: nobody may keep a translation to it.

use crate::bindings;
use crate::ctx_tracking::Reason;
use crate::hooks::drain::{drain_online, BLOCKED};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;

/// `NOTIFY_OK`.
const NOTIFY_OK: c_int = 1;

/// # Safety
///
/// Called by the memory notifier chain, in process context.
unsafe extern "C" fn on_memory(
    _block: *mut bindings::notifier_block,
    action: c_ulong,
    _arg: *mut c_void,
) -> c_int {
    #[cfg(variant = "no_memory_block")]
    return NOTIFY_OK;
    #[cfg(not(variant = "no_memory_block"))]
    match action {
        bindings::DEFERRED_FLUSH_MEM_GOING_OFFLINE => {
            BLOCKED.block(Reason::MemoryOffline);
            // The caller holds the hotplug lock, so offline CPUs stay so, and flush at bring-up.
            drain_online();
        }
        bindings::DEFERRED_FLUSH_MEM_OFFLINE | bindings::DEFERRED_FLUSH_MEM_CANCEL_OFFLINE => {
            BLOCKED.unblock(Reason::MemoryOffline);
        }
        _ => {}
    }
    #[cfg(not(variant = "no_memory_block"))]
    NOTIFY_OK
}

struct Block(UnsafeCell<bindings::notifier_block>);

// SAFETY: written by `MemoryNotifier::register` alone, while it is not registered.
unsafe impl Sync for Block {}

static BLOCK: Block = Block(UnsafeCell::new(
    // SAFETY: all-zero is how C makes a static `struct notifier_block`.
    unsafe { MaybeUninit::zeroed().assume_init() },
));

/// The notifier is registered.
pub(crate) struct MemoryNotifier(());

impl MemoryNotifier {
    /// Registers the notifier. Process context; may sleep.
    ///
    /// Called under the lock of `control.rs`, so there is at most one.
    pub(crate) fn register() -> Result<Self> {
        let block = BLOCK.0.get();
        // SAFETY: not registered, so nobody reads it.
        unsafe { (*block).notifier_call = Some(on_memory) };
        // SAFETY: a static of this module.
        to_result(unsafe { bindings::register_memory_notifier(block) })?;
        Ok(Self(()))
    }
}

impl Drop for MemoryNotifier {
    fn drop(&mut self) {
        // SAFETY: registered; returns when no callback runs any more.
        unsafe { bindings::unregister_memory_notifier(BLOCK.0.get()) };
        // An offlining that is under way would not tell us about its end.
        BLOCKED.unblock(Reason::MemoryOffline);
    }
}
