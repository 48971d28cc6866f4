// SPDX-License-Identifier: GPL-2.0

//! Which of the protocol's variables an instruction of the module accesses, and how.

use super::object::Line;
use super::steps::Place;
use super::track::{Tracker, Value};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// The width of an access, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Width(usize);

impl Width {
    pub(super) fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    pub(super) fn mask(self) -> u64 {
        match self.0 {
            1 | 2 | 4 => (1 << (8 * self.0)) - 1,
            _ => u64::MAX,
        }
    }
}

/// The width of the memory operand, or else of the first register.
pub(super) fn width_of(i: &Instruction) -> Width {
    if has_memory(i) {
        Width(i.memory_size().size())
    } else if i.op0_kind() == OpKind::Register {
        Width(i.op0_register().size())
    } else {
        Width(8)
    }
}

fn has_memory(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// Whether an access of memory only reads it.
pub(super) fn is_pure_load(i: &Instruction) -> bool {
    i.op0_kind() != OpKind::Memory && !matches!(i.mnemonic(), M::Xchg | M::Cmpxchg | M::Xadd)
        || matches!(i.mnemonic(), M::Cmp | M::Test | M::Bt)
}

/// The variable that the memory operand is in, and the offset in it: not zero is a part of it that
/// the protocol does not read.
pub(super) fn place_of(tracker: &Tracker<'_>, line: &Line) -> Option<(Place, u64)> {
    let i = &line.instruction;
    if !has_memory(i) || matches!(i.mnemonic(), M::Lea | M::Nop | M::Invlpg | M::Invpcid) {
        return None;
    }
    let base = tracker.register(i.memory_base());
    let plain = i.memory_index() == Register::None;
    let Some(target) = line.target.as_ref().filter(|_| !line.is_immediate) else {
        // The counters stand behind the word.
        let near = i.memory_displacement64();
        return (base == Value::Word && plain && near < 4).then_some((Place::Word, near));
    };
    let offset = u64::try_from(target.offset).ok()?;
    let of_cpu = base == Value::CpuOffset && plain;
    let direct = matches!(i.memory_base(), Register::RIP | Register::None) && plain;
    let this_cpu = direct && i.segment_prefix() == Register::GS;
    match (target.symbol.as_str(), offset) {
        ("__cpu_online_mask", _) => Some((Place::Online, 0)),
        ("DEFERRED_FLUSH_CPU", 0..4) if of_cpu || this_cpu => Some((Place::Word, offset)),
        ("context_tracking", 8) if of_cpu => Some((Place::State, 0)),
        ("context_tracking", 0) if of_cpu => Some((Place::Active, 0)),
        ("cpu_dr7", 0) if of_cpu => Some((Place::Breakpoints, 0)),
        (name, 0..8) if direct && name.ends_with("7BLOCKED") => Some((Place::Blocked, offset)),
        _ => None,
    }
}

/// Whether this is the second byte of a register.
pub(super) fn is_high(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

/// The function that a call or jump goes to.
pub(super) fn callee(line: &Line) -> Option<&str> {
    line.target
        .as_ref()
        .map(|target| target.symbol.as_str())
        .or(line.callee.as_deref())
}

/// Whether a function of this name drains: the checks ask that of it.
pub(super) fn is_drain(name: &str) -> bool {
    ["5drain9drain_all", "5drain12drain_online"]
        .iter()
        .any(|part| name.contains(part))
}
