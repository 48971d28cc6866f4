// SPDX-License-Identifier: GPL-2.0

//! Whether the compiler's output for the sender and the receiver has the locked operations and the
//! order that the proofs of the protocol assume.

use super::object::{Function, functions};
use super::steps::{Names, Path, Step, paths};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

const NAMES: Names = Names {
    word: "DEFERRED_FLUSH_CPU",
    state: "context_tracking",
    state_offset: 8,
    blocked: "7BLOCKED",
    interrupt: "on_each_cpu_cond_mask",
    receiver: "deferred_flush_receive",
};
/// Word::receive() puts this into the word.
const FLUSHING: u64 = 2;

/// The result for one module.
#[derive(Serialize)]
pub struct ModuleReport {
    /// Function, role, number of paths.
    checked: Vec<(String, &'static str, usize)>,
    violations: Vec<String>,
}

impl ModuleReport {
    /// Whether everything is as assumed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for ModuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (function, role, paths) in &self.checked {
            writeln!(f, "{role:<20} {paths:>4} paths  {function}")?;
        }
        for violation in &self.violations {
            writeln!(f, "violation: {violation}")?;
        }
        writeln!(
            f,
            "{}: {} functions",
            if self.is_clean() {
                "as assumed"
            } else {
                "NOT as assumed"
            },
            self.checked.len()
        )
    }
}

/// Checks a built module.
///
/// # Errors
///
/// If it cannot be read, or has no sender or receiver to check.
pub fn check(bytes: &[u8]) -> Result<ModuleReport> {
    let functions = functions(bytes)?;
    let mut report = ModuleReport {
        checked: Vec::new(),
        violations: Vec::new(),
    };
    let named = |part: &str| {
        functions
            .iter()
            .find(|f| f.name.contains(part))
            .with_context(|| format!("the module has no function {part}"))
    };
    role(
        &mut report,
        named("wrapper14must_interrupt")?,
        "sender",
        sender,
    )?;
    role(
        &mut report,
        named("wrapper15deferring_flush")?,
        "first barrier",
        first_barrier,
    )?;
    role(
        &mut report,
        named("3nmi6on_nmi")?,
        "NMI handler",
        nmi_handler,
    )?;
    role(
        &mut report,
        named("deferred_flush_trampoline")?,
        "trampoline",
        trampoline,
    )?;
    named(NAMES.receiver)?;
    // The receiver is inlined into whatever drains.
    let mut receivers = 0;
    for function in &functions {
        let exchanges = |path: &Path| path.steps.contains(&Step::ExchangeWord(FLUSHING));
        if function
            .lines
            .iter()
            .any(|line| line.instruction.mnemonic() == iced_x86::Mnemonic::Xchg)
            && paths(function, &NAMES).is_ok_and(|paths| paths.iter().any(exchanges))
        {
            receivers += 1;
            role(&mut report, function, "receiver", receiver)?;
        }
    }
    ensure!(receivers > 0, "no function exchanges the word for FLUSHING");
    Ok(report)
}

fn role(
    report: &mut ModuleReport,
    function: &Function,
    role: &'static str,
    check: fn(&[Path]) -> Vec<String>,
) -> Result<()> {
    let paths = paths(function, &NAMES)?;
    let violations: BTreeSet<_> = check(&paths).into_iter().collect();
    for violation in violations {
        report
            .violations
            .push(format!("{}: {role}: {violation}", function.name));
    }
    report
        .checked
        .push((function.name.clone(), role, paths.len()));
    Ok(())
}

fn position(steps: &[Step], wanted: Step) -> Option<usize> {
    steps.iter().position(|step| *step == wanted)
}

/// Every path that defers (returns false): a first look at the state; the bit set, or seen to be
/// set; a full barrier; and only then the second look, at the state and at the word that stops all.
fn sender(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    let defers: Vec<_> = paths.iter().filter(|p| p.returns == Some(0)).collect();
    if defers.is_empty() {
        found.push("no path defers, or what it returns is not seen".into());
    }
    for path in defers {
        let steps = &path.steps;
        let Some(fence) = steps.iter().rposition(|s| *s == Step::Fence) else {
            found.push(format!("defers without a barrier: {steps:?}"));
            continue;
        };
        let (before, after) = steps.split_at(fence);
        if !before.contains(&Step::LoadState) {
            found.push(format!(
                "defers without a first look at the state: {steps:?}"
            ));
        }
        if !before
            .iter()
            .any(|s| matches!(s, Step::SetWord | Step::LoadWord))
        {
            found.push(format!(
                "the bit is neither set nor seen before the barrier: {steps:?}"
            ));
        }
        let looks = [Step::LoadState, Step::LoadBlocked];
        if looks.iter().any(|look| !after.contains(look)) {
            found.push(format!(
                "defers without a second look after the barrier: {steps:?}"
            ));
        }
        let writes = |s: &Step| {
            matches!(
                s,
                Step::SetWord | Step::ClearWord | Step::StoreWord | Step::ExchangeWord(_)
            )
        };
        if after.iter().any(writes) {
            found.push(format!("writes the word after the barrier: {steps:?}"));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::SetWord)) {
        found.push("no path sets the bit by a locked operation".into());
    }
    found
}

/// The barrier between the caller's page-table changes and the first look at any CPU's state.
fn first_barrier(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    let mut calls = 0;
    for steps in paths.iter().map(|p| &p.steps) {
        let Some(call) = position(steps, Step::Interrupt) else {
            continue;
        };
        calls += 1;
        if position(steps, Step::Fence).is_none_or(|fence| fence > call) {
            found.push(format!("asks the CPUs before the barrier: {steps:?}"));
        }
    }
    if calls == 0 {
        found.push("never asks the CPUs".into());
    }
    found
}

/// Exchange, flush, clear: in this order, each once, on every path that does any of it.
fn receiver(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        let steps: Vec<_> = path
            .steps
            .iter()
            .copied()
            .filter(|s| !matches!(s, Step::LoadWord | Step::Fence))
            .collect();
        let expected = [Step::ExchangeWord(FLUSHING), Step::Flush, Step::ClearWord];
        if !steps.is_empty() && steps != expected {
            found.push(format!("not exchange, flush, clear: {steps:?}"));
        }
    }
    found
}

/// Looks at the word first; flushes on some path; never writes the word.
fn nmi_handler(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        if steps.first() != Some(&Step::LoadWord) {
            found.push(format!("does not look at the word first: {steps:?}"));
        }
        if steps
            .iter()
            .any(|s| !matches!(s, Step::LoadWord | Step::Flush))
        {
            found.push(format!("writes the word: {steps:?}"));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::Flush)) {
        found.push("never flushes".into());
    }
    found
}

/// Looks at the word, then calls the receiver or not.
fn trampoline(paths: &[Path]) -> Vec<String> {
    let mut found = Vec::new();
    for steps in paths.iter().map(|p| &p.steps) {
        if !matches!(
            steps[..],
            [Step::LoadWord] | [Step::LoadWord, Step::CallReceiver]
        ) {
            found.push(format!("not a look and perhaps the receiver: {steps:?}"));
        }
    }
    if !paths.iter().any(|p| p.steps.contains(&Step::CallReceiver)) {
        found.push("never calls the receiver".into());
    }
    found
}
