// SPDX-License-Identifier: GPL-2.0

//! The windows of one CPU: what it does while a flush may still be owed.
//!
//! A window of the way in opens with the first instruction in the kernel after user mode. It closes
//! when the CPU has flushed everything, or has read its own word and found nothing owed; if there
//! is no receiver and nothing was seen to be owed, at the end of `__ct_user_exit()`. A window of
//! the way out opens with the change of the context-tracking state and closes in user mode. The
//! code on the way in between a window of the way out and user mode (an NMI, a fault of IRET) is
//! a window of the way in again.
//!
//! What a window has used is *judged* if the window lay before a receiver, or a flush was owed: the
//! CPU has read so, somebody was seen to set its word, or its word says so when the window closes.
//! In the others, with the module away or off, nothing stands in for the interrupts that the kernel
//! sends: there a test may well read what is remapped at that moment.

use crate::regions::{Class, Running};
use crate::remapped::Past;
use serde::Serialize;
use std::collections::HashMap;

/// Instead of the address of a way in: the window went on after an NMI or a fault that came before
/// the receiver had run, or on the way out.
pub const RESUMED: u64 = 0;

/// Of `enum ctx_state` and the bits above it: `context_tracking.state` in user mode, RCU not
/// watching.
#[must_use]
pub fn is_quiet(state: u32) -> bool {
    const STATE_MASK_AND_WATCHING: u32 = 0b111;
    const USER: u32 = 2;
    state & STATE_MASK_AND_WATCHING == USER
}

/// Which way a window leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From user mode.
    In,
    /// To user mode.
    Out,
}

/// How a window closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// The receiver's first instructions read the word: nothing is owed.
    ReceiverClear,
    /// Somebody else on that CPU did, as the NMI handler does.
    OtherClear,
    /// Everything was flushed.
    Flushed,
    /// End of `__ct_user_exit()`, or past the place of a receiver: none is installed.
    NoReceiver,
    /// In user mode.
    UserMode,
    /// The state changed before any of that.
    StateChange,
    /// Not closed at the end of all.
    Never,
}

/// An instruction that used memory in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The instruction.
    pub pc: u64,
    /// What it went to.
    pub class: Class,
    /// Whether it wrote.
    pub is_store: bool,
}

/// Accesses of the same kind in windows of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The access.
    pub access: Access,
    /// The window's direction.
    pub way: Way,
    /// The first instruction of its way in, or [`RESUMED`].
    pub kind: u64,
    /// How it closed.
    pub closed: Closed,
    /// Whether a tracer or a probe ran in the window, which the module suspends deferral for.
    pub is_traced: bool,
}

/// An access to what was remapped since the CPU had gone to user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// The access.
    pub access: Access,
    /// The window's direction.
    pub way: Way,
    /// The first instruction of its way in, or [`RESUMED`].
    pub kind: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the kernel, no window open; also before anything is known.
    #[default]
    Kernel,
    User,
    In,
    Out,
}

/// The window that is open.
#[derive(Debug, Default)]
struct Window {
    kind: u64,
    /// The CPU has read that it owes a flush.
    owes: bool,
    is_traced: bool,
    /// Came to where a receiver would have been before.
    is_past_receiver: bool,
    /// Kept, with their number, until it is known how the window closes.
    accesses: HashMap<Access, u64>,
    /// What may be violations, each with an example of an address and the number of them.
    suspects: HashMap<Access, (u64, u64)>,
}

/// One CPU.
#[derive(Debug, Default)]
pub struct Cpu {
    state: State,
    window: Window,
    /// Somebody was seen to put a flush on this CPU, and it has not run.
    pub is_owed: bool,
    /// Its word as it is now; nothing if there is no module, or nobody has looked.
    pub word: Option<u32>,
    /// It has owed a flush by its own word, and has not flushed since.
    is_unflushed: bool,
    /// Number of the newest remapping that it cannot owe a flush for, see `state_changed()`.
    left: u64,
    /// The kernel keeps the state of this CPU.
    is_tracked: bool,
    /// Task and stack of the open window.
    pub running: Running,
    /// Accesses of the windows that are judged.
    pub seen: HashMap<Seen, u64>,
    /// Windows.
    pub windows: HashMap<(Way, u64, Closed), u64>,
    /// Exceptions from kernel mode inside a window.
    pub nested: HashMap<u64, u64>,
    /// Violations, each with an example of an address and the number of them.
    pub violations: HashMap<Violation, (u64, u64)>,
    /// Times that its word was cleared with no flush since it was set.
    pub dropped: u64,
    /// Accesses of the windows that are not.
    pub not_judged: u64,
    /// Windows in which a tracer or a probe ran.
    pub traced: u64,
    /// Of these: while a flush was owed.
    pub traced_and_owed: u64,
    /// Accesses of which nobody knows any more whether they were violations.
    pub forgotten: u64,
    /// Code that ran in the user's half without a change of the state, though the kernel keeps it.
    pub untracked: HashMap<u64, u64>,
    /// Code of the kernel that did not come in by a known way.
    pub unannounced: u64,
}

