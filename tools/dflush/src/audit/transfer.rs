// SPDX-License-Identifier: GPL-2.0

//! One application of the transfer function: where control goes, and what is seen on the way.

use super::allowlist_file::Effect;
use super::events::{End, Event, Finding};
use super::exec::Executor;
use super::flow::{Flow, LEAVES, NOT_BACK, Next, UNCHANGED};
use super::memory::Address;
use super::state::{Phase, Region, State};
use super::value::{Source, Value};
use super::walk::{Contexts, Node};
use anyhow::Result;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// One application of the transfer function.
pub(super) struct Step<'s, 'a> {
    pub(super) flow: &'s mut Flow<'a>,
    pub(super) node: Node,
    pub(super) contexts: &'s mut Contexts,
    pub(super) next: &'s mut Next,
    pub(super) events: &'s mut Vec<Event>,
}

impl Step<'_, '_> {
    pub(super) fn find(&mut self, class: &str, shape: impl Into<String>) {
        self.events.push(Event::Finding(Finding::new(class, shape)));
    }

    pub(super) fn end(&mut self, end: End) {
        self.events.push(Event::End(end));
    }

    pub(super) fn go(&mut self, ip: u64, state: State) {
        let ip = self.flow.patches.resume(self.node.ip, ip);
        self.next.push((Node { ip, ..self.node }, state));
    }

    /// Goes on after this instruction.
    pub(super) fn fall(&mut self, ip: u64, state: State) {
        let resumed = self.flow.patches.resume(self.node.ip, ip);
        if let Some(name) = self.flow.name(resumed, |n| n.starts_with("__pfx_")) {
            self.find("control flow", format!("falls into {name}"));
            return;
        }
        self.go(ip, state);
    }

    pub(super) fn run(&mut self, state: &State) -> Result<()> {
        let ip = self.node.ip;
        if self.at_function(ip, state)? {
            return Ok(());
        }
        if let Some(alternative) = self.flow.patches.alternatives.get(&ip).cloned() {
            for replacement in &alternative.replacements {
                if replacement.is_direct_call {
                    self.direct_call(state, replacement.resume)?;
                } else if replacement.length == 0 {
                    self.next.push((
                        Node {
                            ip: replacement.resume,
                            ..self.node
                        },
                        state.clone(),
                    ));
                } else {
                    self.next.push((
                        Node {
                            ip: replacement.start,
                            ..self.node
                        },
                        state.clone(),
                    ));
                }
            }
            if !alternative.original_runs {
                return Ok(());
            }
        }
        let instruction = self.flow.decode(ip)?;
        if let Some(label) = self.flow.patches.jump_labels.get(&ip) {
            let (target, jumps) = (label.target, label.jumps());
            if jumps != Some(false) {
                self.go(target, state.clone());
            }
            if jumps != Some(true) {
                self.fall(instruction.next_ip(), state.clone());
            }
            return Ok(());
        }
        if let Some(key) = self.flow.patches.static_calls.get(&ip).copied() {
            return self.static_call(&instruction, key, state);
        }
        self.instruction(&instruction, state)
    }

