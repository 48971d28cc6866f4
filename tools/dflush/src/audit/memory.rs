// SPDX-License-Identifier: GPL-2.0

//! Where an address lies, and what a load from there gives.

use super::allowlist_file::{Holds, Yield};
use super::config::Allowlist;
use super::state::{GsBase, PT_REGS, Region, State};
use super::value::{Source, Stack, Value};
use crate::image::Image;
use anyhow::Result;
use iced_x86::Register;
use serde::Serialize;
use std::collections::HashMap;

/// The kinds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    Stack,
    PtRegs,
    PerCpu,
    KernelImage,
    CurrentTask,
    DescriptorTable,
    CpuEntryArea,
    Constant,
    /// A GS access while GS may have user mode's base, or any FS access.
    Segment,
    Unknown,
}

impl Class {
    pub(super) const ALL: [Self; 10] = [
        Self::Stack,
        Self::PtRegs,
        Self::PerCpu,
        Self::KernelImage,
        Self::CurrentTask,
        Self::DescriptorTable,
        Self::CpuEntryArea,
        Self::Constant,
        Self::Segment,
        Self::Unknown,
    ];

    pub(super) fn is_finding(self) -> bool {
        matches!(self, Self::Segment | Self::Unknown)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::PtRegs => "pt_regs",
            Self::PerCpu => "static per-CPU",
            Self::KernelImage => "kernel image",
            Self::CurrentTask => "current task",
            Self::DescriptorTable => "descriptor table",
            Self::CpuEntryArea => "cpu_entry_area",
            Self::Constant => "constant",
            Self::Segment => "segment",
            Self::Unknown => "unknown",
        }
    }
}

const CPU_ENTRY_AREA: std::ops::Range<u64> = 0xffff_fe00_0000_0000..0xffff_fe80_0000_0000;
const FIXMAP: std::ops::RangeFrom<u64> = 0xffff_ffff_ff00_0000..;

/// An address, as far as it is known, and the segment it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) segment: Register,
    pub(super) fixed: Value,
    /// What is added to it, unscaled bytes.
    pub(super) variable: Option<Value>,
}

/// The map of the kernel's memory.
pub(super) struct Map<'a> {
    pub(super) image: &'a Image,
    pub(super) allow: &'a Allowlist,
    text: (u64, u64),
    per_cpu: (u64, u64),
    task_size: i64,
    pointers: HashMap<u64, (usize, Yield)>,
}

impl<'a> Map<'a> {
    pub(super) fn new(image: &'a Image, allow: &'a Allowlist) -> Result<Self> {
        let task = image.require("init_task")?;
        let task_end = image.symbols.next_after(task).unwrap_or(task);
        let mut pointers = HashMap::new();
        for (index, pointer) in allow.pointers().iter().enumerate() {
            if let Some(address) = image.symbols.address(&pointer.symbol) {
                pointers.insert(address + pointer.offset, (index, pointer.yields));
            }
        }
        Ok(Self {
            image,
            allow,
            text: (image.require("_text")?, image.require("_end")?),
            per_cpu: (
                image.require("__per_cpu_start")?,
                image.require("__per_cpu_end")?,
            ),
            task_size: i64::try_from(task_end - task)?,
            pointers,
        })
    }

    fn is_per_cpu(&self, address: u64) -> bool {
        (self.per_cpu.0..self.per_cpu.1).contains(&address)
    }

    fn is_image(&self, address: u64) -> bool {
        (self.text.0..self.text.1).contains(&address) && !self.is_per_cpu(address)
    }

