// SPDX-License-Identifier: GPL-2.0

//! Finding the kernel's functions, and what they look like in the image that runs.
//!
//! Addresses are only read and compared here: what is not exported is never called.

use crate::bindings;
use crate::insn;
use crate::policy::{Policy, Range};
use core::mem::MaybeUninit;
use kernel::ffi::c_void;
use kernel::prelude::*;

/// More functions than this are never watched.
const MAX_WATCHED: usize = 32;

/// What a kprobe that is registered disabled, and taken back at once, tells about a place.
///
/// The kernel fills in the address even if it then refuses to probe there.
struct Probe {
    address: usize,
    accepted: bool,
    is_fentry: bool,
    opcode: u8,
}

impl Probe {
    /// At the start of a named function.
    fn named(name: &CStr) -> Self {
        // SAFETY: all-zero is how C makes a static `struct kprobe`.
        let mut probe: bindings::kprobe = unsafe { MaybeUninit::zeroed().assume_init() };
        probe.symbol_name = name.as_char_ptr();
        Self::place(probe)
    }

    /// At an address that holds neither the jump of an optimised kprobe nor may do so soon: adding
    /// a probe to one that is about to go would keep it for ever (`reuse_unused_kprobe()`).
    fn at(address: usize) -> Self {
        // SAFETY: as above.
        let mut probe: bindings::kprobe = unsafe { MaybeUninit::zeroed().assume_init() };
        probe.addr = address as *mut u8;
        Self::place(probe)
    }

