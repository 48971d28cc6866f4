// SPDX-License-Identifier: GPL-2.0

//! Where the module hooks into the running kernel.
//!
//! Each kind of hook is one type whose value means "installed" and which undoes itself on drop.
//! If the kernel refuses to undo one, its code has to stay in memory for ever: [`mark_stuck`]
//! records that, and the module then keeps its reference on itself.

pub(crate) mod drain;
pub(crate) mod ftrace;
pub(crate) mod memory;
pub(crate) mod memory_failure;
pub(crate) mod nmi;
pub(crate) mod receiver;
pub(crate) mod stale_limit;
pub(crate) mod symbols;
pub(crate) mod text_watch;
#[cfg(variant = "receiver_on_tracepoint")]
pub(crate) mod tracepoint;
pub(crate) mod work;
pub(crate) mod wrapper;

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use kernel::prelude::*;

static STUCK: AtomicBool = AtomicBool::new(false);

/// Records that a hook could not be removed.
pub(crate) fn mark_stuck(what: &CStr, error: Error) {
    STUCK.store(cfg!(not(variant = "forgets_stuck")), Relaxed);
    pr_err!(
        "cannot unhook {}: {}; the module stays in memory until the next boot\n",
        what,
        error.to_errno()
    );
}

/// Whether a hook could not be removed.
pub(crate) fn is_stuck() -> bool {
    STUCK.load(Relaxed)
}
