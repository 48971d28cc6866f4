// SPDX-License-Identifier: GPL-2.0

//! Calls: direct and indirect, followed, skipped, or the end of a path.

use super::events::End;
use super::exec::Executor;
use super::state::{Phase, State};
use super::transfer::Step;
use super::value::{Source, Value};
use super::walk::Node;
use anyhow::Result;
use iced_x86::{FlowControl, Instruction};

impl Step<'_, '_> {
    /// A call that an alternative makes direct, of what its memory operand has at boot.
    pub(super) fn direct_call(&mut self, state: &State, return_to: u64) -> Result<()> {
        let call = self.flow.decode(self.node.ip)?;
        self.touch_push(call.ip(), state);
        let target = Executor::address(&call, state);
        let value = self.flow.map().load(target, 8, state, call.ip());
        let via = self.flow.map().describe(target);
        self.indirect(value, &via, state, Some(return_to))
    }

    pub(super) fn static_call(&mut self, i: &Instruction, key: u64, state: &State) -> Result<()> {
        let is_tail = i.flow_control() != FlowControl::Call;
        let return_to = (!is_tail).then(|| i.next_ip());
        if self.node.phase == Phase::Kernel {
            self.skip(state, return_to);
            return Ok(());
        }
        self.touch(i, state);
        let allow = self.flow.allow;
        let name = self.flow.image.symbols.describe(key);
        let name = name.strip_prefix("__SCK__").unwrap_or(&name).to_owned();
        let mut chain = vec![self.flow.function(self.node.ip)];
        let mut context = self.node.context;
        while let Some((caller, ip)) = self.contexts.caller(context) {
            chain.push(self.flow.function(ip - 1));
            context = caller;
        }
        if let Some(targets) = allow.static_call(&name, &chain) {
            return self.calls(targets, state, return_to);
        }
        self.find("control flow", format!("static call {name}"));
        self.skip(state, return_to);
        Ok(())
    }

    /// Calls each of these functions, or none of them.
    pub(super) fn calls(
        &mut self,
        targets: &[String],
        state: &State,
        return_to: Option<u64>,
    ) -> Result<()> {
        if targets.is_empty() {
            self.skip(state, return_to);
        }
        for target in targets {
            let address = self.flow.image.require(target)?;
            self.call(address, state, return_to);
        }
        Ok(())
    }

    /// Takes a call as done.
    pub(super) fn skip(&mut self, state: &State, return_to: Option<u64>) {
        let mut after = state.clone();
        after.clobber_caller_saved(self.node.ip);
        if self.node.phase == Phase::Kernel {
            after.forget_user_registers();
        }
        match return_to {
            Some(ip) => self.fall(ip, after),
            None => self.return_from(after, self.node.phase),
        }
    }

    pub(super) fn is_followed(&self, target: u64) -> bool {
        self.node.phase != Phase::Kernel
            || self.flow.leaving.contains(target)
            || self.flow.changing.contains(&target)
    }

    /// Calls a function, or jumps to it if there is nothing to return to.
    pub(super) fn call(&mut self, target: u64, state: &State, return_to: Option<u64>) {
        let allow = self.flow.allow;
        let caller = self.flow.function(self.node.ip);
        let caller = (self.node.phase != Phase::Kernel).then_some(&*caller);
        if let Some(name) = self.flow.name(target, |n| allow.is_stop(n, caller)) {
            self.end(End::Stop(name));
            return;
        }
        if !self.is_followed(target) {
            self.skip(state, return_to);
            return;
        }
        let Some(ip) = return_to else {
            self.go(target, state.clone());
            return;
        };
        let ip = self.flow.patches.resume(self.node.ip, ip);
        let mut inside = state.clone();
        inside.push(Value::Const(ip));
        match self.contexts.call(self.node.context, ip) {
            Some(context) => self.next.push((
                Node {
                    context,
                    ip: target,
                    phase: self.node.phase,
                    stack: None,
                    gs: state.gs,
                },
                inside,
            )),
            None => self.find("limit", "the chain of calls is too long"),
        }
    }

    pub(super) fn indirect(
        &mut self,
        target: Value,
        via: &str,
        state: &State,
        return_to: Option<u64>,
    ) -> Result<()> {
        let function = self.flow.function(self.node.ip);
        let protocol = self.flow.allow.protocol();
        // A thunk is reached by a call: the function is the one that called it.
        let thunk_caller = (return_to.is_none()
            && self.flow.indirect_thunk(self.node.ip).is_some())
        .then(|| self.contexts.caller(self.node.context))
        .flatten();
        let function = thunk_caller.map_or(function, |(_, ip)| self.flow.function(ip - 1));
        if self.node.phase == Phase::Kernel {
            self.skip(state, return_to);
            return Ok(());
        }
        // With RCU watching before, a change of state on this path was none: whether there is one
        // depends on a counter that is not known.
        let may_flush = match self.node.phase {
            Phase::Entry => true,
            Phase::Exit => self.flow.in_kernel == Some(false),
            Phase::Kernel => false,
        };
        if may_flush && function == protocol.nmi_walk {
            self.end(End::NmiWalk);
            let mut after = state.clone();
            after.clobber_caller_saved(self.node.ip);
            match return_to {
                Some(ip) => self.next.push((
                    Node {
                        ip,
                        phase: Phase::Kernel,
                        ..self.node
                    },
                    after,
                )),
                None => self.return_from(after, Phase::Kernel),
            }
            return Ok(());
        }
        if let Some(address) = target.constant() {
            self.call(address, state, return_to);
            return Ok(());
        }
        let via = match target.plain() {
            Value::Number {
                source: Source::Computed(_) | Source::Loaded(_),
                ..
            } => via.to_owned(),
            Value::Number { source, .. } => self.flow.map().describe_source(source),
            _ => via.to_owned(),
        };
        let allow = self.flow.allow;
        if let Some(targets) = allow.indirect(&function, &via) {
            if targets.is_empty() {
                self.end(End::Stop(format!("{function}: {via}")));
                return Ok(());
            }
            return self.calls(targets, state, return_to);
        }
        self.find("indirect branch", format!("through {via}"));
        Ok(())
    }
}
