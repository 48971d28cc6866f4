// SPDX-License-Identifier: GPL-2.0

//! What is known at one point of one path: registers, flags, stack slots, the phase.

use super::value::{STACK_SIZE, Source, Stack, Value};
use iced_x86::{ConditionCode, Register};
use std::collections::BTreeMap;

/// What is done with accesses here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    /// Before the flush: every access counts.
    Entry,
    /// After the flush, until the state changes to user: nothing counts, and only functions that
    /// can lead to user mode are followed.
    Kernel,
    /// From the state change to user mode: every access counts.
    Exit,
}

/// Memory whose contents are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Region {
    Stack(Stack),
    PerCpu,
}

/// Something that a comparison was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Register(usize),
    Slot(Region, i64),
}

/// Where the processor, or the entry code, saves CS: from the top of the stack.
pub(super) const SAVED_CS: i64 = -32;

/// The CS of user mode: privilege level 3.
pub(super) const USER_CS: Value = Value::Bits { mask: 3, value: 3 };
/// Size of struct pt_regs on x86-64.
pub(super) const PT_REGS: i64 = 21 * 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    size: usize,
    value: Value,
}

/// Where the flags come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    Unknown,
    /// CMP or SUB.
    Difference {
        a: Value,
        b: Value,
        size: usize,
        place: Option<Place>,
    },
    /// TEST or AND.
    Conjunction {
        a: Value,
        b: Value,
        size: usize,
        place: Option<Place>,
    },
    /// Of another operation: zero and sign flags only.
    Result {
        value: Value,
        size: usize,
    },
}

/// Whose per-CPU base the GS segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum GsBase {
    User,
    Kernel,
    Either,
}

