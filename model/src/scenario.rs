// SPDX-License-Identifier: GPL-2.0

//! What is explored: who runs, how often, and what is wrong with the machine on purpose.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// What blocks deferral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocker {
    None,
    /// The mode is left: block, drain, receiver and NMI handler out.
    Mode,
    /// Memory goes offline: block, drain, memory gone.
    Memory,
    /// Watched code is written to: block, drain, tracer in.
    Tracer,
    /// The same, while a suspension by an earlier tracer is being ended.
    Resume,
    /// The same, and the senders come when the suspension has ended or has not.
    ResumeThenSend,
}

/// What is wrong outside of `ctx_tracking.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The kernel's change of the state is no barrier.
    UnorderedState,
    /// Nothing runs on entry.
    NoReceiver,
    /// The receiver runs after code that uses vmalloc memory.
    LateReceiver,
    /// An interrupt flushes nothing.
    NoInterruptFlush,
    /// The NMI handler does nothing.
    NoNmiFlush,
    /// The NMI handler flushes only if the NMI came from user mode.
    NmiAsksWhereFrom,
    /// The NMI handler takes the bit before it flushes.
    NmiTakesBit,
    /// The drain comes before the block.
    DrainFirst,
    /// There is no drain.
    NoDrain,
    /// Watched code is written to before the block.
    WriteFirst,
    /// The resume does not wait for a write that is under way.
    HastyResume,
}

/// A fault, what it is, and the scenarios each of which has to catch it.
type FaultRow = (Fault, &'static str, &'static [&'static str]);

impl Fault {
    pub(crate) const ALL: &'static [FaultRow] = &[
        (
            Self::UnorderedState,
            "the kernel's change of the state is no barrier",
            &["1x1", "1x1+memory", "2x1+irq"],
        ),
        (Self::NoReceiver, "nothing runs on entry", &["1x1"]),
        (
            Self::LateReceiver,
            "the receiver runs after code that uses vmalloc memory",
            &["1x1"],
        ),
        (
            Self::NoInterruptFlush,
            "an interrupt flushes nothing",
            &["1x1+irq", "1x1+memory", "1x1+irq+mode", "2x1+irq"],
        ),
        (
            Self::NoNmiFlush,
            "the NMI handler does nothing",
            &["1x1+nmi", "1x1+tracer+nmi", "1x1+mode+nmi"],
        ),
        (
            Self::NmiAsksWhereFrom,
            "the NMI handler flushes only if it came from user mode",
            &["1x1+nmi", "1x1+tracer+nmi", "1x1+mode+nmi"],
        ),
        (
            Self::NmiTakesBit,
            "the NMI handler takes the bit before it flushes",
            &["1x1+2nmi"],
        ),
        (
            Self::DrainFirst,
            "the drain comes before the block",
            &["1x1+mode", "1x1+memory", "1x1+tracer"],
        ),
        (
            Self::NoDrain,
            "there is no drain",
            &[
                "1x1+mode",
                "1x1+memory",
                "1x1+tracer",
                "1x1+irq+mode",
                "1x1+mode+nmi",
                "1x1+twice+mode",
            ],
        ),
        (
            Self::WriteFirst,
            "watched code is written to before the block",
            &["1x1+tracer"],
        ),
        (
            Self::HastyResume,
            "the resume does not wait for a write that is under way",
            &["1x1+resume"],
        ),
    ];
}

/// Where NMIs come on the first CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nmis {
    None,
    /// At each place in turn.
    Each,
    /// At each two places in turn, the second of which may be within the first NMI.
    Pairs,
}

/// A named set of explorations.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) setup: Setup,
    pub(crate) nmis: Nmis,
    /// Too large to try the changes that are no bugs with it.
    pub(crate) is_large: bool,
}

impl Scenario {
    pub(crate) fn with_fault(&self, fault: Option<Fault>) -> Self {
        let mut setup = self.setup.clone();
        setup.fault = fault;
        Self { setup, ..*self }
    }
}

