// SPDX-License-Identifier: GPL-2.0

//! Eyes at places that a test program cannot see: the tracepoint user_exit, NMI context, and
//! whatever function a tracer or kprobe is put on.

use crate::{
    area,
    bindings, //
};
use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
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

/// The CPU whose NMI is to meet a sender, and how far that has come.
static MEETING_CPU: AtomicU32 = AtomicU32::new(u32::MAX);
static SENDER_CPU: AtomicU32 = AtomicU32::new(u32::MAX);
static STAGE: AtomicU32 = AtomicU32::new(bindings::dflush_stage_DFLUSH_STAGE_IDLE);

/// So long somebody waits for a sender at most, in looks; well under a second.
const LOOKS: u32 = 20_000_000;

/// From the sender's first instructions in the flush to its look at the word, and less than the
/// delay of the variants with which this is used.
const LOOKS_AFTER: u32 = 4_000;

pub(crate) fn stage() -> u32 {
    STAGE.load(SeqCst)
}

pub(crate) fn set_stage(cpu: u32, stage: u32) -> u32 {
    MEETING_CPU.store(cpu, SeqCst);
    STAGE.swap(stage, SeqCst)
}

/// Whether somebody waits; more NMIs would only get in the way.
pub(crate) fn somebody_waits() -> bool {
    STAGE.load(SeqCst) >= bindings::dflush_stage_DFLUSH_STAGE_WAITS
}

/// A sender has cleared its page-table entries and starts to flush.
pub(crate) fn sender_comes() {
    let _ = STAGE.compare_exchange(
        bindings::dflush_stage_DFLUSH_STAGE_WAITS,
        bindings::dflush_stage_DFLUSH_STAGE_SENDER_CAME,
        SeqCst,
        SeqCst,
    );
}

/// Waits until a sender comes, if the stage is `from`.
pub(crate) fn wait_for_sender(from: u32) {
    if STAGE
        .compare_exchange(
            from,
            bindings::dflush_stage_DFLUSH_STAGE_WAITS,
            SeqCst,
            SeqCst,
        )
        .is_err()
    {
        return;
    }
    for _ in 0..LOOKS {
        if STAGE.load(SeqCst) != bindings::dflush_stage_DFLUSH_STAGE_WAITS {
            break;
        }
        core::hint::spin_loop();
    }
    for look in 0..LOOKS_AFTER {
        core::hint::black_box(look);
    }
}

/// The next NMI on that CPU waits until the other one has entered the kernel.
pub(crate) fn hold_sender(cpu: u32) {
    SENDER_CPU.store(cpu, SeqCst);
}

/// The other CPU has entered the kernel and passed the receiver.
pub(crate) fn enters() {
    let _ = STAGE.compare_exchange(
        bindings::dflush_stage_DFLUSH_STAGE_SENDER_CAME,
        bindings::dflush_stage_DFLUSH_STAGE_ENTERED,
        SeqCst,
        SeqCst,
    );
}

/// In the NMI that holds the sender.
fn wait_for_entry() {
    for _ in 0..LOOKS {
        if STAGE.load(SeqCst) != bindings::dflush_stage_DFLUSH_STAGE_SENDER_CAME {
            break;
        }
        core::hint::spin_loop();
    }
}

/// Where the writing is to wait, 0 for nowhere, and the generation that it waits to see replaced.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
static REPLACED: AtomicU64 = AtomicU64::new(0);

const WRITTEN_LENGTH: usize = 16;

pub(crate) fn hold_write(address: usize) {
    REPLACED.store(area::generation(), SeqCst);
    WRITTEN.store(address, SeqCst);
}

/// Somebody is about to write to kernel text at `address`.
pub(crate) fn comes_to_write(address: usize) {
    let start = WRITTEN.load(SeqCst);
    if start == 0 || !(start..start + WRITTEN_LENGTH).contains(&address) {
        return;
    }
    WRITTEN.store(0, SeqCst);
    // Lets go a sender that is held.
    enters();
    let _ = STAGE.compare_exchange(
        bindings::dflush_stage_DFLUSH_STAGE_ARMED,
        bindings::dflush_stage_DFLUSH_STAGE_WAITS,
        SeqCst,
        SeqCst,
    );
    for _ in 0..LOOKS {
        if area::generation() != REPLACED.load(SeqCst) {
            STAGE.store(bindings::dflush_stage_DFLUSH_STAGE_SWAPPED, SeqCst);
            break;
        }
        core::hint::spin_loop();
    }
}

/// In an NMI from user mode: until the sender's flush has returned, or for a while, as it may wait
/// for the end of this NMI.
fn wait_for_swap(generation: u64) {
    const NANOSECONDS: u64 = 150_000_000;
    // SAFETY: May be called in any context.
    let clock = || unsafe { bindings::ktime_get_mono_fast_ns() };
    let start = clock();
    while clock().wrapping_sub(start) < NANOSECONDS {
        if area::generation() != generation {
            STAGE.store(bindings::dflush_stage_DFLUSH_STAGE_RETURNED, SeqCst);
            break;
        }
    }
}

