// SPDX-License-Identifier: GPL-2.0

//! The table for people.

use std::fmt::Write;

use crate::report::{Report, RoundTrip};

/// Renders the report.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    let trips = [
        &report.round_trip,
        &report.round_trip_mitigations,
        &report.round_trip_mitigations_skylake,
        &report.round_trip_mitigations_epyc,
    ];
    writeln!(out, "Instructions, kernel {}", report.kernel)?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<44}{:>12}{:>12}{:>12}{:>12}",
        "round trip of getppid(), mitigations:", "off", "default", "Skylake", "EPYC"
    )?;
    let mut row = |name: &str, value: fn(&RoundTrip) -> f64| -> std::fmt::Result {
        write!(out, "  {name:<42}")?;
        for trip in trips {
            let added = value(trip) - trip.without;
            let cell = if name.starts_with("without") {
                format!("{:.0}", trip.without)
            } else {
                format!("{:.0} (+{added:.0})", value(trip))
            };
            write!(out, "{cell:>12}")?;
        }
        writeln!(out)
    };
    row("without the module", |trip| trip.without)?;
    row("mode shadow", |trip| trip.shadow)?;
    row("mode on, nothing pending", |trip| trip.idle)?;
    row("mode on, a flush pending each time", |trip| trip.pending)?;
    row("a flush on each entry (variant)", |trip| trip.unconditional)?;
    writeln!(out)?;

    let sender = &report.sender;
    writeln!(
        out,
        "{:<44}{:>8}{:>8}{:>8}",
        "one flush on the sender, other CPUs:", 1, 2, 3
    )?;
    let mut row = |name: &str, value: &dyn Fn(u32) -> Option<u64>| -> std::fmt::Result {
        write!(out, "  {name:<42}")?;
        for others in 1..=3 {
            let cell = value(others).map_or_else(String::new, |count| count.to_string());
            write!(out, "{cell:>8}")?;
        }
        writeln!(out)
    };
    row("stock, interrupting idle CPUs", &|others| {
        sender.stock.get(&others).copied()
    })?;
    row("  and what these execute meanwhile", &|others| {
        let all = sender.stock_all_cpus.get(&others)?;
        Some(all.saturating_sub(*sender.stock.get(&others)?))
    })?;
    row("not deferred by policy", &|others| {
        sender.kept.get(&others).copied()
    })?;
    row("deferred, first time", &|others| {
        sender.deferred.get(&others).map(|count| count.first)
    })?;
    row("deferred, already pending", &|others| {
        sender.deferred.get(&others).map(|count| count.pending)
    })?;
    if let Some(alone) = sender.stock.get(&0) {
        writeln!(out, "  {:<42}{alone:>8}", "stock, no other CPU online")?;
    }
    let round_trips = trips
        .map(|trip| trip.spread)
        .into_iter()
        .fold(0.0, f64::max);
    writeln!(
        out,
        "\nThree runs of each differ by at most {round_trips:.1} a round trip and {} a flush.",
        sender.spread
    )
}
