// SPDX-License-Identifier: GPL-2.0

//! Every way into the kernel from user mode, and the one way out that begins in the kernel.
//!
//! Found twice: by symbol, and in the tables that the kernel fills its interrupt descriptor table
//! from (or, in the running kernel, in that table itself). What only the tables know is reported.

use super::allowlist_file::Holds;
use super::config::Allowlist;
use super::in_kernel;
use super::memory::Map;
use super::state::{GsBase, Phase, Region, State, USER_CS};
use super::value::{Source, Stack, Value};
use crate::image::Image;
use anyhow::{Result, ensure};
use iced_x86::Register;
use std::collections::{BTreeMap, BTreeSet};

const IDT_DATA: u64 = 24;
const GATE: u64 = 16;
const STUB: u64 = 16;
const FIRST_EXTERNAL: u64 = 0x20;
const FIRST_SYSTEM: u64 = 0xec;
const VECTORS: u64 = 256;
/// Vectors for which the processor pushes an error code.
const WITH_ERROR_CODE: [u64; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];
const WITH_ERROR_CODE_NAMES: [&str; 11] = [
    "asm_exc_double_fault",
    "asm_exc_invalid_tss",
    "asm_exc_segment_not_present",
    "asm_exc_stack_segment",
    "asm_exc_general_protection",
    "asm_exc_page_fault",
    "asm_exc_alignment_check",
    "asm_exc_control_protection",
    "asm_exc_vmm_communication",
    "asm_exc_security_exception",
    "asm_exc_hypervisor_injection",
];
/// The tables of struct idt_data in arch/x86/kernel/idt.c.
const TABLES: [&str; 5] = [
    "early_idts",
    "def_idts",
    "early_pf_idts",
    "ia32_idt",
    "apic_idts",
];
/// Faults that IRET and the code around it can raise.
const IRET_FAULTS: [&str; 3] = [
    "asm_exc_general_protection",
    "asm_exc_stack_segment",
    "asm_exc_segment_not_present",
];

/// One or more addresses that are analysed together.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) starts: Vec<(u64, State)>,
    pub(super) phase: Phase,
    /// Whether the receiver has to be met: not on a way out that starts in the kernel.
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SystemCall,
    Sysenter,
    Idt,
    Fred,
    IretFault,
    WayOut,
    /// An event that hits the kernel.
    InKernel {
        says_user: bool,
    },
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SystemCall => "system call",
            Self::Sysenter => "SYSENTER",
            Self::Idt => "IDT",
            Self::Fred => "FRED",
            Self::IretFault => "fault of IRET",
            Self::WayOut => "way out",
            Self::InKernel { .. } => "in the kernel",
        }
    }

    /// For an event that hits the kernel: whether the state says "user" then.
    pub(super) fn in_kernel(self) -> Option<bool> {
        match self {
            Self::InKernel { says_user } => Some(says_user),
            _ => None,
        }
    }
}

/// All of them, and what the tables have that no symbol has.
pub(super) struct Entries {
    pub(super) all: Vec<Entry>,
    pub(super) unknown: Vec<String>,
    /// Entries of the descriptor table that were checked.
    pub(super) gates: usize,
    pub(super) excluded: Vec<String>,
}

/// The frame of an event from user mode, as the processor pushes it.
fn frame(map: &Map<'_>, with_error_code: bool, cs: Value, ip: Value) -> Result<State> {
    let mut state = State::new(GsBase::User);
    let rsp = if with_error_code { -48 } else { -40 };
    state.set_register(Register::RSP, Value::at(Stack::Entry, rsp));
    let entry = Region::Stack(Stack::Entry);
    state.store(entry, -32, -32, 8, cs);
    state.store(entry, -40, -40, 8, ip);
    map.assume_memory(&mut state, Holds::UserMode)?;
    Ok(state)
}

fn system_call(map: &Map<'_>) -> Result<State> {
    let mut state = State::new(GsBase::User);
    map.assume_memory(&mut state, Holds::UserMode)?;
    Ok(state)
}