impl GsBase {
    /// After SWAPGS.
    pub(super) fn swapped(self) -> Self {
        match self {
            Self::User => Self::Kernel,
            Self::Kernel => Self::User,
            Self::Either => Self::Either,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    registers: [Value; 16],
    slots: BTreeMap<(Region, i64), Slot>,
    pub(super) flags: Flags,
    pub(super) gs: GsBase,
}

pub(super) fn register_index(register: Register) -> Option<usize> {
    let full = register.full_register();
    (full.is_gpr64()).then(|| full.number())
}

impl State {
    pub(super) fn new(gs: GsBase) -> Self {
        Self {
            registers: [Value::unknown(Source::User); 16],
            slots: BTreeMap::new(),
            flags: Flags::Unknown,
            gs,
        }
    }

    pub(super) fn register(&self, register: Register) -> Value {
        let Some(index) = register_index(register) else {
            return Value::unknown(Source::Computed(0));
        };
        let value = self.registers[index];
        match register {
            Register::AH | Register::BH | Register::CH | Register::DH => {
                value.shift(false, Value::Const(8)).truncate(1)
            }
            _ => value.truncate(register.size()),
        }
    }

    pub(super) fn set_register(&mut self, register: Register, value: Value) {
        let Some(index) = register_index(register) else {
            return;
        };
        self.registers[index] = match register.size() {
            8 => value,
            4 => value.truncate(4),
            _ => Value::unknown(Source::Computed(0)),
        };
        self.forget(Place::Register(index));
    }

    pub(super) fn rsp(&self) -> Value {
        self.register(Register::RSP)
    }

    fn forget(&mut self, changed: Place) {
        if let Flags::Difference { place, .. } | Flags::Conjunction { place, .. } = &mut self.flags
        {
            if *place == Some(changed) {
                *place = None;
            }
        }
    }

    /// What a slot is known to have; a part of it, from its start, is known, too.
    pub(super) fn load(&self, region: Region, offset: i64, size: usize) -> Option<Value> {
        let slot = self.slots.get(&(region, offset))?;
        (size <= slot.size).then(|| slot.value.truncate(size))
    }

    /// Writes to anywhere between two offsets.
    pub(super) fn store(&mut self, region: Region, low: i64, high: i64, size: usize, value: Value) {
        let end = high.saturating_add(i64::try_from(size).unwrap_or(STACK_SIZE));
        let changed: Vec<_> = self
            .slots
            .range((region, low.saturating_sub(64))..(region, end))
            .filter(|((_, at), slot)| at + i64::try_from(slot.size).unwrap_or(0) > low)
            .map(|(key, _)| *key)
            .collect();
        for key in changed {
            self.slots.remove(&key);
            self.forget(Place::Slot(key.0, key.1));
        }
        self.forget(Place::Slot(region, low));
        if low == high && size <= 8 {
            self.slots.insert((region, low), Slot { size, value });
        }
    }

    /// What a function leaves of the user registers that can get hold of them. Whoever writes CS
    /// (ptrace, signal return, exec) leaves its privilege level at user mode's.
    pub(super) fn forget_user_registers(&mut self) {
        let task = Region::Stack(Stack::Task);
        let is_user = match self.load(task, SAVED_CS, 1) {
            Some(Value::Const(cs)) => cs & 3 == 3,
            Some(Value::Bits { mask, value }) => mask & value & 3 == 3,
            _ => false,
        };
        let unknown = Value::unknown(Source::User);
        self.store(task, -PT_REGS, -1, 1, unknown);
        if is_user {
            self.store(task, SAVED_CS, SAVED_CS, 8, USER_CS);
        }
    }

    /// Whether anything is followed between two offsets.
    pub(super) fn has_slots(&self, region: Region, low: i64, end: i64) -> bool {
        self.slots
            .range((region, low.saturating_sub(64))..(region, end))
            .any(|((_, at), slot)| at + i64::try_from(slot.size).unwrap_or(0) > low)
    }

    /// Copies what is known of `length` bytes.
    pub(super) fn copy(&mut self, to: (Stack, i64), from: (Stack, i64), length: i64) {
        let (source, target) = (Region::Stack(from.0), Region::Stack(to.0));
        let known: Vec<_> = self
            .slots
            .range((source, from.1)..(source, from.1 + length))
            .filter(|((_, at), slot)| at + i64::try_from(slot.size).unwrap_or(0) <= from.1 + length)
            .map(|((_, at), slot)| (to.1 + (at - from.1), *slot))
            .collect();
        self.store(target, to.1, to.1 + length - 1, 1, Value::Const(0));
        for (at, slot) in known {
            self.slots.insert((target, at), slot);
        }
    }

    pub(super) fn push(&mut self, value: Value) {
        let rsp = self.rsp().sub(Value::Const(8));
        self.set_register(Register::RSP, rsp);
        if let Value::Stack { stack, low, high } = rsp {
            self.store(Region::Stack(stack), low, high, 8, value);
        }
    }

    /// What a call leaves of the registers.
    pub(super) fn clobber_caller_saved(&mut self, at: u64) {
        for register in [
            Register::RAX,
            Register::RCX,
            Register::RDX,
            Register::RSI,
            Register::RDI,
            Register::R8,
            Register::R9,
            Register::R10,
            Register::R11,
        ] {
            self.set_register(register, Value::unknown(Source::Computed(at)));
        }
        self.flags = Flags::Unknown;
    }

    /// Takes in what holds on another way here. Returns whether that changed anything.
    pub(super) fn join(&mut self, other: &Self, widen: bool) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers) {
            *mine = mine.join(theirs, widen);
        }
        self.slots.retain(|key, mine| {
            other.slots.get(key).is_some_and(|theirs| {
                let size = mine.size.min(theirs.size);
                mine.value = mine
                    .value
                    .truncate(size)
                    .join(theirs.value.truncate(size), widen);
                mine.size = size;
                true
            })
        });
        if self.flags != other.flags {
            self.flags = Flags::Unknown;
        }
        if self.gs != other.gs {
            self.gs = GsBase::Either;
        }
        *self != before
    }

