// SPDX-License-Identifier: GPL-2.0

//! Events that hit the kernel before the receiver, or after the state says "user" again.
//!
//! There are few instructions in which a flush may be owed in kernel mode, and interrupts are off
//! there. What can come all the same: an NMI, a debug exception, a machine check, a double fault
//! (of IRET on its way to a 16-bit stack segment), the breakpoint of text that the kernel is
//! patching. (Under FRED, the faults of ERETU, too: these are not walked.) They come with the kernel's CS, do not meet the
//! receiver, and go back to the code that they have interrupted.
//!
//! Each is walked twice: with the state saying "user", and with RCU watching, as it does from the
//! change of state to the receiver, and in an NMI before its handlers.

use super::allowlist_file::Holds;
use super::entries::{Entry, Kind};
use super::memory::Map;
use super::state::{GsBase, Phase, Region, State};
use super::value::{Source, Stack, Value};
use anyhow::Result;
use iced_x86::Register;

/// `__KERNEL_CS`.
const KERNEL_CS: u64 = 0x10;
/// `__KERNEL_DS`, or none: not of an LDT, so IRET does not go by the espfix stack.
const KERNEL_SS: Value = Value::Bits { mask: 4, value: 0 };
/// `CT_RCU_WATCHING`.
const RCU_WATCHING: u64 = 4;
/// Where the interrupted code has its stack pointer: anywhere, so not where the saved registers of
/// user mode lie.
const INTERRUPTED: i64 = -0x1000;
/// From the top of the stack of an NMI: the frame of the processor, RDX, "NMI executing", and two
/// more frames.
const REPEAT_NMI: i64 = -17 * 8;

/// How an event in the kernel comes in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// By the interrupt descriptor table, on a stack of its own.
    OwnStack,
    /// The same, with an error code.
    OwnStackAndError,
    /// By the interrupt descriptor table, on the stack in use: only C code has instructions that are
    /// patched while it may run.
    SameStack,
    /// By FRED: type and vector of the event.
    Fred { kind: u8, vector: u8 },
}

impl Gate {
    /// The GS bases that it may come with. While RCU watches and a flush may be owed, only C code
    /// runs, which has the kernel's; in other code it may be either. FRED changes it by itself.
    fn bases(self, says_user: bool) -> &'static [GsBase] {
        match self {
            Self::OwnStack | Self::OwnStackAndError if says_user => &[GsBase::User, GsBase::Kernel],
            _ => &[GsBase::Kernel],
        }
    }
}

/// Function, what is added to its name, and how it comes in.
const EVENTS: [(&str, &str, Gate); 10] = [
    ("asm_exc_nmi", "", Gate::OwnStack),
    ("asm_exc_debug", "", Gate::OwnStack),
    ("asm_exc_machine_check", "", Gate::OwnStack),
    ("asm_exc_double_fault", "", Gate::OwnStackAndError),
    ("asm_exc_int3", "", Gate::SameStack),
    (FRED, " NMI", Gate::Fred { kind: 2, vector: 2 }),
    (FRED, " #DB", Gate::Fred { kind: 3, vector: 1 }),
    (FRED, " INT1", Gate::Fred { kind: 5, vector: 1 }),
    (FRED, " #BP", Gate::Fred { kind: 6, vector: 3 }),
    (
        FRED,
        " #MC",
        Gate::Fred {
            kind: 3,
            vector: 18,
        },
    ),
];
const FRED: &str = "asm_fred_entrypoint_kernel";

/// The ways in of all events that the image has code for.
pub(super) fn find(map: &Map<'_>) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for (function, suffix, gate) in EVENTS {
        let Some(address) = map.image.symbols.address(function) else {
            continue;
        };
        for (says_user, says) in [(true, "user"), (false, "kernel")] {
            let mut starts = Vec::new();
            for gs in gate.bases(says_user) {
                starts.push((address, interrupted(map, gate, *gs, says_user)?));
                if function == "asm_exc_nmi" {
                    if let Some(repeat) = map.image.symbols.address("repeat_nmi") {
                        // A nested NMI makes the IRET of the first one lead there.
                        starts.push((repeat, repeated(map, *gs, says_user)?));
                    }
                }
            }
            all.push(Entry {
                name: format!("{function}{suffix}, state {says}"),
                starts,
                phase: Phase::Entry,
                kind: Kind::InKernel { says_user },
            });
        }
    }
    Ok(all)
}

/// What is known before an event's first instruction.
fn interrupted(map: &Map<'_>, gate: Gate, gs: GsBase, says_user: bool) -> Result<State> {
    let (stack, top, pushed) = match gate {
        Gate::OwnStack => (Stack::Entry, 0, 5),
        Gate::OwnStackAndError => (Stack::Entry, 0, 6),
        Gate::SameStack => (Stack::Task, INTERRUPTED, 5),
        Gate::Fred { .. } => (Stack::Task, INTERRUPTED, 6),
    };
    let mut state = assumed(map, gs, says_user)?;
    state.set_register(Register::RSP, Value::at(stack, top - 8 * pushed));
    let region = Region::Stack(stack);
    let cs = Value::Bits {
        mask: 0xffff,
        value: KERNEL_CS,
    };
    state.store(region, top - 32, top - 32, 8, cs);
    if !matches!(gate, Gate::Fred { .. }) {
        state.store(region, top - 8, top - 8, 8, KERNEL_SS);
    }
    if gate == Gate::SameStack {
        // One instruction of C code stands for all: none of them is one that error_entry() knows.
        let receiver = map.image.require(&map.allow.protocol().receiver)?;
        state.store(region, top - 40, top - 40, 8, Value::Const(receiver));
    }
    if let Gate::Fred { kind, vector } = gate {
        // struct fred_ss: the vector in the upper half, then the type in four bits.
        let kind = Value::Bits {
            mask: 0xf,
            value: kind.into(),
        };
        state.store(region, top - 4, top - 4, 1, Value::Const(vector.into()));
        state.store(region, top - 2, top - 2, 1, kind.truncate(1));
    }
    Ok(state)
}

/// Before another round of an NMI, once the first has found its way out changed.
fn repeated(map: &Map<'_>, gs: GsBase, says_user: bool) -> Result<State> {
    let mut state = assumed(map, gs, says_user)?;
    state.set_register(Register::RSP, Value::at(Stack::Entry, REPEAT_NMI));
    let outermost = Region::Stack(Stack::Entry);
    let at = REPEAT_NMI + 8;
    state.store(outermost, at, at, 8, Value::Const(KERNEL_CS));
    state.store(outermost, at + 24, at + 24, 8, KERNEL_SS);
    Ok(state)
}

fn assumed(map: &Map<'_>, gs: GsBase, says_user: bool) -> Result<State> {
    let mut state = State::new(gs);
    if says_user {
        map.assume_memory(&mut state, Holds::StateUser)?;
        return Ok(state);
    }
    map.assume_memory(&mut state, Holds::Always)?;
    let word = map.state_word();
    let watching = Value::Bits {
        mask: RCU_WATCHING,
        value: RCU_WATCHING,
    };
    state.store(Region::PerCpu, word, word, 4, watching.truncate(4));
    for counter in [word + 8, word + 16] {
        let unknown = Value::unknown(Source::Computed(0));
        state.store(Region::PerCpu, counter, counter, 8, unknown);
    }
    Ok(state)
}