/// Sets PENDING for a CPU that is offline, as a sender does that has raced with its last entry.
pub(crate) fn owe(cpu: u32) -> Result {
    let address = WORD.load(SeqCst);
    // SAFETY: Constant after boot.
    let cpus = unsafe { bindings::nr_cpu_ids };
    // SAFETY: Reading a mask that changes only when CPUs come and go.
    let online = unsafe { bindings::__cpu_online_mask };
    let bits = online.bits.get(cpu as usize / 64).ok_or(EINVAL)?;
    if cpu >= cpus || address == 0 || bits & (1 << (cpu % 64)) != 0 {
        return Err(EINVAL);
    }
    // SAFETY: The module under test is loaded, and this is the word of a possible CPU, which
    // everybody accesses by atomic operations.
    let word = unsafe {
        let offset = bindings::__per_cpu_offset[cpu as usize];
        AtomicU32::from_ptr(address.wrapping_add(offset) as *mut u32)
    };
    word.fetch_or(PENDING, SeqCst);
    Ok(())
}

/// How many CPUs owe a flush.
pub(crate) fn owing() -> u64 {
    // SAFETY: Constant after boot.
    let cpus = unsafe { bindings::nr_cpu_ids }.min(MAX_CPUS as u32);
    (0..cpus).filter(|&cpu| word(cpu) != 0).count() as u64
}

/// The word of the possible CPU `cpu`; 0 if it is not known.
fn word(cpu: u32) -> u32 {
    let address = WORD.load(SeqCst);
    if address == 0 {
        return 0;
    }
    let mut word = 0u32;
    // SAFETY: The array has an entry for each possible CPU. An address that is not mapped is
    // reported as an error.
    let error = unsafe {
        let offset = bindings::__per_cpu_offset[cpu as usize];
        bindings::copy_from_kernel_nofault(
            (&raw mut word).cast(),
            address.wrapping_add(offset) as *const c_void,
            size_of::<u32>(),
        )
    };
    if error == 0 {
        word
    } else {
        0
    }
}

extern "C" fn user_exit(_data: *mut c_void, _dummy: c_int) {
    // SAFETY: No requirements.
    let cpu = unsafe { bindings::raw_smp_processor_id() };
    let Ok(report) = report(cpu) else { return };
    if !report.probe_armed.load(SeqCst) || !report.probe_armed.swap(false, SeqCst) {
        return;
    }
    if word(cpu) & PENDING != 0 {
        report.probe_pending.fetch_add(1, SeqCst);
    }
    let reading = area::read();
    report.probe_stale.fetch_add(reading.stale, SeqCst);
    report.probe_hits.fetch_add(1, SeqCst);
}

extern "C" fn nmi(_type: c_uint, regs: *mut bindings::pt_regs) -> c_int {
    // SAFETY: No requirements.
    let cpu = unsafe { bindings::raw_smp_processor_id() };
    let Ok(report) = report(cpu) else {
        return bindings::NMI_DONE as c_int;
    };
    if !report.nmi_mine.load(SeqCst) {
        return bindings::NMI_DONE as c_int;
    }
    let reading = area::read();
    report.nmi_stale.fetch_add(reading.stale, SeqCst);
    report.nmi_hits.fetch_add(1, SeqCst);
    // SAFETY: The kernel passes the registers of what was interrupted.
    let from_user = unsafe { (*regs).__bindgen_anon_1.cs } & 3 != 0;
    if !from_user && MEETING_CPU.load(SeqCst) == cpu && word(cpu) != 0 {
        // Inside the receiver, and the pages were read.
        wait_for_sender(bindings::dflush_stage_DFLUSH_STAGE_ARMED);
    }
    if from_user && MEETING_CPU.load(SeqCst) == cpu {
        wait_for_sender(bindings::dflush_stage_DFLUSH_STAGE_ARMED_IN_USER);
        if stage() == bindings::dflush_stage_DFLUSH_STAGE_SENDER_CAME {
            wait_for_swap(reading.generation);
            report.nmi_stale.fetch_add(area::read().stale, SeqCst);
        }
    }
    if SENDER_CPU.load(SeqCst) == cpu {
        SENDER_CPU.store(u32::MAX, SeqCst);
        wait_for_entry();
    }
    bindings::NMI_HANDLED as c_int
}

/// # Safety
///
/// `tracepoint` is valid, and `found` points to a pointer to a tracepoint.
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
        let zeroed = unsafe { core::mem::zeroed::<bindings::nmiaction>() };
        let mut action = KBox::new(zeroed, GFP_KERNEL)?;
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
