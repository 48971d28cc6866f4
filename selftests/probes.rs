// SPDX-License-Identifier: GPL-2.0

//! Eyes at places that a test program cannot see: the tracepoint user_exit, NMI context, and
//! whatever function a tracer or kprobe is put on.

use crate::{
    area,
    bindings, //
};
use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    AtomicUsize,
    Ordering::SeqCst, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

const MAX_CPUS: usize = bindings::DFLUSH_TEST_MAX_CPUS as usize;

/// PENDING in the deferred-flush word.
const PENDING: u32 = 1;

/// Above TRACEPOINT_DEFAULT_PRIO: called before any other probe.
const PRIORITY: c_int = 1000;

/// At most so many readings by a watcher after it was armed.
const WATCH_READINGS: u64 = 256;

/// What was seen on one CPU since it was armed.
pub(crate) struct Report {
    probe_armed: AtomicBool,
    watch_armed: AtomicBool,
    nmi_mine: AtomicBool,
    pub(crate) probe_hits: AtomicU64,
    pub(crate) probe_pending: AtomicU64,
    pub(crate) probe_stale: AtomicU64,
    pub(crate) nmi_hits: AtomicU64,
    pub(crate) nmi_stale: AtomicU64,
    pub(crate) watch_hits: AtomicU64,
    pub(crate) watch_stale: AtomicU64,
    pub(crate) timer_hits: AtomicU64,
}

impl Report {
    const fn new() -> Self {
        Self {
            probe_armed: AtomicBool::new(false),
            watch_armed: AtomicBool::new(false),
            nmi_mine: AtomicBool::new(false),
            probe_hits: AtomicU64::new(0),
            probe_pending: AtomicU64::new(0),
            probe_stale: AtomicU64::new(0),
            nmi_hits: AtomicU64::new(0),
            nmi_stale: AtomicU64::new(0),
            watch_hits: AtomicU64::new(0),
            watch_stale: AtomicU64::new(0),
            timer_hits: AtomicU64::new(0),
        }
    }

    pub(crate) fn arm(&self) {
        for counter in [
            &self.probe_hits,
            &self.probe_pending,
            &self.probe_stale,
            &self.nmi_hits,
            &self.nmi_stale,
            &self.watch_hits,
            &self.watch_stale,
            &self.timer_hits,
        ] {
            counter.store(0, SeqCst);
        }
        self.watch_armed.store(true, SeqCst);
        self.probe_armed.store(true, SeqCst);
    }

    pub(crate) fn disarm(&self) {
        self.probe_armed.store(false, SeqCst);
        self.watch_armed.store(false, SeqCst);
    }

    /// From now on NMIs on this CPU are ours: nothing else sends any in the test machines.
    pub(crate) fn expect_nmi(&self) {
        self.nmi_mine.store(true, SeqCst);
    }

    pub(crate) fn watch_hit(&self) {
        if !self.watch_armed.load(SeqCst) || self.watch_hits.load(SeqCst) >= WATCH_READINGS {
            return;
        }
        let reading = area::read();
        self.watch_stale.fetch_add(reading.stale, SeqCst);
        self.watch_hits.fetch_add(1, SeqCst);
    }
}

static REPORTS: [Report; MAX_CPUS] = [const { Report::new() }; MAX_CPUS];

/// Address of the module's word, as the symbol table has it; 0 while there is none.
static WORD: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn report(cpu: u32) -> Result<&'static Report> {
    REPORTS.get(cpu as usize).ok_or(EINVAL)
}

/// The report of the CPU on which this runs.
pub(crate) fn this_report() -> Option<&'static Report> {
    // SAFETY: No requirements.
    report(unsafe { bindings::raw_smp_processor_id() }).ok()
}

pub(crate) fn set_word(address: usize) {
    WORD.store(address, SeqCst);
}

/// Whether the word of CPU `cpu` says that a flush is pending.
fn is_pending(cpu: u32) -> bool {
    let address = WORD.load(SeqCst);
    if address == 0 {
        return false;
    }
    let mut word = 0u32;
    // SAFETY: The array has an entry for each possible CPU, and `cpu` runs this. An address that
    // is not mapped is reported as an error.
    let error = unsafe {
        let offset = bindings::__per_cpu_offset[cpu as usize] as usize;
        bindings::copy_from_kernel_nofault(
            (&raw mut word).cast(),
            address.wrapping_add(offset) as *const c_void,
            size_of::<u32>(),
        )
    };
    error == 0 && word & PENDING != 0
}

