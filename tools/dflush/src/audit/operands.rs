// SPDX-License-Identifier: GPL-2.0

//! Small questions about operands.

use super::value::Value;
use iced_x86::{Instruction, Mnemonic as M, OpKind};

/// A constant sign-extended from `size` bytes; anything else as it is.
pub(super) fn sign(value: Value, size: usize) -> Value {
    match value {
        Value::Const(_) => value.sign_extend(size),
        other => other,
    }
}

/// Whether an operand is an immediate value.
pub(super) fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The size of the first operand in bytes.
pub(super) fn operand_size(i: &Instruction) -> usize {
    match i.op0_kind() {
        OpKind::Register => i.op0_register().size(),
        OpKind::Memory => i.memory_size().size(),
        _ => 8,
    }
    .clamp(1, 8)
}

/// Instructions that read GDT or LDT by themselves.
pub(super) fn reads_descriptors(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        M::Iretq | M::Iretd | M::Ltr | M::Lldt | M::Lar | M::Lsl | M::Verr | M::Verw
    ) || (i.mnemonic() == M::Mov
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_segment_register())
        || (i.mnemonic() == M::Pop && i.op0_register().is_segment_register())
}
