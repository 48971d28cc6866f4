// SPDX-License-Identifier: GPL-2.0

//! Test module of deferred_flush: see `dflush_test.h` for what it offers.

mod area;
mod bindings;
mod chunk;
mod memory_notifier;
mod pagetables;
mod probes;
mod watch;

use area::{
    Area,
    Reading, //
};
use bindings::dflush_request;
use chunk::{
    Chunks,
    Held, //
};
use core::{
    mem::MaybeUninit,
    sync::atomic::Ordering::SeqCst, //
};
use kernel::{
    error::to_result,
    fs::File,
    ioctl::_IOWR,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    page::PAGE_SIZE,
    prelude::*,
    task::Task,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use memory_notifier::MemoryNotifier;
use probes::Probes;
use watch::Watcher;

module! {
    type: DflushTest,
    name: "dflush_test",
    authors: ["The deferred_flush authors"],
    description: "Test module of deferred_flush",
    license: "GPL",
}

/// What ioctl() works on; one for everybody.
struct State {
    area: Option<Area>,
    watchers: [Option<Watcher>; bindings::dflush_watch_DFLUSH_WATCH_KINDS as usize],
    timer: Option<Timer>,
    chunks: Option<Chunks>,
    tables: KVec<Held>,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in the module's init function, before anything can use it.
    unsafe(uninit) static STATE: Mutex<State> = State {
        area: None,
        watchers: [const { None }; bindings::dflush_watch_DFLUSH_WATCH_KINDS as usize],
        timer: None,
        chunks: None,
        tables: KVec::new(),
    };
}

/// Gives back what the last test left behind, before the probes go.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        let mut state = STATE.lock();
        state.timer = None;
        for watcher in &mut state.watchers {
            *watcher = None;
        }
        state.area = None;
        state.chunks = None;
        state.tables.clear();
    }
}

// Dropped in this order.
#[pin_data]
struct DflushTest {
    #[pin]
    _device: MiscDeviceRegistration<Device>,
    _memory: [MemoryNotifier; 2],
    _cleanup: Cleanup,
    _probes: Probes,
}

impl kernel::InPlaceModule for DflushTest {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Called once, here.
        unsafe { STATE.init() };
        try_pin_init!(Self {
            _probes: Probes::new()?,
            _cleanup: Cleanup,
            _memory: MemoryNotifier::register()?,
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"dflush_test",
            }),
        })
    }
}

/// A timer that interrupts the CPU that started it.
///
/// # Invariants
///
/// The timer inside is set up.
struct Timer(KBox<MaybeUninit<bindings::hrtimer>>);

// SAFETY: May be cancelled from any thread.
unsafe impl Send for Timer {}

extern "C" fn expired(_timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
    if let Some(report) = probes::this_report() {
        report.timer_hits.fetch_add(1, SeqCst);
    }
    bindings::hrtimer_restart::HRTIMER_NORESTART
}

impl Timer {
    fn start(microseconds: u64) -> Result<Self> {
        let mut timer = KBox::<bindings::hrtimer>::new_uninit(GFP_KERNEL)?;
        let delay = i64::try_from(microseconds.checked_mul(1000).ok_or(EINVAL)?)?;
        let mode = bindings::hrtimer_mode_HRTIMER_MODE_REL_PINNED_HARD;
        // SAFETY: The box gives the timer an address that stays until it is cancelled.
        unsafe {
            bindings::hrtimer_setup(
                timer.as_mut_ptr(),
                Some(expired),
                bindings::CLOCK_MONOTONIC as i32,
                mode,
            );
            bindings::hrtimer_start_range_ns(timer.as_mut_ptr(), delay, 0, mode);
        }
        Ok(Self(timer))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: Set up by the type invariant.
        unsafe { bindings::hrtimer_cancel(self.0.as_mut_ptr()) };
    }
}

