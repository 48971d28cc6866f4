// SPDX-License-Identifier: GPL-2.0

//! Tracers, kprobes and other users of a function, put there and taken away at a test's wish.

use crate::{
    bindings,
    pagetables,
    probes, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

core::arch::global_asm!(
    ".pushsection .text",
    ".globl dflush_test_direct",
    ".type dflush_test_direct, @function",
    "dflush_test_direct:",
    "endbr64",
    "jmp __x86_return_thunk",
    ".size dflush_test_direct, . - dflush_test_direct",
    ".popsection",
);

extern "C" {
    /// The target of a direct call that does nothing.
    fn dflush_test_direct();
}

extern "C" fn traced(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    _regs: *mut bindings::ftrace_regs,
) {
    probes::sender_comes();
    if let Some(report) = probes::this_report() {
        report.watch_hit();
    }
}

extern "C" fn patches(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    regs: *mut bindings::ftrace_regs,
) {
    // SAFETY: ftrace saved the arguments of __text_poke(func, addr, src, len).
    let address = unsafe { (*regs.cast::<bindings::__arch_ftrace_regs>()).regs.si };
    probes::comes_to_write(address);
}

extern "C" fn redirected(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    _regs: *mut bindings::ftrace_regs,
) {
}

extern "C" fn redirected_to_copy(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    registers: *mut bindings::ftrace_regs,
) {
    let registers = registers.cast::<bindings::__arch_ftrace_regs>();
    // SAFETY: ftrace saved the registers, and nobody else touches them now.
    unsafe { (*registers).regs.ip = pagetables::copied_pmd_free_pte_page as usize as c_ulong };
}

extern "C" fn probed(_probe: *mut bindings::kprobe, _regs: *mut bindings::pt_regs) -> c_int {
    if let Some(report) = probes::this_report() {
        report.watch_hit();
    }
    0
}

/// Puts a registered tracer on one more function.
///
/// That patches nothing but the function itself, whereas registering a tracer interrupts every CPU
/// several times before.
pub(crate) fn extend(ops: &mut KBox<bindings::ftrace_ops>, symbol: &[u8; 48]) -> Result {
    let length = symbol.iter().position(|byte| *byte == 0).ok_or(EINVAL)?;
    let mut name = *symbol;
    // SAFETY: `ops` is registered; the kernel only reads `length` bytes of the name.
    to_result(unsafe {
        bindings::ftrace_set_filter(&raw mut **ops, name.as_mut_ptr(), length as c_int, 0)
    })
}

/// Something registered on a function; unregistered when dropped.
///
/// # Invariants
///
/// What is inside is registered with the kernel, and the box gives it an address that stays.
pub(crate) enum Watcher {
    Ftrace(KBox<bindings::ftrace_ops>),
    Direct(KBox<bindings::ftrace_ops>),
    Kprobe {
        probe: KBox<bindings::kprobe>,
        /// Holds the name to which the probe points.
        _symbol: KBox<[u8; 48]>,
    },
}

// SAFETY: May be unregistered from any thread.
unsafe impl Send for Watcher {}

impl Watcher {
    pub(crate) fn new(kind: u32, symbol: &[u8; 48], offset: u64) -> Result<Self> {
        // The name has to end inside the array.
        let length = symbol.iter().position(|byte| *byte == 0).ok_or(EINVAL)?;
        match kind {
            bindings::dflush_watch_DFLUSH_WATCH_FTRACE => Self::ftrace(symbol, length, traced, 0),
            bindings::dflush_watch_DFLUSH_WATCH_PATCHER => Self::ftrace(symbol, length, patches, 0),
            bindings::dflush_watch_DFLUSH_WATCH_IPMODIFY => Self::ftrace(
                symbol,
                length,
                redirected,
                bindings::FTRACE_OPS_FL_IPMODIFY | bindings::FTRACE_OPS_FL_SAVE_REGS,
            ),
            bindings::dflush_watch_DFLUSH_WATCH_COPY => {
                pagetables::prepare_copy()?;
                Self::ftrace(
                    symbol,
                    length,
                    redirected_to_copy,
                    bindings::FTRACE_OPS_FL_IPMODIFY | bindings::FTRACE_OPS_FL_SAVE_REGS,
                )
            }
            bindings::dflush_watch_DFLUSH_WATCH_DIRECT => Self::direct(symbol, length),
            bindings::dflush_watch_DFLUSH_WATCH_KPROBE => Self::kprobe(symbol, offset),
            _ => Err(EINVAL),
        }
    }

    /// A description that is not registered yet, limited to one function.
    fn ops(symbol: &[u8; 48], length: usize) -> Result<KBox<bindings::ftrace_ops>> {
        let mut ops = KBox::new(pin_init::zeroed::<bindings::ftrace_ops>(), GFP_KERNEL)?;
        let mut name = *symbol;
        // SAFETY: `ops` is not registered; the kernel only reads `length` bytes of the name.
        to_result(unsafe {
            bindings::ftrace_set_filter(&raw mut *ops, name.as_mut_ptr(), length as c_int, 1)
        })?;
        Ok(ops)
    }

    fn ftrace(
        symbol: &[u8; 48],
        length: usize,
        callback: unsafe extern "C" fn(
            c_ulong,
            c_ulong,
            *mut bindings::ftrace_ops,
            *mut bindings::ftrace_regs,
        ),
        flags: u32,
    ) -> Result<Self> {
        let mut ops = Self::ops(symbol, length)?;
        ops.func = Some(callback);
        ops.flags |= flags as c_ulong;
        // SAFETY: The description stays in its box until it is unregistered.
        let result = to_result(unsafe { bindings::register_ftrace_function(&raw mut *ops) });
        if let Err(error) = result {
            // SAFETY: It is not registered.
            unsafe { bindings::ftrace_free_filter(&raw mut *ops) };
            return Err(error);
        }
        Ok(Self::Ftrace(ops))
    }

    fn direct(symbol: &[u8; 48], length: usize) -> Result<Self> {
        let mut ops = Self::ops(symbol, length)?;
        // SAFETY: As for an ordinary description; the target only returns.
        let result = to_result(unsafe {
            bindings::register_ftrace_direct(&raw mut *ops, dflush_test_direct as c_ulong)
        });
        if let Err(error) = result {
            // SAFETY: It is not registered.
            unsafe { bindings::ftrace_free_filter(&raw mut *ops) };
            return Err(error);
        }
        Ok(Self::Direct(ops))
    }

    fn kprobe(symbol: &[u8; 48], offset: u64) -> Result<Self> {
        let name = KBox::new(*symbol, GFP_KERNEL)?;
        // SAFETY: All zeroes is a valid probe without handlers.
        let zeroed = unsafe { core::mem::zeroed::<bindings::kprobe>() };
        let mut probe = KBox::new(zeroed, GFP_KERNEL)?;
        probe.symbol_name = name.as_ptr().cast();
        probe.offset = u32::try_from(offset)?;
        probe.pre_handler = Some(probed);
        // SAFETY: The probe and its name stay in their boxes until it is unregistered.
        to_result(unsafe { bindings::register_kprobe(&raw mut *probe) })?;
        Ok(Self::Kprobe {
            probe,
            _symbol: name,
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Each of these waits until no callback runs.
        unsafe {
            match self {
                Self::Ftrace(ops) => {
                    bindings::unregister_ftrace_function(&raw mut **ops);
                    bindings::ftrace_free_filter(&raw mut **ops);
                }
                Self::Direct(ops) => {
                    bindings::unregister_ftrace_direct(
                        &raw mut **ops,
                        dflush_test_direct as c_ulong,
                        true,
                    );
                }
                Self::Kprobe { probe, .. } => bindings::unregister_kprobe(&raw mut **probe),
            }
        }
    }
}
