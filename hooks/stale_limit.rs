// SPDX-License-Identifier: GPL-2.0

//! A bound on how long a CPU may owe a flush: `max_stale_ms`.
//!
//! The first sender that defers a flush schedules a piece of work; when that runs, CPUs that have
//! owed one for as long as the bound are interrupted, once, and it comes back for the others. A
//! timer of the kernel may be late by an eighth of its time, so the work is scheduled early and looks
//! several times; in the end it is some ticks late.
//!
//! No flush is forgotten: a sender sets its bit, passes a full barrier and then looks whether the
//! work is scheduled; the work says that it is not, passes a full barrier and then looks at the bits.

use crate::bindings;
use crate::hooks::drain::flush_if_owed;
use crate::hooks::work::{self, Work};
use crate::percpu::{self, NOHZ_FULL};
use crate::stats::{self, EXPIRED};
use core::sync::atomic::{
    fence, AtomicBool, AtomicU32,
    Ordering::{Relaxed, SeqCst},
};
use kernel::ffi::{c_int, c_void};
use kernel::static_lock_class;

static WORK: Work = Work::new();

/// The bound in milliseconds; 0 is none.
static LIMIT: AtomicU32 = AtomicU32::new(0);

/// Whether the work is going to look at every bit that is set now.
static IS_SCHEDULED: AtomicBool = AtomicBool::new(false);

/// The bound in milliseconds; 0 if there is none.
pub(crate) fn limit() -> u32 {
    LIMIT.load(Relaxed)
}

/// Sets the bound. What is owed already is counted in. Called under the lock of `control.rs`.
pub(crate) fn set_limit(milliseconds: u32) {
    LIMIT.store(milliseconds, SeqCst);
    WORK.reschedule(0);
}

/// A sender deferred a flush. Process context; does not sleep.
pub(crate) fn flush_deferred() {
    let limit = LIMIT.load(SeqCst);
    if limit != 0 && !IS_SCHEDULED.swap(true, SeqCst) {
        WORK.schedule(early(limit));
        look_at_once_if_changed(limit);
    }
}

/// Somebody scheduled the work by a limit that may have been replaced meanwhile.
fn look_at_once_if_changed(limit: u32) {
    if LIMIT.load(SeqCst) != limit {
        WORK.reschedule(0);
    }
}

/// When to look if something is due in so many milliseconds.
fn early(milliseconds: u32) -> u32 {
    (milliseconds - milliseconds / 7).max(1)
}

/// How many milliseconds the CPU may go on owing its flush; `None` if it owes none. What an offline
/// CPU owes is run when it comes up.
fn remaining(cpu: u32, limit: u32) -> Option<u32> {
    if percpu::of(cpu)?.word.is_clear() || !percpu::is_online(cpu) {
        return None;
    }
    let age = stats::slot(cpu)?.pending_milliseconds();
    Some(limit.saturating_sub(age))
}

/// Counts here, as a CPU that comes from user mode has flushed on entry when the handler runs.
///
/// # Safety
///
/// Called by `on_each_cpu_cond_mask()` with the limit, once for each CPU.
unsafe extern "C" fn is_expired(cpu: c_int, limit: *mut c_void) -> bool {
    // SAFETY: the limit that `on_time` passes on.
    let limit = unsafe { *limit.cast::<u32>() };
    let is_expired = remaining(cpu as u32, limit) == Some(0);
    if is_expired {
        EXPIRED.add_one();
    }
    is_expired
}

/// # Safety
///
/// The function of a piece of work.
unsafe extern "C" fn on_time(_work: *mut bindings::work_struct) {
    IS_SCHEDULED.store(false, SeqCst);
    fence(SeqCst);
    let mut limit = limit();
    if limit == 0 || cfg!(variant = "no_stale_timer") {
        return;
    }
    // SAFETY: both callbacks match the prototypes and do not sleep; the limit outlives the call,
    // which waits.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            Some(is_expired),
            Some(flush_if_owed),
            (&raw mut limit).cast(),
            true,
            &raw const bindings::__cpu_online_mask,
        );
    }
    let next = NOHZ_FULL.iter().filter_map(|cpu| remaining(cpu, limit));
    if let Some(milliseconds) = next.min() {
        IS_SCHEDULED.store(true, SeqCst);
        // A sender may have scheduled it for a later time meanwhile.
        WORK.reschedule(early(milliseconds));
        look_at_once_if_changed(limit);
    }
}

/// The bound is kept while this exists.
pub(crate) struct StaleLimit(#[expect(dead_code, reason = "held for its drop")] work::Ready);

impl StaleLimit {
    /// Called under the lock of `control.rs`, before anything is deferred.
    pub(crate) fn new() -> Self {
        IS_SCHEDULED.store(false, SeqCst);
        Self(work::Ready::new(
            &WORK,
            work::Class {
                name: c"deferred_flush_stale_limit",
                keys: [static_lock_class!(), static_lock_class!()],
            },
            on_time,
        ))
    }
}
