// SPDX-License-Identifier: GPL-2.0

//! Where control goes from a program point.

use super::config::Allowlist;
use super::events::Event;
use super::exec::Executor;
use super::memory::Map;
use super::patch::Patches;
use super::state::State;
use super::tables::{Reachable, Warnings};
use super::transfer::Step;
use super::walk::{Contexts, Node};
use crate::image::Image;
use anyhow::{Context, Result};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

/// How a path that meets no hook is reported.
pub(super) const LEAVES: &str = "leaves without a flush";
/// How a path is reported that goes back from an event in the kernel, but not surely to the kernel.
pub(super) const NOT_BACK: &str =
    "leaves an event in the kernel, and the saved CS may be user mode's";
/// How a path is reported that has met the hook, and on which the state never says "user" again.
pub(super) const UNCHANGED: &str = "leaves for user mode without a state change";
const MAX_INSTRUCTION: usize = 15;

/// What control flow depends on.
pub(super) struct Flow<'a> {
    pub(super) image: &'a Image,
    pub(super) allow: &'a Allowlist,
    pub(super) patches: &'a Patches,
    pub(super) warnings: &'a Warnings,
    /// The functions that can lead to user mode.
    pub(super) leaving: &'a Reachable,
    /// Those that change the state on the way.
    pub(super) changing: Vec<u64>,
    /// The way in that is walked.
    pub(super) entry: String,
    /// If it is an event in the kernel: whether the state says "user".
    pub(super) in_kernel: Option<bool>,
    pub(super) exec: Executor<'a>,
    pub(super) receiver: u64,
    pub(super) state_word: u64,
}

pub(super) type Next = Vec<(Node, State)>;

impl<'a> Flow<'a> {
    pub(super) fn map(&self) -> &'a Map<'a> {
        self.exec.map
    }

    pub(super) fn decode(&self, ip: u64) -> Result<Instruction> {
        let bytes = self
            .image
            .bytes_at(ip, MAX_INSTRUCTION)
            .with_context(|| format!("a path leads to {ip:#x}, which is not in the image"))?;
        let instruction = Decoder::with_ip(64, &bytes, ip, DecoderOptions::NONE).decode();
        anyhow::ensure!(
            instruction.code() != Code::INVALID,
            "a path leads to {}, where there is no instruction",
            self.image.symbols.describe(ip)
        );
        Ok(instruction)
    }

    /// The function that an address runs in.
    pub(super) fn function(&self, ip: u64) -> String {
        let home = self.patches.home(ip);
        self.image
            .symbols
            .at(home)
            .map_or_else(|| format!("{home:#x}"), |s| s.name.clone())
    }

    pub(super) fn name(&self, ip: u64, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut names = self.image.symbols.names_of(ip);
        names.find(|name| wanted(name)).map(Into::into)
    }

    pub(super) fn is_return_thunk(&self, ip: u64) -> bool {
        self.name(ip, |n| n.ends_with("_return_thunk")).is_some()
    }

    pub(super) fn indirect_thunk(&self, ip: u64) -> Option<Register> {
        let name = self.name(ip, |n| {
            n.contains("x86_indirect_thunk_")
                || n.contains("x86_indirect_jump_thunk_")
                || n.contains("x86_indirect_call_thunk_")
        })?;
        Some(match name.rsplit('_').next()? {
            "rax" | "array" => Register::RAX,
            "rcx" => Register::RCX,
            "rdx" => Register::RDX,
            "rbx" => Register::RBX,
            "rbp" => Register::RBP,
            "rsi" => Register::RSI,
            "rdi" => Register::RDI,
            "r8" => Register::R8,
            "r9" => Register::R9,
            "r10" => Register::R10,
            "r11" => Register::R11,
            "r12" => Register::R12,
            "r13" => Register::R13,
            "r14" => Register::R14,
            "r15" => Register::R15,
            _ => return None,
        })
    }

    /// Checks that a function touches no memory but the stack; which registers it changes.
    pub(super) fn stack_only(&mut self, function: u64) -> Result<Vec<Register>> {
        let end = self.image.symbols.next_after(function).unwrap_or(function);
        let mut changed = Vec::new();
        let mut ip = function;
        while ip < end {
            let i = self.decode(ip)?;
            ip = i.next_ip();
            let (touches, writes) = self.exec.syntactic(&i);
            anyhow::ensure!(
                touches.iter().all(|base| *base == Register::RSP),
                "{} is said to touch nothing but the stack, and does at {}",
                self.image.symbols.describe(function),
                self.image.symbols.describe(i.ip())
            );
            changed.extend(writes);
        }
        let kept = [
            Register::RSP,
            Register::RBX,
            Register::RBP,
            Register::R12,
            Register::R13,
            Register::R14,
            Register::R15,
        ];
        changed.retain(|register| !kept.contains(register));
        Ok(changed)
    }

    /// Everything that can happen at a point: where it goes, and what is seen.
    pub(super) fn transfer(
        &mut self,
        node: Node,
        state: &State,
        contexts: &mut Contexts,
        next: &mut Next,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let mut step = Step {
            flow: self,
            node,
            contexts,
            next,
            events,
        };
        step.run(state)
    }
}
