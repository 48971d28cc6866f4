// SPDX-License-Identifier: GPL-2.0

//! A look into the window in which memory goes offline: what CPUs owe before and after the module's
//! notifier has run, and whether a swap of pages in there is deferred.

use crate::{
    bindings,
    probes, //
};
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        Ordering::SeqCst, //
    },
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Before and after everybody else.
const PRIORITY: c_int = 1000;

/// `NOTIFY_OK`.
const NOTIFY_OK: c_int = 1;
/// `NOTIFY_BAD`: the memory stays online.
const NOTIFY_BAD: c_int = 0x8002;

/// What was seen since the last arming.
pub(crate) struct Seen {
    is_armed: AtomicBool,
    refuses: AtomicBool,
    /// How often memory was going offline.
    pub(crate) windows: AtomicU64,
    /// CPUs that owed a flush when it was about to be opened.
    pub(crate) owed_before: AtomicU64,
    /// CPUs that owed a flush when it had been opened.
    pub(crate) owed_at_start: AtomicU64,
    /// CPUs that owed a flush after a swap inside the window.
    pub(crate) owed_inside: AtomicU64,
    /// CPUs that owed a flush after a swap at the end of the window.
    pub(crate) owed_after: AtomicU64,
}

pub(crate) static SEEN: Seen = Seen {
    is_armed: AtomicBool::new(false),
    refuses: AtomicBool::new(false),
    windows: AtomicU64::new(0),
    owed_before: AtomicU64::new(0),
    owed_at_start: AtomicU64::new(0),
    owed_inside: AtomicU64::new(0),
    owed_after: AtomicU64::new(0),
};

/// From now on look into each window; with `refuses` it ends with the memory online.
pub(crate) fn arm(refuses: bool) {
    for counter in [
        &SEEN.windows,
        &SEEN.owed_before,
        &SEEN.owed_at_start,
        &SEEN.owed_inside,
        &SEEN.owed_after,
    ] {
        counter.store(0, SeqCst);
    }
    SEEN.refuses.store(refuses, SeqCst);
    SEEN.is_armed.store(true, SeqCst);
}

pub(crate) fn disarm() {
    SEEN.is_armed.store(false, SeqCst);
}

/// How many CPUs owe a flush after the pages were swapped.
fn owed_after_swap() -> u64 {
    let mut state = crate::STATE.lock();
    if let Some(area) = state.area.as_mut() {
        let _ = area.swap();
    }
    probes::owing()
}

/// # Safety
///
/// Called by the memory notifier chain, in process context.
unsafe extern "C" fn before_others(
    _block: *mut bindings::notifier_block,
    action: c_ulong,
    _arg: *mut c_void,
) -> c_int {
    if SEEN.is_armed.load(SeqCst) && action as u32 == bindings::DFLUSH_MEM_GOING_OFFLINE {
        SEEN.owed_before.fetch_add(owed_after_swap(), SeqCst);
    }
    NOTIFY_OK
}

/// # Safety
///
/// As for [`before_others`].
unsafe extern "C" fn after_others(
    _block: *mut bindings::notifier_block,
    action: c_ulong,
    _arg: *mut c_void,
) -> c_int {
    if !SEEN.is_armed.load(SeqCst) {
        return NOTIFY_OK;
    }
    match action as u32 {
        bindings::DFLUSH_MEM_GOING_OFFLINE => {
            SEEN.windows.fetch_add(1, SeqCst);
            SEEN.owed_at_start.fetch_add(probes::owing(), SeqCst);
            SEEN.owed_inside.fetch_add(owed_after_swap(), SeqCst);
            if SEEN.refuses.load(SeqCst) {
                return NOTIFY_BAD;
            }
        }
        bindings::DFLUSH_MEM_OFFLINE | bindings::DFLUSH_MEM_CANCEL_OFFLINE => {
            SEEN.owed_after.fetch_add(owed_after_swap(), SeqCst);
        }
        _ => {}
    }
    NOTIFY_OK
}

struct Block(UnsafeCell<bindings::notifier_block>);

// SAFETY: Written by `MemoryNotifier::register` alone, before one is registered.
unsafe impl Sync for Block {}

// SAFETY: All zeroes is a valid block without callback.
const EMPTY: bindings::notifier_block = unsafe { MaybeUninit::zeroed().assume_init() };
static EARLY: Block = Block(UnsafeCell::new(EMPTY));
static LATE: Block = Block(UnsafeCell::new(EMPTY));

/// A notifier is registered for the whole life of the module.
pub(crate) struct MemoryNotifier(&'static Block);

impl MemoryNotifier {
    /// Registers both notifiers. Called once.
    pub(crate) fn register() -> Result<[Self; 2]> {
        // SAFETY: Not registered, so nobody reads them.
        unsafe {
            (*EARLY.0.get()).notifier_call = Some(before_others);
            (*EARLY.0.get()).priority = PRIORITY;
            (*LATE.0.get()).notifier_call = Some(after_others);
            (*LATE.0.get()).priority = -PRIORITY;
        }
        Ok([Self::register_one(&EARLY)?, Self::register_one(&LATE)?])
    }

    fn register_one(block: &'static Block) -> Result<Self> {
        // SAFETY: A static of this module, complete.
        to_result(unsafe { bindings::register_memory_notifier(block.0.get()) })?;
        Ok(Self(block))
    }
}

impl Drop for MemoryNotifier {
    fn drop(&mut self) {
        // SAFETY: Registered; returns when no callback runs any more.
        unsafe { bindings::unregister_memory_notifier(self.0 .0.get()) };
    }
}
