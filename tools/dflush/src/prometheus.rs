// SPDX-License-Identifier: GPL-2.0

//! What the module shows in Prometheus' text format, for node_exporter's textfile collector.
//!
//! Names and units by <https://prometheus.io/docs/practices/naming/>: one prefix, base units,
//! `_total` for counters, `_info` for what is only labels. Counters begin at 0 when the module is
//! loaded, which Prometheus takes for a restart.

use crate::module::{Control, Counters, Cpu, Snapshot};
use std::fmt::{self, Display, Formatter, Write};

/// The states of the control file `state`, without their reasons.
const STATES: [&str; 5] = ["off", "shadow", "on", "suspended", "degraded"];
const MODES: [&str; 3] = ["off", "shadow", "on"];

/// The metrics of a module that may be loaded or not.
pub struct Metrics<'a>(pub Option<&'a Snapshot>);

/// The value of a label, and what it counts of a CPU.
type Labelled = (&'static str, fn(&Cpu) -> u64);

struct Writer<'a, 'b>(&'a mut Formatter<'b>);

impl Writer<'_, '_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP deferred_flush_{name} {help}")?;
        writeln!(self.0, "# TYPE deferred_flush_{name} {kind}")
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) -> fmt::Result {
        write!(self.0, "deferred_flush_{name}")?;
        for (index, (label, value)) in labels.iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            write!(self.0, "{separator}{label}=\"")?;
            escape(self.0, value)?;
            self.0.write_char('"')?;
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{end} {value}")
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: &str) -> fmt::Result {
        self.family(name, kind, help)?;
        self.sample(name, &[], value)
    }

    /// A counter with one label that says what kind of event it was.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: &[(&str, u64)],
    ) -> fmt::Result {
        self.family(name, "counter", help)?;
        for (value, count) in samples {
            self.sample(name, &[(label, value)], &count.to_string())?;
        }
        Ok(())
    }

    /// A state set: 1 for the value that holds, 0 for the others.
    fn states(&mut self, name: &str, help: &str, values: &[&str], now: &str) -> fmt::Result {
        self.family(name, "gauge", help)?;
        for value in values {
            self.sample(
                name,
                &[(name, value)],
                if *value == now { "1" } else { "0" },
            )?;
        }
        Ok(())
    }

    fn cpus(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        cpus: &[Cpu],
        value: impl Fn(&Cpu) -> u64,
    ) -> fmt::Result {
        self.family(name, kind, help)?;
        for cpu in cpus {
            self.sample(
                name,
                &[("cpu", &cpu.cpu.to_string())],
                &value(cpu).to_string(),
            )?;
        }
        Ok(())
    }

    /// The same with another label, for each CPU.
    fn cpus_by(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        cpus: &[Cpu],
        values: &[Labelled],
    ) -> fmt::Result {
        self.family(name, "counter", help)?;
        for cpu in cpus {
            for (kind, value) in values {
                let labels = [("cpu", &*cpu.cpu.to_string()), (label, kind)];
                self.sample(name, &labels, &value(cpu).to_string())?;
            }
        }
        Ok(())
    }

    fn control(&mut self, control: &Control) -> fmt::Result {
        self.states(
            "mode",
            "The mode that was asked for.",
            &MODES,
            &control.mode,
        )?;
        let state = control.state.split(':').next().unwrap_or_default();
        self.states("state", "The state that the module is in.", &STATES, state)?;
        // In base units: seconds, from milliseconds, without rounding.
        let limit = format!(
            "{}.{:03}",
            control.max_stale_ms / 1000,
            control.max_stale_ms % 1000
        );
        self.single(
            "max_stale_seconds",
            "gauge",
            "For how long a CPU may owe a flush. 0 is no bound.",
            &limit,
        )?;
        let allowed = control.cpus.len().to_string();
        self.single(
            "allowed_cpus",
            "gauge",
            "CPUs for which deferral is allowed.",
            &allowed,
        )
    }

    fn totals(&mut self, counters: &Counters) -> fmt::Result {
        self.counter(
            "kernel_flushes_total",
            "Kernel TLB flushes seen, by what the module decided.",
            "decision",
            &[
                ("redirected", counters.redirected),
                ("kept_range", counters.kept_range),
                ("kept_caller", counters.kept_caller),
                ("kept_blocked", counters.kept_blocked),
            ],
        )?;
        let single = [
            (
                "would_defer_flushes_total",
                "Kernel TLB flushes that would have spared a CPU, in shadow mode.",
                counters.would_defer,
            ),
            (
                "drained_cpus_total",
                "CPUs interrupted because deferral was blocked or turned off.",
                counters.drained,
            ),
            (
                "expired_cpus_total",
                "CPUs interrupted because they had owed a flush for max_stale_seconds.",
                counters.expired,
            ),
            (
                "suspensions_total",
                "How often a tracer suspended deferral.",
                counters.suspensions,
            ),
        ];
        for (name, help, count) in single {
            self.single(name, "counter", help, &count.to_string())?;
        }
        Ok(())
    }

    fn per_cpu(&mut self, cpus: &[Cpu]) -> fmt::Result {
        self.cpus(
            "deferred_interrupts_total",
            "counter",
            "Interrupts that a CPU was spared.",
            cpus,
            |cpu| cpu.deferred,
        )?;
        self.cpus_by(
            "sent_interrupts_total",
            "Interrupts sent to an allowed CPU for a redirected flush, by reason.",
            "reason",
            cpus,
            &[
                ("not_quiet", |cpu| cpu.ipi_not_quiet),
                ("raced", |cpu| cpu.ipi_raced),
            ],
        )?;
        self.cpus_by(
            "local_flushes_total",
            "Full TLB flushes that a CPU did for itself, by where it did them.",
            "trigger",
            cpus,
            &[
                ("entry", |cpu| cpu.flush_entry),
                ("nmi", |cpu| cpu.flush_nmi),
                ("interrupt", |cpu| cpu.flush_ipi),
            ],
        )?;
        self.cpus(
            "pending",
            "gauge",
            "Whether a CPU owes a flush.",
            cpus,
            |cpu| u64::from(cpu.word != 0),
        )?;
        self.cpus(
            "user_mode",
            "gauge",
            "Whether a CPU is in user mode, where its flushes can be deferred.",
            cpus,
            |cpu| u64::from(cpu.mode == "user"),
        )
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(out: &mut impl Write, value: &str) -> fmt::Result {
    for character in value.chars() {
        match character {
            '\\' => out.write_str("\\\\")?,
            '"' => out.write_str("\\\"")?,
            '\n' => out.write_str("\\n")?,
            _ => out.write_char(character)?,
        }
    }
    Ok(())
}

impl Display for Metrics<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut out = Writer(f);
        let loaded = if self.0.is_some() { "1" } else { "0" };
        out.single(
            "loaded",
            "gauge",
            "Whether the kernel module is loaded.",
            loaded,
        )?;
        let Some(Snapshot {
            control,
            summary,
            cpus,
        }) = self.0
        else {
            return Ok(());
        };
        out.family(
            "info",
            "gauge",
            "The module's version, its kernel and how it flushes.",
        )?;
        let labels = [
            ("version", &*summary.version),
            ("kernel", &*summary.kernel),
            ("flush_method", &*summary.flush_method),
        ];
        out.sample("info", &labels, "1")?;
        out.control(control)?;

        out.totals(&summary.counters)?;
        out.per_cpu(cpus)
    }
}