/// # Safety
///
/// `reading` points to a [`Reading`] that nobody else uses meanwhile.
unsafe extern "C" fn read_here(reading: *mut c_void) {
    // SAFETY: read_on() passes a reading and waits for this function.
    unsafe { *reading.cast::<Reading>() = area::read() };
}

/// Reads until the next generation is there, but not for ever: whoever makes it may have to wait
/// until this interrupt has ended.
///
/// # Safety
///
/// As for [`read_here`].
unsafe extern "C" fn read_on_and_on(reading: *mut c_void) {
    const READINGS: u32 = 1000;
    probes::enters();
    let first = area::read();
    let mut sum = first;
    for _ in 0..READINGS {
        let next = area::read();
        sum.add(&next);
        if next.generation != first.generation {
            break;
        }
    }
    // SAFETY: By this function's contract.
    unsafe { *reading.cast::<Reading>() = sum };
}

/// Reads the pages on another CPU, in an interrupt that this function sends.
fn read_on(cpu: u32, how: unsafe extern "C" fn(*mut c_void)) -> Result<Reading> {
    let mut reading = Reading::default();
    // SAFETY: The function writes to what is passed with it, and is waited for.
    to_result(unsafe {
        bindings::smp_call_function_single(cpu as c_int, Some(how), (&raw mut reading).cast(), true)
    })?;
    Ok(reading)
}

/// Reads the pages again and again while another CPU swaps them.
fn read_for(microseconds: u64) -> Reading {
    let mut sum = Reading::default();
    // SAFETY: Time is kept by now.
    let start = unsafe { bindings::ktime_get() };
    loop {
        sum.add(&area::read());
        // SAFETY: As above.
        let passed = unsafe { bindings::ktime_get() } - start;
        if passed < 0 || passed as u64 >= microseconds.saturating_mul(1000) {
            return sum;
        }
    }
}

const NMI_VECTOR: u32 = 2;

/// The size of the largest local descriptor table.
const LDT_SIZE: usize = 64 << 10;

fn send_ipi(cpu: u32, vector: u32) -> Result {
    if vector == NMI_VECTOR && probes::somebody_waits() {
        return Ok(());
    }
    send_vector(cpu, vector)
}

fn send_vector(cpu: u32, vector: u32) -> Result {
    if vector == NMI_VECTOR {
        probes::report(cpu)?.expect_nmi();
    }
    let word = cpu as usize / 64;
    // SAFETY: All zeroes is the empty mask.
    let mut mask = unsafe { core::mem::zeroed::<bindings::cpumask>() };
    // SAFETY: A copy of a static mask. A CPU may go right after, and then gets no interrupt.
    let online = unsafe { bindings::__cpu_online_mask };
    if online.bits.get(word).ok_or(EINVAL)? & (1 << (cpu % 64)) == 0 {
        return Err(ENXIO);
    }
    *mask.bits.get_mut(word).ok_or(EINVAL)? = 1 << (cpu % 64);
    // SAFETY: This is the static call's trampoline, to be called directly; the CPU is online.
    unsafe { bindings::__SCT__apic_call_send_IPI_mask(&raw const mask, vector as c_int) };
    Ok(())
}

