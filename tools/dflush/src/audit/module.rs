// SPDX-License-Identifier: GPL-2.0

//! Whether the compiler's output has the operations, the order and the decisions that the proofs of
//! the protocol assume.

use super::object::{Function, functions};
use super::roles::{self, Check};
use super::steps::{Step, paths};
use super::track_memory::is_drain;
use anyhow::Result;
use iced_x86::{Mnemonic as M, OpKind, Register};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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
            "{}: {} checks of functions",
            if self.is_clean() {
                "as assumed"
            } else {
                "NOT as assumed"
            },
            self.checked.len()
        )
    }
}

/// The parts of the protocol that have a function of their own: part of its name, the role.
const NAMED: [(&str, &str, Check); 7] = [
    ("7wrapper14must_interrupt", "sender", roles::sender),
    (
        "7wrapper15deferring_flush",
        "first barrier",
        roles::first_barrier,
    ),
    ("3nmi6on_nmi", "NMI handler", roles::nmi_handler),
    ("deferred_flush_trampoline", "trampoline", roles::trampoline),
    ("deferred_flush_receive", "receiver", roles::receiver),
    ("5drain13flush_if_owed", "receiver", roles::receiver),
    (
        "5drain10owes_flush",
        "drain condition",
        roles::drain_condition,
    ),
];
/// Who has to add a reason.
const BLOCKERS: [&str; 2] = ["10text_watch12on_text_poke", "6memory9on_memory"];
/// Flushes for the kernel, on a CPU that was interrupted.
const INTERRUPTED: &str = "7wrapper14flush_this_cpu";

/// Checks a built module.
///
/// # Errors
///
/// If it cannot be read.
pub fn check(bytes: &[u8]) -> Result<ModuleReport> {
    let functions = functions(bytes)?;
    let mut report = ModuleReport {
        checked: Vec::new(),
        violations: Vec::new(),
    };
    for (part, role, _) in NAMED {
        if !functions.iter().any(|f| f.name.contains(part)) {
            report.violations.push(format!(
                "the module has no function {part}: no {role} to check"
            ));
        }
    }
    let mut blockers = BTreeSet::new();
    let mut resumes = 0;
    for function in &functions {
        if takes_blocked(function) {
            report
                .violations
                .push(format!("{} takes the address of BLOCKED", function.name));
        }
        let mut wanted: Vec<(&'static str, Check)> = NAMED
            .iter()
            .filter(|(part, ..)| function.name.contains(part))
            .map(|(_, role, check)| (*role, *check))
            .collect();
        if flushes(function) {
            if wanted.is_empty() && !function.name.contains(INTERRUPTED) {
                wanted.push(("receiver", roles::receiver));
            }
            wanted.push(("flush", roles::flushes));
        } else if wanted.is_empty() && refers_to(function, "DEFERRED_FLUSH_CPU") {
            wanted.push(("bystander", roles::bystander));
        }
        if is_drain(&function.name) {
            wanted.push(("drain", roles::drain));
        }
        if writes_blocked(function) {
            wanted.push(("blocker", roles::blocker));
        }
        if wanted.is_empty() {
            continue;
        }
        let paths = match paths(function) {
            Ok(paths) => paths,
            Err(error) => {
                report.violations.push(format!("{} {error}", function.name));
                continue;
            }
        };
        for path in &paths {
            if path.steps.contains(&Step::Block) {
                blockers.insert(function.name.as_str());
            }
            resumes += usize::from(path.steps.contains(&Step::Resume(true)));
        }
        for (role, check) in wanted {
            report
                .violations
                .extend(summary(check(&paths)).map(|v| format!("{}: {role}: {v}", function.name)));
            report
                .checked
                .push((function.name.clone(), role, paths.len()));
        }
    }
    for part in BLOCKERS {
        if !blockers.iter().any(|name| name.contains(part)) {
            report
                .violations
                .push(format!("{part} blocks nothing by a locked operation"));
        }
    }
    if resumes == 0 {
        report
            .violations
            .push("nothing resumes by a compare-and-exchange".into());
    }
    Ok(report)
}

/// Each kind of violation with one path that shows it.
fn summary(violations: Vec<String>) -> impl Iterator<Item = String> {
    let mut kinds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for violation in violations {
        let kind = violation.split(": [").next().unwrap_or(&violation);
        kinds.entry(kind.into()).or_default().insert(violation);
    }
    kinds.into_values().filter_map(|paths| {
        let shortest = paths.iter().min_by_key(|path| path.len())?.clone();
        Some(match paths.len() {
            1 => shortest,
            n => format!("{shortest} (and {} more paths)", n - 1),
        })
    })
}

/// Whether a function has an instruction that flushes, or looks as if it did.
fn flushes(function: &Function) -> bool {
    function.lines.iter().any(|line| {
        let i = &line.instruction;
        i.mnemonic() == M::Invpcid
            || i.mnemonic() == M::Mov && matches!(i.op0_register(), Register::CR3 | Register::CR4)
    })
}

fn refers_to(function: &Function, symbol: &str) -> bool {
    function.lines.iter().any(|line| {
        line.target
            .as_ref()
            .is_some_and(|t| t.symbol.ends_with(symbol))
    })
}

/// Whether a function takes the address of the word that stops deferral: what is done by way of it
/// is not seen.
fn takes_blocked(function: &Function) -> bool {
    function.lines.iter().any(|line| {
        (line.is_immediate || line.instruction.mnemonic() == M::Lea)
            && line
                .target
                .as_ref()
                .is_some_and(|t| t.symbol.ends_with("7BLOCKED") && t.offset < 8)
    })
}

/// Whether a function writes the word that stops deferral.
fn writes_blocked(function: &Function) -> bool {
    function.lines.iter().any(|line| {
        let i = &line.instruction;
        line.target
            .as_ref()
            .is_some_and(|t| t.symbol.ends_with("7BLOCKED"))
            && (i.op0_kind() == OpKind::Memory && !matches!(i.mnemonic(), M::Cmp | M::Test | M::Bt)
                || i.mnemonic() == M::Xchg)
    })
}
