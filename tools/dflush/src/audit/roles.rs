// SPDX-License-Identifier: GPL-2.0

//! What the proofs assume of each part of the protocol, asked of every path through its function.

use super::steps::{Path, Place, Step};

/// The receiver puts this into the word.
const FLUSHING: u64 = 2;
const PENDING: u64 = 1;
/// `CT_STATE_MASK | CT_RCU_WATCHING`, and `CT_STATE_USER`.
const STATE_MASK: u64 = 7;
const STATE_USER: u64 = 2;
const WORD_BITS: u64 = 3;
const REASONS: u64 = 0xff;
const BREAKPOINTS: u64 = 0xff;
const TRACER: u64 = 2;
const INTERRUPT_FLAG: u64 = 1 << 9;

/// A check: the violations.
pub(super) type Check = fn(&[Path]) -> Vec<String>;

fn position(steps: &[Step], wanted: Step) -> Option<usize> {
    steps.iter().position(|step| *step == wanted)
}

/// Whether a branch saw all bits of the mask clear.
fn saw_clear(steps: &[Step], wanted: Place, bits: u64) -> bool {
    steps.iter().any(|step| {
        matches!(*step, Step::Test { place, mask, value: 0, equal: true }
            if place == wanted && mask & bits == bits)
    })
}

fn saw_user(steps: &[Step]) -> bool {
    steps.iter().any(|step| {
        matches!(*step, Step::Test { place: Place::State, mask, value: STATE_USER, equal: true }
            if mask & STATE_MASK == STATE_MASK)
    })
}

fn saw_active(steps: &[Step]) -> bool {
    steps.iter().any(|step| {
        matches!(
            *step,
            Step::Test {
                place: Place::Active,
                mask: 1..=0xff,
                value: 0,
                equal: false
            } | Step::Test {
                place: Place::Active,
                mask: 0xff,
                value: 1,
                equal: true
            }
        )
    })
}

fn saw_pending(steps: &[Step]) -> bool {
    steps.iter().any(|step| {
        matches!(
            *step,
            Step::Test {
                place: Place::Word,
                mask: PENDING,
                value: 0,
                equal: false
            } | Step::Test {
                place: Place::Word,
                mask: PENDING,
                value: PENDING,
                equal: true
            }
        )
    })
}

fn writes_word(step: &Step) -> bool {
    matches!(
        step,
        Step::SetWord
            | Step::ClearWord
            | Step::StoreWord
            | Step::ExchangeWord(_)
            | Step::ResetOffline
    )
}

/// Every path that may defer (returns false, or what is not known): a first look at the state; the
/// bit set, or seen to be set; a full barrier; and only then the second look, at all that makes the
/// CPU quiet and at the word that stops deferral, with the outcome that lets the flush wait.
pub(super) fn sender(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    let defers: Vec<_> = paths
        .iter()
        .filter(|p| p.returns.is_none_or(|r| r == 0))
        .collect();
    if defers.is_empty() {
        found.push("no path defers".into());
    }
    for Path { steps, returns } in defers {
        let how = if returns.is_none() {
            "may defer"
        } else {
            "defers"
        };
        let Some(fence) = steps.iter().rposition(|s| *s == Step::Fence) else {
            found.push(format!("{how} without a barrier: {steps:?}"));
            continue;
        };
        let (before, after) = steps.split_at(fence);
        if !saw_user(before) {
            found.push(format!(
                "{how} without a first look at the state: {steps:?}"
            ));
        }
        if !before.contains(&Step::SetWord) && !saw_pending(before) {
            found.push(format!(
                "the bit is neither set nor seen before the barrier: {steps:?}"
            ));
        }
        let looks = [
            (
                saw_user(after),
                "that the state is user with RCU not watching",
            ),
            (saw_active(after), "that context tracking is active"),
            (
                saw_clear(after, Place::Breakpoints, BREAKPOINTS),
                "that no breakpoint is set",
            ),
            (
                saw_clear(after, Place::Blocked, REASONS),
                "that nothing blocks deferral",
            ),
        ];
        for (seen, what) in looks {
            if !seen {
                found.push(format!(
                    "{how} without a second look after the barrier {what}: {steps:?}"
                ));
            }
        }
        let state = position(after, Step::Load(Place::State));
        let breakpoints = position(after, Step::Load(Place::Breakpoints));
        if breakpoints.is_some_and(|at| state.is_none_or(|state| at < state)) {
            found.push(format!("reads the breakpoints before the state: {steps:?}"));
        }
        if after.iter().any(writes_word) {
            found.push(format!("writes the word after the barrier: {steps:?}"));
        }
    }
    for Path { steps, .. } in paths {
        if steps.iter().any(|s| writes_word(s) && *s != Step::SetWord) {
            found.push(format!(
                "writes the word otherwise than by a locked OR: {steps:?}"
            ));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::SetWord)) {
        found.push("no path sets the bit by a locked operation".into());
    }
    found
}

