// SPDX-License-Identifier: GPL-2.0

//! The report as text.

use super::count::{ByStack, Gaps};
use super::report::{Report, duration, thousands};
use super::window::Window;
use std::fmt;

const LABEL: usize = 46;
const COLUMN: usize = 12;

/// More CPUs than that are shown as one sum.
const MOST_CPUS: usize = 8;

/// How many call stacks are shown; the JSON has them all.
const STACKS: usize = 5;

/// How many functions of each are shown.
const FRAMES: usize = 6;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Kernel {} on {}", self.kernel, self.cpu_model)?;
        let what = if self.has_spinners {
            "each with a spinner in user mode"
        } else {
            "with what runs there"
        };
        writeln!(f, "CPUs {}, {what}", self.cpus)?;
        if !self.load.is_empty() {
            writeln!(f, "Load: {}", self.load.join(" "))?;
        }
        for window in &self.windows {
            self.window(f, window)?;
        }
        if self.windows.len() > 1 {
            self.comparison(f)?;
        }
        writeln!(f)?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for fault in &self.faults {
            writeln!(f, "WARNING: {fault}")?;
        }
        Ok(())
    }
}

impl Report {
    fn has_columns(&self) -> bool {
        self.cpu_numbers.len() <= MOST_CPUS
    }

    /// A line with a value for each CPU, or their sum.
    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        label: &str,
        value: impl Fn(u32) -> Option<u64>,
    ) -> fmt::Result {
        write!(f, "{label:LABEL$}")?;
        let values = || self.cpu_numbers.iter().map(|cpu| value(cpu).unwrap_or(0));
        if self.has_columns() {
            for value in values() {
                write!(f, "{:>COLUMN$}", thousands(value))?;
            }
        }
        writeln!(f, "{:>COLUMN$}", thousands(values().sum()))
    }

    fn window(&self, f: &mut fmt::Formatter<'_>, window: &Window) -> fmt::Result {
        let seconds = window.span.length_ns() as f64 / 1e9;
        write!(f, "\n{}, {seconds:.1} s", window.label)?;
        match &window.module {
            Some(module) => writeln!(f, " (module: mode {}, state {})", module.mode, module.state)?,
            None => writeln!(f, " (module not loaded)")?,
        }
        write!(f, "{:LABEL$}", "interrupts sent to each CPU, by cause")?;
        if self.has_columns() {
            for cpu in self.cpu_numbers.iter() {
                write!(f, "{:>COLUMN$}", format!("CPU {cpu}"))?;
            }
        }
        writeln!(f, "{:>COLUMN$}", "all")?;
        for cause in &window.counts.by_cause {
            self.row(f, &format!("  {}", cause.cause), |cpu| {
                cause.sent.get(&cpu).copied()
            })?;
        }
        let by_cause = &window.counts.by_cause;
        self.row(f, "  sum", |cpu| {
            Some(by_cause.iter().filter_map(|c| c.sent.get(&cpu)).sum())
        })?;
        let shared: u64 = by_cause
            .iter()
            .flat_map(|cause| cause.shared.values())
            .sum();
        if shared > 0 {
            self.row(f, "requests that shared one of these", |cpu| {
                Some(by_cause.iter().filter_map(|c| c.shared.get(&cpu)).sum())
            })?;
        }
        if !window.counts.arrived.is_empty() {
            writeln!(f, "interrupts that arrived, by vector")?;
        }
        for (vector, cpus) in &window.counts.arrived {
            self.row(f, &format!("  {vector}"), |cpu| cpus.get(&cpu).copied())?;
        }
        // Not an event of its own, as watching it would change code that runs before the receiver.
        if let Some(nmis) = window.interrupts.get("NMI") {
            self.row(f, "  nmi (/proc/interrupts)", |cpu| nmis.get(&cpu).copied())?;
        }
        if self.has_spinners {
            self.gaps(f, window)?;
        }
        stacks(f, &window.counts.by_stack)
    }

    fn gaps(&self, f: &mut fmt::Formatter<'_>, window: &Window) -> fmt::Result {
        let gaps =
            |value: fn(&Gaps) -> u64| move |cpu: u32| window.counts.gaps.get(&cpu).map(value);
        let threshold = duration(self.gap_threshold_ns);
        writeln!(f, "gaps over {threshold} that the spinners saw")?;
        self.row(f, "  number", gaps(|g| g.all.number))?;
        self.row(
            f,
            "    of these with an interrupt",
            gaps(|g| g.interrupted.number),
        )?;
        self.row(f, "  together, us", gaps(|g| g.all.total_ns / 1000))?;
        self.row(
            f,
            "    of these with an interrupt",
            gaps(|g| g.interrupted.total_ns / 1000),
        )?;
        let sum = window.counts.all_gaps();
        writeln!(f, "  longest: {}", duration(sum.longest_ns))?;
        write!(f, "  by length:")?;
        for (length, number) in &sum.by_length_ns {
            write!(f, " {}: {}", duration(*length), thousands(*number))?;
        }
        writeln!(f)
    }

    fn comparison(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:LABEL$}", "all CPUs together")?;
        for window in &self.windows {
            let short = window.label.split(" (").next().unwrap_or_default();
            write!(f, "{short:>COLUMN$}")?;
        }
        writeln!(f)?;
        for (cause, figures) in self.causes() {
            write!(f, "  {cause:width$}", width = LABEL - 2)?;
            for figure in figures {
                write!(
                    f,
                    "{:>COLUMN$}",
                    thousands(figure.map_or(0, super::count::ByCause::total))
                )?;
            }
            writeln!(f)?;
        }
        let row = |f: &mut fmt::Formatter<'_>, label: &str, value: fn(&Window) -> String| {
            write!(f, "{label:LABEL$}")?;
            for window in &self.windows {
                write!(f, "{:>COLUMN$}", value(window))?;
            }
            writeln!(f)
        };
        row(f, "interrupts sent", |w| thousands(w.counts.total()))?;
        if self.has_spinners {
            row(f, "gaps", |w| thousands(w.counts.all_gaps().number))?;
            row(f, "longest gap", |w| {
                duration(w.counts.all_gaps().longest_ns)
            })?;
        }
        row(f, "seconds", |w| {
            format!("{:.1}", w.span.length_ns() as f64 / 1e9)
        })
    }
}

/// Where most of them came from.
fn stacks(f: &mut fmt::Formatter<'_>, stacks: &[ByStack]) -> fmt::Result {
    let sent: Vec<_> = stacks.iter().filter(|stack| stack.total() > 0).collect();
    if sent.is_empty() {
        return Ok(());
    }
    writeln!(f, "where they came from, the most frequent first")?;
    for stack in sent.iter().take(STACKS) {
        let function = stack.callback.as_deref().unwrap_or("reschedule");
        writeln!(
            f,
            "{:>8}  {}: {function}",
            thousands(stack.total()),
            stack.cause
        )?;
        let frames: Vec<_> = stack
            .stack
            .iter()
            .take(FRAMES)
            .map(String::as_str)
            .collect();
        let more = if stack.stack.len() > FRAMES {
            " < ..."
        } else {
            ""
        };
        writeln!(f, "{:10}{}{more}", "", frames.join(" < "))?;
    }
    if sent.len() > STACKS {
        writeln!(f, "{:>8}  more places are in the JSON", sent.len() - STACKS)?;
    }
    Ok(())
}
