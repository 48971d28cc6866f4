// SPDX-License-Identifier: GPL-2.0

//! Kernel part of `make bench`: times flushes, and makes the caller's CPU owe one.
//!
//! `flush_bench.h` says what ioctl() offers. For emulators only: a call through a pointer to a
//! function that is not exported ends in a fault where indirect branches are tracked.

use core::arch::{
    asm,
    x86_64::_rdtsc, //
};
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    page::PAGE_SIZE,
    prelude::*,
};

const OWE: u32 = 0xb100;
const EMPTY: u32 = 0xb101;
const DIRECT: u32 = 0xb102;
const PURGE: u32 = 0xb103;

module! {
    type: FlushBench,
    name: "flush_bench",
    authors: ["The deferred_flush authors"],
    description: "Instruction counts for deferred_flush; for emulators only",
    license: "GPL",
    params: {
        flush: u64 {
            default: 0,
            description: "Address of flush_tlb_kernel_range, as in /proc/kallsyms",
        },
        word: u64 {
            default: 0,
            description: "Address of the per-CPU symbol DEFERRED_FLUSH_CPU, as in /proc/kallsyms",
        },
    },
}

#[pin_data]
struct FlushBench {
    #[pin]
    _device: MiscDeviceRegistration<Device>,
}

impl kernel::InPlaceModule for FlushBench {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"flush_bench",
            }),
        })
    }
}

extern "C" {
    fn vm_unmap_aliases();
}

/// Both things to be timed are called as this, so that the stopwatch costs the same.
type Timed = unsafe extern "C" fn(start: usize, end: usize);

extern "C" fn nothing(_start: usize, _end: usize) {}

extern "C" fn purge(_start: usize, _end: usize) {
    // SAFETY: may be called in any context that can sleep, and the stopwatch runs in system calls.
    unsafe { vm_unmap_aliases() };
}

/// Tells `count_plugin.c`, if it watches, where the stopwatch starts and ends. Nothing else happens.
macro_rules! mark {
    ($number:literal) => {
        // SAFETY: a NOP.
        unsafe {
            asm!(
                concat!(".byte 0x0f, 0x1f, 0x80, ", $number, ", 0x6e, 0x66, 0x64"),
                options(nostack, preserves_flags),
            )
        }
    };
}

/// The stopwatch. Not inlined, so that there is only one.
///
/// # Safety
///
/// As for `function`.
#[inline(never)]
unsafe fn time(function: Timed, start: usize, end: usize) -> u64 {
    mark!(1);
    // SAFETY: reading the counter is allowed at CPL 0; the rest is this function's contract.
    let elapsed = unsafe {
        let before = _rdtsc();
        function(start, end);
        _rdtsc().wrapping_sub(before)
    };
    mark!(2);
    elapsed
}

/// Maps and unmaps a page. Returns the range that the next purge has to flush, guard page included.
fn free_a_page() -> Result<(usize, usize)> {
    let page = VVec::<u8>::with_capacity(PAGE_SIZE, GFP_KERNEL)?;
    let start = page.as_ptr() as usize;
    Ok((start, start + 2 * PAGE_SIZE))
}

/// `flush_tlb_kernel_range()`.
fn flush_function() -> Result<Timed> {
    let address = module_parameters::flush.value() as usize;
    if address == 0 {
        return Err(ENXIO);
    }
    // SAFETY: the parameter's contract: it is the address of a function of this type.
    Ok(unsafe { core::mem::transmute::<usize, Timed>(address) })
}

fn owe(bits: u32) -> Result {
    let word = module_parameters::word.value();
    if word == 0 {
        return Err(ENXIO);
    }
    // SAFETY: the parameter's contract: `word` is the address of a static per-CPU variable, so at
    // this offset from the per-CPU base lies this CPU's copy. One locked instruction, as any CPU
    // may use on it.
    unsafe {
        asm!(
            "lock or dword ptr gs:[{word}], {bits:e}",
            word = in(reg) word,
            bits = in(reg) bits,
            options(nostack),
        );
    }
    Ok(())
}

/// An open /dev/flush_bench; holds nothing.
struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn ioctl(_device: &Self, _file: &File, command: u32, argument: usize) -> Result<isize> {
        let elapsed = match command {
            OWE => {
                owe(argument as u32)?;
                0
            }
            // SAFETY: does nothing.
            EMPTY => unsafe { time(nothing, 0, 0) },
            DIRECT => {
                let flush = flush_function()?;
                let (start, end) = free_a_page()?;
                // SAFETY: process context, interrupts on; flushing too much is always allowed.
                let elapsed = unsafe { time(flush, start, end) };
                // SAFETY: as in `purge`; leaves nothing for the next measurement.
                unsafe { vm_unmap_aliases() };
                elapsed
            }
            PURGE => {
                let (start, end) = free_a_page()?;
                // SAFETY: process context; may sleep.
                unsafe { time(purge, start, end) }
            }
            _ => return Err(ENOTTY),
        };
        Ok(elapsed as isize)
    }
}
