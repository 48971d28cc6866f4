// SPDX-License-Identifier: GPL-2.0

//! The result: as data, as text, and as tables for Documentation/entry-audit.rst.

use super::exec::Access;
use super::flow::Flow;
use super::memory::Class;
use super::seen::Known;
use super::state::Phase;
use super::walk::Walk;
use crate::image::Image;
use iced_x86::{Formatter, GasFormatter};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// One way in.
#[derive(Serialize)]
pub(super) struct EntryLine {
    pub(super) name: String,
    kind: &'static str,
    starts: usize,
    points: usize,
    contexts: usize,
    paths: String,
    pub(super) receiver: usize,
    pub(super) nmi_walk: usize,
    pub(super) state_changes: usize,
    pub(super) left: usize,
    /// Went back to the code that it had interrupted.
    pub(super) resumed: usize,
    pub(super) left_unchanged: usize,
    /// Leaves without a flush, which the allowlist has to allow.
    pub(super) left_at_once: usize,
    pub(super) bugs: usize,
    pub(super) stops: BTreeSet<String>,
    /// Functions of events in the kernel that are not audited.
    pub(super) remainders: BTreeSet<String>,
    pub(super) needs_flush: bool,
    pub(super) is_in_kernel: bool,
    accesses: BTreeMap<Class, usize>,
}

impl EntryLine {
    pub(super) fn new(name: &str, kind: &'static str, starts: usize, walk: &Walk) -> Self {
        Self {
            name: name.into(),
            kind,
            starts,
            points: walk.points,
            contexts: walk.contexts,
            paths: walk.paths.to_string(),
            receiver: 0,
            nmi_walk: 0,
            state_changes: 0,
            left: 0,
            resumed: 0,
            left_unchanged: 0,
            left_at_once: 0,
            bugs: 0,
            stops: BTreeSet::new(),
            remainders: BTreeSet::new(),
            needs_flush: false,
            is_in_kernel: false,
            accesses: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, class: Class) {
        *self.accesses.entry(class).or_default() += 1;
    }

    /// A walk that meets neither hook nor any other end proves nothing, nor does one that never
    /// sees the state say "user" again, as nothing of its way out has been counted.
    pub(super) fn problem(&self, is_one_way: impl Fn(&str) -> bool) -> Option<&'static str> {
        if self.is_in_kernel {
            let ends = self.left + self.resumed;
            return (ends == 0).then_some("no path goes back to the code that was interrupted");
        }
        let hooks = self.receiver + self.nmi_walk;
        if self.needs_flush && hooks + self.left_at_once == 0 {
            return Some("no path meets the receiver or the NMI handlers");
        }
        if self.state_changes > 0 && self.left > 0 {
            return None;
        }
        // All that leaves does so at once, which is a finding of its own.
        if self.needs_flush && hooks == 0 || is_one_way(&self.name) {
            return None;
        }
        Some(if self.state_changes == 0 {
            "no path changes the state to user mode"
        } else {
            "no path leaves for user mode after the change of state"
        })
    }
}

/// Something that was found, allowed or not.
#[derive(Serialize)]
pub(super) struct FindingLine {
    pub(super) function: String,
    pub(super) class: String,
    pub(super) shape: String,
    /// Why it is allowed.
    pub(super) reason: Option<String>,
    /// The way in by which it was found first, and how many there are.
    pub(super) entry: String,
    pub(super) entries: usize,
    pub(super) trace: Vec<String>,
    pub(super) source: Option<String>,
}

impl FindingLine {
    pub(super) fn plain(class: &str, shape: String) -> Self {
        Self {
            function: String::new(),
            class: class.into(),
            shape,
            reason: None,
            entry: String::new(),
            entries: 0,
            trace: Vec::new(),
            source: None,
        }
    }
}