    /// Process context; may sleep for an RCU grace period.
    fn place(mut probe: bindings::kprobe) -> Self {
        probe.flags = bindings::DEFERRED_FLUSH_KPROBE_DISABLED;
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
}

/// Whether the INT3 at `address` is a kprobe's and not the image's own.
///
/// False also where no instruction starts: there the kernel's own decoder refuses the probe.
pub(crate) fn is_kprobe_int3(address: usize) -> bool {
    let probe = Probe::at(address);
    probe.accepted && probe.opcode != insn::INT3
}

/// Whether `address`, at which a CALL stands, is an fentry site.
pub(crate) fn is_fentry_site(address: usize) -> bool {
    Probe::at(address).is_fentry
}

/// Whether there is code at `address` that is not of the kernel's image: a module's, or made at run
/// time, such as the detour of an optimised kprobe.
///
/// Mapped or not tells it from a chance displacement, which points nowhere.
pub(crate) fn is_foreign_code(address: usize) -> bool {
    let text = SymbolText::of(address);
    if !text.0.contains(&b'[') && text.parse().is_some() {
        return false;
    }
    let mut byte = 0u8;
    // SAFETY: copies one byte to a local, or fails if the address cannot be read.
    let error = unsafe {
        bindings::copy_from_kernel_nofault((&raw mut byte).cast(), address as *const c_void, 1)
    };
    error == 0
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

/// Prints an address as the kernel does, but as one word, and `-` if it has no name.
pub(crate) struct Named(pub(crate) usize);

impl kernel::fmt::Display for Named {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let text = SymbolText::of(self.0);
        // Without a name the kernel prints the address itself.
        if text.parse().is_none() {
            return f.write_str("-");
        }
        let text = CStr::from_bytes_until_nul(&text.0).map_err(|_| kernel::fmt::Error)?;
        // A module's symbol ends with " [module]".
        for part in text.to_bytes().split(|&byte| byte == b' ') {
            f.write_str(core::str::from_utf8(part).unwrap_or("?"))?;
        }
        Ok(())
    }
}

/// The extent of a named function. -ENOENT, with a line in the log, if the kernel has none.
fn function(name: &CStr) -> Result<Range> {
    Ok(function_and_entry(name)?.0)
}

/// The extent of a function that has to be traceable, and its fentry site.
fn traceable(name: &CStr) -> Result<(Range, usize)> {
    match function_and_entry(name)? {
        (text, Some(site)) => Ok((text, site)),
        (_, None) => {
            pr_err!("{name} cannot be traced in this kernel: it is not supported\n");
            Err(ENOENT)
        }
    }
}

fn function_and_entry(name: &CStr) -> Result<(Range, Option<usize>)> {
    let probe = Probe::named(name);
    match extent(probe.address) {
        Some(text) => Ok((text, probe.is_fentry.then_some(probe.address))),
        None => {
            pr_err!("this kernel has no symbol {name}: it is not supported\n");
            Err(ENOENT)
        }
    }
}

/// The extent of the function that `address` lies in.
fn extent(address: usize) -> Option<Range> {
    let text = SymbolText::of(address);
    let symbol = text.parse()?;
    Some(Range::new(address.checked_sub(symbol.offset)?, symbol.size))
}

/// The functions that `text` calls or jumps to, in the order of its code.
fn callees(text: Range) -> Result<KVec<usize>> {
    let code = read_text(text)?;
    let mut found = KVec::new();
    for call in insn::calls_and_jumps(&code, text.start) {
        // Chance bytes do not point at the start of a function.
        let symbol = SymbolText::of(call.target);
        if symbol.parse().is_some_and(|symbol| symbol.offset == 0) && !text.contains(call.target) {
            found.push(call.target, GFP_KERNEL)?;
        }
    }
    Ok(found)
}

/// Whether the symbol at `address` has this name, not counting a suffix of the compiler's.
fn is_named(address: usize, base: &[u8]) -> bool {
    let text = SymbolText::of(address);
    text.parse().is_some_and(|symbol| symbol.base == base)
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
    pub(crate) before_nmi_handler: KVec<Range>,
    /// From the start of `vtime_user_exit` up to the end of its fentry site.
    pub(crate) receiver_entry: Range,
}

impl Symbols {
    /// Finds everything, and checks that the image is built as the design supposes.
    ///
    /// -ENOENT, with one line in the log, if it is not. Process context; may sleep.
    pub(crate) fn find(vmalloc: Range) -> Result<Self> {
        let (flush, flush_site) = traceable(c"flush_tlb_kernel_range")?;
        let (receiver, receiver_site) = traceable(c"vtime_user_exit")?;
        let (_, text_poke_site) = traceable(c"__text_poke")?;
        let purgers = [
            purger(c"__purge_vmap_area_lazy", flush.start)?,
            purger(c"_vm_unmap_aliases", flush.start)?,
        ];
        check_user_exit(receiver.start)?;
        Ok(Self {
            policy: Policy {
                flush: flush.start,
                purgers,
                vmalloc,
            },
            flush_site,
            receiver_site,
            text_poke_site,
            before_nmi_handler: before_nmi_handler()?,
            receiver_entry: Range {
                start: receiver.start,
                end: receiver_site.saturating_add(insn::CALL_LENGTH),
            },
        })
    }
}

fn purger(name: &CStr, flush: usize) -> Result<Range> {
    let text = function(name)?;
    let code = read_text(text)?;
    if !insn::calls(&code, text.start).any(|call| call.target == flush) {
        pr_err!("{name} does not call flush_tlb_kernel_range here: kernel not supported\n");
        return Err(ENOENT);
    }
    Ok(text)
}

/// `__ct_user_exit` has to change the state and then call `vtime_user_exit` before anything else:
/// the call just before it is the one that changes the state.
fn check_user_exit(receiver: usize) -> Result {
    let text = function(c"__ct_user_exit")?;
    let code = read_text(text)?;
    let mut before = None;
    for call in insn::calls(&code, text.start) {
        if call.target == receiver {
            let changes_state = before.is_some_and(|target| is_named(target, b"ct_kernel_enter"));
            if changes_state || insn::has_lock_xadd(&code) {
                return Ok(());
            }
            break;
        }
        if SymbolText::of(call.target)
            .parse()
            .is_some_and(|symbol| symbol.offset == 0)
        {
            before = Some(call.target);
        }
    }
    pr_err!("__ct_user_exit is not built as expected here: kernel not supported\n");
    Err(ENOENT)
}

/// What runs before the first NMI handler and can be instrumented, that is, lies outside of noinstr
/// text: the body of `nmi_handle`, under whatever name the compiler left it, and all that it or the
/// NMI entry code calls. Stricter than necessary, as part of it runs after the first handler.
fn before_nmi_handler() -> Result<KVec<Range>> {
    let noinstr = Range {
        start: function(c"__noinstr_text_start")?.start,
        end: function(c"__noinstr_text_end")?.start,
    };
    let mut callers: KVec<Range> = KVec::new();
    let mut watched: KVec<Range> = KVec::new();
    let dispatcher = function(c"default_do_nmi")?;
    for name in [c"exc_nmi", c"irqentry_nmi_enter"] {
        callers.push(function(name)?, GFP_KERNEL)?;
    }
    // All of these lie in noinstr text, or what follows watches the wrong things.
    if dispatcher.len() == 0
        || !noinstr.covers(dispatcher)
        || !callers.iter().all(|caller| noinstr.covers(*caller))
    {
        pr_err!("the NMI entry code is not noinstr here: kernel not supported\n");
        return Err(ENOENT);
    }
    for target in callees(dispatcher)? {
        if !is_named(target, b"nmi_handle") {
            continue;
        }
        let body = extent(target).ok_or(ENOENT)?;
        add(&mut watched, body)?;
        add(&mut callers, body)?;
    }
    if watched.is_empty() {
        pr_err!("default_do_nmi does not call nmi_handle here: kernel not supported\n");
        return Err(ENOENT);
    }
    for caller in callers {
        for target in callees(caller)? {
            if !noinstr.contains(target) {
                add(&mut watched, extent(target).ok_or(ENOENT)?)?;
            }
        }
    }
    // What hwlat and osnoise have called there on each NMI reads this clock.
    if cfg!(any(CONFIG_HWLAT_TRACER, CONFIG_OSNOISE_TRACER)) {
        add(&mut watched, function(c"trace_clock_local")?)?;
    }
    if watched.len() > MAX_WATCHED {
        pr_err!("the NMI code calls too many functions here: kernel not supported\n");
        return Err(ENOENT);
    }
    Ok(watched)
}

fn add(ranges: &mut KVec<Range>, range: Range) -> Result {
    if !ranges.contains(&range) {
        ranges.push(range, GFP_KERNEL)?;
    }
    Ok(())
}
