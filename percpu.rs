// SPDX-License-Identifier: GPL-2.0

//! The module's static per-CPU data, and the kernel's per-CPU state that the protocol reads.
//!
//! Static per-CPU data of modules lies in the reserved part of the first chunk, which exists from
//! boot on and is never given back: a CPU may touch it before it has run a deferred flush.

use crate::bindings;
use crate::ctx_tracking::{StateLayout, Word};
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed},
};
use kernel::cpu::CpuId;
use kernel::fmt;
use kernel::prelude::*;

/// What a CPU owns of the protocol: its word, and counts of the flushes that it ran.
///
/// # Invariants
///
/// Only the owning CPU writes the counters, each from one context: `flush_entry` with interrupts
/// off outside of NMIs, `flush_nmi` in NMIs, `flush_interrupt` in hard interrupts.
#[repr(C, align(64))]
pub(crate) struct CpuLocal {
    pub(crate) word: Word,
    pub(crate) flush_entry: AtomicU64,
    pub(crate) flush_nmi: AtomicU64,
    pub(crate) flush_interrupt: AtomicU64,
}

/// The template of the per-CPU area, never accessed itself: use [`this`] and [`of`].
///
/// The trampoline of `hooks/receiver.rs` tests the first four bytes by this name.
#[export_name = "DEFERRED_FLUSH_CPU"]
#[link_section = ".data..percpu"]
static CPU_LOCAL: CpuLocal = CpuLocal {
    word: Word::new(),
    flush_entry: AtomicU64::new(0),
    flush_nmi: AtomicU64::new(0),
    flush_interrupt: AtomicU64::new(0),
};

const _: () = assert!(core::mem::offset_of!(CpuLocal, word) == 0);

/// This CPU's data. The caller stays on its CPU while it uses it.
///
/// Any context, noinstr and NMI included.
#[inline(always)]
pub(crate) fn this() -> &'static CpuLocal {
    let address: *const CpuLocal;
    // SAFETY: `this_cpu_off` is the exported per-CPU variable that holds this CPU's offset; added to
    // the template's address it gives this CPU's copy (`this_cpu_ptr()`).
    unsafe {
        core::arch::asm!(
            "lea {address}, [rip + {template}]",
            "add {address}, qword ptr gs:[rip + {offset}]",
            address = out(reg) address,
            template = sym CPU_LOCAL,
            offset = sym bindings::this_cpu_off,
            options(nostack, readonly),
        );
    }
    // SAFETY: the module loader made a copy of the template for each possible CPU, which lives as
    // long as the module. All fields are atomics.
    unsafe { &*address }
}

/// Offset of a possible CPU's per-CPU area; `None` for any other number.
fn offset(cpu: u32) -> Option<usize> {
    // SAFETY: `nr_cpu_ids` does not change after boot.
    if cpu >= unsafe { bindings::nr_cpu_ids } {
        return None;
    }
    let offsets = (&raw const bindings::__per_cpu_offset).cast::<usize>();
    // SAFETY: the array has NR_CPUS elements, at least `nr_cpu_ids`; constant since boot.
    Some(unsafe { offsets.add(cpu as usize).read() })
}

/// The data of a possible CPU; `None` for any other number.
pub(crate) fn of(cpu: u32) -> Option<&'static CpuLocal> {
    let address = (&raw const CPU_LOCAL as usize).wrapping_add(offset(cpu)?);
    // SAFETY: as in `this`.
    Some(unsafe { &*(address as *const CpuLocal) })
}

/// The number of the CPU that runs this; a hint unless the caller stays on it.
pub(crate) fn current_cpu() -> u32 {
    CpuId::current().as_u32()
}

const STATE: StateLayout = StateLayout {
    mask: bindings::DEFERRED_FLUSH_CT_STATE_MASK | bindings::DEFERRED_FLUSH_CT_RCU_WATCHING,
    user: bindings::DEFERRED_FLUSH_CT_STATE_USER,
};

/// What the kernel knows of one CPU's context.
///
/// # Invariants
///
/// The pointers are to a possible CPU's copies of the kernel's per-CPU variables, which are there for
/// ever and which that CPU changes at any time: they are only read, field by field.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    tracking: *const bindings::context_tracking,
    debug_control: *const usize,
}

impl Context {
    /// Of a possible CPU; `None` for any other number.
    pub(crate) fn of(cpu: u32) -> Option<Self> {
        let offset = offset(cpu)?;
        let tracking = (&raw const bindings::context_tracking as usize).wrapping_add(offset);
        let debug_control = (&raw const bindings::cpu_dr7 as usize).wrapping_add(offset);
        // INVARIANT: static per-CPU variables of the kernel, at this CPU's offset.
        Some(Self {
            tracking: tracking as *const bindings::context_tracking,
            debug_control: debug_control as *const usize,
        })
    }

    fn state(self) -> u32 {
        // SAFETY: by the invariant; an atomic_t, accessed with atomic operations by everybody.
        let counter = unsafe { &raw const (*self.tracking).state.counter }.cast_mut();
        // Acquire: whoever sees the CPU in user mode sees what it did in the kernel before.
        // SAFETY: as above, and aligned.
        unsafe { AtomicU32::from_ptr(counter.cast()) }.load(Acquire)
    }

    fn is_active(self) -> bool {
        // SAFETY: by the invariant; a C bool, written by `__init` code only.
        let active = unsafe { &raw const (*self.tracking).active }.cast_mut();
        // SAFETY: as above.
        unsafe { AtomicBool::from_ptr(active) }.load(Relaxed)
    }