/// The barrier between the caller's page-table changes and the first look at any CPU's state.
pub(super) fn first_barrier(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        let Some(call) = position(steps, Step::Interrupt) else {
            found.push(format!("returns without asking the CPUs: {steps:?}"));
            continue;
        };
        if position(steps, Step::Fence).is_none_or(|fence| fence > call) {
            found.push(format!("asks the CPUs before the barrier: {steps:?}"));
        }
    }
    if paths.is_empty() {
        found.push("never asks the CPUs".into());
    }
    found
}

/// Exchange, flush, clear, in this order, on every path that did not see the word clear.
pub(super) fn receiver(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    let expected = [
        Step::ExchangeWord(Some(FLUSHING)),
        Step::Flush,
        Step::ClearWord,
    ];
    for path in paths {
        let steps: Vec<_> = path
            .steps
            .iter()
            .copied()
            .filter(|s| !matches!(s, Step::Load(_) | Step::Test { .. } | Step::Fence))
            .collect();
        if steps == expected {
            continue;
        }
        if !steps.is_empty() {
            found.push(format!("not exchange, flush, clear: {steps:?}"));
        } else if !saw_clear(&path.steps, Place::Word, WORD_BITS) {
            found.push(format!(
                "returns without a flush, the word not seen clear: {:?}",
                path.steps
            ));
        }
    }
    if paths.is_empty() {
        found.push("never returns".into());
    }
    found
}

/// Flushes on every path that did not see the whole word clear; never writes it.
pub(super) fn nmi_handler(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        if steps.first() != Some(&Step::Load(Place::Word)) {
            found.push(format!("does not look at the word first: {steps:?}"));
        }
        if steps.iter().any(writes_word) {
            found.push(format!("writes the word: {steps:?}"));
        }
        if !steps.contains(&Step::Flush) && !saw_clear(steps, Place::Word, WORD_BITS) {
            found.push(format!("no flush, and the word not seen clear: {steps:?}"));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::Flush)) {
        found.push("never flushes".into());
    }
    found
}

/// Interrupts whoever owes a flush, on every path.
pub(super) fn drain(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        if !steps.contains(&Step::Interrupt) {
            found.push(format!("returns without interrupting: {steps:?}"));
        }
    }
    found
}

/// Asks for the interrupt unless it saw the whole word clear, or there is no such CPU.
pub(super) fn drain_condition(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    let mut asks = false;
    for Path { steps, returns } in paths {
        let looks = steps.contains(&Step::Load(Place::Word));
        let is_true = returns.is_some_and(|r| r != 0);
        asks |= looks && is_true;
        if looks && !is_true && !saw_clear(steps, Place::Word, WORD_BITS) {
            found.push(format!(
                "passes over a CPU, its word not seen clear: {steps:?}"
            ));
        }
        if steps.iter().any(writes_word) {
            found.push(format!("writes the word: {steps:?}"));
        }
    }
    if !asks {
        found.push("never asks for an interrupt after a look at the word".into());
    }
    found
}

