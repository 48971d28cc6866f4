// SPDX-License-Identifier: GPL-2.0

//! The machine around the protocol: CPUs with a TLB, senders, interrupts, NMIs and blockers.
//!
//! Each sender has one mapping. The number in its page-table entry counts how often it was changed;
//! `published` is the number up to which the flush has returned, so that the address may be in use
//! again for something else. A CPU's TLB holds the number that its page walk read. Kernel code that
//! uses the mapping with a number below the published one reads freed memory: that is the invariant
//! ([`Machine::use_mappings`]).
//!
//! A TLB is filled again right after each flush, at the earliest moment: a page walk that comes
//! later can only read something newer.
//!
//! The lock of a CPU stands for the CPU: whoever holds it executes on it, with interrupts off. It is
//! free in user mode, and in kernel mode where interrupts are on. A sender that interrupts a CPU
//! takes it and does there what that CPU would do; it would have waited for it anyway.

use crate::atomics::{AtomicU32, Ordering::*};
use crate::protocol::{Make, Protocol};
use crate::scenario::{Blocker, Fault, Setup};
use crate::trace;
use loom::sync::Mutex;

/// Entry from user mode: the state becomes kernel, and RCU is watching.
const ENTER: u32 = 4 - 2;
/// Exit to user mode.
const EXIT: u32 = 4 + 2;
/// An NMI from user mode comes or goes: the state stays, RCU is watching or not.
const NMI: u32 = 4;
const WATCHING: u32 = 4;

/// The first number of a mapping.
const FIRST: u32 = 1;

/// What only the CPU itself changes.
struct Private {
    tlb: Vec<u32>,
    in_user: bool,
    /// How many places there were so far at which an NMI can come.
    nmi_points: usize,
    /// How many NMIs are running.
    nmi_depth: usize,
}

struct Cpu {
    number: usize,
    name: &'static str,
    state: AtomicU32,
    running: Mutex<Private>,
}

/// What an interrupt does on the CPU that it hits.
#[derive(Clone, Copy)]
enum Interrupt {
    /// The sender's: flush its own mapping, nothing else.
    FlushMapping(usize),
    /// The drain's: exchange, flush and clear if anything is owed.
    FlushIfOwed,
}

pub(crate) struct Machine {
    setup: Setup,
    entries: Vec<AtomicU32>,
    published: Vec<AtomicU32>,
    cpus: Vec<Cpu>,
    protocol: Box<dyn Protocol>,
    /// Whether watched code is changed, so that a tracer runs before receiver and NMI handler.
    text: AtomicU32,
    /// Whether receiver and NMI handler are installed.
    installed: AtomicU32,
    /// Held by a reader of RCU tasks; taken and released it is a grace period.
    rcu_tasks: Mutex<()>,
}

const CPU_NAMES: [&str; 2] = ["cpu0", "cpu1"];
const STATE_NAMES: [&str; 2] = ["cpu0's state", "cpu1's state"];
const WORD_NAMES: [&str; 2] = ["cpu0's word", "cpu1's word"];
const ENTRY_NAMES: [&str; 2] = ["entry0", "entry1"];
const PUBLISHED_NAMES: [&str; 2] = ["published0", "published1"];

impl Machine {
    pub(crate) fn new(setup: &Setup, make: Make) -> Self {
        let mappings = setup.senders;
        let numbers = || (0..mappings).map(|_| AtomicU32::new(FIRST)).collect();
        Self {
            setup: setup.clone(),
            entries: numbers(),
            published: numbers(),
            cpus: (0..setup.cpus)
                .map(|i| Cpu {
                    number: i,
                    name: CPU_NAMES[i],
                    state: AtomicU32::new(2),
                    running: Mutex::new(Private {
                        tlb: vec![FIRST; mappings],
                        in_user: true,
                        nmi_points: 0,
                        nmi_depth: 0,
                    }),
                })
                .collect(),
            protocol: make(setup.cpus),
            text: AtomicU32::new(0),
            installed: AtomicU32::new(1),
            rcu_tasks: Mutex::new(()),
        }
    }