    pub(super) fn classify(&self, address: Address, size: usize, state: &State) -> Class {
        let size = size as u64;
        let reach = match address.variable {
            None => Some(0),
            Some(value) => value.max(),
        };
        let Some(reach) = reach.filter(|reach| *reach < 1 << 32) else {
            return Class::Unknown;
        };
        let last = reach + size.max(1) - 1;
        match address.segment {
            Register::GS => {
                if state.gs != GsBase::Kernel {
                    return Class::Segment;
                }
                return match address.fixed {
                    Value::Const(a)
                        if self.is_per_cpu(a) && self.is_per_cpu(a.saturating_add(last)) =>
                    {
                        Class::PerCpu
                    }
                    _ => Class::Unknown,
                };
            }
            Register::FS => return Class::Segment,
            _ => {}
        }
        match address.fixed {
            Value::Stack { stack, low, high } => {
                let high = high.saturating_add_unsigned(last);
                // FRED leaves 16 bytes free at the top.
                let end = if stack == Stack::Task { 16 } else { 0 };
                if high >= end || low < -stack.size() {
                    Class::Unknown
                } else if low >= -PT_REGS && high < 0 {
                    Class::PtRegs
                } else {
                    Class::Stack
                }
            }
            Value::PerCpu(a) if self.is_per_cpu(a) && self.is_per_cpu(a.saturating_add(last)) => {
                Class::PerCpu
            }
            Value::Task(offset) if offset >= 0 && offset + (last as i64) < self.task_size => {
                Class::CurrentTask
            }
            Value::Const(a) if self.is_image(a) && self.is_image(a.saturating_add(last)) => {
                Class::KernelImage
            }
            Value::Const(a) if CPU_ENTRY_AREA.contains(&a) => Class::CpuEntryArea,
            Value::Const(a) if FIXMAP.contains(&a) && reach == 0 => Class::Constant,
            _ => Class::Unknown,
        }
    }

    /// The per-CPU variable that an address names.
    pub(super) fn per_cpu_variable(&self, address: Address) -> Option<u64> {
        if address.variable.is_some() {
            return None;
        }
        match (address.segment, address.fixed) {
            (Register::GS, Value::Const(a)) | (_, Value::PerCpu(a)) if self.is_per_cpu(a) => {
                Some(a)
            }
            _ => None,
        }
    }

    pub(super) fn load(&self, address: Address, size: usize, state: &State, at: u64) -> Value {
        let bound = |source| Value::unknown(source).truncate(size);
        if let Some(variable) = self.per_cpu_variable(address) {
            if size == 8 {
                if let Some((index, yields)) = self.pointers.get(&variable) {
                    self.allow.use_pointer(*index);
                    return match yields {
                        Yield::Task => Value::Task(0),
                        Yield::PerCpuOffset => Value::PerCpu(0),
                        Yield::TaskStackTop => Value::at(Stack::Task, 0),
                        Yield::EntryStackTop => Value::at(Stack::Entry, 0),
                        Yield::IrqStackTop => Value::at(Stack::Irq, 0),
                    };
                }
            }
            let known = i64::try_from(variable.wrapping_sub(self.per_cpu.0))
                .ok()
                .and_then(|offset| state.load(Region::PerCpu, offset, size));
            if known.is_some() {
                self.use_memory(variable);
            }
            return known.unwrap_or_else(|| bound(Source::PerCpu(variable)));
        }
        if address.segment == Register::GS || address.segment == Register::FS {
            return bound(Source::Loaded(at));
        }
        match (address.fixed, address.variable) {
            (Value::Const(a), None) if self.is_image(a) => {
                if size == 8 {
                    if let Some(symbol) = self.image.symbols.at(a) {
                        if self.allow.image_pointer(&symbol.name, a - symbol.address) {
                            if let Ok(value) = self.image.u64(a) {
                                return Value::Const(value);
                            }
                        }
                    }
                }
                bound(Source::Image(a))
            }
            (Value::Const(a), Some(_)) if self.is_image(a) => bound(Source::ImageAt(a)),
            (Value::Task(offset), _) => bound(Source::Task(offset)),
            (Value::Stack { stack, low, high }, None) if low == high => state
                .load(Region::Stack(stack), low, size)
                .unwrap_or_else(|| {
                    bound(if (-PT_REGS..0).contains(&low) {
                        Source::User
                    } else {
                        Source::Stack
                    })
                }),
            (Value::Stack { .. }, _) => bound(Source::Stack),
            _ => bound(Source::Loaded(at)),
        }
    }

    pub(super) fn store(&self, address: Address, size: usize, state: &mut State, value: Value) {
        let length = i64::try_from(size).unwrap_or(i64::MAX);
        if let Some(variable) = self.per_cpu_variable(address) {
            let offset = variable.wrapping_sub(self.per_cpu.0) as i64;
            // Only what is followed is kept, so that states stay small and settle.
            if state.has_slots(Region::PerCpu, offset, offset.saturating_add(length)) {
                state.store(Region::PerCpu, offset, offset, size, value);
            }
        } else if let (Register::GS, Value::Const(a)) | (_, Value::PerCpu(a)) =
            (address.segment, address.fixed)
        {
            // At an index: it may be any of them. (With no variable to start from it is a
            // pointer, to dynamic memory.)
            if self.is_per_cpu(a) {
                state.store(Region::PerCpu, 0, i64::MAX, 1, value);
            }
        } else if let Value::Stack { stack, low, high } = address.fixed {
            let reach = address.variable.map_or(Some(0), Value::max).unwrap_or(0);
            let high = high.saturating_add_unsigned(reach.min(1 << 20));
            state.store(Region::Stack(stack), low, high, size, value);
        }
    }