/// The registers and the stack at one of the starts, but those of events in the kernel.
fn state_for(map: &Map<'_>, kind: Kind, name: &str) -> Result<State> {
    let user = Value::unknown(Source::User);
    Ok(match kind {
        Kind::SystemCall | Kind::InKernel { .. } => system_call(map)?,
        Kind::Sysenter => {
            let mut state = system_call(map)?;
            // MSR_IA32_SYSENTER_ESP.
            state.set_register(Register::RSP, Value::at(Stack::Entry, 0));
            state
        }
        Kind::Idt => frame(map, WITH_ERROR_CODE_NAMES.contains(&name), USER_CS, user)?,
        Kind::Fred => {
            let mut state = State::new(GsBase::Kernel);
            state.set_register(Register::RSP, Value::at(Stack::Task, -48));
            state.store(Region::Stack(Stack::Task), -32, -32, 8, USER_CS);
            map.assume_memory(&mut state, Holds::UserMode)?;
            state
        }
        Kind::IretFault => {
            let iret = map.image.require("native_irq_return_iret")?;
            let mut state = frame(map, true, Value::Const(0x10), Value::Const(iret))?;
            state.gs = GsBase::User;
            state
        }
        Kind::WayOut => {
            let mut state = State::new(GsBase::Kernel);
            // The frame that copy_thread() prepares: pt_regs at the top of the stack.
            state.set_register(Register::RSP, Value::at(Stack::Task, -21 * 8));
            state.store(Region::Stack(Stack::Task), -32, -32, 8, USER_CS);
            map.assume_memory(&mut state, Holds::UserMode)?;
            // It starts in kernel mode, in a task: RCU watches, state is kernel, and of the two
            // counters behind it ct_kernel_enter() made nesting 1; nmi_nesting does not matter.
            let word = map.state_word();
            let in_kernel = Value::Bits { mask: 7, value: 4 }.truncate(4);
            let unknown = Value::unknown(Source::Computed(0));
            for (at, size, value) in [
                (word, 4, in_kernel),
                (word + 8, 8, Value::Const(1)),
                (word + 16, 8, unknown),
            ] {
                state.store(Region::PerCpu, at, at, size, value);
            }
            state
        }
    })
}

fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "entry_SYSCALL_64" | "entry_SYSCALL_compat" | "entry_SYSCALL32_ignore" => {
            Some(Kind::SystemCall)
        }
        "entry_SYSENTER_compat" => Some(Kind::Sysenter),
        "asm_fred_entrypoint_user" => Some(Kind::Fred),
        "ret_from_fork_asm" => Some(Kind::WayOut),
        // The first two hit the kernel only: in_kernel.rs. The others are reached from the stubs
        // below, which push the vector first.
        "asm_exc_double_fault"
        | "asm_fred_entrypoint_kernel"
        | "asm_common_interrupt"
        | "asm_spurious_interrupt" => None,
        _ if name.starts_with("asm_exc_")
            || name.starts_with("asm_sysvec_")
            || name.starts_with("asm_int80_")
            || name.starts_with("asm_xenpv_")
            || name.starts_with("xen_asm_")
            || name.starts_with("xen_entry_")
            || name.starts_with("asm_fred_entry") =>
        {
            Some(Kind::Idt)
        }
        _ => None,
    }
}

/// Vector and address of each gate that the image says it will have.
fn gates(image: &Image) -> Result<Vec<(u64, u64)>> {
    let mut gates = Vec::new();
    if image.is_live {
        let table = image.require("idt_table")?;
        for vector in 0..VECTORS {
            let low = image.u64(table + vector * GATE)?;
            let high = image.u64(table + vector * GATE + 8)?;
            if low & (1 << 47) != 0 {
                let address = (low & 0xffff) | ((low >> 32) & 0xffff_0000) | (high << 32);
                gates.push((vector, address));
            }
        }
        return Ok(gates);
    }
    for name in TABLES {
        let Some(table) = image.symbols.address(name) else {
            continue;
        };
        let end = image.symbols.next_after(table).unwrap_or(table);
        for at in (table..)
            .step_by(IDT_DATA as usize)
            .take_while(|at| at + IDT_DATA <= end)
        {
            let vector = u64::from(image.u32(at)?);
            let address = image.u64(at + 16)?;
            // Padding at the end of a table.
            if address != 0 {
                ensure!(vector < VECTORS, "{name} has a vector {vector:#x}");
                gates.push((vector, address));
            }
        }
    }
    ensure!(
        !gates.is_empty(),
        "none of the tables {TABLES:?} is in the image"
    );
    Ok(gates)
}