/// The result of an audit.
#[derive(Serialize)]
pub struct Report {
    image: String,
    release: String,
    is_live: bool,
    gates: usize,
    excluded: Vec<String>,
    pub(super) entries: Vec<EntryLine>,
    #[serde(skip)]
    accesses: BTreeSet<(u64, bool, Class, Access)>,
    /// For the comparison with what an emulator saw.
    #[serde(skip)]
    pub(super) known: Known,
    #[serde(skip)]
    warnings: BTreeSet<u64>,
    allowed: Vec<FindingLine>,
    findings: Vec<FindingLine>,
    pub(super) problems: Vec<String>,
    /// What is attached to functions on the paths of the running kernel.
    pub(super) attached: Vec<String>,
    pub(super) leaving: usize,
    #[serde(skip)]
    pub(super) reasons: Vec<(String, String)>,
    classes: Vec<(&'static str, usize, usize)>,
}

impl Report {
    pub(super) fn new(image: &Image, gates: usize, excluded: &[String]) -> Self {
        Self {
            image: image.origin.clone(),
            release: release(image),
            is_live: image.is_live,
            gates,
            excluded: excluded.to_vec(),
            entries: Vec::new(),
            accesses: BTreeSet::new(),
            known: Known::default(),
            warnings: BTreeSet::new(),
            allowed: Vec::new(),
            findings: Vec::new(),
            problems: Vec::new(),
            attached: Vec::new(),
            leaving: 0,
            reasons: Vec::new(),
            classes: Vec::new(),
        }
    }

    pub(super) fn access(&mut self, ip: u64, phase: Phase, access: &Access) -> Class {
        self.accesses
            .insert((ip, phase == Phase::Exit, access.class, access.clone()));
        access.class
    }

    pub(super) fn warning(&mut self, ip: u64) {
        self.warnings.insert(ip);
    }

    pub(super) fn add(&mut self, finding: FindingLine) {
        if finding.reason.is_some() {
            self.allowed.push(finding);
        } else {
            self.findings.push(finding);
        }
    }

    /// Whether nothing is left to be answered for.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.problems.is_empty()
    }

    /// Accesses of a class by distinct instruction: on the way in, and on the way out.
    fn by_class(&self) -> Vec<(&'static str, usize, usize)> {
        Class::ALL
            .iter()
            .map(|class| {
                let count = |exit| {
                    self.accesses
                        .iter()
                        .filter(|(_, is_exit, c, _)| c == class && *is_exit == exit)
                        .map(|(ip, ..)| ip)
                        .collect::<BTreeSet<_>>()
                        .len()
                };
                (class.name(), count(false), count(true))
            })
            .collect()
    }

