// SPDX-License-Identifier: GPL-2.0

//! Accesses of the stack by instructions that the image has in another form than the kernel that
//! runs: a jump to a return thunk is patched into a RET, an indirect call that is patched into a
//! direct one still pushes, and the body of a retpoline is one point of a path.

use super::events::Event;
use super::exec::Access;
use super::memory::Address;
use super::state::{Phase, State};
use super::transfer::Step;
use super::value::Value;
use anyhow::Result;
use iced_x86::{Code, Register};

/// What a call pushes.
const RETURN_ADDRESS: usize = 8;
/// CALL with a displacement, or a NOP in its place.
const CALL_SIZE: usize = 5;

impl Step<'_, '_> {
    /// The instruction at `at` pushes a return address.
    pub(super) fn touch_push(&mut self, at: u64, state: &State) {
        let below = state.rsp().sub(Value::Const(RETURN_ADDRESS as u64));
        self.touch_stack(at, below, true, state);
    }

    /// The instruction at `at` pops a return address.
    pub(super) fn touch_pop(&mut self, at: u64, state: &State) {
        self.touch_stack(at, state.rsp(), false, state);
    }

    /// Of the class that the stack pointer says: a finding unless it points to a stack.
    fn touch_stack(&mut self, at: u64, pointer: Value, writes: bool, state: &State) {
        if self.node.phase == Phase::Kernel {
            return;
        }
        let address = Address {
            segment: Register::DS,
            fixed: pointer,
            variable: None,
        };
        let map = self.flow.map();
        let access = Access {
            class: map.classify(address, RETURN_ADDRESS, state),
            writes,
            size: RETURN_ADDRESS,
            shape: map.describe(address),
        };
        self.events.push(Event::Access { at, access });
    }

    /// The body of a thunk of indirect branches: a call of its own, a store over the return address
    /// that this has pushed, and a return.
    pub(super) fn touch_thunk(&mut self, state: &State) -> Result<()> {
        let start = self.node.ip;
        let end = self.flow.image.symbols.next_after(start).unwrap_or(start);
        let mut ip = start;
        while ip < end {
            let i = self.flow.decode(ip)?;
            let (bases, _) = self.flow.exec.syntactic(&i);
            if bases.iter().any(|base| *base != Register::RSP) {
                self.find("control flow", "a thunk that touches more than the stack");
            } else if !bases.is_empty() || self.flow.is_return_thunk(i.near_branch_target()) {
                self.touch_push(ip, state);
            }
            ip = i.next_ip();
        }
        Ok(())
    }

    /// The call at a function's entry that ftrace has made of a NOP.
    pub(super) fn touch_fentry(&mut self, state: &State) -> Result<()> {
        let mut i = self.flow.decode(self.node.ip)?;
        if i.code() == Code::Endbr64 {
            i = self.flow.decode(i.next_ip())?;
        }
        if i.len() == CALL_SIZE {
            self.touch_push(i.ip(), state);
        }
        Ok(())
    }
}