/// One kernel-range flush, made in the way that `kind` says.
fn flush(kind: u64) -> Result {
    const SMALL: usize = 16 * PAGE_SIZE;
    const LARGE: usize = 16 << 20;
    let gfp = bindings::GFP_KERNEL;
    // SAFETY: Each area is used only here, freed once, and nobody else knows its address.
    unsafe {
        match u32::try_from(kind)? {
            bindings::dflush_flush_DFLUSH_FLUSH_ALIASES => {
                let area = bindings::vmalloc_noprof(SMALL);
                bindings::vfree(area);
                bindings::vm_unmap_aliases();
                area::owe_again();
            }
            bindings::dflush_flush_DFLUSH_FLUSH_VREALLOC => {
                let area = bindings::vmalloc_noprof(SMALL);
                if area.is_null() {
                    return Err(ENOMEM);
                }
                let smaller = bindings::vrealloc_node_align_noprof(area, PAGE_SIZE, 1, gfp, -1);
                bindings::vfree(smaller);
            }
            bindings::dflush_flush_DFLUSH_FLUSH_HUGE => {
                // Leaves empty page tables behind, which a huge mapping then replaces.
                let area = bindings::vmalloc_noprof(LARGE);
                bindings::vfree(area);
                bindings::vm_unmap_aliases();
                area::owe_again();
                let huge = bindings::vmalloc_huge_node_noprof(LARGE / 2, gfp, -1);
                bindings::vfree(huge);
            }
            bindings::dflush_flush_DFLUSH_FLUSH_LAZY => {
                bindings::vfree(bindings::vmalloc_noprof(SMALL))
            }
            bindings::dflush_flush_DFLUSH_FLUSH_GIGABYTE => pagetables::replace_middle_table()?,
            _ => return Err(EINVAL),
        }
    }
    Ok(())
}

// SAFETY: Integers and an array of bytes, without padding; any pattern of bits is valid.
unsafe impl AsBytes for dflush_request {}
// SAFETY: As above.
unsafe impl FromBytes for dflush_request {}

/// An open /dev/dflush_test; holds nothing.
struct Device;

const fn command(number: u32) -> u32 {
    _IOWR::<dflush_request>('d' as u32, number)
}

const SETUP: u32 = command(bindings::dflush_command_DFLUSH_NR_SETUP);
const TEARDOWN: u32 = command(bindings::dflush_command_DFLUSH_NR_TEARDOWN);
const SWAP: u32 = command(bindings::dflush_command_DFLUSH_NR_SWAP);
const READ: u32 = command(bindings::dflush_command_DFLUSH_NR_READ);
const READ_FOR: u32 = command(bindings::dflush_command_DFLUSH_NR_READ_FOR);
const READ_ON: u32 = command(bindings::dflush_command_DFLUSH_NR_READ_ON);
const SET_WORD: u32 = command(bindings::dflush_command_DFLUSH_NR_SET_WORD);
const ARM: u32 = command(bindings::dflush_command_DFLUSH_NR_ARM);
const DISARM: u32 = command(bindings::dflush_command_DFLUSH_NR_DISARM);
const REPORT: u32 = command(bindings::dflush_command_DFLUSH_NR_REPORT);
const SEND_IPI: u32 = command(bindings::dflush_command_DFLUSH_NR_SEND_IPI);
const TIMER: u32 = command(bindings::dflush_command_DFLUSH_NR_TIMER);
const FLUSH: u32 = command(bindings::dflush_command_DFLUSH_NR_FLUSH);
const WATCH: u32 = command(bindings::dflush_command_DFLUSH_NR_WATCH);
const UNWATCH: u32 = command(bindings::dflush_command_DFLUSH_NR_UNWATCH);
const READ_AT_MEETING: u32 = command(bindings::dflush_command_DFLUSH_NR_READ_AT_MEETING);
const OWE: u32 = command(bindings::dflush_command_DFLUSH_NR_OWE);
const MEMORY: u32 = command(bindings::dflush_command_DFLUSH_NR_MEMORY);
const MEET: u32 = command(bindings::dflush_command_DFLUSH_NR_MEET);
const TRACE_AT_MEETING: u32 = command(bindings::dflush_command_DFLUSH_NR_TRACE_AT_MEETING);
const CALL: u32 = command(bindings::dflush_command_DFLUSH_NR_CALL);
const LDT: u32 = command(bindings::dflush_command_DFLUSH_NR_LDT);
const CHUNK: u32 = command(bindings::dflush_command_DFLUSH_NR_CHUNK);

fn show(request: &mut dflush_request, reading: &Reading) {
    request.generation = reading.generation;
    request.reads = reading.reads;
    request.stale = reading.stale;
    request.absent = reading.absent;
}