    /// Whether a hardware breakpoint is set on the CPU, whose handler may run before the receiver.
    ///
    /// The CPU itself sets one in the kernel, past the receiver, and writes this variable before the
    /// register (`arch_install_hw_breakpoint()`). So this has to be read after the state.
    fn has_breakpoint(self) -> bool {
        // A local and a global enable bit for each of four.
        const ENABLED: usize = 0xff;
        // SAFETY: by the invariant; an unsigned long, aligned.
        let control = unsafe { AtomicUsize::from_ptr(self.debug_control.cast_mut()) };
        control.load(Relaxed) & ENABLED != 0 && cfg!(not(variant = "no_breakpoint_check"))
    }

    /// Whether the CPU is in user mode, with no NMI on it, and has to pass the receiver before it
    /// runs instrumentable kernel code.
    #[inline]
    pub(crate) fn is_quiet(self) -> bool {
        let state = self.state();
        #[cfg(variant = "idle_is_quiet")]
        if self.is_active() && state & STATE.mask == bindings::DEFERRED_FLUSH_CT_STATE_IDLE {
            return true;
        }
        #[cfg(variant = "guest_is_quiet")]
        if self.is_active() && state & STATE.mask == bindings::DEFERRED_FLUSH_CT_STATE_GUEST {
            return true;
        }
        #[cfg(variant = "nmi_is_quiet")]
        let state = state & bindings::DEFERRED_FLUSH_CT_STATE_MASK;
        STATE.is_quiet(state) && self.is_active() && !self.has_breakpoint()
    }

    /// Where the CPU is, for the views.
    pub(crate) fn name(self) -> &'static str {
        let state = self.state();
        match state & bindings::DEFERRED_FLUSH_CT_STATE_MASK {
            bindings::DEFERRED_FLUSH_CT_STATE_USER if STATE.is_quiet(state) => "user",
            bindings::DEFERRED_FLUSH_CT_STATE_USER => "nmi",
            bindings::DEFERRED_FLUSH_CT_STATE_IDLE => "idle",
            bindings::DEFERRED_FLUSH_CT_STATE_GUEST => "guest",
            _ => "kernel",
        }
    }
}

/// Whether the CPU is online. A hint, unless the caller holds off CPU hotplug.
pub(crate) fn is_online(cpu: u32) -> bool {
    let mask = (&raw const bindings::__cpu_online_mask).cast::<usize>();
    if cpu >= cpu_bits() {
        return false;
    }
    // SAFETY: possible CPUs lie within the mask; it changes with CPU hotplug, hence volatile.
    let word = unsafe { mask.add(cpu as usize / BITS).read_volatile() };
    word & (1 << (cpu as usize % BITS)) != 0
}

const BITS: usize = usize::BITS as usize;
const WORDS: usize = core::mem::size_of::<bindings::cpumask>() / core::mem::size_of::<usize>();

/// A set of CPUs with the layout of the kernel's `struct cpumask`, changed bit by bit.
#[repr(transparent)]
pub(crate) struct CpuSet([AtomicUsize; WORDS]);

impl CpuSet {
    /// How many CPUs there is room for.
    pub(crate) const CAPACITY: usize = WORDS * BITS;

    /// The empty set.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicUsize::new(0) }; WORDS])
    }

    /// Makes this set a copy of the kernel's mask.
    ///
    /// # Safety
    ///
    /// `mask` points to a cpumask with room for `nr_cpu_ids` bits; what is allocated may be that
    /// short.
    pub(crate) unsafe fn copy_from(&self, mask: *const usize) {
        let mut bits = cpu_bits() as usize;
        for (i, word) in self.0.iter().enumerate() {
            let valid = match bits {
                0 => 0,
                1..BITS => (1 << bits) - 1,
                _ => usize::MAX,
            };
            bits = bits.saturating_sub(BITS);
            let kernel = match valid {
                0 => 0,
                // SAFETY: some bits of this word are below `nr_cpu_ids`.
                _ => unsafe { mask.add(i).read() },
            };
            word.store(kernel & valid, Relaxed);
        }
    }

    /// Makes this set a copy of another.
    pub(crate) fn assign(&self, other: &Self) {
        for (to, from) in self.0.iter().zip(&other.0) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }

    /// Whether the CPU is in the set.
    #[inline]
    pub(crate) fn contains(&self, cpu: u32) -> bool {
        let (index, bit) = (cpu as usize / BITS, cpu as usize % BITS);
        match self.0.get(index) {
            Some(word) => word.load(Relaxed) & (1 << bit) != 0,
            None => false,
        }
    }

    /// Whether every CPU of this set is in `other`.
    pub(crate) fn is_subset_of(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(a, b)| a.load(Relaxed) & !b.load(Relaxed) == 0)
    }

    /// Whether no CPU is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Relaxed) == 0)
    }

    /// The CPUs in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..Self::CAPACITY as u32).filter(|&cpu| self.contains(cpu))
    }

    /// The bits, for the kernel's bitmap functions.
    pub(crate) fn as_ptr(&self) -> *mut usize {
        self.0.as_ptr().cast_mut().cast()
    }
}

impl fmt::Display for CpuSet {
    /// Prints a CPU list such as `1-3,8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|&next| next == last + 1) {
                last = next;
            }
            f.write_fmt(fmt!("{separator}{first}"))?;
            if last != first {
                f.write_fmt(fmt!("-{last}"))?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// How many bits of a CPU set are in use.
pub(crate) fn cpu_bits() -> u32 {
    // SAFETY: constant after boot.
    unsafe { bindings::nr_cpu_ids }
}

/// The kernel's nohz_full set, as it was when the module was loaded; it is fixed at boot.
pub(crate) static NOHZ_FULL: CpuSet = CpuSet::new();

/// The CPUs for which deferral is allowed, a subset of [`NOHZ_FULL`].
pub(crate) static ALLOWED: CpuSet = CpuSet::new();
