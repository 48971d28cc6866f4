// SPDX-License-Identifier: GPL-2.0

//! What a walk sees at a program point.

use super::exec::Access;
use serde::Serialize;

/// How a path ends, or passes from one phase to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// It reached the receiver.
    Receiver,
    /// It reached the walk of the NMI handlers.
    NmiWalk,
    /// It changed the state to user mode.
    StateChange,
    /// It left for user mode, or the interrupted code, after the change.
    Left,
    /// It went back to the kernel code that the event had interrupted.
    Resumed,
    /// It left without a change of state.
    LeftUnchanged,
    /// It ended in a function on the list of those.
    Stop(String),
    /// It called a function that is not audited in events that hit the kernel, and went on.
    Remainder(String),
    /// It ended in BUG().
    Bug,
}

/// Something that has to be answered for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Finding {
    /// The kind: a class of memory, or of control flow.
    pub(super) class: String,
    /// What exactly, without addresses.
    pub(super) shape: String,
}

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    End(End),
    Access {
        /// Where the instruction stands: in a thunk, which is one point of a path, not at its start.
        at: u64,
        access: Access,
    },
    /// A WARN() that may go off here.
    Warning,
    Finding(Finding),
}

impl Finding {
    pub(super) fn new(class: &str, shape: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            shape: shape.into(),
        }
    }
}