impl Cpu {
    /// Whether accesses are to be told.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::In | State::Out)
    }

    /// Whether it is in user mode.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.state == State::User
    }

    /// Number of the newest remapping that it cannot owe a flush for.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    fn way(&self) -> Way {
        if self.state == State::Out {
            Way::Out
        } else {
            Way::In
        }
    }

    /// Whether a flush is owed, by all that is known.
    fn owes(&self) -> bool {
        self.window.owes || self.is_owed || self.word.is_some_and(|word| word != 0)
    }

    fn is_judged(&self, closed: Closed) -> bool {
        use Closed::{Flushed, OtherClear, ReceiverClear};
        self.way() == Way::Out
            || matches!(closed, ReceiverClear | OtherClear | Flushed)
            || self.owes()
    }

    fn commit(&mut self, closed: Closed) {
        let (way, kind, is_traced) = (self.way(), self.window.kind, self.window.is_traced);
        let is_judged = self.is_judged(closed);
        for (access, count) in self.window.accesses.drain() {
            let seen = Seen {
                access,
                way,
                kind,
                closed,
                is_traced,
            };
            if is_judged {
                *self.seen.entry(seen).or_default() += count;
            } else {
                self.not_judged += count;
            }
        }
        for (access, (address, count)) in self.window.suspects.drain() {
            // Nobody knows how a window would have closed that never did.
            if is_judged || closed == Closed::Never {
                let violation = Violation { access, way, kind };
                self.violations.entry(violation).or_insert((address, 0)).1 += count;
            }
        }
    }

    fn close(&mut self, mut closed: Closed) {
        if self.is_open() {
            if closed == Closed::OtherClear && self.window.is_past_receiver && !self.owes() {
                closed = Closed::NoReceiver;
            }
            self.commit(closed);
            let window = (self.way(), self.window.kind, closed);
            *self.windows.entry(window).or_default() += 1;
            self.traced += u64::from(self.window.is_traced);
            self.traced_and_owed += u64::from(self.window.is_traced && self.owes());
            self.state = State::Kernel;
        }
    }

    fn open(&mut self, state: State, kind: u64) {
        self.state = state;
        self.window.kind = kind;
        self.window.owes = false;
        self.window.is_traced = false;
        self.window.is_past_receiver = false;
    }

    /// Runs in user mode, at `pc`.
    pub fn user(&mut self, pc: u64) {
        if self.state == State::User {
            return;
        }
        if self.state == State::Out {
            self.close(Closed::UserMode);
        } else {
            if self.is_tracked {
                *self.untracked.entry(pc).or_default() += 1;
            }
            if self.state == State::Kernel {
                return;
            }
            self.close(Closed::StateChange);
        }
        self.state = State::User;
    }

    /// Runs code of the entry text that starts at `pc`. Returns whether a window opened.
    pub fn entry_code(&mut self, pc: u64, is_way_in: bool) -> bool {
        if self.state == State::User {
            self.open(State::In, pc);
            return true;
        }
        if is_way_in && self.is_open() {
            *self.nested.entry(pc).or_default() += 1;
        }
        false
    }

    /// Code of the kernel uses memory in user mode. No way in was seen.
    pub fn came_in_unseen(&mut self, pc: u64) {
        self.unannounced += 1;
        self.open(State::In, pc);
    }

    /// Uses memory while a window is open.
    pub fn access(&mut self, access: Access, address: u64, past: Past) {
        match past {
            Past::Unchanged => {}
            Past::Forgotten => self.forgotten += 1,
            Past::Remapped(_) => {
                let suspect = self.window.suspects.entry(access);
                suspect.or_insert((address, 0)).1 += 1;
            }
        }
        *self.window.accesses.entry(access).or_default() += 1;
    }

    /// Runs a tracer or a probe.
    pub fn traced(&mut self) {
        self.window.is_traced = true;
    }

    /// Runs code that a receiver comes before. If the window is still open then, there is none, and
    /// an NMI that ends it later says nothing about what lies between.
    pub fn past_receiver(&mut self) {
        self.window.is_past_receiver = true;
    }

    /// Changed its context-tracking state. Returns whether a window opened.
    ///
    /// On the way out the CPU starts with a clean slate, and only what is remapped from now on
    /// counts, if it had flushed, or had found nothing owed, since it came in: then it was
    /// interrupted for all that was flushed meanwhile. The bit of a sender that came too late may
    /// well stand in its word then. If it never came so far, as in an NMI, and owes a flush, it
    /// still owes it for all since it went to user mode before.
    pub fn state_changed(&mut self, is_quiet: bool, newest_remapping: u64) -> bool {
        match (is_quiet, self.state) {
            (true, state) => {
                let is_clean = state == State::Kernel || !self.owes();
                self.close(Closed::StateChange);
                self.open(State::Out, RESUMED);
                if is_clean {
                    self.left = newest_remapping;
                }
                self.is_tracked = true;
                true
            }
            (false, State::Out) => {
                self.close(Closed::StateChange);
                self.open(State::In, RESUMED);
                true
            }
            (false, _) => false,
        }
    }

    /// Read its own word.
    pub fn read_word(&mut self, value: u32, by_receiver: bool) {
        self.word_is(value);
        if self.state != State::In {
        } else if value != 0 {
            self.window.owes = true;
        } else if by_receiver {
            self.close(Closed::ReceiverClear);
        } else {
            self.close(Closed::OtherClear);
        }
    }

    /// Changed its own word with a locked instruction.
    pub fn changed_word(&mut self, value: u32) {
        self.word_is(value);
    }

    fn word_is(&mut self, value: u32) {
        if value != 0 {
            self.is_unflushed = true;
        } else if std::mem::take(&mut self.is_unflushed) {
            self.dropped += 1;
        }
    }

    /// Flushed everything.
    pub fn flushed(&mut self) {
        self.is_unflushed = false;
        if self.state == State::In {
            self.close(Closed::Flushed);
        }
    }

    /// Leaves `__ct_user_exit()`.
    pub fn left_user_exit(&mut self) {
        if self.state == State::In && !self.owes() {
            self.close(Closed::NoReceiver);
        }
    }

    /// Nothing more will be seen.
    pub fn finish(&mut self) {
        self.close(Closed::Never);
    }
}

#[cfg(test)]
mod tests;
