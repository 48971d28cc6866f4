// SPDX-License-Identifier: GPL-2.0

//! Compares what the audit knows with what an emulator saw (`make audit-dynamic`).
//!
//! Each access that was seen before a receiver or on the way out has to be one that the audit
//! knows, at that instruction and of such a class. Otherwise the audit has overlooked a path, or
//! is wrong about where a pointer leads.

use super::memory::Class;
use super::report::Report;
use super::state::Phase;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::BufRead;

/// A line of `seen.jsonl`: see `audit/plugin/logic/src/report.rs`.
#[derive(Deserialize)]
struct Line {
    pc: String,
    symbol: String,
    offset: i64,
    class: String,
    access: String,
    way: String,
    traced: bool,
    count: u64,
}

/// The instructions that the audit has seen access memory, where they stand in a running kernel.
#[derive(Default)]
pub(super) struct Known {
    way_in: BTreeMap<u64, BTreeSet<Class>>,
    way_out: BTreeMap<u64, BTreeSet<Class>>,
}

impl Known {
    pub(super) fn add(&mut self, ip: u64, phase: Phase, class: Class) {
        let way = match phase {
            Phase::Exit => &mut self.way_out,
            _ => &mut self.way_in,
        };
        way.entry(ip).or_default().insert(class);
    }

    /// What is wrong with an access that was seen.
    fn objection(&self, line: &Line, ip: u64) -> Option<String> {
        // An interrupt on the way out takes the way in, with that state.
        let known = match line.way.as_str() {
            "out" => self.way_out.get(&ip).or_else(|| self.way_in.get(&ip)),
            _ => self.way_in.get(&ip),
        };
        let Some(classes) = known else {
            return Some("the audit knows no access there".into());
        };
        let fits = classes.iter().any(|class| fits(*class, &line.class));
        (!fits).then(|| {
            let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
            format!("the audit takes it for: {}", names.join(", "))
        })
    }
}

/// Whether an access of that class may go to where one was seen.
fn fits(class: Class, seen: &str) -> bool {
    match class {
        Class::Stack | Class::PtRegs => {
            matches!(
                seen,
                "task_stack" | "interrupt_stack" | "cpu_entry_area" | "espfix"
            )
        }
        Class::PerCpu => matches!(seen, "per_cpu" | "cpu_entry_area"),
        Class::KernelImage => matches!(seen, "text" | "rodata" | "data"),
        Class::CurrentTask => seen == "current_task",
        Class::DescriptorTable => matches!(seen, "cpu_entry_area" | "rodata" | "data"),
        Class::CpuEntryArea => seen == "cpu_entry_area",
        // The latter two allowed with a reason, which says why it is not this.
        Class::Constant | Class::Segment | Class::Unknown => seen != "vmalloc",
    }
}

/// An access that the audit does not know.
#[derive(Serialize)]
struct Objection {
    place: String,
    way: String,
    what: String,
    reason: String,
    count: u64,
}

/// The result of a comparison.
#[derive(Serialize)]
pub struct Comparison {
    accesses: u64,
    instructions: usize,
    of_module: u64,
    objections: Vec<Objection>,
}

impl Comparison {
    /// Whether the audit knew everything.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.objections.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for objection in &self.objections {
            writeln!(
                f,
                "unknown: {} ({}): {}, {} times: {}",
                objection.place, objection.way, objection.what, objection.count, objection.reason
            )?;
        }
        writeln!(
            f,
            "{} accesses by {} instructions seen, {} of the module's own left out, {} kinds unknown",
            self.accesses,
            self.instructions,
            self.of_module,
            self.objections.len()
        )
    }
}

impl Report {
    /// Compares with what an emulator saw of the same image, booted with `nokaslr`.
    ///
    /// # Errors
    ///
    /// If a line cannot be read, or nothing was seen.
    pub fn compare(&self, seen: impl BufRead) -> Result<Comparison> {
        let mut instructions = BTreeSet::new();
        let mut grouped: BTreeMap<(String, String, String), Objection> = BTreeMap::new();
        let mut comparison = Comparison {
            accesses: 0,
            instructions: 0,
            of_module: 0,
            objections: Vec::new(),
        };
        for (number, text) in seen.lines().enumerate() {
            let line: Line = serde_json::from_str(&text?)
                .with_context(|| format!("line {} is not as expected", number + 1))?;
            // A tracer's code is none of the kernel's own, and suspends deferral.
            if line.traced {
                continue;
            }
            if line.symbol == "deferred_flush_trampoline" {
                comparison.of_module += line.count;
                continue;
            }
            let ip = line
                .pc
                .strip_prefix("0x")
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .with_context(|| format!("line {}: no address: {}", number + 1, line.pc))?;
            comparison.accesses += line.count;
            instructions.insert(ip);
            let Some(reason) = self.known.objection(&line, ip) else {
                continue;
            };
            let place = format!("{}+{:#x}", line.symbol, line.offset);
            let what = format!("{} of {}", line.access, line.class);
            grouped
                .entry((place.clone(), line.way.clone(), what.clone()))
                .or_insert_with(|| Objection {
                    place,
                    way: line.way,
                    what,
                    reason,
                    count: 0,
                })
                .count += line.count;
        }
        ensure!(comparison.accesses > 0, "no access was seen at all");
        comparison.instructions = instructions.len();
        comparison.objections = grouped.into_values().collect();
        Ok(comparison)
    }
}
