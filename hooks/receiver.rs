// SPDX-License-Identifier: GPL-2.0

//! The receiver: an ftrace direct call on `vtime_user_exit`.
//!
//! `__ct_user_exit()` (kernel/context_tracking.c) changes the CPU's state and then calls
//! `vtime_user_exit()` before any other code that may be instrumented. The hook stands at the very
//! start of that function: its body may already write dynamic per-CPU memory, which lies in the
//! vmalloc range.
//!
//! Everything from here to the flush is `.noinstr.text`: it calls nothing outside, takes no lock and
//! cannot panic.

use crate::hooks::drain::count_local;
use crate::hooks::ftrace::{Hook, Ops};
use crate::{flush, insn, percpu};
use core::arch::global_asm;
use kernel::prelude::*;

#[cfg(not(variant = "unconditional"))]
macro_rules! branch_if_owing {
    () => {
        "cmp dword ptr gs:[rip + DEFERRED_FLUSH_CPU], 0; jne 2f"
    };
}
#[cfg(variant = "unconditional")]
macro_rules! branch_if_owing {
    () => {
        "jmp 2f"
    };
}

// Patched at boot to what the CPU's mitigations ask for; objtool lists it in .return_sites.
#[cfg(CONFIG_MITIGATION_RETHUNK)]
macro_rules! return_from_trampoline {
    () => {
        "jmp __x86_return_thunk"
    };
}
#[cfg(not(CONFIG_MITIGATION_RETHUNK))]
macro_rules! return_from_trampoline {
    () => {
        "ret"
    };
}

// Called from the fentry site with interrupts off, all registers live but the flags and r10/r11.
// The test is on the first four bytes of this CPU's `CpuLocal`, its word.
global_asm!(
    ".pushsection .noinstr.text, \"ax\"",
    ".balign 16",
    ".type deferred_flush_trampoline, @function",
    "deferred_flush_trampoline:",
    "endbr64",
    branch_if_owing!(),
    "1:",
    return_from_trampoline!(),
    "2:",
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "call deferred_flush_receive",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "jmp 1b",
    ".size deferred_flush_trampoline, . - deferred_flush_trampoline",
    ".popsection",
);

extern "C" {
    fn deferred_flush_trampoline();
}

/// Runs the flush that this CPU owes.
///
/// # Safety
///
/// Called by the trampoline: on entry from user mode, after the CPU's state has changed, with
/// interrupts off.
#[no_mangle]
#[link_section = ".noinstr.text"]
unsafe extern "C" fn deferred_flush_receive() {
    let local = percpu::this();
    // SAFETY: interrupts are off by this function's contract.
    local.word.receive(|| unsafe {
        #[cfg(not(variant = "no_entry_flush"))]
        flush::flush_all();
    });
    count_local(&local.flush_entry);
    #[cfg(variant = "noinstr_leak")]
    // SAFETY: none: this variant exists for scripts/check-noinstr to refuse it.
    unsafe {
        crate::bindings::synchronize_rcu();
    }
    #[cfg(variant = "panic_path")]
    {
        let table = [0u8; 4];
        let _ = core::hint::black_box(table[core::hint::black_box(3usize)]);
    }
}

static OPS: Ops = Ops::new();

/// The receiver is installed.
pub(crate) struct Receiver {
    site: usize,
    _hook: Installed,
}

#[cfg(not(variant = "receiver_on_tracepoint"))]
type Installed = Hook;
#[cfg(variant = "receiver_on_tracepoint")]
type Installed = crate::hooks::tracepoint::UserExitProbe;

impl Receiver {
    /// Installs the receiver at the fentry site of `vtime_user_exit`.
    ///
    /// -EBUSY if somebody else has a direct call there. Process context; may sleep.
    pub(crate) fn install(site: usize) -> Result<Self> {
        #[cfg(not(variant = "receiver_on_tracepoint"))]
        let hook = Hook::direct(
            &OPS,
            c"vtime_user_exit",
            site,
            deferred_flush_trampoline as usize,
        )?;
        #[cfg(variant = "receiver_on_tracepoint")]
        let hook = crate::hooks::tracepoint::UserExitProbe::install(deferred_flush_receive)?;
        Ok(Self { site, _hook: hook })
    }

    /// What stands at the fentry site while exactly the receiver is installed.
    pub(crate) fn site_bytes(&self) -> Option<[u8; insn::CALL_LENGTH]> {
        #[cfg(not(variant = "receiver_on_tracepoint"))]
        return insn::encode_call(self.site, deferred_flush_trampoline as usize);
        #[cfg(variant = "receiver_on_tracepoint")]
        return Some([0x0f, 0x1f, 0x44, 0x00, 0x00]);
    }

    /// Whether installing it writes to the fentry site.
    pub(crate) const PATCHES_SITE: bool = cfg!(not(variant = "receiver_on_tracepoint"));
}
