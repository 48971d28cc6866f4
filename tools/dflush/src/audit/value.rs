// SPDX-License-Identifier: GPL-2.0

//! What is known about a value: the lattice of the abstract interpretation.

use std::fmt;

/// A stack, as an object that addresses are relative to. Offset 0 is its top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stack {
    /// The stack of the current task.
    Task,
    /// The entry stack in cpu_entry_area, or an interrupt stack table's.
    Entry,
    /// The stack of hardware interrupts.
    Irq,
}

/// No stack is larger than this.
pub(super) const STACK_SIZE: i64 = 0x4000;

impl Stack {
    /// THREAD_SIZE, IRQ_STACK_SIZE; a page for the entry stack, and EXCEPTION_STKSZ.
    pub(super) fn size(self) -> i64 {
        match self {
            Stack::Task | Stack::Irq => STACK_SIZE,
            Stack::Entry => 0x1000,
        }
    }
}

/// Where an unknown value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// Loaded from static per-CPU data.
    PerCpu(u64),
    /// Loaded from the kernel image.
    Image(u64),
    /// Loaded from the kernel image, at an index.
    ImageAt(u64),
    /// Loaded from the current task.
    Task(i64),
    /// Loaded from pt_regs, or a register that user mode set.
    User,
    /// Loaded from a stack.
    Stack,
    /// Loaded through a pointer that is itself unknown; the address is the load's.
    Loaded(u64),
    /// Computed, or returned by a function that was not followed; the address is the instruction's.
    Computed(u64),
}

/// An abstract value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Any number up to `max`.
    Number { max: u64, source: Source },
    /// A number that is not zero.
    Nonzero { max: u64, source: Source },
    /// Exactly this.
    Const(u64),
    /// These bits are known.
    Bits { mask: u64, value: u64 },
    /// Into a stack, between two offsets from its top.
    Stack { stack: Stack, low: i64, high: i64 },
    /// This CPU's per-CPU offset plus a constant.
    PerCpu(u64),
    /// The current task plus a constant.
    Task(i64),
}

use Value::{Bits, Const, Nonzero, Number, PerCpu, Task};

impl Value {
    pub(super) fn unknown(source: Source) -> Self {
        Number {
            max: u64::MAX,
            source,
        }
    }

    pub(super) fn at(stack: Stack, offset: i64) -> Self {
        Value::Stack {
            stack,
            low: offset,
            high: offset,
        }
    }

    pub(super) fn constant(self) -> Option<u64> {
        match self {
            Const(value) => Some(value),
            _ => None,
        }
    }

    /// A stack slot that is exactly known.
    pub(super) fn slot(self) -> Option<(Stack, i64)> {
        match self {
            Value::Stack { stack, low, high } if low == high => Some((stack, low)),
            _ => None,
        }
    }

    /// The largest number that it can be; nothing for a pointer.
    pub(super) fn max(self) -> Option<u64> {
        match self {
            Number { max, .. } | Nonzero { max, .. } => Some(max),
            Const(value) => Some(value),
            Bits { mask, value } => Some(value | !mask),
            _ => None,
        }
    }

    /// Without the knowledge that it is not zero.
    pub(super) fn plain(self) -> Self {
        match self {
            Nonzero { max, source } => Number { max, source },
            other => other,
        }
    }

    fn source(self) -> Source {
        match self {
            Number { source, .. } | Nonzero { source, .. } => source,
            PerCpu(address) => Source::PerCpu(address),
            Task(offset) => Source::Task(offset),
            Value::Stack { .. } => Source::Stack,
            Const(_) | Bits { .. } => Source::Computed(0),
        }
    }

    /// The low `size` bytes, zero-extended.
    pub(super) fn truncate(self, size: usize) -> Self {
        if size >= 8 {
            return self;
        }
        let all = (1u64 << (8 * size)) - 1;
        match self {
            Nonzero { max, .. } if max <= all => self,
            Number { max, source } | Nonzero { max, source } => Number {
                max: max.min(all),
                source,
            },
            Const(value) => Const(value & all),
            Bits { mask, value } => Bits {
                mask: mask | !all,
                value: value & all,
            },
            pointer => Number {
                max: all,
                source: pointer.source(),
            },
        }
        .normal()
    }

