// SPDX-License-Identifier: GPL-2.0

//! Finding the kernel's functions, and what they look like in the image that runs.
//!
//! Addresses are only read and compared here: what is not exported is never called.

use crate::bindings;
use crate::insn;
use crate::policy::{Policy, Range};
use core::mem::MaybeUninit;
use kernel::prelude::*;

/// More functions than this are never watched.
const MAX_WATCHED: usize = 16;

/// A kernel function.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// Its bytes.
    pub(crate) text: Range,
    /// Where ftrace hooks it, if it can be traced.
    pub(crate) fentry: Option<usize>,
    /// Whether a tracer can be placed in it at all.
    pub(crate) can_be_probed: bool,
}

/// What a disabled kprobe at some place tells.
pub(crate) struct Probe {
    address: usize,
    accepted: bool,
    is_fentry: bool,
    opcode: u8,
}

impl Probe {
    /// Registers a kprobe that is never armed, and takes it back.
    ///
    /// The kernel fills in the address even if it then refuses to probe there. Process context; may
    /// sleep for an RCU grace period.
    fn place(name: Option<&CStr>, address: usize) -> Self {
        // SAFETY: all-zero is how C makes a static `struct kprobe`.
        let mut probe: bindings::kprobe = unsafe { MaybeUninit::zeroed().assume_init() };
        probe.flags = bindings::DEFERRED_FLUSH_KPROBE_DISABLED;
        match name {
            Some(name) => probe.symbol_name = name.as_char_ptr(),
            None => probe.addr = address as *mut u8,
        }
        // SAFETY: the probe stays in place until it is unregistered below, and has no handler.
        let accepted = unsafe { bindings::register_kprobe(&mut probe) } == 0;
        let found = Self {
            address: probe.addr as usize,
            accepted,
            is_fentry: probe.flags & bindings::DEFERRED_FLUSH_KPROBE_FTRACE != 0,
            opcode: probe.opcode,
        };
        if accepted {
            // SAFETY: registered above.
            unsafe { bindings::unregister_kprobe(&mut probe) };
        }
        found
    }

    /// Whether a kprobe, armed or optimised, changed the instruction at `address`.
    ///
    /// False also where no instruction starts: there the kernel's own decoder refuses the probe.
    pub(crate) fn is_probed(address: usize, byte: u8) -> bool {
        let probe = Self::place(None, address);
        probe.accepted && probe.opcode != byte
    }
}

/// Reads a copy of kernel text.
pub(crate) fn read_text(range: Range) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(range.len(), GFP_KERNEL)?;
    for address in range.start..range.end {
        // SAFETY: `range` is the extent of a function of the running kernel, whose text is mapped
        // for ever; other CPUs may patch it, hence volatile.
        let byte = unsafe { (address as *const u8).read_volatile() };
        bytes.push(byte, GFP_KERNEL)?;
    }
    Ok(bytes)
}

const SYMBOL_LENGTH: usize = bindings::DEFERRED_FLUSH_KSYM_SYMBOL_LEN;

/// "name+0xoffset/0xsize", as the kernel prints it.
struct SymbolText([u8; SYMBOL_LENGTH]);

/// A symbol's name (without a compiler's suffix), the offset into it and its size.
struct SymbolInfo<'a> {
    base: &'a [u8],
    offset: usize,
    size: usize,
}

impl SymbolText {
    fn of(address: usize) -> Self {
        let mut text = Self([0; SYMBOL_LENGTH]);
        // SAFETY: the buffer has KSYM_SYMBOL_LEN bytes; the kernel terminates the string.
        unsafe { bindings::sprint_symbol(text.0.as_mut_ptr().cast(), address) };
        text
    }

    fn parse(&self) -> Option<SymbolInfo<'_>> {
        let text = CStr::from_bytes_until_nul(&self.0).ok()?.to_bytes();
        // A module's symbol ends with " [module]".
        let text = text.split(|&byte| byte == b' ').next()?;
        let plus = text.iter().rposition(|&byte| byte == b'+')?;
        let (name, numbers) = text.split_at_checked(plus)?;
        let mut numbers = numbers.get(1..)?.split(|&byte| byte == b'/');
        Some(SymbolInfo {
            base: name.split(|&byte| byte == b'.').next()?,
            offset: parse_hex(numbers.next()?)?,
            size: parse_hex(numbers.next()?)?,
        })
    }
}