/// Looks at the word, and calls the receiver unless it is clear.
pub(super) fn trampoline(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        let calls = steps.contains(&Step::CallReceiver);
        if steps.first() != Some(&Step::Load(Place::Word)) || steps.len() > 3 {
            found.push(format!("not a look and perhaps the receiver: {steps:?}"));
        } else if !calls && !saw_clear(steps, Place::Word, WORD_BITS) {
            found.push(format!(
                "no receiver, and the word not seen clear: {steps:?}"
            ));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::CallReceiver)) {
        found.push("never calls the receiver".into());
    }
    found
}

/// Whatever looks like a flush is one.
pub(super) fn flushes(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        for step in steps {
            if let Step::NotAFlush(why) = step {
                found.push((*why).to_string());
            }
        }
    }
    found
}

/// Code that does not belong to the protocol leaves the words alone; after a drain it may forget what
/// a CPU owes that it saw offline.
pub(super) fn bystander(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        for (n, step) in steps.iter().enumerate().filter(|(_, s)| writes_word(s)) {
            if *step == Step::ExchangeWord(Some(0)) {
                found.push(format!(
                    "clears the word of a CPU not seen offline: {steps:?}"
                ));
            } else if *step != Step::ResetOffline {
                found.push(format!("writes a CPU's word: {steps:?}"));
            } else if !steps[..n].contains(&Step::Interrupt) {
                found.push(format!("clears words before the drain: {steps:?}"));
            }
        }
    }
    found
}

/// A reason is added by a locked OR, a full barrier follows, and then the drain, unless interrupts
/// are off; it is taken back by a locked AND, the tracer's only by the compare-and-exchange.
pub(super) fn blocker(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for all in paths.iter().map(|p| &p.steps) {
        let steps: Vec<_> = all
            .iter()
            .copied()
            .filter(|s| !matches!(s, Step::Load(place) if *place != Place::Blocked))
            .collect();
        for (n, step) in steps.iter().enumerate() {
            let after = &steps[n + 1..];
            match *step {
                Step::Block => {
                    let after: Vec<_> = after
                        .iter()
                        .filter(|s| !matches!(s, Step::Load(_) | Step::Test { .. }))
                        .collect();
                    if after.first() != Some(&&Step::Fence) {
                        found.push(format!("blocks without a barrier after it: {all:?}"));
                    }
                    if !after.contains(&&Step::Interrupt)
                        && !saw_clear(&steps[n..], Place::CpuFlags, INTERRUPT_FLAG)
                    {
                        found.push(format!("blocks and does not drain: {all:?}"));
                    }
                }
                Step::Unblock(reasons) if reasons & TRACER != 0 || reasons & !REASONS != 0 => {
                    found.push(format!("takes back what only a resume may: {all:?}"));
                }
                Step::Resume(is_right) => {
                    if !is_right {
                        found.push(format!(
                            "the exchange does not put the old value less the tracer's reason: {all:?}"
                        ));
                    }
                    if n == 0 || steps[n - 1] != Step::SameCount(true) {
                        found.push(format!(
                            "resumes without having compared the count of writes: {all:?}"
                        ));
                    }
                    if !matches!(after.first(), Some(Step::Resumed(_))) {
                        found.push(format!(
                            "the outcome of the exchange is not looked at: {all:?}"
                        ));
                    }
                }
                Step::Resumed(false) if !matches!(after.first(), Some(Step::SameCount(_))) => {
                    found.push(format!("a failed exchange is not tried again: {all:?}"));
                }
                Step::StoreBlocked => {
                    found.push(format!("writes BLOCKED without a lock: {all:?}"));
                }
                _ => {}
            }
        }
    }
    found
}