    /// Sign-extended from `size` bytes.
    pub(super) fn sign_extend(self, size: usize) -> Self {
        if size >= 8 {
            return self;
        }
        let bits = 64 - 8 * u32::try_from(size).unwrap_or(8);
        match self.truncate(size) {
            Const(value) => Const((((value << bits) as i64) >> bits) as u64),
            Number { max, source } | Nonzero { max, source } if max >> (63 - bits) != 0 => {
                Value::unknown(source)
            }
            Bits { mask, value } => {
                // What lies above the sign is a copy of it.
                let sign = 1u64 << (63 - bits);
                let above = !(sign - 1);
                match (mask & sign, value & sign) {
                    (0, _) => Self::common(mask & !above, value),
                    (_, 0) => Bits { mask, value },
                    _ => Bits {
                        mask,
                        value: value | above,
                    },
                }
            }
            other => other,
        }
    }

    fn normal(self) -> Self {
        match self {
            Bits {
                mask: u64::MAX,
                value,
            } => Const(value),
            other => other,
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            (Const(a), Const(b)) => Const(a.wrapping_add(b)),
            (Value::Stack { stack, low, high }, Const(n))
            | (Const(n), Value::Stack { stack, low, high }) => bounded(
                stack,
                low.wrapping_add(n as i64),
                high.wrapping_add(n as i64),
            ),
            (Value::Stack { stack, low, high }, number)
            | (number, Value::Stack { stack, low, high }) => match number.max() {
                Some(max) if max <= STACK_SIZE as u64 => bounded(stack, low, high + max as i64),
                _ => Value::unknown(Source::Stack),
            },
            (PerCpu(a), Const(b)) | (Const(a), PerCpu(b)) => PerCpu(a.wrapping_add(b)),
            (Task(a), Const(b)) | (Const(b), Task(a)) => Task(a.wrapping_add(b as i64)),
            // What is known of the low bits goes on from bit to bit.
            (Bits { mask, value }, Const(n)) | (Const(n), Bits { mask, value }) => {
                let low = 1u64
                    .checked_shl(mask.trailing_ones())
                    .unwrap_or(0)
                    .wrapping_sub(1);
                Self::common(low, value.wrapping_add(n))
            }
            (Number { max, source }, number) | (number, Number { max, source }) => {
                match number.max().and_then(|other| max.checked_add(other)) {
                    Some(max) => Number { max, source },
                    None => Value::unknown(source),
                }
            }
            (a, b) => Value::unknown(a.source().min(b.source())),
        }
    }

