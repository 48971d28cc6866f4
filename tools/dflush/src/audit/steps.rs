// SPDX-License-Identifier: GPL-2.0

//! The steps of the protocol on each path through a function of the module.

use super::object::{Function, Line};
use anyhow::{Result, bail};
use iced_x86::{FlowControl, Mnemonic as M, OpKind, Register};
use std::collections::HashMap;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Reads the word.
    LoadWord,
    /// Locked OR to the word.
    SetWord,
    /// Exchanges the word for this value.
    ExchangeWord(u64),
    /// Locked AND to the word.
    ClearWord,
    /// Writes the word in another way.
    StoreWord,
    /// MFENCE.
    Fence,
    /// Reads the state of context tracking.
    LoadState,
    /// Reads the word that stops deferral.
    LoadBlocked,
    /// Flushes: INVPCID, or the second of two writes of CR4, or CR3.
    Flush,
    /// Calls the function that interrupts CPUs.
    Interrupt,
    /// Calls the receiver.
    CallReceiver,
}

/// A path: its steps, and what it returns if that is a constant.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) steps: Vec<Step>,
    pub(super) returns: Option<u64>,
}

/// The names that the steps are recognised by.
pub(super) struct Names {
    pub(super) word: &'static str,
    pub(super) state: &'static str,
    pub(super) state_offset: i64,
    pub(super) blocked: &'static str,
    pub(super) interrupt: &'static str,
    pub(super) receiver: &'static str,
}

const MAX_PATHS: usize = 20_000;
/// A loop is gone round at most once more.
const MAX_VISITS: u8 = 2;

#[derive(Clone)]
struct Walk {
    at: usize,
    visits: Vec<u8>,
    steps: Vec<Step>,
    /// Registers that point to this CPU's word.
    word: Vec<Register>,
    constants: HashMap<Register, u64>,
    cr4_writes: u32,
}

/// Every path through a function.
pub(super) fn paths(function: &Function, names: &Names) -> Result<Vec<Path>> {
    let mut done = Vec::new();
    let mut open = vec![Walk {
        at: 0,
        visits: vec![0; function.lines.len()],
        steps: Vec::new(),
        word: Vec::new(),
        constants: HashMap::new(),
        cr4_writes: 0,
    }];
    while let Some(mut walk) = open.pop() {
        while let Some(line) = function.lines.get(walk.at) {
            walk.visits[walk.at] += 1;
            if walk.visits[walk.at] > MAX_VISITS {
                break;
            }
            let i = &line.instruction;
            walk.run(line, names);
            let leaves = line.target.is_some();
            match i.flow_control() {
                FlowControl::Return => {
                    done.push(walk.finish());
                    break;
                }
                FlowControl::UnconditionalBranch => {
                    // Out of the function: the return thunk, or a tail call.
                    if let Some(target) = function.at(i.near_branch_target()).filter(|_| !leaves) {
                        walk.at = target;
                        continue;
                    }
                    done.push(walk.finish());
                    break;
                }
                FlowControl::ConditionalBranch => {
                    if let Some(target) = function.at(i.near_branch_target()).filter(|_| !leaves) {
                        let mut taken = walk.clone();
                        taken.at = target;
                        open.push(taken);
                    }
                }
                FlowControl::IndirectBranch => bail!("{} has an indirect jump", function.name),
                FlowControl::Exception => break,
                _ => {}
            }
            walk.at += 1;
        }
        if done.len() + open.len() > MAX_PATHS {
            bail!("{} has more than {MAX_PATHS} paths", function.name);
        }
    }
    Ok(done)
}

impl Walk {
    fn finish(&mut self) -> Path {
        Path {
            steps: std::mem::take(&mut self.steps),
            returns: self.constants.get(&Register::RAX).copied(),
        }
    }

    fn is_word(&self, line: &Line, names: &Names) -> bool {
        let i = &line.instruction;
        if let Some(target) = &line.target
            && target.symbol == names.word
        {
            return target.offset == 0;
        }
        i.memory_displacement64() == 0
            && i.memory_index() == Register::None
            && self.word.contains(&i.memory_base().full_register())
    }