fn swap(request: &mut dflush_request) -> Result {
    let mut state = STATE.lock();
    let area = state.area.as_mut().ok_or(ENXIO)?;
    let moved = area.moved();
    for _ in 0..request.count {
        area.swap()?;
    }
    request.generation = area.generation();
    request.moved = area.moved() - moved;
    request.address = area.address();
    Ok(())
}

fn report(request: &mut dflush_request) -> Result {
    let report = probes::report(request.cpu)?;
    request.probe_hits = report.probe_hits.load(SeqCst);
    request.probe_pending = report.probe_pending.load(SeqCst);
    request.probe_stale = report.probe_stale.load(SeqCst);
    request.nmi_hits = report.nmi_hits.load(SeqCst);
    request.nmi_stale = report.nmi_stale.load(SeqCst);
    request.watch_hits = report.watch_hits.load(SeqCst);
    request.watch_stale = report.watch_stale.load(SeqCst);
    request.timer_hits = report.timer_hits.load(SeqCst);
    request.stage = probes::stage();
    Ok(())
}

fn memory(request: &mut dflush_request) -> Result {
    match u32::try_from(request.count)? {
        bindings::dflush_look_DFLUSH_LOOK_REPORT => {}
        bindings::dflush_look_DFLUSH_LOOK_ON => memory_notifier::arm(false),
        bindings::dflush_look_DFLUSH_LOOK_REFUSE => memory_notifier::arm(true),
        bindings::dflush_look_DFLUSH_LOOK_OFF => memory_notifier::disarm(),
        _ => return Err(EINVAL),
    }
    let seen = &memory_notifier::SEEN;
    request.windows = seen.windows.load(SeqCst);
    request.owed_before = seen.owed_before.load(SeqCst);
    request.owed_at_start = seen.owed_at_start.load(SeqCst);
    request.owed_inside = seen.owed_inside.load(SeqCst);
    request.owed_after = seen.owed_after.load(SeqCst);
    Ok(())
}

