// SPDX-License-Identifier: GPL-2.0

//! The few x86-64 instruction patterns that the module looks for in kernel text.
//!
//! This is no disassembler: it answers "is there a CALL to this function at this place" from the
//! bytes, and its callers confirm each answer against the kernel's symbols. Pure functions; the
//! same source is tested on the build host.

/// Length in bytes of a CALL or JMP with a 32-bit displacement, and so of an fentry site.
pub(crate) const CALL_LENGTH: usize = 5;

/// The breakpoint of a kprobe, and of a text modification under way.
pub(crate) const INT3: u8 = 0xcc;

const CALL_REL32: u8 = 0xe8;

/// The jump of an optimised kprobe.
pub(crate) const JMP_REL32: u8 = 0xe9;

/// Target of a relative CALL whose five bytes are `bytes`, placed so that it returns to
/// `return_address`; `None` if it is another instruction.
#[inline]
pub(crate) fn call_target(bytes: [u8; CALL_LENGTH], return_address: usize) -> Option<usize> {
    let [opcode, displacement @ ..] = bytes;
    if opcode != CALL_REL32 {
        return None;
    }
    Some(return_address.wrapping_add_signed(i32::from_le_bytes(displacement) as isize))
}

/// Target of the relative JMP that `code` starts with and that ends at `next`; `None` if it starts
/// with another instruction.
pub(crate) fn jump_target(code: &[u8], next: usize) -> Option<usize> {
    match code {
        [JMP_REL32, a, b, c, d, ..] => {
            Some(next.wrapping_add_signed(i32::from_le_bytes([*a, *b, *c, *d]) as isize))
        }
        _ => None,
    }
}

/// The five bytes of a relative CALL at `address` to `target`; `None` if it is too far away.
pub(crate) fn encode_call(address: usize, target: usize) -> Option<[u8; CALL_LENGTH]> {
    let next = address.wrapping_add(CALL_LENGTH);
    let displacement = i32::try_from(target.wrapping_sub(next) as isize).ok()?;
    let [a, b, c, d] = displacement.to_le_bytes();
    Some([CALL_REL32, a, b, c, d])
}

/// What looks like a relative CALL in a function's bytes: its offset and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Offset of the opcode from the function's start.
    pub(crate) offset: usize,
    /// Where the displacement points.
    pub(crate) target: usize,
}

/// Everything in `code`, which stands at `address`, that looks like a relative CALL.
///
/// Each offset is tried, so the bytes of another instruction may look like one: the caller keeps
/// only targets at which a function starts, which chance does not produce.
pub(crate) fn calls(code: &[u8], address: usize) -> impl Iterator<Item = Call> + '_ {
    code.windows(CALL_LENGTH)
        .enumerate()
        .filter_map(move |(offset, window)| {
            let bytes = <[u8; CALL_LENGTH]>::try_from(window).ok()?;
            let next = address.wrapping_add(offset).wrapping_add(CALL_LENGTH);
            Some(Call {
                offset,
                target: call_target(bytes, next)?,
            })
        })
}

/// As [`calls`], with what looks like a relative JMP.
pub(crate) fn calls_and_jumps(code: &[u8], address: usize) -> impl Iterator<Item = Call> + '_ {
    (0..code.len()).filter_map(move |offset| {
        let code = code.get(offset..)?;
        let next = address.wrapping_add(offset).wrapping_add(CALL_LENGTH);
        let call = || call_target(*code.first_chunk()?, next);
        let target = jump_target(code, next).or_else(call)?;
        Some(Call { offset, target })
    })
}

/// Where the fentry site of a function with these bytes would be: behind ENDBR64, if it has one.
pub(crate) fn fentry_offset(code: &[u8]) -> usize {
    match code {
        [0xf3, 0x0f, 0x1e, 0xfa, ..] => 4,
        _ => 0,
    }
}

/// Whether `code` starts with a relative CALL.
pub(crate) fn is_call(code: &[u8]) -> bool {
    code.first() == Some(&CALL_REL32)
}

/// Whether `code` contains a locked XADD, the state change of context tracking.
pub(crate) fn has_lock_xadd(code: &[u8]) -> bool {
    // LOCK, an optional REX prefix, 0F C1.
    code.windows(4)
        .any(|w| matches!(w, [0xf0, 0x0f, 0xc1, _] | [0xf0, 0x40..=0x4f, 0x0f, 0xc1]))
}
