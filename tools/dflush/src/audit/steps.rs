// SPDX-License-Identifier: GPL-2.0

//! The steps of the protocol on each path through a function of the module.
//!
//! All paths are followed, loops included: two paths are one if they are at the same instruction
//! with the same values and the same steps behind them. What cannot be followed is an error.

use super::object::{Function, Line};
use super::track::Tracker;
use anyhow::{Result, bail};
use iced_x86::FlowControl;
use std::collections::{HashMap, HashSet};

/// What the protocol reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A CPU's word.
    Word,
    /// `context_tracking.state` of the CPU that the sender was asked about.
    State,
    /// `context_tracking.active` of the same CPU.
    Active,
    /// `cpu_dr7` of the same CPU.
    Breakpoints,
    /// The word that stops deferral.
    Blocked,
    /// This CPU's flags.
    CpuFlags,
    /// The mask of CPUs that are online.
    Online,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Reads a place.
    Load(Place),
    /// A branch was taken or not, because the place under a mask was this value, or was not.
    Test {
        place: Place,
        mask: u64,
        value: u64,
        equal: bool,
    },
    /// Sets PENDING in the word by a locked OR.
    SetWord,
    /// Exchanges the word for this value.
    ExchangeWord(Option<u64>),
    /// Takes FLUSHING out of the word by a locked AND.
    ClearWord,
    /// Exchanges the word of a CPU just seen offline for 0.
    ResetOffline,
    /// Writes the word in another way.
    StoreWord,
    /// MFENCE.
    Fence,
    /// Flushes: INVPCID type 2, or both writes of CR4.
    Flush,
    /// Looks like a flush, and is none.
    NotAFlush(&'static str),
    /// Calls the function that interrupts CPUs.
    Interrupt,
    /// Calls the receiver.
    CallReceiver,
    /// Adds a reason to the word that stops deferral, by a locked OR.
    Block,
    /// Counts a write to watched code there, by a locked ADD.
    CountWrite,
    /// Takes these reasons back by a locked AND.
    Unblock(u64),
    /// Compares and exchanges that word: the old value without the tracer's reason, or not.
    Resume(bool),
    /// The outcome of that was seen.
    Resumed(bool),
    /// The count of writes in the value just read was compared: the same, or not.
    SameCount(bool),
    /// Writes that word in another way.
    StoreBlocked,
}

/// A path: its steps, and the low byte of what it returns, if that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    pub(super) steps: Vec<Step>,
    pub(super) returns: Option<u8>,
}

/// How many different states there may be in one function.
const MAX_STATES: usize = 20_000;
/// From so many at one instruction with the same steps on, constants are forgotten there.
const MAX_CONSTANTS: usize = 24;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Walk<'a> {
    at: usize,
    tracker: Tracker<'a>,
}

/// Every path through a function.
pub(super) fn paths(function: &Function) -> Result<Vec<Path>> {
    let mut done = HashSet::new();
    let mut seen = HashSet::new();
    let mut states: HashMap<(usize, Vec<Step>), usize> = HashMap::new();
    let mut open = vec![Walk {
        at: 0,
        tracker: Tracker::new(),
    }];
    while let Some(mut walk) = open.pop() {
        loop {
            let Some(line) = function.lines.get(walk.at) else {
                bail!("runs past its end");
            };
            let here = states
                .entry((walk.at, walk.tracker.steps.clone()))
                .or_default();
            if *here > MAX_CONSTANTS {
                walk.tracker.forget_constants();
            }
            if !seen.insert(walk.clone()) {
                break;
            }
            *here += 1;
            if seen.len() > MAX_STATES {
                bail!("has more than {MAX_STATES} states, so not every path was checked");
            }
            let i = &line.instruction;
            if i.is_invalid() {
                bail!("has an instruction that cannot be decoded at {:#x}", i.ip());
            }
            match i.flow_control() {
                FlowControl::Return => {
                    done.insert(walk.tracker.finish());
                    break;
                }
                FlowControl::UnconditionalBranch => {
                    if let Some(target) = inside(function, line)? {
                        walk.at = target;
                        continue;
                    }
                    done.insert(walk.tracker.leave(line));
                    break;
                }
                FlowControl::ConditionalBranch => {
                    let mut taken = walk.clone();
                    taken.tracker.branch(line, true);
                    match inside(function, line)? {
                        Some(target) => {
                            taken.at = target;
                            open.push(taken);
                        }
                        None => {
                            done.insert(taken.tracker.leave(line));
                        }
                    }
                    walk.tracker.branch(line, false);
                }
                FlowControl::IndirectBranch => bail!("has an indirect jump at {:#x}", i.ip()),
                FlowControl::Exception => break,
                FlowControl::Call if panics(line) => break,
                _ => walk.tracker.run(line),
            }
            walk.at += 1;
        }
    }
    Ok(done.into_iter().collect())
}

/// Whether a call never returns.
fn panics(line: &Line) -> bool {
    line.target
        .as_ref()
        .is_some_and(|target| target.symbol.contains("4core9panicking"))
}

/// Where a jump goes, if it stays in the function.
fn inside(function: &Function, line: &Line) -> Result<Option<usize>> {
    if line.target.is_some() {
        return Ok(None);
    }
    let to = line.instruction.near_branch_target();
    if let Some(target) = function.at(to) {
        return Ok(Some(target));
    }
    if line.callee.is_none() {
        bail!(
            "jumps from {:#x} to {to:#x}, where nothing begins",
            line.instruction.ip()
        );
    }
    Ok(None)
}