    /// What happens on reaching certain functions. True: this was one.
    fn at_function(&mut self, ip: u64, state: &State) -> Result<bool> {
        if ip == self.flow.receiver {
            match self.node.phase {
                Phase::Entry => self.end(End::Receiver),
                Phase::Exit => self.find(
                    "protocol",
                    "reaches the receiver after the change to user mode",
                ),
                Phase::Kernel => {}
            }
            if self.node.phase == Phase::Entry {
                self.touch_fentry(state)?;
            }
            let mut after = state.clone();
            after.clobber_caller_saved(ip);
            self.return_from(
                after,
                if self.node.phase == Phase::Entry {
                    Phase::Kernel
                } else {
                    self.node.phase
                },
            );
            return Ok(true);
        }
        let allow = self.flow.allow;
        if let Some(name) = self.flow.name(ip, |n| allow.is_stop(n, None)) {
            self.end(End::Stop(name));
            return Ok(true);
        }
        if self.flow.in_kernel.is_some() && self.node.phase != Phase::Kernel {
            if let Some(name) = self.flow.name(ip, |n| allow.remainder(n)) {
                self.end(End::Remainder(name));
                self.skip(state, None);
                return Ok(true);
            }
        }
        let summary = self
            .flow
            .image
            .symbols
            .names_of(ip)
            .find_map(|name| allow.summary(name));
        if let Some(effect) = summary {
            self.summary(effect, state)?;
            return Ok(true);
        }
        if self.flow.is_return_thunk(ip) {
            self.touch_pop(ip, state);
            self.return_from(state.clone(), self.node.phase);
            return Ok(true);
        }
        if let Some(register) = self.flow.indirect_thunk(ip) {
            self.touch_thunk(state)?;
            let target = state.register(register);
            self.indirect(target, &format!("{register:?}").to_lowercase(), state, None)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn summary(&mut self, effect: Effect, state: &State) -> Result<()> {
        if effect == Effect::StackOnly {
            let mut after = state.clone();
            for register in self.flow.stack_only(self.node.ip)? {
                after.set_register(register, Value::unknown(Source::Computed(self.node.ip)));
            }
            after.flags = super::state::Flags::Unknown;
            self.return_from(after, self.node.phase);
            return Ok(());
        }
        if effect == Effect::Report {
            self.events.push(Event::Warning);
            self.skip(state, None);
            return Ok(());
        }
        let mut after = state.clone();
        let (to, from) = (state.register(Register::RDI), state.register(Register::RSI));
        let length = state.register(Register::RDX);
        let size = length.constant().and_then(|n| usize::try_from(n).ok());
        let moves = effect == Effect::Copy;
        {
            for (pointer, writes) in [(to, true), (from, false)] {
                if !writes && !moves {
                    continue;
                }
                let address = Address {
                    segment: Register::DS,
                    fixed: pointer,
                    variable: size.is_none().then_some(length),
                };
                let access = super::exec::Access {
                    class: self.flow.map().classify(address, size.unwrap_or(1), state),
                    writes,
                    size: size.unwrap_or(0),
                    shape: self.flow.map().describe(address),
                };
                if self.node.phase != Phase::Kernel {
                    let at = self.node.ip;
                    self.events.push(Event::Access { at, access });
                }
            }
            Executor::copy_or_fill(moves, to, from, length, &mut after);
        }
        after.clobber_caller_saved(self.node.ip);
        after.set_register(Register::RAX, to);
        self.return_from(after, self.node.phase);
        Ok(())
    }

    /// Pops the return address and goes there.
    pub(super) fn return_from(&mut self, mut state: State, phase: Phase) {
        let rsp = state.rsp();
        state.set_register(Register::RSP, rsp.add(Value::Const(8)));
        let Some((context, ip)) = self.contexts.caller(self.node.context) else {
            self.find("control flow", "returns from the way in itself");
            return;
        };
        let slot = Address {
            segment: Register::DS,
            fixed: rsp,
            variable: None,
        };
        if let Some(address) = self
            .flow
            .map()
            .load(slot, 8, &state, self.node.ip)
            .constant()
        {
            if address != ip {
                self.find("control flow", "the return address has been changed");
                return;
            }
        }
        self.next.push((
            Node {
                context,
                ip,
                phase,
                stack: None,
                gs: state.gs,
            },
            state,
        ));
    }

    /// Records what an instruction touches.
    pub(super) fn touch(&mut self, i: &Instruction, state: &State) {
        if self.node.phase != Phase::Kernel {
            let accesses = self.flow.exec.accesses(i, state);
            let at = i.ip();
            let accesses = accesses.into_iter();
            self.events
                .extend(accesses.map(|access| Event::Access { at, access }));
        }
    }

    fn instruction(&mut self, i: &Instruction, state: &State) -> Result<()> {
        match i.flow_control() {
            FlowControl::Next => {
                self.touch(i, state);
                self.plain(i, state);
            }
            FlowControl::UnconditionalBranch => {
                let target = i.near_branch_target();
                if self.flow.is_return_thunk(target) {
                    self.touch_pop(i.ip(), state);
                }
                self.jump(target, state);
            }
            FlowControl::ConditionalBranch => self.branch(i, state),
            FlowControl::Call if i.op0_kind() == OpKind::NearBranch64 => {
                self.touch(i, state);
                let target = i.near_branch_target();
                if self.is_local(i, target) {
                    let mut inside = state.clone();
                    inside.push(Value::Const(i.next_ip()));
                    self.go(target, inside);
                } else {
                    self.call(target, state, Some(i.next_ip()));
                }
            }
            FlowControl::IndirectCall | FlowControl::IndirectBranch => {
                self.touch(i, state);
                let (value, via) = match i.op0_kind() {
                    OpKind::Memory => {
                        let address = Executor::address(i, state);
                        (
                            self.flow.map().load(address, 8, state, i.ip()),
                            self.flow.map().describe(address),
                        )
                    }
                    _ => (
                        state.register(i.op0_register()),
                        format!("{:?}", i.op0_register()).to_lowercase(),
                    ),
                };
                let return_to =
                    (i.flow_control() == FlowControl::IndirectCall).then(|| i.next_ip());
                self.indirect(value, &via, state, return_to)?;
            }
            FlowControl::Return => self.leave(i, state),
            FlowControl::Exception => self.trap(i, state),
            FlowControl::Interrupt | FlowControl::Call | FlowControl::XbeginXabortXend => {
                let what = format!("{:?}", i.mnemonic()).to_lowercase();
                self.find("control flow", format!("reaches {what}"));
            }
        }
        Ok(())
    }

    /// A call inside one function, which stuffs the return stack: what follows is never run.
    fn is_local(&self, i: &Instruction, target: u64) -> bool {
        let symbols = &self.flow.image.symbols;
        symbols.at(target).map(|s| s.address) == symbols.at(i.ip()).map(|s| s.address)
            && self.flow.name(target, |_| true).is_none()
            && self.flow.image.bytes_at(i.next_ip(), 1) == Some(vec![0xcc])
    }

    fn plain(&mut self, i: &Instruction, state: &State) {
        let mut after = state.clone();
        let mut phase = self.node.phase;
        // Locked or not: what else could it be for?
        if self.flow.exec.writes_word(i, state, self.flow.state_word) {
            match phase {
                Phase::Entry => {}
                Phase::Kernel => {
                    self.end(End::StateChange);
                    phase = Phase::Exit;
                }
                // Another round of an NMI that was latched: it comes in again.
                Phase::Exit => phase = Phase::Entry,
            }
        }
        self.flow.exec.step(i, &mut after);
        let before = self.node.phase;
        self.node.phase = phase;
        self.fall(i.next_ip(), after);
        self.node.phase = before;
    }

    fn jump(&mut self, target: u64, state: &State) {
        // A tail call in a function that is followed only for what it calls.
        let is_function = self
            .flow
            .name(target, |n| n.strip_suffix(".cold").is_none())
            .is_some();
        if is_function
            && self.node.context != 0
            && !self.flow.is_return_thunk(target)
            && self.flow.indirect_thunk(target).is_none()
        {
            self.call(target, state, None);
        } else {
            self.go(target, state.clone());
        }
    }

    fn branch(&mut self, i: &Instruction, state: &State) {
        let condition = i.condition_code();
        let decided = state.decide(condition);
        if decided != Some(false) {
            let mut taken = state.clone();
            taken.refine(condition);
            if i.is_jcc_short_or_near() {
                let target = i.near_branch_target();
                let is_function = self.flow.name(target, |_| true).is_some();
                if is_function && self.node.context != 0 && self.flow.is_return_thunk(target) {
                    self.go(target, taken);
                } else {
                    self.jump(target, &taken);
                }
            } else {
                self.go(i.near_branch_target(), taken);
            }
        }
        if decided != Some(true) {
            let mut not = state.clone();
            if i.is_jcc_short_or_near() {
                let mut negated = *i;
                negated.negate_condition_code();
                not.refine(negated.condition_code());
            }
            self.fall(i.next_ip(), not);
        }
    }

    fn leave(&mut self, i: &Instruction, state: &State) {
        self.touch(i, state);
        if matches!(i.mnemonic(), Mnemonic::Ret) {
            self.return_from(state.clone(), self.node.phase);
            return;
        }
        if let Some(says_user) = self.flow.in_kernel {
            self.resume(i, state, says_user);
            return;
        }
        match self.node.phase {
            Phase::Entry => {
                let shape = format!("{LEAVES}, from {}", self.flow.entry);
                self.find("protocol", shape);
            }
            Phase::Kernel => {
                self.end(End::LeftUnchanged);
                let shape = format!("{UNCHANGED}, from {}", self.flow.entry);
                self.find("protocol", shape);
            }
            Phase::Exit => self.end(End::Left),
        }
    }

    /// The end of an event in the kernel: back to the code that it has interrupted.
    fn resume(&mut self, i: &Instruction, state: &State, says_user: bool) {
        if !matches!(i.code(), Code::Erets) && !is_kernel_cs(state) {
            self.find("control flow", NOT_BACK);
        }
        match self.node.phase {
            Phase::Kernel if says_user => {
                self.end(End::LeftUnchanged);
                let shape = format!("{UNCHANGED}, from {}", self.flow.entry);
                self.find("protocol", shape);
            }
            Phase::Entry | Phase::Kernel => self.end(End::Resumed),
            Phase::Exit => self.end(End::Left),
        }
    }

    fn trap(&mut self, i: &Instruction, state: &State) {
        if self.flow.warnings.contains(i.ip()) {
            if self.node.phase != Phase::Kernel {
                self.events.push(Event::Warning);
            }
            self.fall(i.next_ip(), state.clone());
        } else {
            self.end(End::Bug);
        }
    }
}

/// Whether the CS that IRET will pop is surely not user mode's.
fn is_kernel_cs(state: &State) -> bool {
    const PRIVILEGE: u64 = 3;
    let Some((stack, at)) = state.rsp().slot() else {
        return false;
    };
    match state.load(Region::Stack(stack), at + 8, 1) {
        Some(Value::Const(cs)) => cs & PRIVILEGE == 0,
        Some(Value::Bits { mask, value }) => {
            mask & PRIVILEGE == PRIVILEGE && value & PRIVILEGE == 0
        }
        _ => false,
    }
}
