// SPDX-License-Identifier: GPL-2.0

//! Work that runs later, in process context on a housekeeping CPU.
//!
//! Mirrors `struct delayed_work` (include/linux/workqueue.h). With `nohz_full=` the kernel keeps
//! both the timer and the workers of the unbound queue on housekeeping CPUs.

use crate::bindings;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use kernel::sync::LockClassKey;

/// What is run.
pub(crate) type Function = unsafe extern "C" fn(*mut bindings::work_struct);

/// A static piece of work.
///
/// # Invariants
///
/// `raw` is initialised whenever `is_ready` is set, and whenever it is queued.
pub(crate) struct Work {
    is_ready: AtomicBool,
    raw: UnsafeCell<bindings::delayed_work>,
}

// SAFETY: the kernel's functions on work may be called from anywhere; the rest is done by the one
// `Ready` alone.
unsafe impl Sync for Work {}

impl Work {
    /// Work that is not ready yet.
    pub(crate) const fn new() -> Self {
        Self {
            is_ready: AtomicBool::new(false),
            // SAFETY: plain data, initialised before it is used.
            raw: UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() }),
        }
    }

    /// Runs the function in `milliseconds`, unless it is going to run anyway or nobody made the
    /// work ready.
    ///
    /// Any context but NMIs and those in which interrupts were off for the sake of a timer's or a
    /// workqueue's lock. The caller sees to it that the work is not dismantled meanwhile.
    pub(crate) fn schedule(&self, milliseconds: u32) {
        if !self.is_ready.load(SeqCst) {
            return;
        }
        // SAFETY: initialised by the invariant; the queue is there since boot.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                bindings::system_dfl_wq,
                self.raw.get(),
                bindings::__msecs_to_jiffies(milliseconds as c_uint),
            );
        }
    }

    /// Runs the function in `milliseconds` from now, whenever it was going to run. Context and
    /// conditions as for [`schedule`](Self::schedule).
    pub(crate) fn reschedule(&self, milliseconds: u32) {
        if !self.is_ready.load(SeqCst) {
            return;
        }
        // SAFETY: as in `schedule`.
        unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                bindings::system_dfl_wq,
                self.raw.get(),
                bindings::__msecs_to_jiffies(milliseconds as c_uint),
            );
        }
    }
}

/// A name and two lock classes, of the work and of its timer, for lockdep. Each work has its own:
/// lockdep warns if one class has two names.
pub(crate) struct Class {
    /// Of both classes.
    pub(crate) name: &'static CStr,
    /// By `static_lock_class!()`, which yields another class wherever it is written.
    pub(crate) keys: [Pin<&'static LockClassKey>; 2],
}

/// The work may be scheduled. Dropping this cancels it and waits for it.
pub(crate) struct Ready(&'static Work);

impl Ready {
    /// Makes `work` run `function`. Called under the lock of `control.rs`, so there is at most one
    /// for each work.
    pub(crate) fn new(work: &'static Work, class: Class, function: Function) -> Self {
        let raw = work.raw.get();
        let Class {
            name,
            keys: [work_key, timer_key],
        } = class;
        // SAFETY: neither ready nor queued, as a former `Ready` has cancelled it: nobody else uses
        // it. The kernel wants its own function in the timer.
        unsafe {
            raw.write_bytes(0, 1);
            bindings::init_work_with_key(
                &raw mut (*raw).work,
                Some(function),
                false,
                name.as_char_ptr(),
                work_key.as_ptr(),
            );
            bindings::timer_init_key(
                &raw mut (*raw).timer,
                Some(bindings::delayed_work_timer_fn),
                bindings::TIMER_IRQSAFE,
                name.as_char_ptr(),
                timer_key.as_ptr(),
            );
        }
        // INVARIANT: initialised just now.
        work.is_ready.store(true, SeqCst);
        Self(work)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.0.is_ready.store(false, SeqCst);
        // SAFETY: initialised in `new`; process context. Also stops work that schedules itself.
        unsafe { bindings::cancel_delayed_work_sync(self.0.raw.get()) };
    }
}