    /// What WRGSBASE of a value makes of GS: the kernel's if it is this CPU's base of per-CPU data,
    /// as kept or as looked up by its number.
    pub(super) fn gs_base(&self, value: Value) -> GsBase {
        match value.plain() {
            Value::PerCpu(0) => GsBase::Kernel,
            Value::Number {
                source: Source::ImageAt(table),
                ..
            } if self.image.symbols.address("__per_cpu_offset") == Some(table) => GsBase::Kernel,
            _ => GsBase::Either,
        }
    }

    /// Where the state word is followed.
    pub(super) fn state_word(&self) -> i64 {
        let protocol = self.allow.protocol();
        let variable = self
            .image
            .symbols
            .address(&protocol.state)
            .unwrap_or(self.per_cpu.0);
        (variable + protocol.state_offset).wrapping_sub(self.per_cpu.0) as i64
    }

    /// Notes that an assumed value was of use.
    fn use_memory(&self, variable: u64) {
        for memory in self.allow.memory() {
            let address = self.image.symbols.address(&memory.symbol);
            if address.is_some_and(|a| a + memory.offset == variable) {
                self.allow.use_memory(memory);
            }
        }
    }

    /// Puts the values of per-CPU variables that are assumed to hold there into a state.
    pub(super) fn assume_memory(&self, state: &mut State, holds: Holds) -> Result<()> {
        for memory in self.allow.memory().iter().filter(|m| m.holds >= holds) {
            let address = self.image.require(&memory.symbol)? + memory.offset;
            anyhow::ensure!(
                self.is_per_cpu(address),
                "{} is no static per-CPU variable",
                memory.symbol
            );
            let offset = i64::try_from(address - self.per_cpu.0)?;
            let all = if memory.size >= 8 {
                u64::MAX
            } else {
                (1 << (8 * memory.size)) - 1
            };
            let value = Value::Bits {
                mask: memory.mask | !all,
                value: memory.value,
            }
            .and(Value::Const(u64::MAX));
            state.store(Region::PerCpu, offset, offset, memory.size, value);
        }
        Ok(())
    }

    /// An address in words that do not change when functions move.
    pub(super) fn describe(&self, address: Address) -> String {
        let segment = match address.segment {
            Register::GS => "gs:",
            Register::FS => "fs:",
            _ => "",
        };
        let fixed = match address.fixed {
            Value::Const(0) if address.variable.is_some() => String::new(),
            other => self.describe_value(other),
        };
        let variable = address.variable.map(|v| self.describe_value(v));
        match variable {
            Some(variable) if fixed.is_empty() => format!("{segment}[{variable}]"),
            Some(variable) => format!("{segment}[{variable} + {fixed}]"),
            None => format!("{segment}[{fixed}]"),
        }
    }

    fn describe_value(&self, value: Value) -> String {
        let symbols = &self.image.symbols;
        match value {
            Value::Const(a) if self.is_image(a) || self.is_per_cpu(a) => symbols.describe(a),
            Value::Const(a) => format!("{a:#x}"),
            Value::Bits { .. } => "bits".into(),
            Value::Stack { stack, .. } => format!("{stack}"),
            Value::PerCpu(0) => "this_cpu_off".into(),
            Value::PerCpu(a) => format!("percpu {}", symbols.describe(a)),
            Value::Task(offset) => format!("task+{offset:#x}"),
            Value::Number { source, .. } | Value::Nonzero { source, .. } => {
                self.describe_source(source)
            }
        }
    }

    pub(super) fn describe_source(&self, source: Source) -> String {
        let symbols = &self.image.symbols;
        match source {
            Source::PerCpu(a) => format!("*percpu {}", symbols.describe(a)),
            Source::Image(a) => format!("*{}", symbols.describe(a)),
            Source::ImageAt(a) => format!("*{}[]", symbols.describe(a)),
            Source::Task(offset) => format!("*task+{offset:#x}"),
            Source::User => "user".into(),
            Source::Stack => "stack value".into(),
            Source::Loaded(_) => "loaded".into(),
            Source::Computed(_) => "computed".into(),
        }
    }
}
