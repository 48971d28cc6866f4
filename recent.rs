// SPDX-License-Identifier: GPL-2.0

//! The view `recent`: what senders decided lately.
//!
//! Senders add to the [`Ring`] of their CPU, in ordinary memory that is there before the first hook and
//! after the last: they allocate nothing, wait for nobody and take no lock. Receivers know nothing of
//! it. What is shown is in `Documentation/admin-guide.rst`.

use crate::bindings;
use crate::hooks::symbols::Named;
use crate::percpu::{self, CpuSet};
use crate::ring::{Decision, Fate, Newest, Record, Ring, Slot, Tickets, LENGTH};
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use kernel::fmt;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;

static TICKETS: AtomicPtr<Tickets> = AtomicPtr::new(core::ptr::null_mut());
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(core::ptr::null_mut());

// What `Counts` can count.
const _: () = assert!(CpuSet::CAPACITY <= u16::MAX as usize);

/// The memory of the rings.
///
/// # Invariants
///
/// While this exists, [`TICKETS`] points to `percpu::cpu_bits()` elements, and [`SLOTS`] to [`LENGTH`]
/// times as many.
#[expect(dead_code, reason = "owns what the statics point to")]
pub(crate) struct Rings {
    tickets: KVVec<Tickets>,
    slots: KVVec<Slot>,
}

impl Rings {
    /// Allocates them, about 16 KiB for each possible CPU. Process context; may sleep.
    pub(crate) fn new() -> Result<Self> {
        let count = percpu::cpu_bits() as usize;
        let mut tickets = KVVec::with_capacity(count, GFP_KERNEL)?;
        let mut slots = KVVec::with_capacity(count * LENGTH, GFP_KERNEL)?;
        for _ in 0..count {
            tickets.push(Tickets::new(), GFP_KERNEL)?;
            for _ in 0..LENGTH {
                slots.push(Slot::new(), GFP_KERNEL)?;
            }
        }
        TICKETS.store(tickets.as_mut_ptr(), Relaxed);
        SLOTS.store(slots.as_mut_ptr(), Relaxed);
        // INVARIANT: just stored.
        Ok(Self { tickets, slots })
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        TICKETS.store(core::ptr::null_mut(), Relaxed);
        SLOTS.store(core::ptr::null_mut(), Relaxed);
    }
}

/// The ring of a CPU. `None` for a CPU that is not possible, and while there are no rings.
#[inline]
fn ring(cpu: u32) -> Option<Ring<'static>> {
    let tickets = TICKETS.load(Relaxed);
    let slots = SLOTS.load(Relaxed);
    if tickets.is_null() || slots.is_null() || cpu >= percpu::cpu_bits() {
        return None;
    }
    let cpu = cpu as usize;
    // SAFETY: by the invariant of `Rings`, the pointers are valid for these indices; the owner of
    // `Rings` drops it after the last hook and the last view are gone.
    Some(unsafe {
        Ring::new(
            &*tickets.add(cpu),
            core::slice::from_raw_parts(slots.add(cpu * LENGTH), LENGTH),
        )
    })
}

/// The time for a record: nanoseconds of CLOCK_MONOTONIC, which user space and tracers have, too.
///
/// Any context: the kernel's clock for NMIs, which takes no lock. Between CPUs it may differ by as
/// much as a correction of the clock under way.
#[inline]
pub(crate) fn now() -> u64 {
    // SAFETY: may be called in any context.
    unsafe { bindings::ktime_get_mono_fast_ns() }
}

/// Adds a record. Any context, but a receiver's.
#[inline(never)]
pub(crate) fn add(record: Record) {
    if let Some(ring) = ring(percpu::current_cpu()) {
        ring.add(record);
    }
}

/// Enough for all lines as they usually are; seq_file takes more where it has to.
pub(crate) const USUAL_SIZE: usize = 64 << 10;

/// Prints the newest records of all CPUs, the oldest of them first. Process context; may sleep.
pub(crate) fn print(file: &SeqFile) -> Result {
    let mut buffer = KVVec::from_elem(Record::default(), LENGTH, GFP_KERNEL)?;
    let mut newest = Newest::new(&mut buffer);
    for ring in (0..percpu::cpu_bits()).filter_map(ring) {
        ring.iter().for_each(|record| newest.add(record));
    }
    seq_print!(
        file,
        "# time cpu decision deferred ipi_not_quiet ipi_raced ipi_not_allowed start size caller\n"
    );
    for record in newest.sorted() {
        seq_print!(file, "{}\n", Line(record));
    }
    Ok(())
}

/// Prints as a line of the view.
struct Line<'a>(&'a Record);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        let record = self.0;
        let (seconds, nanoseconds) = (record.time / SECOND, record.time % SECOND);
        f.write_fmt(fmt!(
            "{seconds}.{nanoseconds:09} {} {}",
            record.cpu,
            record.decision.name()
        ))?;
        for fate in Fate::ALL {
            if record.decision.counts(fate) {
                f.write_fmt(fmt!(" {}", record.counts.of(fate)))?;
            } else {
                f.write_str(" -")?;
            }
        }
        let start = Restricted::new(record.start);
        f.write_fmt(fmt!(" {}", start.shown()))?;
        // From a place in vmalloc to one among the modules: that tells where vmalloc begins.
        if record.decision == Decision::KeptRange && !start.is_plain() {
            f.write_str(" -")?;
        } else {
            f.write_fmt(fmt!(" {}", record.end.wrapping_sub(record.start)))?;
        }
        f.write_fmt(fmt!(" {}", Named(record.caller)))
    }
}

/// An address as the kernel shows it to whoever reads (`restricted_pointer()`, lib/vsprintf.c):
/// `kernel.kptr_restrict` and CAP_SYSLOG decide between it, a hash of it, and nothing.
struct Restricted {
    address: usize,
    text: [u8; 24],
}

impl Restricted {
    fn new(address: usize) -> Self {
        let mut text = [0; 24];
        // SAFETY: the buffer is as long as that; %pK looks at the pointer's value alone. The
        // kernel terminates the string.
        unsafe {
            bindings::scnprintf(
                text.as_mut_ptr().cast(),
                text.len(),
                c"0x%pK".as_char_ptr(),
                address as *const kernel::ffi::c_void,
            );
        }
        Self { address, text }
    }

    /// What may be seen, or `-`.
    fn shown(&self) -> &str {
        let text = CStr::from_bytes_until_nul(&self.text).ok();
        match text.and_then(|text| text.to_str().ok()) {
            Some(text) if text.bytes().any(|byte| !b"0x".contains(&byte)) => text,
            _ => "-",
        }
    }

    /// Whether that is the address itself.
    fn is_plain(&self) -> bool {
        let digits = self.shown().strip_prefix("0x").unwrap_or_default();
        usize::from_str_radix(digits, 16) == Ok(self.address)
    }
}
