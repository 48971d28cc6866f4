// SPDX-License-Identifier: GPL-2.0

//! Which part of the kernel's address space an address lies in.
//!
//! The borders that a kernel chooses at boot are read from its own variables; the others are those
//! of Documentation/arch/x86/x86_64/mm.rst.

use crate::symbols::Symbols;
use serde::Serialize;
use std::ops::Range;

/// What an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The stack of the task that the CPU runs; lies in the vmalloc range.
    TaskStack,
    /// The CPU's stack for interrupts; lies in the vmalloc range.
    InterruptStack,
    /// The structure of the task that the CPU runs.
    CurrentTask,
    /// Static per-CPU data of the CPU, its own.
    PerCpu,
    /// The rest of the first chunk of per-CPU memory: modules' static data, and dynamic data that
    /// lies in the direct map.
    PerCpuFirstChunk,
    /// Per-CPU data of another CPU in the first chunk.
    PerCpuOfOther,
    /// Descriptor tables, entry stack, exception stacks.
    CpuEntryArea,
    /// The kernel's code.
    Text,
    /// The kernel's constants.
    Rodata,
    /// The kernel's static data.
    Data,
    /// Code and data of modules, and other code outside the image.
    Modules,
    /// The mapping of all memory.
    DirectMap,
    /// The array of page structures.
    Vmemmap,
    /// The vmalloc range but what has a class of its own: what may be remapped.
    Vmalloc,
    /// Fixed mappings, the vsyscall page among them.
    Fixmap,
    /// The LDT where page-table isolation maps it.
    Ldt,
    /// Stacks for returns to 16-bit code.
    Espfix,
    /// The user's half.
    User,
    /// None of these.
    Unknown,
}

impl Class {
    /// Whether addresses of this class may be taken away and given to somebody else by vunmap().
    #[must_use]
    pub fn is_vmalloc(self) -> bool {
        matches!(self, Self::TaskStack | Self::InterruptStack | Self::Vmalloc)
    }
}

const USER_END: u64 = 1 << 63;
const CPU_ENTRY_AREA: Range<u64> = 0xffff_fe00_0000_0000..0xffff_fe80_0000_0000;
const ESPFIX: Range<u64> = 0xffff_ff00_0000_0000..0xffff_ff80_0000_0000;
const MODULES: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
const FIXMAP_START: u64 = 0xffff_ffff_ff00_0000;
/// THREAD_SIZE and IRQ_STACK_SIZE without KASAN.
const STACK_SIZE: u64 = 16 << 10;
const PAGE: u64 = 4096;
const LDT_SIZE: u64 = 1 << 39;

/// What the classes depend on from one window to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The task that runs.
    pub task: u64,
    /// The top of its stack.
    pub stack_top: u64,
}

/// The borders in a running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Regions {
    direct_map: u64,
    vmalloc: u64,
    vmemmap: u64,
    text: Range<u64>,
    rodata: Range<u64>,
    image_end: u64,
    static_per_cpu: Range<u64>,
    unit_size: u64,
    task_size: u64,
    /// What is to be added to the address of a per-CPU variable, for each CPU.
    pub per_cpu_offset: Vec<u64>,
    interrupt_stack_top: Vec<u64>,
    current_task: u64,
    current_stack_top: u64,
}