unsafe extern "C" fn user_exit(_data: *mut c_void, _dummy: c_int) {
    // SAFETY: No requirements.
    let cpu = unsafe { bindings::raw_smp_processor_id() };
    let Ok(report) = report(cpu) else { return };
    if !report.probe_armed.load(SeqCst) || !report.probe_armed.swap(false, SeqCst) {
        return;
    }
    if is_pending(cpu) {
        report.probe_pending.fetch_add(1, SeqCst);
    }
    let reading = area::read();
    report.probe_stale.fetch_add(reading.stale, SeqCst);
    report.probe_hits.fetch_add(1, SeqCst);
}

unsafe extern "C" fn nmi(_type: c_uint, _regs: *mut bindings::pt_regs) -> c_int {
    let Some(report) = this_report() else {
        return bindings::NMI_DONE as c_int;
    };
    if !report.nmi_mine.load(SeqCst) {
        return bindings::NMI_DONE as c_int;
    }
    let reading = area::read();
    report.nmi_stale.fetch_add(reading.stale, SeqCst);
    report.nmi_hits.fetch_add(1, SeqCst);
    bindings::NMI_HANDLED as c_int
}

unsafe extern "C" fn find_user_exit(tracepoint: *mut bindings::tracepoint, found: *mut c_void) {
    // SAFETY: The caller passes each of the kernel's tracepoints, whose name is a string.
    let name = unsafe { CStr::from_char_ptr((*tracepoint).name) };
    if name.to_bytes() == b"user_exit" {
        // SAFETY: `found` is the pointer that [`Probes::new`] passed.
        unsafe { *found.cast::<*mut bindings::tracepoint>() = tracepoint };
    }
}

/// The probes that stay while the module is loaded.
///
/// # Invariants
///
/// `user_exit` is registered on `tracepoint`, and `action` is registered for local NMIs.
pub(crate) struct Probes {
    tracepoint: *mut bindings::tracepoint,
    action: KBox<bindings::nmiaction>,
}

// SAFETY: Registered from one thread and unregistered from another at will.
unsafe impl Send for Probes {}
// SAFETY: There are no methods that take `&self`.
unsafe impl Sync for Probes {}

impl Probes {
    const NAME: &'static CStr = c"dflush_test";

    pub(crate) fn new() -> Result<Self> {
        let mut tracepoint: *mut bindings::tracepoint = core::ptr::null_mut();
        // SAFETY: The function only compares names and writes to the pointer passed with it.
        unsafe {
            bindings::for_each_kernel_tracepoint(Some(find_user_exit), (&raw mut tracepoint).cast())
        };
        if tracepoint.is_null() {
            return Err(ENOENT);
        }
        // SAFETY: All zeroes is a valid action without handler.
        let mut action = KBox::new(
            unsafe { core::mem::zeroed::<bindings::nmiaction>() },
            GFP_KERNEL,
        )?;
        action.handler = Some(nmi);
        action.name = Self::NAME.as_char_ptr();
        let list = &raw mut action.list;
        action.list.next = list;
        action.list.prev = list;
        // SAFETY: The probe has the tracepoint's signature and lives as long as the module.
        to_result(unsafe {
            bindings::tracepoint_probe_register_prio(
                tracepoint,
                user_exit as *mut c_void,
                core::ptr::null_mut(),
                PRIORITY,
            )
        })?;
        // SAFETY: The box gives the action an address that stays.
        let result = to_result(unsafe {
            bindings::__register_nmi_handler(bindings::NMI_LOCAL, &raw mut *action)
        });
        if let Err(error) = result {
            // SAFETY: It was registered above.
            unsafe { Self::remove_probe(tracepoint) };
            return Err(error);
        }
        Ok(Self { tracepoint, action })
    }

    /// # Safety
    ///
    /// The probe is registered on `tracepoint`.
    unsafe fn remove_probe(tracepoint: *mut bindings::tracepoint) {
        // SAFETY: The caller says that it is registered; the two waits are those of
        // tracepoint_synchronize_unregister().
        unsafe {
            bindings::tracepoint_probe_unregister(
                tracepoint,
                user_exit as *mut c_void,
                core::ptr::null_mut(),
            );
            bindings::synchronize_srcu(&raw mut bindings::rcu_tasks_trace_srcu_struct);
            bindings::synchronize_srcu(&raw mut bindings::tracepoint_srcu);
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; unregister_nmi_handler() waits for running handlers.
        unsafe {
            bindings::unregister_nmi_handler(bindings::NMI_LOCAL, self.action.name);
            Self::remove_probe(self.tracepoint);
        }
    }
}
