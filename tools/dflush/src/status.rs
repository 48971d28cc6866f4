// SPDX-License-Identifier: GPL-2.0

//! How things stand: a snapshot of what the module shows, as text.

use crate::module::{Control, Counters, Cpu, Snapshot};
use crate::text::Table;
use std::fmt::{self, Display, Formatter};

/// The module's word of a CPU, for people.
#[must_use]
pub fn word(word: u32) -> &'static str {
    match word {
        0 => "-",
        1 => "owed",
        2 => "flushing",
        3 => "flushing, owed",
        _ => "unknown",
    }
}

/// What is deferred for whom, in one or two sentences.
#[must_use]
pub fn policy(control: &Control) -> String {
    let cpus = &control.cpus;
    let what = match control.state.as_str() {
        "on" => {
            format!("flushes of vmalloc's lazy purge are deferred for CPUs {cpus} in user mode")
        }
        "shadow" => format!(
            "every interrupt is sent; what would be deferred for CPUs {cpus} is only counted"
        ),
        "off" => "every interrupt is sent".into(),
        _ => format!("every interrupt is sent for now, to CPUs {cpus} too"),
    };
    match control.max_stale_ms {
        0 => format!("{what}, without a bound in time"),
        limit => format!("{what}, for {limit} ms at most"),
    }
}

/// The counters with their meaning, in the order of `summary`.
#[must_use]
pub fn totals(counters: &Counters) -> [(&'static str, u64, &'static str); 15] {
    [
        ("calls", counters.calls, "kernel TLB flushes seen"),
        (
            "kept_range",
            counters.kept_range,
            "sent as ever: outside of vmalloc",
        ),
        (
            "kept_caller",
            counters.kept_caller,
            "sent as ever: not the lazy purge",
        ),
        (
            "kept_blocked",
            counters.kept_blocked,
            "sent as ever: shadow mode or suspended",
        ),
        ("redirected", counters.redirected, "handled by the module"),
        ("deferred", counters.deferred, "interrupts spared"),
        (
            "would_defer",
            counters.would_defer,
            "flushes that would have spared one (shadow)",
        ),
        (
            "ipi_not_quiet",
            counters.ipi_not_quiet,
            "interrupts sent: not in user mode",
        ),
        (
            "ipi_raced",
            counters.ipi_raced,
            "interrupts sent: just leaving user mode",
        ),
        (
            "flush_entry",
            counters.flush_entry,
            "flushes on entry to the kernel",
        ),
        ("flush_nmi", counters.flush_nmi, "flushes in NMIs"),
        ("flush_ipi", counters.flush_ipi, "flushes in interrupts"),
        (
            "drained",
            counters.drained,
            "interrupts sent to end deferral",
        ),
        (
            "suspensions",
            counters.suspensions,
            "times that a tracer suspended deferral",
        ),
        (
            "expired",
            counters.expired,
            "interrupts sent because of max_stale_ms",
        ),
    ]
}

/// The table of CPUs.
#[must_use]
pub fn table(cpus: &[Cpu]) -> Table {
    let mut table = Table::new(&[
        "cpu",
        "now",
        "pending",
        "deferred",
        "on entry",
        "by NMI",
        "by IPI",
        "not quiet",
        "raced",
    ]);
    for cpu in cpus {
        table.push(vec![
            cpu.cpu.to_string(),
            cpu.mode.clone(),
            word(cpu.word).into(),
            cpu.deferred.to_string(),
            cpu.flush_entry.to_string(),
            cpu.flush_nmi.to_string(),
            cpu.flush_ipi.to_string(),
            cpu.ipi_not_quiet.to_string(),
            cpu.ipi_raced.to_string(),
        ]);
    }
    table
}

impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            control,
            summary,
            cpus,
        } = self;
        writeln!(
            f,
            "module   {} for kernel {}",
            summary.version, summary.kernel
        )?;
        writeln!(f, "mode     {}", control.mode)?;
        writeln!(f, "state    {}", control.state)?;
        writeln!(f, "policy   {}", policy(control))?;
        writeln!(f, "flush    {}\n", summary.flush_method)?;
        for (name, count, meaning) in totals(&summary.counters) {
            writeln!(f, "{name:<14} {count:>10}  {meaning}")?;
        }
        write!(f, "\n{}", table(cpus))?;
        writeln!(
            f,
            "\nper CPU: deferred for it, flushed on entry, by NMI or by interrupt; interrupted as \
             it was\nnot quiet (not in user mode) or raced (just leaving it)"
        )
    }
}