impl Regions {
    /// Reads them; `read` returns some bytes of the guest's memory as a number.
    ///
    /// # Errors
    ///
    /// If a symbol is missing, a variable cannot be read, or the kernel has not set it yet.
    pub fn read(
        symbols: &Symbols,
        cpus: u64,
        read: impl Fn(u64, usize) -> Option<u64>,
    ) -> Result<Self, String> {
        let value = |address: u64, size: usize, name: &str| {
            read(address, size).ok_or_else(|| format!("{name} cannot be read"))
        };
        let variable = |name: &str, size: usize| value(symbols.address(name)?, size, name);
        let offsets = symbols.address("__per_cpu_offset")?;
        let interrupt_stack = symbols.address("hardirq_stack_ptr")?;
        let mut regions = Self {
            direct_map: variable("page_offset_base", 8)?,
            vmalloc: variable("vmalloc_base", 8)?,
            vmemmap: variable("vmemmap_base", 8)?,
            text: symbols.address("_text")?..symbols.address("_etext")?,
            rodata: symbols.address("__start_rodata")?..symbols.address("__end_rodata")?,
            image_end: symbols.address("_end")?,
            static_per_cpu: symbols.address("__per_cpu_start")?
                ..symbols.address("__per_cpu_end")?,
            unit_size: variable("pcpu_unit_size", 4)?,
            task_size: variable("arch_task_struct_size", 4)?,
            current_task: symbols.address("current_task")?,
            current_stack_top: symbols.address("cpu_current_top_of_stack")?,
            ..Self::default()
        };
        for cpu in 0..cpus {
            let offset = value(offsets + cpu * 8, 8, "__per_cpu_offset")?;
            regions.per_cpu_offset.push(offset);
            let pointer = interrupt_stack.wrapping_add(offset);
            let top = value(pointer, 8, "hardirq_stack_ptr")?;
            // It points to the topmost word.
            regions.interrupt_stack_top.push(top.next_multiple_of(PAGE));
        }
        let ascending = [regions.direct_map, regions.vmalloc, regions.vmemmap];
        if !ascending.is_sorted_by(|a, b| a < b)
            || regions.unit_size == 0
            || regions.task_size == 0
            || regions.interrupt_stack_top.contains(&0)
        {
            return Err(format!("these are no borders of a kernel: {regions:x?}"));
        }
        Ok(regions)
    }

    /// The task that runs on a CPU, and its stack.
    pub fn running(&self, cpu: usize, read: impl Fn(u64, usize) -> Option<u64>) -> Option<Running> {
        let offset = *self.per_cpu_offset.get(cpu)?;
        Some(Running {
            task: read(self.current_task.wrapping_add(offset), 8)?,
            stack_top: read(self.current_stack_top.wrapping_add(offset), 8)?,
        })
    }

    /// The class of an address that a CPU uses.
    #[must_use]
    pub fn classify(&self, address: u64, cpu: usize, running: Running) -> Class {
        let below = |top: u64| address < top && address >= top.saturating_sub(STACK_SIZE);
        if address < USER_END {
            return Class::User;
        } else if below(running.stack_top) {
            return Class::TaskStack;
        } else if (running.task..running.task + self.task_size).contains(&address) {
            return Class::CurrentTask;
        }
        if self
            .interrupt_stack_top
            .get(cpu)
            .copied()
            .is_some_and(below)
        {
            return Class::InterruptStack;
        }
        for (other, offset) in self.per_cpu_offset.iter().enumerate() {
            let symbol = address.wrapping_sub(*offset);
            let start = self.static_per_cpu.start;
            if !(start..start + self.unit_size).contains(&symbol) {
                continue;
            }
            return if other != cpu {
                Class::PerCpuOfOther
            } else if self.static_per_cpu.contains(&symbol) {
                Class::PerCpu
            } else {
                Class::PerCpuFirstChunk
            };
        }
        self.classify_fixed(address)
    }