    /// Whether a condition holds, if that is known.
    pub(super) fn decide(&self, condition: ConditionCode) -> Option<bool> {
        use ConditionCode as C;
        let (zero, below, less, sign) = match self.flags {
            Flags::Unknown => return None,
            Flags::Difference { a, b, size, .. } => difference(a, b, size),
            Flags::Conjunction { a, b, size, .. } => {
                let both = if a == b { a } else { a.and(b) };
                let (zero, sign) = result(both.truncate(size), size);
                (zero, Some(false), sign, sign)
            }
            Flags::Result { value, size } => {
                let (zero, sign) = result(value.truncate(size), size);
                (zero, None, None, sign)
            }
        };
        let either = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        };
        match condition {
            C::e => zero,
            C::ne => zero.map(|z| !z),
            C::b => below,
            C::ae => below.map(|b| !b),
            C::be => either(below, zero),
            C::a => either(below, zero).map(|x| !x),
            C::s => sign,
            C::ns => sign.map(|s| !s),
            C::l => less,
            C::ge => less.map(|l| !l),
            C::le => either(less, zero),
            C::g => either(less, zero).map(|x| !x),
            _ => None,
        }
    }

    /// Whether a comparison of this size was about all that is followed at a place, and no more.
    /// (Registers are places only if it was.)
    fn is_whole(&self, place: Place, size: usize) -> bool {
        match place {
            Place::Register(_) => true,
            Place::Slot(region, offset) => self
                .slots
                .get(&(region, offset))
                .is_none_or(|slot| slot.size == size),
        }
    }

    /// What is known once a condition is known to hold.
    pub(super) fn refine(&mut self, condition: ConditionCode) {
        use ConditionCode as C;
        let (place, value) = match self.flags {
            Flags::Difference {
                a: Value::Number { max, source },
                b: Value::Const(n),
                place: Some(place),
                size,
            } if self.is_whole(place, size) => {
                let value = match condition {
                    C::e => Value::Const(n),
                    C::b if n > 0 => Value::Number {
                        max: max.min(n - 1),
                        source,
                    },
                    C::be => Value::Number {
                        max: max.min(n),
                        source,
                    },
                    _ => return,
                };
                (place, value)
            }
            Flags::Conjunction {
                a: a @ Value::Number { max, source },
                b,
                place: Some(place),
                size,
            } if a == b => {
                if !self.is_whole(place, size) {
                    return;
                }
                let value = match condition {
                    C::e => Value::Const(0),
                    C::ne => Value::Nonzero { max, source },
                    _ => return,
                };
                (place, value)
            }
            Flags::Conjunction {
                a: Value::Number { .. },
                b: Value::Const(mask),
                place: Some(place),
                ..
            } => {
                let is_cs = place == Place::Slot(Region::Stack(Stack::Task), SAVED_CS)
                    || place == Place::Slot(Region::Stack(Stack::Entry), SAVED_CS);
                let value = match condition {
                    C::e => 0,
                    // user_mode(): the kernel knows privilege levels 0 and 3 only.
                    C::ne if mask == 3 && is_cs || mask.is_power_of_two() => mask,
                    _ => return,
                };
                (place, Value::Bits { mask, value })
            }
            _ => return,
        };
        match place {
            Place::Register(index) => self.registers[index] = value,
            Place::Slot(region, offset) => {
                let size = self
                    .slots
                    .get(&(region, offset))
                    .map_or(1, |slot| slot.size);
                self.slots.insert((region, offset), Slot { size, value });
            }
        }
    }
}

/// Zero and sign.
fn result(value: Value, size: usize) -> (Option<bool>, Option<bool>) {
    let top = 1u64 << (8 * size - 1);
    match value {
        Value::Const(n) => (Some(n == 0), Some(n & top != 0)),
        Value::Bits { mask, value } => (
            (value & mask != 0).then_some(false),
            (mask & top != 0).then_some(value & top != 0),
        ),
        Value::Number { max, .. } => (None, (max < top).then_some(false)),
        Value::Nonzero { max, .. } => (Some(false), (max < top).then_some(false)),
        _ => (Some(false), None),
    }
}

/// Zero, below, less, sign of `a - b`.
type Outcome = (Option<bool>, Option<bool>, Option<bool>, Option<bool>);

fn difference(a: Value, b: Value, size: usize) -> Outcome {
    // There are several entry and exception stacks, but one of each of the others.
    if let (Some(a), Some(b)) = (a.slot(), b.slot()) {
        if a.0 == b.0 && a.0 != Stack::Entry {
            return (Some(a.1 == b.1), Some(a.1 < b.1), None, Some(a.1 < b.1));
        }
    }
    if let (Value::Stack { stack: x, .. }, Value::Stack { stack: y, .. }) = (a, b) {
        if x != y {
            return (Some(false), None, None, None);
        }
    }
    match (a.truncate(size), b.truncate(size)) {
        (Value::Const(x), Value::Const(y)) => {
            let shift = 64 - 8 * size;
            let signed = |n: u64| ((n << shift) as i64) >> shift;
            let sign = signed(x.wrapping_sub(y)) < 0;
            (
                Some(x == y),
                Some(x < y),
                Some(signed(x) < signed(y)),
                Some(sign),
            )
        }
        (Value::Bits { mask, value }, Value::Const(n))
        | (Value::Const(n), Value::Bits { mask, value })
            if (value ^ n) & mask != 0 =>
        {
            (Some(false), None, None, None)
        }
        (x, Value::Const(n)) if x.max().is_some_and(|max| max < n) => {
            (Some(false), Some(true), None, None)
        }
        _ => (None, None, None, None),
    }
}
