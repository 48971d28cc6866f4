// SPDX-License-Identifier: GPL-2.0

//! A registered `struct ftrace_ops` on one function, in its two kinds.
//!
//! Mirrors kernel/trace/ftrace.c and include/linux/ftrace.h. The ops are statics of the module: if
//! ftrace refuses to let go of one, it stays valid as long as the module does.

use crate::bindings;
use crate::hooks::mark_stuck;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use kernel::error::to_result;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;

/// The type of an ftrace callback.
pub(crate) type Callback =
    unsafe extern "C" fn(c_ulong, c_ulong, *mut bindings::ftrace_ops, *mut bindings::ftrace_regs);

/// Storage for one `struct ftrace_ops`.
///
/// # Invariants
///
/// `claimed` is set while a [`Hook`] owns the ops, and for ever once it could not be unregistered.
pub(crate) struct Ops {
    claimed: AtomicBool,
    ops: UnsafeCell<bindings::ftrace_ops>,
}

// SAFETY: the ops are only touched by the one `Hook` that claimed them, and by ftrace.
unsafe impl Sync for Ops {}

impl Ops {
    /// Unused ops.
    pub(crate) const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            // SAFETY: all-zero is how C makes a static `struct ftrace_ops`.
            ops: UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() }),
        }
    }
}

enum Kind {
    Function,
    Direct { trampoline: usize },
}

/// A registered hook.
///
/// # Invariants
///
/// `ops` is claimed by this value and registered with ftrace.
pub(crate) struct Hook {
    ops: &'static Ops,
    kind: Kind,
    name: &'static CStr,
}

impl Hook {
    /// Calls `callback` whenever the function with the fentry site `site` starts. With
    /// `modifies_ip` the callback may send it elsewhere; then -EBUSY if somebody else may too.
    ///
    /// The callback may be preempted: ftrace calls it straight from a trampoline, without its
    /// protection against recursion, unless somebody else traces the function too.
    /// Process context; may sleep. Patches kernel text, which interrupts every CPU.
    pub(crate) fn function(
        ops: &'static Ops,
        name: &'static CStr,
        site: usize,
        callback: Callback,
        modifies_ip: bool,
    ) -> Result<Self> {
        Self::register(ops, name, site, Kind::Function, |raw| {
            // SAFETY: `raw` is valid and claimed, see `register`.
            unsafe {
                (*raw).func = Some(callback);
                (*raw).flags = if modifies_ip {
                    bindings::FTRACE_OPS_FL_IPMODIFY as c_ulong
                } else {
                    0
                };
            }
        })
    }

    /// Makes the fentry site `site` call `trampoline` directly. -EBUSY if it has another direct
    /// call, or if somebody else may change where it goes.
    ///
    /// Process context; may sleep. Patches kernel text, which interrupts every CPU.
    pub(crate) fn direct(
        ops: &'static Ops,
        name: &'static CStr,
        site: usize,
        trampoline: usize,
    ) -> Result<Self> {
        Self::register(ops, name, site, Kind::Direct { trampoline }, |raw| {
            // SAFETY: as above. register_ftrace_direct() wants fresh ops without a function.
            unsafe {
                (*raw).func = None;
                (*raw).flags = 0;
            }
        })
    }

    fn register(
        ops: &'static Ops,
        name: &'static CStr,
        site: usize,
        kind: Kind,
        fill: impl FnOnce(*mut bindings::ftrace_ops),
    ) -> Result<Self> {
        if ops.claimed.swap(true, SeqCst) {
            return Err(EBUSY);
        }
        let raw = ops.ops.get();
        // SAFETY: claimed above, so nobody else, ftrace included, uses the ops: they start afresh.
        unsafe { raw.write_bytes(0, 1) };
        fill(raw);
        let registered = (|| {
            // SAFETY: `raw` is valid for ever; ftrace checks that `site` is one of its own.
            to_result(unsafe { bindings::ftrace_set_filter_ip(raw, site as c_ulong, 0, 1) })?;
            to_result(match kind {
                // SAFETY: the ops have a callback and a filter, and stay valid until unregistered.
                Kind::Function => unsafe { bindings::register_ftrace_function(raw) },
                // SAFETY: the ops are filtered and otherwise empty; the trampoline is module text.
                Kind::Direct { trampoline } => unsafe {
                    bindings::register_ftrace_direct(raw, trampoline as c_ulong)
                },
            })
        })();
        match registered {
            // INVARIANT: claimed and registered just now.
            Ok(()) => Ok(Self { ops, kind, name }),
            Err(error) => {
                // SAFETY: claimed by this call.
                let flags = unsafe { (*raw).flags };
                if flags & bindings::FTRACE_OPS_FL_ENABLED as c_ulong != 0 {
                    // ftrace died half-way (ftrace_kill()) and may have patched the site.
                    mark_stuck(name, error);
                    return Err(error);
                }
                // SAFETY: not registered, so nobody uses the ops or their filter.
                unsafe { bindings::ftrace_free_filter(raw) };
                ops.claimed.store(false, SeqCst);
                Err(error)
            }
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let raw = self.ops.ops.get();
        let result: c_int = match self.kind {
            // SAFETY: registered by the invariant.
            Kind::Function => unsafe { bindings::unregister_ftrace_function(raw) },
            // SAFETY: registered by the invariant, with this trampoline.
            Kind::Direct { trampoline } => unsafe {
                bindings::unregister_ftrace_direct(raw, trampoline as c_ulong, false)
            },
        };
        if let Err(error) = to_result(result) {
            mark_stuck(self.name, error);
            return;
        }
        // SAFETY: unregistered. unregister_ftrace_direct() was told to leave the filter, which it
        // would free even where it fails.
        unsafe { bindings::ftrace_free_filter(raw) };
        // ftrace has waited, as for all ops of a module: every CPU has scheduled, so none is in a
        // trampoline with interrupts off, and no task is preempted in one (ftrace_shutdown()).
        self.ops.claimed.store(false, SeqCst);
    }
}