    /// Gives names to the atomics and makes them, before a second thread exists.
    pub(crate) fn start(&self) {
        for (i, cpu) in self.cpus.iter().enumerate() {
            trace::set_name((&raw const cpu.state).cast(), STATE_NAMES[i]);
            trace::set_name(self.protocol.word(i), WORD_NAMES[i]);
            cpu.state.load(Relaxed);
            self.protocol.is_clear(i);
        }
        for (i, (entry, published)) in self.entries.iter().zip(&self.published).enumerate() {
            trace::set_name((&raw const *entry).cast(), ENTRY_NAMES[i]);
            trace::set_name((&raw const *published).cast(), PUBLISHED_NAMES[i]);
            entry.load(Relaxed);
            published.load(Relaxed);
        }
        trace::set_name(self.protocol.blocked(), "blocked");
        trace::set_name((&raw const self.text).cast(), "text");
        trace::set_name((&raw const self.installed).cast(), "installed");
        self.protocol.generation();
        self.text.load(Relaxed);
        self.installed.load(Relaxed);
        if self.setup.resumes() {
            // An earlier tracer, that has gone.
            self.protocol.block_for_write();
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.setup.fault == Some(fault)
    }

    /// A change of the kernel's state word: fully ordered.
    fn change_state(&self, cpu: &Cpu, by: u32) {
        let order = if self.has(Fault::UnorderedState) {
            Relaxed
        } else {
            SeqCst
        };
        cpu.state.fetch_add(by, order);
    }

    /// Kernel code that uses every mapping, as far as it has been given to it.
    fn use_mappings(&self, cpu: &Cpu, me: &Private, who: &str) {
        for (i, published) in self.published.iter().enumerate() {
            let number = published.load(Acquire);
            assert!(
                me.tlb[i] >= number,
                "{}: {who} uses mapping {i} through a stale entry",
                cpu.name
            );
        }
    }

    fn flush_mapping(&self, cpu: &Cpu, me: &mut Private, i: usize) {
        me.tlb[i] = self.entries[i].load(Relaxed);
        trace::record(|| format!("{} flushes {}", cpu.name, ENTRY_NAMES[i]));
    }

    fn flush_all(&self, cpu: &Cpu, me: &mut Private) {
        trace::record(|| format!("{} flushes everything", cpu.name));
        for i in 0..me.tlb.len() {
            me.tlb[i] = self.entries[i].load(Relaxed);
        }
    }

    /// Whether the module's hooks are there. Only a mode that is left takes them out.
    fn is_installed(&self) -> bool {
        self.setup.blocker != Blocker::Mode || self.installed.load(Relaxed) == 1
    }

    /// A tracer on watched code runs before the module's hooks.
    fn run_tracer(&self, cpu: &Cpu, me: &Private) {
        if self.setup.has_tracer() && self.text.load(Relaxed) == 1 {
            self.use_mappings(cpu, me, "a tracer before the flush");
        }
    }

    /// Exchange, flush, clear, by the protocol.
    fn receive(&self, cpu: &Cpu, me: &mut Private) {
        self.protocol.receive(cpu.number, &mut || {
            self.nmi_point(cpu, me);
            self.flush_all(cpu, me);
            self.nmi_point(cpu, me);
        });
    }

    /// hooks/receiver.rs.
    fn run_receiver(&self, cpu: &Cpu, me: &mut Private) {
        if self.is_installed()
            && !self.has(Fault::NoReceiver)
            && !self.protocol.is_clear(cpu.number)
        {
            self.nmi_point(cpu, me);
            self.receive(cpu, me);
        }
    }

    /// hooks/nmi.rs.
    fn run_nmi_handler(&self, cpu: &Cpu, me: &mut Private) {
        if !self.is_installed() {
            return;
        }
        if self.has(Fault::NmiTakesBit) {
            // Nothing is left for an NMI inside this one.
            if !self.protocol.is_clear(cpu.number) {
                self.protocol.take(cpu.number);
                self.nmi_point(cpu, me);
                self.flush_all(cpu, me);
            }
        } else if !self.protocol.is_clear(cpu.number) {
            self.nmi_point(cpu, me);
            self.flush_all(cpu, me);
        }
    }

    /// An NMI, from wherever the CPU is.
    fn nmi(&self, cpu: &Cpu, me: &mut Private) {
        trace::record(|| format!("NMI on {}", cpu.name));
        me.nmi_depth += 1;
        let was_watching = cpu.state.load(Relaxed) & WATCHING != 0;
        if !was_watching {
            self.change_state(cpu, NMI);
        }
        self.run_tracer(cpu, me);
        let is_asked = match self.setup.fault {
            Some(Fault::NmiAsksWhereFrom) => !was_watching,
            Some(Fault::NoNmiFlush) => false,
            _ => true,
        };
        if is_asked {
            self.run_nmi_handler(cpu, me);
        }
        self.use_mappings(cpu, me, "an NMI handler");
        if !was_watching {
            self.change_state(cpu, NMI);
        }
        me.nmi_depth -= 1;
        trace::record(|| format!("end of NMI on {}", cpu.name));
    }

    /// A place at which an NMI can come; it does if the scenario says so.
    fn nmi_point(&self, cpu: &Cpu, me: &mut Private) {
        let point = me.nmi_points;
        me.nmi_points += 1;
        if cpu.name == CPU_NAMES[0] && me.nmi_depth < 2 && self.setup.nmi.contains(&point) {
            self.setup.nmi_came(point);
            self.nmi(cpu, me);
        }
    }

    /// From user mode to the point where kernel code may use anything.
    fn enter(&self, cpu: &Cpu, me: &mut Private) {
        trace::record(|| format!("{} enters the kernel", cpu.name));
        self.nmi_point(cpu, me);
        self.change_state(cpu, ENTER);
        me.in_user = false;
        self.nmi_point(cpu, me);
        self.run_tracer(cpu, me);
        if self.has(Fault::LateReceiver) {
            self.use_mappings(cpu, me, "vtime accounting before the receiver");
        }
        self.run_receiver(cpu, me);
        self.nmi_point(cpu, me);
    }

    fn exit(&self, cpu: &Cpu, me: &mut Private) {
        self.change_state(cpu, EXIT);
        me.in_user = true;
        trace::record(|| format!("{} is in user mode", cpu.name));
        self.nmi_point(cpu, me);
    }

    /// Interrupts a CPU and waits until the handler has run.
    fn interrupt(&self, cpu: &Cpu, interrupt: Interrupt) {
        let mut me = cpu.running.lock().unwrap();
        let me = &mut *me;
        trace::record(|| format!("interrupt on {}", cpu.name));
        let was_in_user = me.in_user;
        if was_in_user {
            self.enter(cpu, me);
        }
        match interrupt {
            _ if self.has(Fault::NoInterruptFlush) => {}
            Interrupt::FlushMapping(i) => self.flush_mapping(cpu, me, i),
            Interrupt::FlushIfOwed => {
                if !self.protocol.is_clear(cpu.number) {
                    self.receive(cpu, me);
                }
            }
        }
        self.use_mappings(cpu, me, "an interrupt handler");
        if was_in_user {
            self.exit(cpu, me);
        }
    }

    /// A CPU that goes to the kernel and back.
    pub(crate) fn run_cpu(&self, i: usize) {
        let cpu = &self.cpus[i];
        for _ in 0..self.setup.visits {
            let mut me = cpu.running.lock().unwrap();
            self.enter(cpu, &mut me);
            self.use_mappings(cpu, &me, "the kernel");
            if self.setup.interrupts_on {
                drop(me);
                me = cpu.running.lock().unwrap();
                self.use_mappings(cpu, &me, "the kernel");
            }
            self.exit(cpu, &mut me);
        }
    }

    /// A sender: `flush_tlb_kernel_range()` as in hooks/wrapper.rs, so many times.
    pub(crate) fn run_sender(&self, i: usize) {
        for number in FIRST + 1..=FIRST + self.setup.changes {
            self.entries[i].store(number, Relaxed);
            self.protocol.sender_barrier();
            // The kernel asks for each CPU first, and then interrupts those that it has to.
            let interrupted: Vec<&Cpu> = self
                .cpus
                .iter()
                .filter(|cpu| {
                    !self.protocol.offer(cpu.number, &|| {
                        self.protocol.is_quiet(cpu.state.load(Acquire))
                    })
                })
                .collect();
            for cpu in interrupted {
                self.interrupt(cpu, Interrupt::FlushMapping(i));
            }
            trace::record(|| format!("the flush of {} returns", ENTRY_NAMES[i]));
            self.published[i].store(number, Release);
        }
    }

    /// hooks/drain.rs.
    fn drain(&self) {
        let owing: Vec<&Cpu> = self
            .cpus
            .iter()
            .filter(|cpu| !self.protocol.is_clear(cpu.number))
            .collect();
        for cpu in owing {
            self.interrupt(cpu, Interrupt::FlushIfOwed);
        }
    }

    /// Blocks and drains, or a faulty form of that.
    fn block_and_drain(&self, block: fn(&(dyn Protocol + 'static))) {
        match self.setup.fault {
            Some(Fault::DrainFirst) => {
                self.drain();
                block(&*self.protocol);
            }
            Some(Fault::NoDrain) => block(&*self.protocol),
            _ => {
                block(&*self.protocol);
                self.drain();
            }
        }
    }

    /// While deferral is blocked, no CPU may hold a stale entry, not even in user mode.
    fn assert_nothing_stale(&self) {
        for cpu in &self.cpus {
            let numbers: Vec<u32> = self.published.iter().map(|p| p.load(Acquire)).collect();
            let me = cpu.running.lock().unwrap();
            for (i, number) in numbers.into_iter().enumerate() {
                assert!(
                    me.tlb[i] >= number,
                    "{} owes a flush of mapping {i} after the drain",
                    cpu.name
                );
            }
        }
    }

    /// The first blocker of the scenario.
    pub(crate) fn run_blocker(&self) {
        match self.setup.blocker {
            Blocker::None => {}
            Blocker::Mode => {
                self.block_and_drain(<dyn Protocol>::block_mode);
                self.installed.store(0, Relaxed);
            }
            Blocker::Memory => {
                self.block_and_drain(<dyn Protocol>::block_memory);
                self.assert_nothing_stale();
            }
            Blocker::Tracer | Blocker::Resume | Blocker::ResumeThenSend => {
                let _reader = self.rcu_tasks.lock().unwrap();
                if self.has(Fault::WriteFirst) {
                    self.text.store(1, Relaxed);
                }
                self.block_and_drain(<dyn Protocol>::block_for_write);
                self.text.store(1, Relaxed);
            }
        }
    }

    /// What ends a suspension: `settled_generation()`, a look at the text, `resume()`.
    pub(crate) fn run_resume(&self) {
        let generation = self.protocol.generation();
        if !self.has(Fault::HastyResume) {
            drop(self.rcu_tasks.lock().unwrap());
        }
        if self.text.load(Relaxed) == 0 {
            self.protocol.resume(generation);
        }
    }
}