    fn classify_fixed(&self, address: u64) -> Class {
        let ldt = self.direct_map.saturating_sub(LDT_SIZE)..self.direct_map;
        if self.text.contains(&address) {
            Class::Text
        } else if self.rodata.contains(&address) {
            Class::Rodata
        } else if (self.text.start..self.image_end).contains(&address) {
            Class::Data
        } else if (self.direct_map..self.vmalloc).contains(&address) {
            Class::DirectMap
        } else if (self.vmalloc..self.vmemmap).contains(&address) {
            Class::Vmalloc
        } else if CPU_ENTRY_AREA.contains(&address) {
            Class::CpuEntryArea
        } else if (self.vmemmap..CPU_ENTRY_AREA.start).contains(&address) {
            Class::Vmemmap
        } else if ESPFIX.contains(&address) {
            Class::Espfix
        } else if MODULES.contains(&address) {
            Class::Modules
        } else if address >= FIXMAP_START {
            Class::Fixmap
        } else if ldt.contains(&address) {
            Class::Ldt
        } else {
            Class::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "ffffffff81000000 T _text\nffffffff82000000 T _etext\n\
        ffffffff82200000 D __start_rodata\nffffffff82900000 D __end_rodata\n\
        ffffffff829ca698 D vmemmap_base\nffffffff829ca6a0 D vmalloc_base\n\
        ffffffff829ca6a8 D page_offset_base\nffffffff829db0e0 D __per_cpu_offset\n\
        ffffffff829ec078 d pcpu_unit_size\nffffffff8354d95c T arch_task_struct_size\n\
        ffffffff83f35000 D __per_cpu_start\nffffffff83f4d000 D hardirq_stack_ptr\n\
        ffffffff83f4d010 D cpu_current_top_of_stack\nffffffff83f4d018 D current_task\n\
        ffffffff83f6b000 R __per_cpu_end\nffffffff84430000 B _end\n";
    const OFFSET: u64 = 0xffff_8880_fc0c_b000_u64.wrapping_sub(0xffff_ffff_83f3_5000);
    const STACK_TOP: u64 = 0xffff_c900_0100_4000;
    const TASK: u64 = 0xffff_8881_0020_0000;

    #[expect(clippy::unnecessary_wraps, reason = "what read() wants")]
    fn memory(address: u64, _size: usize) -> Option<u64> {
        Some(match address {
            0xffff_ffff_829c_a698 => 0xffff_ea00_0000_0000,
            0xffff_ffff_829c_a6a0 => 0xffff_c900_0000_0000,
            0xffff_ffff_829c_a6a8 => 0xffff_8880_0000_0000,
            0xffff_ffff_829e_c078 => 0x40000,
            0xffff_ffff_8354_d95c => 0x2000,
            0xffff_ffff_829d_b0e0 => OFFSET,
            0xffff_ffff_829d_b0e8 => OFFSET + 0x40000,
            _ if address == 0xffff_ffff_83f4_d010_u64.wrapping_add(OFFSET) => STACK_TOP,
            _ if address == 0xffff_ffff_83f4_d018_u64.wrapping_add(OFFSET) => TASK,
            _ => 0xffff_c900_0000_3ff8,
        })
    }

    #[test]
    fn knows_each_region() {
        let symbols = Symbols::parse(KALLSYMS).unwrap();
        let regions = Regions::read(&symbols, 2, memory).unwrap();
        let running = regions.running(0, memory).unwrap();
        assert_eq!(
            running,
            Running {
                task: TASK,
                stack_top: STACK_TOP
            }
        );
        let per_cpu = 0xffff_8880_fc0c_b000;
        for (address, class) in [
            (0x7fff_0000_1000, Class::User),
            (STACK_TOP - 8, Class::TaskStack),
            (STACK_TOP, Class::Vmalloc),
            (STACK_TOP - 0x4001, Class::Vmalloc),
            (0xffff_c900_0000_3ff8, Class::InterruptStack),
            (TASK + 0x1fff, Class::CurrentTask),
            (TASK + 0x2000, Class::DirectMap),
            (per_cpu, Class::PerCpu),
            (per_cpu + 0x36000, Class::PerCpuFirstChunk),
            (per_cpu + 0x40000, Class::PerCpuOfOther),
            (0xffff_fe00_0000_2000, Class::CpuEntryArea),
            (0xffff_ffff_8100_0000, Class::Text),
            (0xffff_ffff_8220_0000, Class::Rodata),
            (0xffff_ffff_8354_d95c, Class::Data),
            (0xffff_ffff_c000_0000, Class::Modules),
            (0xffff_ea00_0000_0040, Class::Vmemmap),
            (0xffff_ff00_0000_0000, Class::Espfix),
            (0xffff_ffff_ff60_0000, Class::Fixmap),
            (0xffff_8800_0000_0000, Class::Ldt),
            (0xffff_8000_0000_0000, Class::Unknown),
        ] {
            assert_eq!(regions.classify(address, 0, running), class, "{address:x}");
        }
    }

    #[test]
    fn refuses_a_kernel_that_has_not_set_them() {
        let symbols = Symbols::parse(KALLSYMS).unwrap();
        assert!(Regions::read(&symbols, 2, |_, _| Some(0)).is_err());
        assert!(Regions::read(&symbols, 2, |_, _| None).is_err());
    }
}
