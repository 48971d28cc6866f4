// SPDX-License-Identifier: GPL-2.0

//! Flushing the TLB of the CPU that runs this.
//!
//! The kernel's own primitives are not exported to modules, and are ordinary text where the
//! receiver needs noinstr. These mirror `native_flush_tlb_global()` and
//! `native_flush_tlb_one_user()` of arch/x86/mm/tlb.c and `__flush_tlb_all()`.

use crate::policy::{self, Range, PAGE_SIZE};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How [`flush_all`] works on this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// INVPCID type 2: all contexts, globals too.
    Invpcid,
    /// A toggle of CR4.PGE, which has the same effect.
    Cr4,
}

impl Method {
    /// The name in the views and the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Invpcid => "invpcid",
            Self::Cr4 => "cr4",
        }
    }
}

static HAS_INVPCID: AtomicBool = AtomicBool::new(false);
static HAS_PAGE_TABLE_ISOLATION: AtomicBool = AtomicBool::new(false);

/// Chooses the method, once, before the first hook is installed.
pub(crate) fn init(has_invpcid: bool, has_page_table_isolation: bool) {
    HAS_INVPCID.store(has_invpcid, Relaxed);
    HAS_PAGE_TABLE_ISOLATION.store(has_page_table_isolation, Relaxed);
}

/// The method in use.
#[inline(always)]
pub(crate) fn method() -> Method {
    if HAS_INVPCID.load(Relaxed) {
        Method::Invpcid
    } else {
        Method::Cr4
    }
}

/// Flushes everything: globals and all PCIDs.
///
/// Any context, noinstr and NMI included.
///
/// # Safety
///
/// Runs at CPL 0 on a CPU for which [`init`] was told the truth, with interrupts off.
#[inline(always)]
pub(crate) unsafe fn flush_all() {
    match method() {
        Method::Invpcid => {
            let descriptor = [0u64; 2];
            // SAFETY: INVPCID exists here by this function's contract. Type 2 reads the descriptor
            // and changes no memory; forgetting translations is always allowed. No `readonly`:
            // memory accesses must not move across it.
            unsafe {
                asm!(
                    "invpcid {kind}, [{descriptor}]",
                    kind = in(reg) 2u64,
                    descriptor = in(reg) &descriptor,
                    options(nostack, preserves_flags),
                );
            }
        }
        Method::Cr4 => {
            const PGE: u64 = 1 << 7;
            // SAFETY: a change of CR4.PGE either way flushes all entries of all PCIDs, and the
            // second write restores the register. Interrupts are off, so only an NMI can fall
            // between; its toggle starts from a fresh read and restores what it found.
            unsafe {
                asm!(
                    "mov {old}, cr4",
                    "mov {toggled}, {old}",
                    "xor {toggled}, {pge}",
                    "mov cr4, {toggled}",
                    "mov cr4, {old}",
                    old = out(reg) _,
                    toggled = out(reg) _,
                    pge = const PGE,
                    options(nostack),
                );
            }
        }
    }
}

/// Flushes a kernel range on an interrupted CPU, at least as strongly as the kernel would
/// (`do_kernel_range_flush()`, `do_flush_tlb_all()`).
///
/// # Safety
///
/// As for [`flush_all`].
pub(crate) unsafe fn flush_kernel_range(range: Range) {
    if !policy::flush_by_page(range, HAS_PAGE_TABLE_ISOLATION.load(Relaxed)) {
        // SAFETY: this function's contract.
        unsafe { flush_all() };
        return;
    }
    let mut address = range.start;
    while address < range.end {
        // SAFETY: INVLPG forgets a translation, which is always allowed; it faults on no address.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
        address = address.wrapping_add(PAGE_SIZE);
    }
}