fn parse_hex(text: &[u8]) -> Option<usize> {
    let digits = core::str::from_utf8(text.strip_prefix(b"0x")?).ok()?;
    usize::from_str_radix(digits, 16).ok()
}

/// Prints an address as the kernel does, for messages.
pub(crate) struct Symbolic(pub(crate) usize);

impl kernel::fmt::Display for Symbolic {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let text = SymbolText::of(self.0);
        match CStr::from_bytes_until_nul(&text.0) {
            Ok(text) => f.write_str(text.to_str().unwrap_or("?")),
            Err(_) => f.write_str("?"),
        }
    }
}

impl Function {
    /// By name. -ENOENT, with a line in the log, if the kernel has no such symbol.
    pub(crate) fn named(name: &CStr) -> Result<Self> {
        Self::from_probe(&Probe::place(Some(name), 0)).ok_or_else(|| {
            pr_err!("this kernel has no symbol {name}: it is not supported\n");
            ENOENT
        })
    }

    /// The function that starts at `address`; `None` if none does.
    fn starting_at(address: usize) -> Option<Self> {
        let function = Self::from_probe(&Probe::place(None, address))?;
        (function.text.start == address).then_some(function)
    }

    /// Whether a function of the kernel itself, not of a module and not one that was made at run
    /// time, starts at `address`.
    pub(crate) fn is_start_in_kernel(address: usize) -> bool {
        let text = SymbolText::of(address);
        let is_foreign = text.0.contains(&b'[');
        !is_foreign && text.parse().is_some_and(|symbol| symbol.offset == 0)
    }

    fn from_probe(probe: &Probe) -> Option<Self> {
        if probe.address == 0 {
            return None;
        }
        let text = SymbolText::of(probe.address);
        let symbol = text.parse()?;
        Some(Self {
            text: Range::new(probe.address.checked_sub(symbol.offset)?, symbol.size),
            fentry: probe.is_fentry.then_some(probe.address),
            can_be_probed: probe.accepted,
        })
    }

    /// A function that has to be traceable. -ENOENT, with a line in the log, otherwise.
    fn traceable(name: &CStr) -> Result<(Self, usize)> {
        let function = Self::named(name)?;
        match function.fentry {
            Some(site) => Ok((function, site)),
            None => {
                pr_err!("{name} cannot be traced in this kernel: it is not supported\n");
                Err(ENOENT)
            }
        }
    }

    /// The functions that it calls, in the order of the calls in its text.
    fn callees(&self) -> Result<KVec<(usize, usize)>> {
        let text = read_text(self.text)?;
        let mut found = KVec::new();
        for call in insn::calls(&text, self.text.start) {
            // Chance bytes do not point at the start of a function.
            let symbol = SymbolText::of(call.target);
            if symbol.parse().is_some_and(|symbol| symbol.offset == 0) {
                found.push((call.offset, call.target), GFP_KERNEL)?;
            }
        }
        Ok(found)
    }

    fn calls(&self, target: usize) -> Result<bool> {
        Ok(self.callees()?.iter().any(|&(_, callee)| callee == target))
    }
}

/// Everything that the hooks need to know of the running kernel.
pub(crate) struct Symbols {
    /// What may be deferred.
    pub(crate) policy: Policy,
    /// Fentry site of `flush_tlb_kernel_range`.
    pub(crate) flush_site: usize,
    /// Fentry site of `vtime_user_exit`.
    pub(crate) receiver_site: usize,
    /// Fentry site of `__text_poke`.
    pub(crate) text_poke_site: usize,
    /// What runs before the NMI handler and can be instrumented.
    pub(crate) before_nmi_handler: KVec<Function>,
    /// From the start of `vtime_user_exit` up to the end of its fentry site.
    pub(crate) receiver_entry: Range,
}