    pub(super) fn sub(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            (a, Const(b)) => a.add(Const(b.wrapping_neg())),
            (Value::Stack { stack, low, high }, number) => match number.max() {
                Some(max) if max <= STACK_SIZE as u64 => bounded(stack, low - max as i64, high),
                _ => Value::unknown(Source::Stack),
            },
            (a, b) => Value::unknown(a.source().min(b.source())),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            (Const(a), Const(b)) => Const(a & b),
            (Bits { mask, value }, Const(n)) | (Const(n), Bits { mask, value }) => Bits {
                mask: mask | !n,
                value: value & n,
            }
            .normal(),
            // Alignment of the stack pointer.
            (Value::Stack { stack, low, high }, Const(n))
                if (n as i64) < 0 && n.count_zeros() == n.trailing_zeros() =>
            {
                // Every stack is aligned to more than any such mask.
                if low == high {
                    Value::at(stack, low & n as i64)
                } else {
                    bounded(stack, low - (!n) as i64, high)
                }
            }
            (Number { max, source }, Const(n)) | (Const(n), Number { max, source }) => Number {
                max: max.min(n),
                source,
            },
            (a, b) => match (a.max(), b.max()) {
                (Some(x), Some(y)) => Number {
                    max: x.min(y),
                    source: a.source().min(b.source()),
                },
                _ => Value::unknown(a.source().min(b.source())),
            },
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            (Const(a), Const(b)) => Const(a | b),
            (a, b) => match (a.max(), b.max()) {
                (Some(x), Some(y)) => Number {
                    max: filled(x | y),
                    source: a.source().min(b.source()),
                },
                _ => Value::unknown(a.source().min(b.source())),
            },
        }
    }

    pub(super) fn xor(self, other: Self) -> Self {
        match (self.plain(), other.plain()) {
            (Const(a), Const(b)) => Const(a ^ b),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn shift(self, left: bool, count: Self) -> Self {
        let source = self.source();
        let Some(count) = count.constant().map(|n| n & 63) else {
            return match self.max() {
                Some(max) if !left => Number { max, source },
                _ => Value::unknown(source),
            };
        };
        match (self, left) {
            (Const(value), true) => Const(value << count),
            (Const(value), false) => Const(value >> count),
            (value, _) => match value.max() {
                Some(max) if !left => Number {
                    max: max >> count,
                    source,
                },
                Some(max) if u64::from(max.leading_zeros()) >= count => Number {
                    max: max << count,
                    source,
                },
                _ => Value::unknown(source),
            },
        }
    }

    /// What holds of both. `widen` makes it settle at once, for loops.
    pub(super) fn join(self, other: Self, widen: bool) -> Self {
        if self == other {
            return self;
        }
        match (self, other) {
            (Nonzero { max, .. }, Nonzero { max: other_max, .. }) => Nonzero {
                max: if max == other_max {
                    max
                } else {
                    filled(max.max(other_max))
                },
                source: join_source(self, other),
            },
            (
                Value::Stack { stack, low, high },
                Value::Stack {
                    stack: other_stack,
                    low: other_low,
                    high: other_high,
                },
            ) if stack == other_stack => {
                let (mut new_low, mut new_high) = (low.min(other_low), high.max(other_high));
                if widen {
                    new_low = if new_low < low { -stack.size() } else { low };
                    new_high = if new_high > high {
                        0.max(other_high)
                    } else {
                        high
                    };
                }
                Value::Stack {
                    stack,
                    low: new_low,
                    high: new_high.max(new_low),
                }
            }
            (
                Bits { mask, value },
                Bits {
                    mask: other_mask,
                    value: other_value,
                },
            ) => Self::common(mask & other_mask & !(value ^ other_value), value),
            (Bits { mask, value }, Const(n)) | (Const(n), Bits { mask, value }) => {
                Self::common(mask & !(value ^ n), value)
            }
            (a, b) => match (a.max(), b.max()) {
                (Some(x), Some(y)) => Number {
                    max: if x == y { x } else { filled(x.max(y)) },
                    source: join_source(a, b),
                },
                _ => Value::unknown(join_source(a, b)),
            },
        }
    }

    fn common(mask: u64, value: u64) -> Self {
        if mask == 0 {
            Value::unknown(Source::Computed(0))
        } else {
            Bits {
                mask,
                value: value & mask,
            }
        }
    }
}

/// A pointer is the more telling of two sources.
fn join_source(a: Value, b: Value) -> Source {
    match (a, b) {
        (Const(_) | Bits { .. }, other) | (other, Const(_) | Bits { .. }) => other.source(),
        (a, b) => a.source().min(b.source()),
    }
}

/// A place in a stack; unknown if it may lie outside.
fn bounded(stack: Stack, low: i64, high: i64) -> Value {
    if low < -stack.size() || high > STACK_SIZE {
        return Value::unknown(Source::Stack);
    }
    Value::Stack { stack, low, high }
}

/// All bits below the highest one of `max`.
fn filled(max: u64) -> u64 {
    max.checked_add(1)
        .and_then(u64::checked_next_power_of_two)
        .map_or(u64::MAX, |n| n - 1)
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stack::Task => "task stack",
            Stack::Entry => "entry stack",
            Stack::Irq => "interrupt stack",
        })
    }
}