/// Everything that is explored, in the order of how long that takes.
pub(crate) fn all() -> Vec<Scenario> {
    let scenario = |name, setup, nmis| Scenario {
        name,
        setup,
        nmis,
        is_large: false,
    };
    let large = |name, setup, nmis| Scenario {
        is_large: true,
        ..scenario(name, setup, nmis)
    };
    let blocked = |blocker| Setup::new(1, 1, 1).blocker(blocker).bound(3);
    let twice = || Setup::new(1, 1, 2).changes(2);
    let irq = |senders| Setup::new(senders, 1, 2).interrupts_on();
    vec![
        scenario("1x1", Setup::new(1, 1, 1), Nmis::None),
        scenario("1x1+irq", irq(1), Nmis::None),
        scenario("1x1+nmi", Setup::new(1, 1, 1), Nmis::Each),
        scenario("1x1+2nmi", Setup::new(1, 1, 1), Nmis::Pairs),
        scenario("1x1+twice", twice(), Nmis::None),
        scenario("1x1+mode", blocked(Blocker::Mode), Nmis::None),
        scenario("1x1+memory", blocked(Blocker::Memory), Nmis::None),
        scenario("1x1+tracer", blocked(Blocker::Tracer), Nmis::None),
        scenario(
            "1x1+tracer+nmi",
            blocked(Blocker::Tracer).bound(2),
            Nmis::Each,
        ),
        scenario("1x1+resume", blocked(Blocker::ResumeThenSend), Nmis::None),
        scenario("2x1", Setup::new(2, 1, 1).bound(3), Nmis::None),
        large("2x1+again", Setup::new(2, 1, 2).bound(3), Nmis::None),
        large("1x1+twice+nmi", twice().bound(3), Nmis::Each),
        large("1x2", Setup::new(1, 2, 1).bound(5), Nmis::None),
        large(
            "1x1+resume+send",
            blocked(Blocker::Resume).bound(2),
            Nmis::None,
        ),
        large("2x2+nmi", Setup::new(2, 2, 1).bound(1), Nmis::Each),
        large(
            "2x2+mode",
            Setup::new(2, 2, 1).blocker(Blocker::Mode).bound(1),
            Nmis::None,
        ),
        large("1x1+mode+nmi", blocked(Blocker::Mode), Nmis::Each),
        large("2x1+deep", Setup::new(2, 1, 1).bound(5), Nmis::None),
        large(
            "1x1+irq+mode",
            irq(1).blocker(Blocker::Mode).bound(4),
            Nmis::None,
        ),
        large("2x1+irq", irq(2).bound(4), Nmis::None),
        large(
            "1x1+twice+mode",
            twice().blocker(Blocker::Mode).bound(4),
            Nmis::None,
        ),
        large("2x2", Setup::new(2, 2, 1).bound(3), Nmis::None),
    ]
}

/// One exploration.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) senders: usize,
    /// How often each sender changes its mapping.
    pub(crate) changes: u32,
    pub(crate) cpus: usize,
    /// How often each CPU goes to the kernel.
    pub(crate) visits: usize,
    /// Whether a CPU turns interrupts on there.
    pub(crate) interrupts_on: bool,
    pub(crate) blocker: Blocker,
    /// The places at which NMIs come on the first CPU.
    pub(crate) nmi: Vec<usize>,
    pub(crate) fault: Option<Fault>,
    /// How many times a thread may lose the processor where it need not; `None` is any number.
    pub(crate) bound: Option<usize>,
    /// The latest of `nmi` that was reached in any execution, plus one.
    pub(crate) reached: Arc<AtomicUsize>,
}

impl Setup {
    pub(crate) fn new(senders: usize, cpus: usize, visits: usize) -> Self {
        Self {
            senders,
            changes: 1,
            cpus,
            visits,
            interrupts_on: false,
            blocker: Blocker::None,
            nmi: Vec::new(),
            fault: None,
            bound: None,
            reached: Arc::new(AtomicUsize::new(0)),
        }
    }

    pub(crate) fn changes(mut self, changes: u32) -> Self {
        self.changes = changes;
        self
    }

    pub(crate) fn interrupts_on(mut self) -> Self {
        self.interrupts_on = true;
        self
    }

    pub(crate) fn blocker(mut self, blocker: Blocker) -> Self {
        self.blocker = blocker;
        self
    }

    pub(crate) fn bound(mut self, bound: usize) -> Self {
        self.bound = Some(bound);
        self
    }

    pub(crate) fn nmi(&self, points: &[usize]) -> Self {
        let mut setup = self.clone();
        setup.nmi = points.to_vec();
        setup.reached = Arc::new(AtomicUsize::new(0));
        setup
    }

    pub(crate) fn nmi_came(&self, point: usize) {
        self.reached.fetch_max(point + 1, Relaxed);
    }

    pub(crate) fn has_tracer(&self) -> bool {
        self.blocker == Blocker::Tracer || self.resumes()
    }

    pub(crate) fn resumes(&self) -> bool {
        matches!(self.blocker, Blocker::Resume | Blocker::ResumeThenSend)
    }
}
