// SPDX-License-Identifier: GPL-2.0

//! What one instruction does to a state, and which memory it touches. Control flow is walk.rs's.

use super::memory::{Address, Class, Map};
use super::operands::{is_immediate, operand_size, reads_descriptors, sign};
use super::state::{Flags, GsBase, Place, Region, State};
use super::value::{Source, Value};
use iced_x86::{
    Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic as M, OpAccess, OpKind,
    Register,
};

const MSR_GS_BASE: u64 = 0xc000_0101;
const SIGN: u64 = 1 << 31;

/// One access of an instruction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    pub(super) class: Class,
    pub(super) writes: bool,
    pub(super) size: usize,
    pub(super) shape: String,
}

/// Executes instructions.
pub(super) struct Executor<'a> {
    pub(super) map: &'a Map<'a>,
    info: InstructionInfoFactory,
}

fn is_stack_segment(register: Register) -> bool {
    matches!(
        register,
        Register::DS | Register::SS | Register::ES | Register::CS | Register::None
    )
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

impl<'a> Executor<'a> {
    pub(super) fn new(map: &'a Map<'a>) -> Self {
        Self {
            map,
            info: InstructionInfoFactory::new(),
        }
    }

    /// The address of the explicit memory operand.
    pub(super) fn address(i: &Instruction, state: &State) -> Address {
        Self::resolve(
            i.memory_segment(),
            i.memory_base(),
            i.memory_index(),
            i.memory_index_scale(),
            i.memory_displacement64(),
            state,
        )
    }

    fn resolve(
        segment: Register,
        base: Register,
        index: Register,
        scale: u32,
        displacement: u64,
        state: &State,
    ) -> Address {
        let segment = if is_stack_segment(segment) {
            Register::DS
        } else {
            segment
        };
        let mut fixed = Value::Const(displacement);
        let mut variable: Option<Value> = None;
        let mut add = |value: Value| {
            let value = value.plain();
            if matches!(value, Value::Number { .. } | Value::Bits { .. }) {
                variable = Some(variable.map_or(value, |other| other.add(value)));
            } else {
                fixed = fixed.add(value);
            }
        };
        if base != Register::None && base != Register::RIP && base != Register::EIP {
            add(state.register(base));
        }
        if index != Register::None {
            let value = state.register(index);
            add(match scale {
                1 => value,
                _ => value.shift(true, Value::Const(u64::from(scale.trailing_zeros()))),
            });
        }
        Address {
            segment,
            fixed,
            variable,
        }
    }

    /// Every access of an instruction, before it runs.
    pub(super) fn accesses(&mut self, i: &Instruction, state: &State) -> Vec<Access> {
        let mut all = Vec::new();
        let is_bit_string = matches!(i.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
            && i.op0_kind() == OpKind::Memory
            && i.op1_kind() == OpKind::Register;
        let repeats = i.has_rep_prefix() || i.has_repne_prefix();
        let count = state.register(Register::RCX);
        let memory: Vec<_> = self
            .info
            .info_options(i, InstructionInfoOptions::NO_REGISTER_USAGE)
            .used_memory()
            .to_vec();
        for used in memory {
            if used.access() == OpAccess::NoMemAccess {
                continue;
            }
            let mut address = Self::resolve(
                used.segment(),
                used.base(),
                used.index(),
                used.scale(),
                used.displacement(),
                state,
            );
            let element = used.memory_size().size();
            let mut size = element;
            if is_bit_string {
                let bit = state.register(i.op1_register());
                let bytes = bit.shift(false, Value::Const(3));
                address.variable = Some(address.variable.map_or(bytes, |v| v.add(bytes)));
                if let Some(offset) = address.variable.and_then(Value::constant) {
                    address.fixed = address.fixed.add(Value::Const(offset));
                    address.variable = None;
                }
            } else if repeats {
                match count.constant() {
                    Some(0) => continue,
                    Some(n) if n < 1 << 16 => size = element * n as usize,
                    _ => address.variable = Some(Value::unknown(Source::Computed(i.ip()))),
                }
            }
            all.push(Access {
                class: self.map.classify(address, size, state),
                writes: writes(used.access()),
                size: element,
                shape: self.map.describe(address),
            });
        }
        if reads_descriptors(i) {
            all.push(Access {
                class: Class::DescriptorTable,
                writes: false,
                size: 8,
                shape: "descriptor".into(),
            });
        }
        all
    }

    /// Whether an instruction writes to the four bytes of a per-CPU variable, or to part of them.
    pub(super) fn writes_word(&mut self, i: &Instruction, state: &State, word: u64) -> bool {
        self.written(i, state).into_iter().any(|(address, size)| {
            self.map
                .per_cpu_variable(address)
                .is_some_and(|at| at < word + 4 && word < at + size as u64)
        })
    }

    /// Where an instruction writes, before it runs.
    fn written(&mut self, i: &Instruction, state: &State) -> Vec<(Address, usize)> {
        let info = self
            .info
            .info_options(i, InstructionInfoOptions::NO_REGISTER_USAGE);
        info.used_memory()
            .iter()
            .filter(|used| writes(used.access()))
            .map(|used| {
                let address = Self::resolve(
                    used.segment(),
                    used.base(),
                    used.index(),
                    used.scale(),
                    used.displacement(),
                    state,
                );
                (address, used.memory_size().size())
            })
            .collect()
    }

    /// The base registers of all accesses, and the registers that are written.
    pub(super) fn syntactic(&mut self, i: &Instruction) -> (Vec<Register>, Vec<Register>) {
        let info = self.info.info(i);
        let bases = info
            .used_memory()
            .iter()
            .filter(|used| used.access() != OpAccess::NoMemAccess)
            .map(iced_x86::UsedMemory::base)
            .collect();
        let written = info
            .used_registers()
            .iter()
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead))
            .map(|used| used.register().full_register())
            .collect();
        (bases, written)
    }

    fn operand(&self, i: &Instruction, n: u32, state: &State) -> Value {
        match i.op_kind(n) {
            OpKind::Register => state.register(i.op_register(n)),
            OpKind::Memory => self.map.load(
                Self::address(i, state),
                i.memory_size().size(),
                state,
                i.ip(),
            ),
            kind if is_immediate(kind) => Value::Const(i.immediate(n)).truncate(operand_size(i)),
            _ => Value::unknown(Source::Computed(i.ip())),
        }
    }

    fn set_operand(&self, i: &Instruction, n: u32, state: &mut State, value: Value) {
        match i.op_kind(n) {
            OpKind::Register => state.set_register(i.op_register(n), value),
            OpKind::Memory => {
                let size = i.memory_size().size();
                let address = Self::address(i, state);
                self.map.store(address, size, state, value.truncate(size));
            }
            _ => {}
        }
    }

    /// What the first operand is a copy of, for refining it after a branch.
    fn place(i: &Instruction, state: &State) -> Option<Place> {
        match i.op0_kind() {
            OpKind::Register => {
                // A part of a register stands for all of it only if the rest is zero.
                let part = state.register(i.op0_register());
                let whole = state.register(i.op0_register().full_register());
                super::state::register_index(i.op0_register())
                    .filter(|_| part == whole)
                    .map(Place::Register)
            }
            OpKind::Memory => {
                let address = Self::address(i, state);
                match (address.segment, address.variable) {
                    (Register::DS, None) => address
                        .fixed
                        .slot()
                        .map(|(stack, offset)| Place::Slot(Region::Stack(stack), offset)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Runs an instruction that is no branch.
    pub(super) fn step(&mut self, i: &Instruction, state: &mut State) {
        let at = i.ip();
        let size = operand_size(i);
        match i.mnemonic() {
            M::Mov | M::Movzx | M::Movnti => {
                let value = self.operand(i, 1, state);
                self.set_operand(i, 0, state, value);
            }
            M::Movsx | M::Movsxd => {
                let from = match i.op1_kind() {
                    OpKind::Register => i.op1_register().size(),
                    _ => i.memory_size().size(),
                };
                let value = self.operand(i, 1, state).sign_extend(from);
                self.set_operand(i, 0, state, value);
            }
            M::Cdqe => {
                let value = state.register(Register::EAX).sign_extend(4);
                state.set_register(Register::RAX, value);
            }
            M::Lea => {
                let address = Self::address(i, state);
                let value = match address.variable {
                    Some(variable) => address.fixed.add(variable),
                    None => address.fixed,
                };
                state.set_register(i.op0_register(), value);
            }
            M::Push => {
                let value = match i.op0_kind() {
                    kind if is_immediate(kind) => Value::Const(i.immediate(0)),
                    _ => self.operand(i, 0, state),
                };
                state.push(value);
            }
            M::Pop => {
                let rsp = state.rsp();
                let value = self.load_stack(rsp, state, at);
                state.set_register(Register::RSP, rsp.add(Value::Const(8)));
                self.set_operand(i, 0, state, value);
            }
            M::Leave => {
                let rbp = state.register(Register::RBP);
                let value = self.load_stack(rbp, state, at);
                state.set_register(Register::RSP, rbp.add(Value::Const(8)));
                state.set_register(Register::RBP, value);
            }
            M::Add | M::Sub | M::And | M::Or | M::Xor | M::Inc | M::Dec | M::Shl | M::Shr => {
                self.arithmetic(i, size, state);
            }
            M::Cmp | M::Test => {
                let (a, b) = (self.operand(i, 0, state), self.operand(i, 1, state));
                let place = Self::place(i, state);
                let size = if i.op0_kind() == OpKind::Register {
                    i.op0_register().size()
                } else {
                    size
                };
                state.flags = if i.mnemonic() == M::Cmp {
                    Flags::Difference { a, b, size, place }
                } else {
                    Flags::Conjunction { a, b, size, place }
                };
            }
            M::Xchg => {
                let (a, b) = (self.operand(i, 0, state), self.operand(i, 1, state));
                self.set_operand(i, 0, state, b);
                self.set_operand(i, 1, state, a);
            }
            M::Xadd => {
                let (a, b) = (self.operand(i, 0, state), self.operand(i, 1, state));
                self.set_operand(i, 0, state, a.add(b));
                state.set_register(i.op1_register(), a);
                state.flags = Flags::Unknown;
            }
            M::Rdmsr => Self::read_msr(state, at),
            M::Swapgs => state.gs = state.gs.swapped(),
            M::Wrgsbase => state.gs = self.map.gs_base(state.register(i.op0_register())),
            M::Movsb | M::Movsq | M::Stosb | M::Stosq if i.has_rep_prefix() => {
                Self::string(i, state);
            }
            _ if i.condition_code() != iced_x86::ConditionCode::None
                && i.op0_kind() == OpKind::Register =>
            {
                // CMOVcc and SETcc.
                let value = if i.op_count() == 2 {
                    let (a, b) = (self.operand(i, 0, state), self.operand(i, 1, state));
                    a.join(b, false)
                } else {
                    Value::Number {
                        max: 1,
                        source: Source::Computed(at),
                    }
                };
                state.set_register(i.op0_register(), value);
            }
            _ => self.anything(i, state),
        }
    }

    /// Without FSGSBASE, user mode cannot set a negative GS base, and the kernel's is negative:
    /// `paranoid_entry()` tells them apart by that. (With it, that branch is not run.)
    fn read_msr(state: &mut State, at: u64) {
        let msr = state.register(Register::RCX).truncate(4);
        let unknown = Value::unknown(Source::Computed(at)).truncate(4);
        let sign = |value| Value::Bits { mask: SIGN, value };
        let high = match (msr, state.gs) {
            (Value::Const(MSR_GS_BASE), GsBase::Kernel) => sign(SIGN).truncate(4),
            (Value::Const(MSR_GS_BASE), GsBase::User) => sign(0).truncate(4),
            _ => unknown,
        };
        state.set_register(Register::RAX, unknown);
        state.set_register(Register::RDX, high);
    }

    fn load_stack(&self, rsp: Value, state: &State, at: u64) -> Value {
        let address = Address {
            segment: Register::DS,
            fixed: rsp,
            variable: None,
        };
        self.map.load(address, 8, state, at)
    }

    fn arithmetic(&self, i: &Instruction, size: usize, state: &mut State) {
        let a = self.operand(i, 0, state);
        let same = i.op_count() == 2
            && i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op0_register() == i.op1_register();
        let b = match i.mnemonic() {
            M::Inc | M::Dec => Value::Const(1),
            M::Shl | M::Shr if is_immediate(i.op1_kind()) => Value::Const(i.immediate(1)),
            _ => self.operand(i, 1, state),
        };
        let value = match i.mnemonic() {
            M::Xor | M::Sub if same => Value::Const(0),
            M::Add | M::Inc => a.add(sign(b, size)),
            M::Sub | M::Dec => {
                let value = a.sub(sign(b, size));
                match value {
                    // An allocation of unknown size: what lies below does not depend on it, so
                    // the largest stands for all.
                    Value::Stack { stack, low, .. } if i.op0_register() == Register::RSP => {
                        Value::at(stack, low)
                    }
                    other => other,
                }
            }
            M::And => a.and(sign(b, size)),
            M::Or => a.or(b),
            M::Xor => a.xor(b),
            M::Shl => a.shift(true, b),
            _ => a.shift(false, b),
        };
        let value = value.truncate(size);
        self.set_operand(i, 0, state, value);
        state.flags = match i.mnemonic() {
            M::Sub => Flags::Difference {
                a,
                b,
                size,
                place: None,
            },
            M::Shl | M::Shr => Flags::Unknown,
            _ => Flags::Result { value, size },
        };
    }

    /// Everything else: what it writes is unknown afterwards.
    fn anything(&mut self, i: &Instruction, state: &mut State) {
        let unknown = Value::unknown(Source::Computed(i.ip()));
        for (address, size) in self.written(i, state) {
            self.map.store(address, size, state, unknown);
        }
        let registers = self.info.info(i).used_registers().to_vec();
        let rsp = state.rsp();
        for used in registers {
            if writes(used.access()) {
                let whole = used.register().full_register();
                state.set_register(whole, unknown);
                if used.register().size() < 8 && used.register().size() >= 4 {
                    state.set_register(whole, unknown.truncate(4));
                }
            }
        }
        if i.is_stack_instruction() {
            let moved = i64::from(i.stack_pointer_increment());
            state.set_register(Register::RSP, rsp.add(Value::Const(moved as u64)));
        }
        if i.rflags_modified() != 0 {
            state.flags = Flags::Unknown;
        }
    }
}