    fn run(&mut self, line: &Line, names: &Names) {
        let i = &line.instruction;
        let has_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let refers_to = |name: &str, offset: i64| {
            line.target
                .as_ref()
                .is_some_and(|t| t.symbol == name && t.offset == offset)
        };
        if i.mnemonic() == M::Mfence {
            self.steps.push(Step::Fence);
        } else if i.mnemonic() == M::Invpcid
            || (i.mnemonic() == M::Mov && i.op0_register() == Register::CR3)
        {
            self.steps.push(Step::Flush);
        } else if i.mnemonic() == M::Mov && i.op0_register() == Register::CR4 {
            self.cr4_writes += 1;
            if self.cr4_writes % 2 == 0 {
                self.steps.push(Step::Flush);
            }
        } else if has_memory && i.mnemonic() != M::Lea {
            if self.is_word(line, names) {
                let step = self.on_word(line);
                self.steps.push(step);
            } else if refers_to(names.state, names.state_offset) {
                self.steps.push(Step::LoadState);
            } else if line
                .target
                .as_ref()
                .is_some_and(|t| t.offset == 0 && t.symbol.ends_with(names.blocked))
                && !i.has_lock_prefix()
            {
                self.steps.push(Step::LoadBlocked);
            }
        } else if i.flow_control() == FlowControl::Call {
            if refers_to(names.interrupt, 0) {
                self.steps.push(Step::Interrupt);
            } else if refers_to(names.receiver, 0) {
                self.steps.push(Step::CallReceiver);
            }
        }
        self.follow(line, names);
    }

    fn on_word(&self, line: &Line) -> Step {
        let i = &line.instruction;
        match i.mnemonic() {
            M::Xchg => Step::ExchangeWord(
                self.constants
                    .get(&i.op1_register().full_register())
                    .or_else(|| self.constants.get(&i.op0_register().full_register()))
                    .copied()
                    .unwrap_or(u64::MAX),
            ),
            M::Or | M::Bts if i.has_lock_prefix() => Step::SetWord,
            M::And | M::Btr if i.has_lock_prefix() => Step::ClearWord,
            M::Cmp | M::Test | M::Bt => Step::LoadWord,
            M::Mov | M::Movzx if i.op0_kind() == OpKind::Register => Step::LoadWord,
            _ => Step::StoreWord,
        }
    }

    /// Which registers point to the word, and which are constants.
    fn follow(&mut self, line: &Line, names: &Names) {
        let i = &line.instruction;
        if i.flow_control() == FlowControl::Call {
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
                self.word.retain(|r| *r != register);
                self.constants.remove(&register);
            }
            return;
        }
        if i.op_count() == 0
            || i.op0_kind() != OpKind::Register
            || matches!(i.mnemonic(), M::Cmp | M::Test | M::Bt | M::Push)
        {
            return;
        }
        let to = i.op0_register().full_register();
        let points = line
            .target
            .as_ref()
            .is_some_and(|t| t.symbol == names.word && t.offset == 0);
        let copies = i.mnemonic() == M::Mov && i.op1_kind() == OpKind::Register;
        let from = i.op1_register().full_register();
        let is_word = match i.mnemonic() {
            M::Lea | M::Mov if points => true,
            M::Mov if copies => self.word.contains(&from),
            // Adds this CPU's offset.
            M::Add => self.word.contains(&to) || points,
            _ => false,
        };
        self.word.retain(|r| *r != to);
        if is_word {
            self.word.push(to);
        }
        let constant = match i.mnemonic() {
            M::Mov if copies => self.constants.get(&from).copied(),
            M::Mov if line.target.is_none() && i.op1_kind() != OpKind::Memory => {
                Some(i.immediate(1))
            }
            M::Xor if i.op1_kind() == OpKind::Register && from == to => Some(0),
            _ => None,
        };
        match constant {
            Some(value) => self.constants.insert(to, value),
            None => self.constants.remove(&to),
        };
    }
}
