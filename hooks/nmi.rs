// SPDX-License-Identifier: GPL-2.0

//! The NMI handler.
//!
//! An NMI does not pass the receiver, and it may also fall between the receiver's exchange and its
//! flush, or into the entry path before it. So the first handler of each NMI flushes if the word is
//! not clear, whatever the NMI interrupted, and leaves the word alone.

use crate::bindings;
use crate::hooks::drain::count_local;
use crate::{flush, percpu};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;

const NAME: &CStr = c"deferred_flush";

/// `NMI_DONE`: not handled here, ask the next handler.
const NOT_OURS: c_int = 0;

/// # Safety
///
/// Called by `nmi_handle()` in NMI context.
#[link_section = ".noinstr.text"]
unsafe extern "C" fn on_nmi(_kind: c_uint, _regs: *mut bindings::pt_regs) -> c_int {
    let local = percpu::this();
    #[cfg(not(any(variant = "no_nmi_flush", variant = "nmi_pending_only")))]
    let owes_flush = !local.word.is_clear();
    #[cfg(variant = "no_nmi_flush")]
    let owes_flush = false;
    #[cfg(variant = "nmi_pending_only")]
    let owes_flush = local.word.value() & crate::ctx_tracking::PENDING != 0;
    if owes_flush {
        // SAFETY: no interrupt arrives during an NMI.
        unsafe { flush::flush_all() };
        count_local(&local.flush_nmi);
    }
    NOT_OURS
}

struct Action(UnsafeCell<bindings::nmiaction>);

// SAFETY: written by `NmiHandler::register` alone, while it is not registered.
unsafe impl Sync for Action {}

static ACTION: Action = Action(UnsafeCell::new(
    // SAFETY: all-zero is how C makes a static `struct nmiaction`.
    unsafe { MaybeUninit::zeroed().assume_init() },
));

/// The handler is registered, before all others.
pub(crate) struct NmiHandler(());

impl NmiHandler {
    /// Registers the handler. Process context.
    ///
    /// Called under the lock of `control.rs`, so there is at most one.
    pub(crate) fn register() -> Result<Self> {
        let action = ACTION.0.get();
        // SAFETY: not registered, so nobody reads the action; the kernel wants an empty list head.
        unsafe {
            (*action).list.next = &raw mut (*action).list;
            (*action).list.prev = &raw mut (*action).list;
            (*action).handler = Some(on_nmi);
            (*action).flags = if cfg!(variant = "nmi_not_first") {
                0
            } else {
                bindings::DEFERRED_FLUSH_NMI_FLAG_FIRST
            };
            (*action).name = NAME.as_char_ptr();
        }
        // SAFETY: the action is a static of this module and complete.
        to_result(unsafe { bindings::__register_nmi_handler(bindings::NMI_LOCAL, action) })?;
        Ok(Self(()))
    }
}

impl Drop for NmiHandler {
    fn drop(&mut self) {
        // SAFETY: registered under this name; waits until no CPU walks the list any more.
        unsafe { bindings::unregister_nmi_handler(bindings::NMI_LOCAL, NAME.as_char_ptr()) };
    }
}