impl Symbols {
    /// Finds everything, and checks that the image is built as the design supposes.
    ///
    /// -ENOENT, with one line in the log, if it is not. Process context; may sleep.
    pub(crate) fn find(vmalloc: Range) -> Result<Self> {
        let (flush, flush_site) = Function::traceable(c"flush_tlb_kernel_range")?;
        let (receiver, receiver_site) = Function::traceable(c"vtime_user_exit")?;
        let (_, text_poke_site) = Function::traceable(c"__text_poke")?;
        let purgers = [
            Self::purger(c"__purge_vmap_area_lazy", flush.text.start)?,
            Self::purger(c"_vm_unmap_aliases", flush.text.start)?,
        ];
        Self::check_user_exit(receiver.text.start)?;
        Ok(Self {
            policy: Policy {
                flush: flush.text.start,
                purgers,
                vmalloc,
            },
            flush_site,
            receiver_site,
            text_poke_site,
            before_nmi_handler: Self::before_nmi_handler()?,
            receiver_entry: Range {
                start: receiver.text.start,
                end: receiver_site.saturating_add(insn::CALL_LENGTH),
            },
        })
    }

    fn purger(name: &CStr, flush: usize) -> Result<Range> {
        let function = Function::named(name)?;
        if !function.calls(flush)? {
            pr_err!("{name} does not call flush_tlb_kernel_range here: kernel not supported\n");
            return Err(ENOENT);
        }
        Ok(function.text)
    }

    /// `__ct_user_exit` has to change the state and then call `vtime_user_exit` before anything
    /// else: the call just before it is the one that changes the state.
    fn check_user_exit(receiver: usize) -> Result {
        let exit = Function::named(c"__ct_user_exit")?;
        let callees = exit.callees()?;
        let decoded = callees.iter().position(|&(_, target)| target == receiver);
        let before = decoded
            .and_then(|position| callees.get(..position))
            .and_then(|before| before.last());
        let changes_state = match before {
            Some(&(_, target)) => {
                let name = SymbolText::of(target);
                let is_enter = name
                    .parse()
                    .is_some_and(|symbol| symbol.base == b"ct_kernel_enter");
                is_enter || insn::has_lock_xadd(&read_text(exit.text)?)
            }
            None => false,
        };
        if changes_state {
            return Ok(());
        }
        pr_err!("__ct_user_exit is not built as expected here: kernel not supported\n");
        Err(ENOENT)
    }

    /// `nmi_handle`, under whatever name the compiler left its body, and what that calls: stricter
    /// than necessary, as part of it runs after the first handler.
    fn before_nmi_handler() -> Result<KVec<Function>> {
        let mut watched: KVec<Function> = KVec::new();
        let entry = Function::named(c"default_do_nmi")?;
        for &(_, target) in entry.callees()?.iter() {
            let name = SymbolText::of(target);
            let is_body = name
                .parse()
                .is_some_and(|symbol| symbol.base == b"nmi_handle");
            if is_body && !Self::has(&watched, target) {
                if let Some(body) = Function::starting_at(target) {
                    watched.push(body, GFP_KERNEL)?;
                }
            }
        }
        if watched.is_empty() {
            pr_err!("default_do_nmi does not call nmi_handle here: kernel not supported\n");
            return Err(ENOENT);
        }
        let bodies = watched.len();
        for i in 0..bodies {
            let Some(&body) = watched.get(i) else { break };
            for &(_, target) in body.callees()?.iter() {
                if Self::has(&watched, target) {
                    continue;
                }
                match Function::starting_at(target) {
                    Some(callee) if callee.can_be_probed => watched.push(callee, GFP_KERNEL)?,
                    _ => {}
                }
            }
        }
        if watched.len() > MAX_WATCHED {
            pr_err!("nmi_handle calls too many functions here: kernel not supported\n");
            return Err(ENOENT);
        }
        Ok(watched)
    }

    fn has(functions: &[Function], start: usize) -> bool {
        functions
            .iter()
            .any(|function| function.text.start == start)
    }
}
