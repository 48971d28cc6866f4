// SPDX-License-Identifier: GPL-2.0

//! Accesses to memory, and what becomes of them.

use super::{COMPARE_OFFSET, KERNEL, NOINSTR_CODE, NOT_WATCHED, Slot, USER, Watch, lock, read_u32};
use entry_watch_logic::remapped::Past;
use entry_watch_logic::window;
use std::sync::atomic::Ordering::Relaxed;

/// An access by code of the kernel.
pub(crate) struct Access {
    pub(crate) cpu: usize,
    pub(crate) pc: u64,
    pub(crate) address: u64,
}

/// What was read or written.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// By an instruction that does one of the two.
    Plain(u32),
    /// By one that does both.
    Atomic,
    /// Not 32 bits.
    OtherSize,
}

impl Access {
    /// It happened.
    pub(crate) fn happened(
        self,
        watch: &Watch,
        is_store: impl Fn() -> bool,
        value: impl Fn() -> Value,
    ) {
        let Some(slot) = watch.slots.get(self.cpu) else {
            return;
        };
        let doing = slot.doing.load(Relaxed);
        let is_state = self.address == slot.state.load(Relaxed);
        if doing == NOT_WATCHED || doing == KERNEL && !is_state {
            return;
        }
        let is_store = is_store();
        if doing == USER {
            slot.tell(|cpu| cpu.came_in_unseen(self.pc));
            watch.opened(slot, self.cpu);
        }
        if doing != KERNEL {
            self.record(watch, slot, is_store);
        }
        if is_state && is_store {
            self.state_changed(watch, slot);
        } else if !is_store && self.is_module(watch) && self.is_word_of(watch, self.cpu) {
            self.read_word(watch, slot, value());
        }
    }

    fn read_word(&self, watch: &Watch, slot: &Slot, value: Value) {
        match value {
            Value::Plain(value) => {
                let by_receiver = self.pc == watch.trampoline.load(Relaxed) + COMPARE_OFFSET;
                if value == 0 {
                    slot.is_owed.store(false, Relaxed);
                }
                let word = watch.word_now(slot, self.cpu);
                slot.tell_with_word(word, |cpu| cpu.read_word(value, by_receiver));
            }
            Value::Atomic => {}
            Value::OtherSize => watch.problem("the word was read, but not as one of 32 bits"),
        }
    }

    /// It was one that reads and writes: the sender sets words of others so, and the receiver takes
    /// and clears its own.
    pub(crate) fn was_atomic(&self, watch: &Watch) {
        if watch.word.load(Relaxed) == 0 {
            return;
        }
        let Some(owner) = (0..watch.slots.len()).find(|cpu| self.is_word_of(watch, *cpu)) else {
            return;
        };
        let Some(slot) = watch.slot(owner) else {
            return;
        };
        let flushes = slot.flushes();
        let Some(value) = read_u32(self.address).filter(|_| watch.has_word()) else {
            return;
        };
        if owner == self.cpu {
            slot.tell(|cpu| cpu.changed_word(value));
        } else if value != 0 {
            slot.note_owed(flushes);
        }
    }

    fn record(&self, watch: &Watch, slot: &Slot, is_store: bool) {
        let Some(regions) = watch.regions() else {
            return;
        };
        let mut cpu = lock(&slot.cpu);
        let is_tracer = if watch.image.contains(&self.pc) {
            watch.tracers.iter().any(|code| code.contains(&self.pc))
        } else {
            !self.is_module(watch)
        };
        if is_tracer {
            cpu.traced();
        } else if watch.behind_receiver.contains(&self.pc) {
            cpu.past_receiver();
        }
        let class = regions.classify(self.address, self.cpu, cpu.running);
        let past = if class.is_vmalloc() {
            watch.past(cpu.left(), self.address)
        } else {
            Past::Unchanged
        };
        let access = window::Access {
            pc: self.pc,
            class,
            is_store,
        };
        cpu.access(access, self.address, past);
    }

    fn state_changed(&self, watch: &Watch, slot: &Slot) {
        let newest = watch.newest_remapping.load(Relaxed);
        let Some(state) = read_u32(self.address) else {
            watch.problem("the context-tracking state cannot be read");
            return;
        };
        let is_quiet = window::is_quiet(state);
        let word = watch.word_now(slot, self.cpu);
        if slot.tell_with_word(word, |cpu| cpu.state_changed(is_quiet, newest)) {
            watch.opened(slot, self.cpu);
        }
    }

    /// Whether the module's noinstr code does it.
    fn is_module(&self, watch: &Watch) -> bool {
        let trampoline = watch.trampoline.load(Relaxed);
        self.pc.wrapping_sub(trampoline) < NOINSTR_CODE
    }

    fn is_word_of(&self, watch: &Watch, cpu: usize) -> bool {
        let word = watch.word.load(Relaxed);
        word != 0
            && watch
                .regions
                .get()
                .and_then(|regions| regions.per_cpu_offset.get(cpu))
                .is_some_and(|offset| self.address == word.wrapping_add(*offset))
    }
}