/// Calls a function that the kernel does not export.
fn call(request: &dflush_request) -> Result {
    let address = request.address as *const c_void;
    if u32::try_from(request.count)? == bindings::dflush_call_DFLUSH_CALL_FEATURE {
        return set_feature(request.cpu, request.moved != 0);
    }
    if address.is_null() {
        return Err(EINVAL);
    }
    match u32::try_from(request.count)? {
        bindings::dflush_call_DFLUSH_CALL_FTRACE_KILL => {
            // SAFETY: The test passes the address of `void ftrace_kill(void)`.
            unsafe { core::mem::transmute::<*const c_void, extern "C" fn()>(address)() };
        }
        bindings::dflush_call_DFLUSH_CALL_FLUSH => {
            let start = usize::try_from(request.moved)?;
            let length = usize::try_from(request.pages)?.saturating_mul(PAGE_SIZE);
            // SAFETY: The test passes the address of flush_tlb_kernel_range(), which has this
            // signature, and may forget any translation.
            let flush = unsafe {
                core::mem::transmute::<*const c_void, extern "C" fn(usize, usize)>(address)
            };
            flush(start, start.saturating_add(length));
        }
        bindings::dflush_call_DFLUSH_CALL_POKE_KGDB => {
            type Poke = extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;
            // SAFETY: The test passes the address of text_poke_kgdb(), which has this signature.
            let poke = unsafe { core::mem::transmute::<*const c_void, Poke>(address) };
            let place = request.moved as *mut u8;
            // SAFETY: The test passes an address in the kernel's text.
            let byte = unsafe { place.read_volatile() };
            // SAFETY: Interrupts go back to what they were. As with kgdb nobody else writes to
            // text meanwhile, as the test is alone.
            unsafe {
                core::arch::asm!("cli");
                poke(place.cast(), (&raw const byte).cast(), 1);
                core::arch::asm!("sti");
            }
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// Holds the write, and a sender until then if one is asked for.
fn hold_for_meeting(request: &dflush_request) -> Result {
    probes::hold_write(usize::try_from(request.address)?);
    match request.count {
        0 => {
            probes::set_stage(request.cpu, bindings::dflush_stage_DFLUSH_STAGE_ARMED);
            Ok(())
        }
        sender => {
            probes::wait_for_sender(bindings::dflush_stage_DFLUSH_STAGE_IDLE);
            let sender = (sender - 1) as u32;
            probes::hold_sender(sender);
            send_vector(sender, NMI_VECTOR)
        }
    }
}

/// Puts the tracer on one more function. The lock is free meanwhile: others swap, and whoever is held
/// has it.
fn trace_at_meeting(request: &dflush_request) -> Result {
    if matches!(request.symbol, [0, ..]) {
        return hold_for_meeting(request);
    }
    let slot = bindings::dflush_watch_DFLUSH_WATCH_FTRACE as usize;
    let mut tracer = STATE.lock().watchers.get_mut(slot).and_then(Option::take);
    let Some(Watcher::Ftrace(ops)) = &mut tracer else {
        return Err(ENXIO);
    };
    let result = hold_for_meeting(request)
        .and_then(|()| watch::extend(ops, &request.symbol))
        .inspect(|()| probes::hold_write(0));
    if let Some(slot) = STATE.lock().watchers.get_mut(slot) {
        *slot = tracer;
    }
    result
}

/// Where the table of the calling task lies, and whether something is mapped at another address. Holds
/// the page in which the table ends, so that no later table gets it.
fn ldt(request: &mut dflush_request) -> Result {
    let old = request.address as *const c_void;
    // SAFETY: A walk of the page tables; only whether there is a page is asked for.
    let is_absent = old.is_null() || unsafe { bindings::vmalloc_to_page(old) }.is_null();
    request.absent = u64::from(is_absent);
    // SAFETY: The memory of a task that is running a system call stays; nobody else changes its
    // table meanwhile, as the test has only one thread that does.
    let table = unsafe { (*(*Task::current_raw()).mm).__bindgen_anon_1.context.ldt };
    if table.is_null() {
        return Err(ENXIO);
    }
    // SAFETY: The pointer to the entries comes first (struct ldt_struct, arch/x86/include/asm/
    // mmu_context.h).
    let entries = unsafe { table.cast::<usize>().read() };
    request.address = entries as u64;
    let last = entries + LDT_SIZE - PAGE_SIZE;
    let held = &mut STATE.lock().tables;
    if held.last().is_none_or(|held| held.address != last) {
        held.push(Held::new(last)?, GFP_KERNEL)?;
    }
    Ok(())
}

/// Sets or clears a feature of the CPU where `boot_cpu_has()` looks. The kernel itself has patched its
/// code by the features long ago.
fn set_feature(feature: u32, has: bool) -> Result {
    let feature = match feature {
        bindings::dflush_feature_DFLUSH_FEATURE_INVLPGB => bindings::X86_FEATURE_INVLPGB,
        bindings::dflush_feature_DFLUSH_FEATURE_XENPV => bindings::X86_FEATURE_XENPV,
        _ => return Err(EINVAL),
    };
    let word = feature as usize / 32;
    // SAFETY: The array is as long as the kernel says; nobody else writes to it after boot.
    unsafe {
        let words = &raw mut bindings::boot_cpu_data.__bindgen_anon_3.x86_capability;
        let word = (*words).get_mut(word).ok_or(EINVAL)?;
        let bit = 1 << (feature % 32);
        *word = if has { *word | bit } else { *word & !bit };
    }
    Ok(())
}

fn chunk(request: &mut dflush_request) -> Result {
    let cpu = request.cpu;
    // SAFETY: Constant after boot.
    if cpu >= unsafe { bindings::nr_cpu_ids } {
        return Err(EINVAL);
    }
    let step = u32::try_from(request.count)?;
    let mut state = STATE.lock();
    if step == bindings::dflush_chunk_DFLUSH_CHUNK_RELEASE {
        state.chunks = None;
        return Ok(());
    }
    if state.chunks.is_none() {
        state.chunks = Some(Chunks::new()?);
    }
    let chunks = state.chunks.as_mut().ok_or(ENXIO)?;
    match step {
        bindings::dflush_chunk_DFLUSH_CHUNK_PREPARE => request.address = chunks.prepare()? as u64,
        bindings::dflush_chunk_DFLUSH_CHUNK_TAKE => request.reads = chunks.take(cpu)?,
        bindings::dflush_chunk_DFLUSH_CHUNK_DESTROY => chunks.destroy()?,
        bindings::dflush_chunk_DFLUSH_CHUNK_RECREATE => request.address = chunks.recreate()? as u64,
        bindings::dflush_chunk_DFLUSH_CHUNK_CHECK => {
            let check = chunks.check(cpu)?;
            request.reads = check.inside;
            request.absent = check.outside;
            request.stale = check.spoilt;
            request.generation = check.rise;
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

fn serve(command: u32, request: &mut dflush_request) -> Result {
    match command {
        SETUP => {
            let mut state = STATE.lock();
            // The old one goes first, with its address.
            state.area = None;
            state.tables.clear();
            let area = state.area.insert(Area::new(
                usize::try_from(request.pages)?,
                usize::try_from(request.sets)?,
            )?);
            request.address = area.address();
        }
        TEARDOWN => STATE.lock().area = None,
        SWAP => swap(request)?,
        READ => show(request, &area::read()),
        READ_FOR => show(request, &read_for(request.microseconds)),
        READ_ON => show(request, &read_on(request.cpu, read_here)?),
        READ_AT_MEETING => {
            probes::wait_for_sender(bindings::dflush_stage_DFLUSH_STAGE_IDLE);
            let sender = u32::try_from(request.count)?;
            probes::hold_sender(sender);
            send_vector(sender, NMI_VECTOR)?;
            show(request, &read_on(request.cpu, read_on_and_on)?);
        }
        SET_WORD => probes::set_word(usize::try_from(request.address)?),
        ARM => probes::report(request.cpu)?.arm(),
        DISARM => probes::report(request.cpu)?.disarm(),
        REPORT => report(request)?,
        SEND_IPI => send_ipi(request.cpu, request.vector)?,
        TIMER => {
            let mut state = STATE.lock();
            state.timer = None;
            state.timer = Some(Timer::start(request.microseconds)?);
        }
        FLUSH => flush(request.count)?,
        OWE => probes::owe(request.cpu)?,
        MEMORY => memory(request)?,
        TRACE_AT_MEETING => trace_at_meeting(request)?,
        CALL => call(request)?,
        CHUNK => chunk(request)?,
        LDT => ldt(request)?,
        MEET => request.stage = probes::set_stage(request.cpu, request.stage),
        WATCH | UNWATCH => {
            let mut state = STATE.lock();
            let slot = state
                .watchers
                .get_mut(request.watch as usize)
                .ok_or(EINVAL)?;
            if command == WATCH {
                if let Some(Watcher::Ftrace(ops)) = slot {
                    return watch::extend(ops, &request.symbol);
                }
            }
            *slot = None;
            if command == WATCH {
                *slot = Some(Watcher::new(
                    request.watch,
                    &request.symbol,
                    request.address,
                )?);
            }
        }
        _ => return Err(ENOTTY),
    }
    Ok(())
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn ioctl(_device: &Self, _file: &File, command: u32, argument: usize) -> Result<isize> {
        let user = UserPtr::from_addr(argument);
        let slice = UserSlice::new(user, size_of::<dflush_request>());
        let (mut reader, mut writer) = slice.reader_writer();
        let mut request = reader.read::<dflush_request>()?;
        serve(command, &mut request)?;
        writer.write(&request)?;
        Ok(0)
    }
}
