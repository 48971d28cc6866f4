// SPDX-License-Identifier: GPL-2.0

//! The machine that this runs on: what [`policy`](crate::policy) decides by.

use crate::bindings;
use crate::flush;
use crate::percpu::{ALLOWED, NOHZ_FULL};
use crate::policy::{self, Machine, Range, Refusal};
use core::arch::asm;
use kernel::prelude::*;

/// `boot_cpu_has()`: a feature that the CPU has and that the kernel left enabled.
fn boot_cpu_has(feature: u32) -> bool {
    let bits = u32::BITS;
    // SAFETY: filled in at boot; the capability words are always initialised.
    let words = unsafe { bindings::boot_cpu_data.__bindgen_anon_3.x86_capability };
    words
        .get((feature / bits) as usize)
        .is_some_and(|word| word & (1 << (feature % bits)) != 0)
}

fn is_amd_family_10h() -> bool {
    // SAFETY: filled in at boot; all variants of the union are plain integers.
    let id = unsafe { bindings::boot_cpu_data.__bindgen_anon_1.__bindgen_anon_1 };
    u32::from(id.x86_vendor) == bindings::X86_VENDOR_AMD && id.x86 == 0x10
}

fn nohz_full_mask() -> Option<*const usize> {
    // SAFETY: both are set at boot only; the mask is valid if the flag says so.
    unsafe {
        if !bindings::tick_nohz_full_running {
            return None;
        }
        let mask = &raw const bindings::tick_nohz_full_mask;
        Some(if cfg!(CONFIG_CPUMASK_OFFSTACK) {
            mask.cast::<*const usize>().read()
        } else {
            mask.cast()
        })
    }
}

/// Refuses a machine that the module cannot serve, with its errno and one line in the log.
pub(crate) fn check() -> Result {
    let machine = Machine {
        has_nohz_full: nohz_full_mask().is_some(),
        has_invlpgb: boot_cpu_has(bindings::X86_FEATURE_INVLPGB),
        is_xen_pv: boot_cpu_has(bindings::X86_FEATURE_XENPV),
        is_amd_family_10h: is_amd_family_10h(),
        // SAFETY: any attribute may be asked for at any time.
        is_encrypted_guest: unsafe {
            bindings::cc_platform_has(bindings::cc_attr_CC_ATTR_GUEST_MEM_ENCRYPT)
        },
        has_rcu_trace: cfg!(CONFIG_RCU_TRACE),
    };
    let Some(refusal) = machine.refusal() else {
        return Ok(());
    };
    if cfg!(variant = "any_machine") {
        return Ok(());
    }
    pr_err!("{}\n", refusal.message());
    Err(match refusal {
        Refusal::NoIsolatedCpu => ENODEV,
        Refusal::Invlpgb
        | Refusal::XenPv
        | Refusal::AmdFamily10h
        | Refusal::EncryptedGuest
        | Refusal::RcuTrace => EOPNOTSUPP,
    })
}

/// Learns the CPU sets and the way to flush. Called once, after [`check`].
pub(crate) fn init() {
    if let Some(mask) = nohz_full_mask() {
        // SAFETY: an allocated cpumask, which has room for `nr_cpu_ids` bits at least.
        unsafe { NOHZ_FULL.copy_from(mask) };
        ALLOWED.assign(&NOHZ_FULL);
    }
    flush::init(
        boot_cpu_has(bindings::X86_FEATURE_INVPCID),
        boot_cpu_has(bindings::X86_FEATURE_PTI),
    );
}

fn has_five_level_paging() -> bool {
    let cr4: usize;
    // SAFETY: reads a control register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    cr4 & (1 << bindings::X86_CR4_LA57_BIT) != 0
}

/// The vmalloc range of the running kernel, which address-space randomisation moves.
pub(crate) fn vmalloc_range() -> Range {
    // SAFETY: set at boot.
    let base = unsafe { bindings::vmalloc_base };
    // KMSAN keeps its shadow in the other three quarters.
    let quarters = if cfg!(CONFIG_KMSAN) { 4 } else { 1 };
    policy::vmalloc_range(
        base,
        has_five_level_paging(),
        bindings::DEFERRED_FLUSH_VMALLOC_TB_L4 / quarters,
        bindings::DEFERRED_FLUSH_VMALLOC_TB_L5 / quarters,
    )
}