/// The stubs of external and spurious interrupts, one for each vector.
fn stubs(image: &Image, name: &str, vectors: std::ops::Range<u64>) -> Result<Vec<u64>> {
    let start = image.require(name)?;
    Ok(vectors
        .clone()
        .map(|vector| start + (vector - vectors.start) * STUB)
        .collect())
}

/// Finds all ways in.
pub(super) fn find(image: &Image, map: &Map<'_>, allow: &Allowlist) -> Result<Entries> {
    let mut by_name: BTreeMap<String, (u64, Kind)> = BTreeMap::new();
    let mut excluded = Vec::new();
    for symbol in image.symbols.all() {
        if let Some(kind) = kind_of(&symbol.name) {
            if allow.exclude(&symbol.name) {
                excluded.push(symbol.name.clone());
            } else {
                by_name.insert(symbol.name.clone(), (symbol.address, kind));
            }
        }
    }
    let mut all = Vec::new();
    for (name, (address, kind)) in &by_name {
        let state = state_for(map, *kind, name)?;
        all.push(Entry {
            name: name.clone(),
            starts: vec![(*address, state)],
            phase: if *kind == Kind::WayOut {
                Phase::Kernel
            } else {
                Phase::Entry
            },
            kind: *kind,
        });
    }
    let mut known: BTreeSet<u64> = by_name.values().map(|(address, _)| *address).collect();
    for (name, vectors) in [
        ("irq_entries_start", FIRST_EXTERNAL..FIRST_SYSTEM),
        ("spurious_entries_start", FIRST_SYSTEM..VECTORS),
    ] {
        if image.symbols.address(name).is_none() {
            continue;
        }
        let stubs = stubs(image, name, vectors)?;
        known.extend(&stubs);
        let state = state_for(map, Kind::Idt, name)?;
        all.push(Entry {
            name: name.into(),
            starts: stubs.into_iter().map(|ip| (ip, state.clone())).collect(),
            phase: Phase::Entry,
            kind: Kind::Idt,
        });
    }
    let has_iret = image.symbols.address("native_irq_return_iret").is_some();
    for name in IRET_FAULTS {
        ensure!(
            by_name.contains_key(name) == has_iret,
            "only one of native_irq_return_iret and {name} is there to be looked at"
        );
        if let Some((address, _)) = by_name.get(name) {
            all.push(Entry {
                name: format!("{name} at IRET"),
                starts: vec![(*address, state_for(map, Kind::IretFault, name)?)],
                phase: Phase::Entry,
                kind: Kind::IretFault,
            });
        }
    }
    let hit_kernel = in_kernel::find(map)?;
    let addresses = hit_kernel.iter().flat_map(|entry| &entry.starts);
    known.extend(addresses.map(|(address, _)| *address));
    all.extend(hit_kernel);
    let gates = gates(image)?;
    let mut unknown = Vec::new();
    for (vector, address) in &gates {
        let name = image.symbols.describe(*address);
        if !known.contains(address) && !excluded.contains(&name) {
            unknown.push(format!("vector {vector:#x} leads to {name}"));
        } else if WITH_ERROR_CODE.contains(vector) != WITH_ERROR_CODE_NAMES.contains(&&*name) {
            unknown.push(format!("vector {vector:#x}, {name}: error code or not?"));
        }
    }
    Ok(Entries {
        all,
        unknown,
        gates: gates.len(),
        excluded,
    })
}
