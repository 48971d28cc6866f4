// SPDX-License-Identifier: GPL-2.0

//! What the registers and the flags hold on a path, as far as the protocol is concerned.
//!
//! Whatever is not understood is unknown, and an unknown value satisfies no check.

use super::object::Line;
use super::steps::{Path, Place, Step};
use super::track_memory::{Width, callee, is_drain, is_high, is_pure_load, place_of, width_of};
use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess,
    OpKind, Register,
};

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value<'a> {
    Unknown,
    Constant(u64),
    /// The low byte is this, the rest unknown.
    Byte(u8),
    /// The first argument: the CPU that the sender is asked about.
    Cpu,
    /// The offset of that CPU's variables.
    CpuOffset,
    /// The address of a symbol.
    Address(&'a str),
    /// The address of a CPU's word.
    Word,
    /// What was read from a place after the last fence, under a mask.
    Loaded(Place, u64),
    /// The word that stops deferral, compared with an earlier value, or its count alone.
    Counted,
    Cr4,
    /// CR4 with PGE toggled.
    Cr4Toggled,
}

/// What the flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flags {
    Unknown,
    /// Zero flag: the place under the mask is the value.
    Zero(Place, u64, u64),
    /// Carry flag: the place has a bit of the mask.
    Carry(Place, u64),
    /// Carry or zero flag: no write was counted.
    SameCountBelow,
    /// Zero flag: the exchange took place.
    Resumed,
}

const PGE: u64 = 1 << 7;
const FLUSHING: u64 = 1 << 1;
const TRACER: u64 = 1 << 1;
const REASONS: u64 = 0xff;

/// The state on a path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Tracker<'a> {
    registers: [Value<'a>; 16],
    flags: Flags,
    pub(super) steps: Vec<Step>,
    cr4_is_toggled: bool,
    /// The CPU whose word was addressed last was seen offline.
    is_offline: bool,
    pushed_flags: bool,
}

fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

impl<'a> Tracker<'a> {
    pub(super) fn new() -> Self {
        let mut registers = [Value::Unknown; 16];
        registers[7] = Value::Cpu;
        Self {
            registers,
            flags: Flags::Unknown,
            steps: Vec::new(),
            cr4_is_toggled: false,
            is_offline: false,
            pushed_flags: false,
        }
    }

    /// Appends a step. What is repeated is there once.
    pub(super) fn push(&mut self, step: Step) {
        if step == Step::Load(Place::Online) {
            return;
        }
        self.steps.push(step);
        let length = self.steps.len();
        for half in 1..=length / 2 {
            let (first, second) = (length - 2 * half, length - half);
            if self.steps[first..second] == self.steps[second..] {
                self.steps.truncate(second);
                return;
            }
        }
    }

    pub(super) fn forget_constants(&mut self) {
        for value in &mut self.registers {
            if matches!(value, Value::Constant(_) | Value::Byte(_)) {
                *value = Value::Unknown;
            }
        }
    }

    /// The path ends here.
    pub(super) fn finish(mut self) -> Path {
        if self.cr4_is_toggled {
            self.push(Step::NotAFlush("CR4 is left with PGE toggled"));
        }
        Path {
            steps: self.steps,
            returns: match self.registers[0] {
                #[expect(clippy::cast_possible_truncation, reason = "the low byte")]
                Value::Constant(value) => Some(value as u8),
                Value::Byte(value) => Some(value),
                _ => None,
            },
        }
    }

    /// The path goes on in another function.
    pub(super) fn leave(mut self, line: &'a Line) -> Path {
        let to = callee(line);
        if to != Some("__x86_return_thunk") {
            self.call(line);
        }
        self.finish()
    }