    fn instructions(&self) -> usize {
        self.accesses
            .iter()
            .map(|(ip, ..)| ip)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// The report as JSON.
    ///
    /// # Errors
    ///
    /// Never, as it has no maps with other keys than strings.
    pub fn to_json(&mut self) -> serde_json::Result<String> {
        self.classes = self.by_class();
        serde_json::to_string_pretty(self)
    }

    /// The tables of Documentation/entry-audit.rst.
    #[must_use]
    pub fn to_rst(&self) -> String {
        let mut out = String::new();
        let _ = self.write_rst(&mut out);
        out
    }

    fn write_rst(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "Kernel ``{}``\n", self.release)?;
        let line = format!("{}  ======  =======", "=".repeat(22));
        writeln!(
            out,
            "{line}\n{:<22}  way in  way out\n{line}",
            "instructions by class"
        )?;
        for (class, entry, exit) in self.by_class() {
            writeln!(out, "{class:<22}  {entry:>6}  {exit:>7}")?;
        }
        writeln!(out, "{line}\n")?;
        writeln!(
            out,
            "{} ways in, {} gates in the tables of the kernel, {} WARN() or UBSAN sites on the paths.\n",
            self.entries.len(),
            self.gates,
            self.warnings.len()
        )?;
        let widths = [44, 13, 6, 6, 26, 8, 4, 6, 4, 7];
        let line = widths.map(|w| "=".repeat(w)).join("  ");
        writeln!(
            out,
            "{line}\n{:<44}  {:<13}  points  chains  {:>26}  receiver  NMI  change  left  resumed\n{line}",
            "way in", "kind", "paths"
        )?;
        for e in &self.entries {
            writeln!(
                out,
                "{:<44}  {:<13}  {:>6}  {:>6}  {:>26}  {:>8}  {:>4}  {:>6}  {:>4}  {:>7}",
                e.name,
                e.kind,
                e.points,
                e.contexts,
                e.paths,
                e.receiver,
                e.nmi_walk,
                e.state_changes,
                e.left,
                e.resumed
            )?;
        }
        writeln!(out, "{line}\n")?;
        for (key, reason) in &self.reasons {
            writeln!(out, "``{key}``\n   {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "audit of {}", self.image)?;
        writeln!(
            f,
            "{} ways in, {} gates in the descriptor tables, {} symbols excluded, {} functions can lead to user mode",
            self.entries.len(),
            self.gates,
            self.excluded.len(),
            self.leaving
        )?;
        writeln!(
            f,
            "\n{:<44} {:>7} {:>7} {:>24} {:>5} {:>4} {:>5} {:>5} {:>5} {:>5}",
            "way in", "points", "chains", "paths", "recv", "nmi", "chg", "left", "unch", "back"
        )?;
        for e in &self.entries {
            writeln!(
                f,
                "{:<44} {:>7} {:>7} {:>24} {:>5} {:>4} {:>5} {:>5} {:>5} {:>5}",
                e.name,
                e.points,
                e.contexts,
                e.paths,
                e.receiver,
                e.nmi_walk,
                e.state_changes,
                e.left,
                e.left_unchanged,
                e.resumed
            )?;
        }
        writeln!(
            f,
            "\n{:<22} {:>8} {:>8}",
            "instructions by class", "way in", "way out"
        )?;
        for (class, entry, exit) in self.by_class() {
            writeln!(f, "{class:<22} {entry:>8} {exit:>8}")?;
        }
        writeln!(
            f,
            "{} instructions with accesses, {} WARN() sites on the paths",
            self.instructions(),
            self.warnings.len()
        )?;
        writeln!(f, "\n{} allowed", self.allowed.len())?;
        for a in &self.allowed {
            writeln!(f, "  {}: {}: {}", a.function, a.class, a.shape)?;
        }
        for finding in &self.findings {
            writeln!(
                f,
                "\nfinding: {}: {}: {}",
                finding.function, finding.class, finding.shape
            )?;
            if finding.entries > 0 {
                writeln!(f, "  from {} ({} ways in)", finding.entry, finding.entries)?;
            }
            if let Some(source) = &finding.source {
                writeln!(f, "  {source}")?;
            }
            for line in &finding.trace {
                writeln!(f, "    {line}")?;
            }
        }
        if self.is_live {
            writeln!(
                f,
                "\n{} attached to functions on the paths",
                self.attached.len()
            )?;
            for line in &self.attached {
                writeln!(f, "  {line}")?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {problem}")?;
        }
        writeln!(
            f,
            "\n{}: {} findings, {} problems",
            if self.is_clean() {
                "clean"
            } else {
                "NOT clean"
            },
            self.findings.len(),
            self.problems.len()
        )
    }
}

/// The instructions on the way to a finding.
pub(super) fn disassemble(flow: &Flow<'_>, trace: &[u64]) -> Vec<String> {
    let mut formatter = GasFormatter::new();
    trace
        .iter()
        .map(|ip| {
            let mut text = String::new();
            match flow.decode(*ip) {
                Ok(instruction) => formatter.format(&instruction, &mut text),
                Err(_) => text.push_str("(no instruction)"),
            }
            format!("{:<44} {text}", flow.image.symbols.describe(*ip))
        })
        .collect()
}

/// The kernel's release, from its banner.
pub(super) fn release(image: &Image) -> String {
    image
        .symbols
        .address("linux_banner")
        .and_then(|at| image.bytes_at(at, 128))
        .and_then(|banner| {
            let banner = String::from_utf8_lossy(&banner).into_owned();
            banner.split_whitespace().nth(2).map(Into::into)
        })
        .unwrap_or_else(|| "unknown".into())
}

/// File and line, if the image has debug info.
pub(super) fn source_line(image: &Image, ip: u64) -> Option<String> {
    let location = image.debug_info.as_ref()?.find_location(ip).ok()??;
    Some(format!("{}:{}", location.file?, location.line?))
}
