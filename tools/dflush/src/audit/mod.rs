// SPDX-License-Identifier: GPL-2.0

//! `dflush audit`: which memory a kernel touches between user mode and the deferred flush.

mod allowlist_file;
mod attached;
mod calls;
mod collect;
mod config;
mod entries;
mod events;
mod exec;
mod flow;
mod implicit;
mod in_kernel;
mod memory;
mod module;
mod object;
mod operands;
mod patch;
mod report;
mod roles;
mod seen;
mod state;
mod steps;
mod strings;
mod tables;
mod track;
mod track_memory;
mod transfer;
mod value;
mod walk;

use crate::image::Image;
use anyhow::{Result, ensure};
use collect::Collected;
use config::Allowlist;
use flow::Flow;
use memory::Map;
use report::{FindingLine, Report};
use std::collections::BTreeSet;
use std::path::Path;

pub use module::{ModuleReport, check as check_module};
pub use report::Report as AuditReport;
pub use seen::Comparison;

/// Audits an image against an allowlist.
///
/// # Errors
///
/// If the image or the allowlist cannot be read, or a limit is reached. What is found wrong with
/// the kernel is no error but a part of the report.
pub fn run(image: &Image, allowlist: &Path) -> Result<Report> {
    let allow = Allowlist::open(allowlist)?;
    audit(image, &allow)
}

fn audit(image: &Image, allow: &Allowlist) -> Result<Report> {
    let map = Map::new(image, allow)?;
    let patches = patch::Patches::read(image, allow)?;
    let warnings = tables::Warnings::read(image)?;
    let graph = tables::CallGraph::read(image, &patches)?;
    let protocol = allow.protocol();
    let leaving = protocol
        .leaving
        .iter()
        .map(|name| image.require(name))
        .collect::<Result<Vec<_>>>()?;
    let leaving = graph.reaching(leaving, |function| {
        image
            .symbols
            .names_of(function)
            .any(|name| allow.is_cut(name))
    });
    let mut flow = Flow {
        image,
        allow,
        patches: &patches,
        warnings: &warnings,
        leaving: &leaving,
        changing: protocol
            .changing
            .iter()
            .map(|name| image.require(name))
            .collect::<Result<_>>()?,
        entry: String::new(),
        in_kernel: None,
        exec: exec::Executor::new(&map),
        receiver: image.require(&protocol.receiver)?,
        state_word: image.require(&protocol.state)? + protocol.state_offset,
    };
    let entries = entries::find(image, &map, allow)?;
    ensure!(!entries.all.is_empty(), "no way into this kernel was found");
    let mut collected = Collected::new(Report::new(image, entries.gates, &entries.excluded));
    for entry in &entries.all {
        flow.entry.clone_from(&entry.name);
        flow.in_kernel = entry.kind.in_kernel();
        match walk::walk(&mut flow, &entry.starts, entry.phase) {
            Ok(walk) => collected.add(&flow, entry, &walk),
            Err(error) => collected.give_up(&entry.name, &error),
        }
    }
    let (mut report, functions, visited) = collected.finish(&flow);
    for unknown in entries.unknown {
        report.add(FindingLine::plain("interrupt table", unknown));
    }
    check_callers(image, &graph, allow, &visited, &mut report)?;
    for line in &report.entries {
        if let Some(problem) = line.problem(|name| allow.is_one_way(name)) {
            report.problems.push(format!("{}: {problem}", line.name));
        }
    }
    if image.is_live {
        list_attached(image, &functions, protocol, &mut report)?;
    } else {
        // In the running kernel, what is patched in or out is not asked for.
        for stale in allow.stale() {
            report
                .problems
                .push(format!("stale entry in the allowlist: {stale}"));
        }
    }
    report.leaving = leaving.len();
    report.reasons = allow
        .entries()
        .into_iter()
        .map(|(key, reason)| (key, reason.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    Ok(report)
}

/// Code that others have attached to what runs before the hooks can touch anything. At the receiver
/// itself and at the functions after it, it may: those are not counted.
fn list_attached(
    image: &Image,
    functions: &BTreeSet<u64>,
    protocol: &allowlist_file::Protocol,
    report: &mut Report,
) -> Result<()> {
    let names = functions
        .iter()
        .flat_map(|function| image.symbols.names_of(*function))
        .map(Into::into)
        .collect();
    for attached in attached::read(&names)? {
        let line = format!("{}: {}", attached.function, attached.what);
        if attached.function != protocol.receiver {
            report
                .problems
                .push(format!("attached on the paths: {line}"));
        }
        report.attached.push(line);
    }
    Ok(())
}

/// Nobody may track the context from where the walks have not been.
fn check_callers(
    image: &Image,
    graph: &tables::CallGraph,
    allow: &Allowlist,
    visited: &BTreeSet<u64>,
    report: &mut Report,
) -> Result<()> {
    for name in &allow.protocol().tracking {
        for caller in graph.callers(image.require(name)?) {
            let function = image.symbols.describe(caller);
            if !visited.contains(&caller) && !allow.caller(&function) {
                report.add(FindingLine::plain(
                    "coverage",
                    format!("{function} calls {name} and no path leads there"),
                ));
            }
        }
    }
    Ok(())
}