    pub(super) fn register(&self, register: Register) -> Value<'a> {
        number(register).map_or(Value::Unknown, |n| self.registers[n])
    }

    fn set(&mut self, register: Register, value: Value<'a>) {
        if let Some(n) = number(register) {
            self.registers[n] = match (register.size(), value) {
                (8 | 4, value) => value,
                #[expect(clippy::cast_possible_truncation, reason = "the low byte")]
                (1, Value::Constant(c)) if !is_high(register) => Value::Byte(c as u8),
                _ => Value::Unknown,
            };
        }
    }

    fn call(&mut self, line: &'a Line) {
        match callee(line) {
            Some("on_each_cpu_cond_mask") => self.push(Step::Interrupt),
            Some("deferred_flush_receive") => self.push(Step::CallReceiver),
            Some(name) if is_drain(name) => self.push(Step::Interrupt),
            _ => {}
        }
        for n in [0, 1, 2, 6, 7, 8, 9, 10, 11] {
            self.registers[n] = Value::Unknown;
        }
        self.flags = Flags::Unknown;
    }

    /// A conditional branch is taken, or not.
    pub(super) fn branch(&mut self, line: &Line, taken: bool) {
        let holds = match line.instruction.condition_code() {
            ConditionCode::e => Some((true, taken)),
            ConditionCode::ne => Some((true, !taken)),
            ConditionCode::b => Some((false, taken)),
            ConditionCode::ae => Some((false, !taken)),
            ConditionCode::be if self.flags == Flags::SameCountBelow => Some((true, taken)),
            ConditionCode::a if self.flags == Flags::SameCountBelow => Some((true, !taken)),
            _ => None,
        };
        let step = match (self.flags, holds) {
            (Flags::Zero(Place::Online, ..), Some((true, equal))) => {
                self.is_offline = equal;
                return;
            }
            (Flags::Carry(Place::Online, _), Some((false, carry))) => {
                self.is_offline = !carry;
                return;
            }
            (Flags::Zero(place, mask, value), Some((true, equal))) => Step::Test {
                place,
                mask,
                value,
                equal,
            },
            (Flags::Carry(place, mask), Some((false, carry))) => Step::Test {
                place,
                mask,
                value: 0,
                equal: !carry,
            },
            (Flags::SameCountBelow, Some((true, same)))
                if matches!(
                    line.instruction.condition_code(),
                    ConditionCode::a | ConditionCode::be
                ) =>
            {
                Step::SameCount(same)
            }
            (Flags::Resumed, Some((true, done))) => Step::Resumed(done),
            _ => return,
        };
        self.push(step);
    }

    /// Runs an instruction that does not branch.
    pub(super) fn run(&mut self, line: &'a Line) {
        let i = &line.instruction;
        if i.flow_control() != FlowControl::Next {
            return self.call(line);
        }
        let value = self.result(line);
        let flags = self.new_flags(line);
        self.protocol(line);
        let popped = i.mnemonic() == M::Pop && self.pushed_flags;
        self.pushed_flags = matches!(i.mnemonic(), M::Pushf | M::Pushfq);
        for used in InstructionInfoFactory::new().info(i).used_registers() {
            if matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            ) {
                if let Some(n) = number(used.register()) {
                    self.registers[n] = Value::Unknown;
                }
            }
        }
        if i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.mnemonic() != M::Xchg {
            let to = i.op0_register();
            if popped {
                self.set(to, Value::Loaded(Place::CpuFlags, u64::MAX));
            } else if let Some(value) = value {
                self.is_offline &= value != Value::Word;
                self.set(to, value);
            }
        }
        if i.rflags_modified() != 0 {
            self.flags = flags;
        }
        if i.mnemonic() == M::Cmpxchg && place_of(self, line) == Some((Place::Blocked, 0)) {
            self.registers[0] = Value::Loaded(Place::Blocked, u64::MAX);
        }
        if i.mnemonic() == M::Mfence {
            // What was read before it is no look after it.
            self.flags = Flags::Unknown;
            for value in &mut self.registers {
                if matches!(value, Value::Loaded(..) | Value::Counted) {
                    *value = Value::Unknown;
                }
            }
        }
    }

    /// The second operand, read at the width of the operation.
    fn source(&self, line: &'a Line) -> Value<'a> {
        let i = &line.instruction;
        match i.op1_kind() {
            OpKind::Register => self.narrow(i.op1_register()),
            OpKind::Memory => match place_of(self, line) {
                Some((place, 0)) => Value::Loaded(place, width_of(i).mask()),
                _ => Value::Unknown,
            },
            _ => match line.target.as_ref().filter(|_| line.is_immediate) {
                Some(target) if target.offset == 0 => Value::Address(&target.symbol),
                Some(_) => Value::Unknown,
                // String instructions have memory of another kind there.
                None => i.try_immediate(1).map_or(Value::Unknown, Value::Constant),
            },
        }
    }

    /// A register, read at its width.
    fn narrow(&self, register: Register) -> Value<'a> {
        match self.register(register) {
            _ if is_high(register) => Value::Unknown,
            Value::Loaded(place, mask) => {
                Value::Loaded(place, mask & Width::of(register.size()).mask())
            }
            value => value,
        }
    }

    /// What the instruction puts into its first operand.
    fn result(&self, line: &'a Line) -> Option<Value<'a>> {
        use Value::{Address, Constant, Counted, CpuOffset, Loaded, Unknown};
        let i = &line.instruction;
        let to = (i.op_count() > 0 && i.op0_kind() == OpKind::Register).then(|| i.op0_register());
        let old = to.map_or(Unknown, |to| self.register(to));
        Some(match i.mnemonic() {
            M::Mov if i.op1_register() == Register::CR4 => Value::Cr4,
            M::Mov | M::Movzx if i.op1_kind() == OpKind::Memory => self.load(line),
            M::Movzx => self.narrow(i.op1_register()),
            M::Mov => self.source(line),
            M::Lea => {
                let target = line.target.as_ref().filter(|t| t.offset == 0)?;
                match (i.memory_base(), i.memory_index()) {
                    (Register::RIP, Register::None) => Address(&target.symbol),
                    (base, Register::None)
                        if target.symbol == "DEFERRED_FLUSH_CPU"
                            && self.register(base) == CpuOffset =>
                    {
                        Value::Word
                    }
                    _ => return None,
                }
            }
            M::Add => match (old, self.addend(line)) {
                (Address("DEFERRED_FLUSH_CPU"), _) | (_, Address("DEFERRED_FLUSH_CPU")) => {
                    Value::Word
                }
                _ => return None,
            },
            M::Xor | M::Sub
                if i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register()
                    && i.op0_register().size() >= 4 =>
            {
                Constant(0)
            }
            M::Xor => match (old, self.source(line)) {
                (Value::Cr4, Constant(PGE)) => Value::Cr4Toggled,
                (Value::Cr4Toggled, Constant(PGE)) => Value::Cr4,
                (Loaded(Place::Blocked, u64::MAX), Unknown | Loaded(Place::Blocked, u64::MAX)) => {
                    Counted
                }
                _ => return None,
            },
            M::And => match (to.map(|to| self.narrow(to)), self.source(line)) {
                (Some(Loaded(place, mask)), Constant(c)) => Loaded(place, mask & c),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn addend(&self, line: &'a Line) -> Value<'a> {
        match line.instruction.op1_kind() {
            OpKind::Register => self.register(line.instruction.op1_register()),
            _ => Value::Unknown,
        }
    }

    /// What a read of memory gives.
    fn load(&self, line: &'a Line) -> Value<'a> {
        let i = &line.instruction;
        let is = |name: &str| {
            line.target
                .as_ref()
                .is_some_and(|t| t.symbol == name && t.offset == 0)
        };
        if is("__per_cpu_offset")
            && i.memory_base() == Register::None
            && i.memory_index_scale() == 8
            && self.register(i.memory_index()) == Value::Cpu
        {
            return Value::CpuOffset;
        }
        match place_of(self, line) {
            Some((place, 0)) if i.op0_register().size() >= 4 => {
                Value::Loaded(place, width_of(i).mask())
            }
            _ => Value::Unknown,
        }
    }

    /// What the flags say after the instruction.
    fn new_flags(&self, line: &'a Line) -> Flags {
        let i = &line.instruction;
        if i.op_count() < 2 {
            return Flags::Unknown;
        }
        let first = match i.op0_kind() {
            OpKind::Register => self.narrow(i.op0_register()),
            OpKind::Memory => match place_of(self, line) {
                Some((place, 0)) => Value::Loaded(place, width_of(i).mask()),
                _ => Value::Unknown,
            },
            _ => Value::Unknown,
        };
        let second = self.source(line);
        let same = i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op0_register() == i.op1_register();
        match (i.mnemonic(), first, second) {
            (M::Test, Value::Loaded(place, mask), _) if same => Flags::Zero(place, mask, 0),
            (M::Test | M::And, Value::Loaded(place, mask), Value::Constant(c)) => {
                Flags::Zero(place, mask & c, 0)
            }
            (M::Cmp, Value::Loaded(place, mask), Value::Constant(c)) => {
                Flags::Zero(place, mask, c & width_of(i).mask())
            }
            (M::Bt, Value::Loaded(place, mask), Value::Constant(c)) if c < 64 => {
                Flags::Carry(place, mask & 1 << c)
            }
            (M::Bt, Value::Loaded(Place::Online, mask), _) => Flags::Carry(Place::Online, mask),
            (M::Test, Value::Loaded(Place::Online, mask), _)
            | (M::Test, _, Value::Loaded(Place::Online, mask)) => {
                Flags::Zero(Place::Online, mask, 0)
            }
            (M::Cmp, Value::Counted, Value::Constant(REASONS)) => Flags::SameCountBelow,
            (M::Cmpxchg, ..) if place_of(self, line) == Some((Place::Blocked, 0)) => Flags::Resumed,
            _ => Flags::Unknown,
        }
    }

    /// The steps that the instruction is.
    fn protocol(&mut self, line: &'a Line) {
        let i = &line.instruction;
        match i.mnemonic() {
            M::Mfence => self.push(Step::Fence),
            M::Invpcid => {
                let step = if self.register(i.op0_register()) == Value::Constant(2) {
                    Step::Flush
                } else {
                    Step::NotAFlush("INVPCID of another type than 2")
                };
                self.push(step);
            }
            M::Mov if i.op0_register() == Register::CR3 => {
                self.push(Step::NotAFlush("a write of CR3 keeps global entries"));
            }
            M::Mov if i.op0_register() == Register::CR4 => {
                let value = self.register(i.op1_register());
                match (self.cr4_is_toggled, value) {
                    (false, Value::Cr4Toggled) => self.cr4_is_toggled = true,
                    (true, Value::Cr4) => {
                        self.cr4_is_toggled = false;
                        self.push(Step::Flush);
                    }
                    _ => self.push(Step::NotAFlush(
                        "CR4 is not written with PGE toggled and then with the old value",
                    )),
                }
            }
            _ => self.access(line),
        }
    }

    fn access(&mut self, line: &'a Line) {
        let i = &line.instruction;
        let Some((place, offset)) = place_of(self, line) else {
            return;
        };
        if is_pure_load(i) {
            return self.push(Step::Load(place));
        }
        let immediate = i
            .try_immediate(1)
            .ok()
            .map(|value| value & width_of(i).mask());
        let all = width_of(i).mask();
        let step = match (place, i.mnemonic(), i.has_lock_prefix(), immediate) {
            (Place::Word, ..) if offset != 0 => Step::StoreWord,
            (Place::Blocked, ..) if offset != 0 => Step::StoreBlocked,
            (Place::Word, M::Or, true, Some(1)) | (Place::Word, M::Bts, true, Some(0)) => {
                Step::SetWord
            }
            (Place::Word, M::And, true, Some(mask)) if mask == all & !FLUSHING => Step::ClearWord,
            (Place::Word, M::Btr, true, Some(1)) => Step::ClearWord,
            (Place::Word, M::Xchg, ..)
                if self.is_offline && self.exchanged(i) == Value::Constant(0) =>
            {
                Step::ResetOffline
            }
            (Place::Word, M::Xchg, ..) => Step::ExchangeWord(match self.exchanged(i) {
                Value::Constant(value) => Some(value),
                _ => None,
            }),
            (Place::Word, ..) => Step::StoreWord,
            (Place::Blocked, M::Or | M::Bts, true, Some(_)) => Step::Block,
            (Place::Blocked, M::Add, true, Some(value)) if value == REASONS + 1 => Step::CountWrite,
            (Place::Blocked, M::And, true, Some(mask)) if all == u64::MAX => Step::Unblock(!mask),
            (Place::Blocked, M::Btr, true, Some(bit)) if bit < 64 => Step::Unblock(1 << bit),
            (Place::Blocked, M::Cmpxchg, true, _) => Step::Resume(
                self.register(Register::RAX) == Value::Loaded(Place::Blocked, u64::MAX)
                    && self.register(i.op1_register()) == Value::Loaded(Place::Blocked, !TRACER),
            ),
            (Place::Blocked, ..) => Step::StoreBlocked,
            _ => Step::NotAFlush("writes a variable of the kernel"),
        };
        self.push(step);
    }

    fn exchanged(&self, i: &Instruction) -> Value<'a> {
        let register = if i.op0_kind() == OpKind::Register {
            i.op0_register()
        } else {
            i.op1_register()
        };
        self.register(register)
    }
}
