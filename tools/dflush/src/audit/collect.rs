// SPDX-License-Identifier: GPL-2.0

//! Puts together what the walks saw.

use super::entries::{Entry, Kind};
use super::events::{End, Event, Finding};
use super::exec::Access;
use super::flow::{Flow, LEAVES};
use super::report::{self, EntryLine, FindingLine, Report};
use super::state::Phase;
use super::walk::{Node, Walk};
use std::collections::{BTreeMap, BTreeSet};

/// Where a finding was seen first, and from how many ways in.
struct Seen {
    entry: String,
    trace: Vec<u64>,
    ip: u64,
    entries: BTreeSet<String>,
}

/// The result so far.
pub(super) struct Collected {
    report: Report,
    findings: BTreeMap<(String, Finding), Seen>,
    /// The functions in which accesses count.
    functions: BTreeSet<u64>,
    /// The functions that any path has been to.
    visited: BTreeSet<u64>,
}

impl Collected {
    pub(super) fn new(report: Report) -> Self {
        Self {
            report,
            findings: BTreeMap::new(),
            functions: BTreeSet::new(),
            visited: BTreeSet::new(),
        }
    }

    /// A walk that reached a limit.
    pub(super) fn give_up(&mut self, entry: &str, error: &anyhow::Error) {
        self.report.problems.push(format!("{entry}: {error:#}"));
    }

    /// Adds a walk.
    pub(super) fn add(&mut self, flow: &Flow<'_>, entry: &Entry, walk: &Walk) {
        let home = |ip: &u64| Some(flow.image.symbols.at(flow.patches.home(*ip))?.address);
        self.functions.extend(walk.recorded.iter().filter_map(home));
        self.visited.extend(walk.visited.iter().filter_map(home));
        let mut line = EntryLine::new(&entry.name, entry.kind.name(), entry.starts.len(), walk);
        for (node, event) in &walk.events {
            match event {
                Event::Access { at, access } => {
                    line.count(self.report.access(*at, node.phase, access));
                    self.report
                        .known
                        .add(flow.patches.runs_at(*at), node.phase, access.class);
                    if access.class.is_finding() {
                        self.find(flow, entry, walk, node, finding(access));
                    }
                }
                Event::Finding(finding) => {
                    line.left_at_once += usize::from(finding.shape.starts_with(LEAVES));
                    self.find(flow, entry, walk, node, finding.clone());
                }
                Event::Warning => self.report.warning(node.ip),
                Event::End(_) => {}
            }
        }
        count_ends(walk, entry, &mut line);
        self.report.entries.push(line);
    }

    fn find(&mut self, flow: &Flow<'_>, entry: &Entry, walk: &Walk, node: &Node, finding: Finding) {
        let key = (flow.function(node.ip), finding);
        let seen = self.findings.entry(key).or_insert_with(|| Seen {
            entry: entry.name.clone(),
            trace: walk.traces.get(node).cloned().unwrap_or_default(),
            ip: node.ip,
            entries: BTreeSet::new(),
        });
        seen.entries.insert(entry.name.clone());
    }

    /// Compares the findings with the allowlist. Returns the report, the functions in which
    /// accesses count, and all that were visited.
    pub(super) fn finish(mut self, flow: &Flow<'_>) -> (Report, BTreeSet<u64>, BTreeSet<u64>) {
        for ((function, finding), seen) in self.findings {
            let allowed = flow.allow.access(&function, &finding.class, &finding.shape);
            self.report.add(FindingLine {
                reason: allowed.map(Into::into),
                trace: report::disassemble(flow, &seen.trace),
                source: report::source_line(flow.image, seen.ip),
                function,
                class: finding.class,
                shape: finding.shape,
                entry: seen.entry,
                entries: seen.entries.len(),
            });
        }
        (self.report, self.functions, self.visited)
    }
}

fn finding(access: &Access) -> Finding {
    let what = if access.writes { "write" } else { "read" };
    Finding::new(
        access.class.name(),
        format!("{what}{} {}", access.size, access.shape),
    )
}

/// Counts how the paths of an entry end.
fn count_ends(walk: &Walk, entry: &Entry, line: &mut EntryLine) {
    for end in walk.ends() {
        match end {
            End::Receiver => line.receiver += 1,
            End::NmiWalk => line.nmi_walk += 1,
            End::StateChange => line.state_changes += 1,
            End::Left => line.left += 1,
            End::Resumed => line.resumed += 1,
            End::LeftUnchanged => line.left_unchanged += 1,
            End::Stop(name) => {
                line.stops.insert(name.clone());
            }
            End::Remainder(name) => {
                line.remainders.insert(name.clone());
            }
            End::Bug => line.bugs += 1,
        }
    }
    line.is_in_kernel = entry.kind.in_kernel().is_some();
    line.needs_flush =
        entry.phase == Phase::Entry && entry.kind != Kind::WayOut && !line.is_in_kernel;
}
