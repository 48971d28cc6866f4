// SPDX-License-Identifier: GPL-2.0

//! The table that is printed: before and after side by side, a column for each CPU.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    raw::PerCpu,
    report::{Gaps, Ipi, Load, Report, State},
};

const LABEL: usize = 44;
const COLUMN: usize = 9;

struct Table<'a> {
    report: &'a Report,
    text: String,
}

/// The table as text.
pub fn render(report: &Report) -> String {
    let mut table = Table {
        report,
        text: String::new(),
    };
    table.head();
    table.load_a();
    table.load_b();
    table.remainder();
    table.text
}

/// 1234567 -> 1,234,567.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Table<'_> {
    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn width(&self) -> usize {
        COLUMN * self.report.isolated_cpus.len()
    }

    fn rule(&mut self) {
        self.line(&"-".repeat(LABEL + 2 * (self.width() + 2)));
    }

    fn head(&mut self) {
        let width = self.width();
        let r = self.report;
        let title = format!("Kernel {} on {}", r.kernel, r.cpu_model);
        let mut cpus = format!("{:LABEL$}", "");
        for _ in 0..2 {
            cpus.push_str("  ");
            for cpu in &r.isolated_cpus {
                let _ = write!(cpus, "{:>COLUMN$}", format!("CPU {cpu}"));
            }
        }
        self.line("");
        self.line(&title);
        self.line("Isolated CPUs, each with a user-space spinner; the load runs on CPU 0.");
        self.line("");
        self.line(&format!(
            "{:LABEL$}  {:>width$}  {:>width$}",
            "", "before", "after"
        ));
        self.line(&cpus);
    }

    fn row(&mut self, label: &str, value: impl Fn(&State, u32) -> String) {
        let mut text = format!("{label:LABEL$}");
        for state in [&self.report.before, &self.report.after] {
            text.push_str("  ");
            for cpu in &self.report.isolated_cpus {
                let _ = write!(text, "{:>COLUMN$}", value(state, *cpu));
            }
        }
        self.line(&text);
    }

    fn counts(&mut self, label: &str, counts: impl Fn(&State) -> &PerCpu) {
        self.row(label, |state, cpu| {
            thousands(counts(state).get(&cpu).copied().unwrap_or(0))
        });
    }

    fn gap(&mut self, label: &str, load: Load, value: impl Fn(&Gaps) -> String) {
        self.row(label, |state, cpu| value(&state.gaps[&load][&cpu]));
    }

    fn gaps(&mut self, load: Load) {
        let threshold = self.report.gap_threshold_us;
        self.gap("spinner: kernel was entered, times", load, |g| {
            thousands(g.kernel_entries)
        });
        self.line(&format!(
            "spinner: gaps over {threshold} us in its time stamps"
        ));
        self.gap("  with the kernel entered: number", load, |g| {
            thousands(g.in_kernel)
        });
        self.gap("    total, ms", load, |g| ms(g.in_kernel_total_us));
        self.gap("    longest, ms", load, |g| ms(g.in_kernel_longest_us));
        self.gap("  all: number", load, |g| thousands(g.number));
        self.gap("    total, ms", load, |g| ms(g.total_us));
        self.gap("    longest, ms", load, |g| ms(g.longest_us));
        self.gap("  time watched, s", load, |g| format!("{:.1}", g.window_s));
    }

    fn interrupt_rows(&mut self, load: Load) {
        for (row, label) in [("LOC", "LOC (timer)"), ("RES", "RES (reschedule)")] {
            self.row(&format!("/proc/interrupts: {label}"), |state, cpu| {
                let rises = state.interrupts[&load].get(row);
                thousands(rises.and_then(|r| r.get(&cpu)).copied().unwrap_or(0))
            });
        }
    }

    fn load_a(&mut self) {
        self.rule();
        let rounds = thousands(self.report.rounds);
        self.line(&format!(
            "(a) {rounds} rounds of vmap, vunmap, vm_unmap_aliases"
        ));
        self.counts("kernel-range flush interrupts", |s| &s.flush_ipis);
        self.row("other interrupts sent", |state, cpu| {
            let others = state
                .ipis
                .iter()
                .filter(|i| i.load == Load::A && !i.is_flush);
            thousands(others.filter_map(|i| i.cpus.get(&cpu)).sum())
        });
        self.counts("/proc/interrupts: CAL (function calls)", |s| &s.cal_rise);
        self.interrupt_rows(Load::A);
        self.gaps(Load::A);
    }

    fn load_b(&mut self) {
        self.rule();
        self.line("(b) processes, module load and unload, BPF programs, network");
        self.line("    namespaces, threads, large vmalloc buffers, io_uring");
        self.counts("kernel-range flush interrupts", |s| &s.load_flush_ipis);
        self.line("interrupts sent, by cause");
        for cause in causes(self.report) {
            self.row(&format!("  {cause}"), |state, cpu| {
                let ipis = state
                    .ipis
                    .iter()
                    .filter(|i| i.load == Load::B && i.cause == cause);
                thousands(ipis.filter_map(|i| i.cpus.get(&cpu)).sum())
            });
        }
        self.counts("/proc/interrupts: CAL (function calls)", |s| {
            &s.load_cal_rise
        });
        self.interrupt_rows(Load::B);
        self.gaps(Load::B);
        self.rule();
    }

    /// What the module does not spare, by function and caller.
    fn remainder(&mut self) {
        self.line("What remains in (b) with the module, on all isolated CPUs together:");
        let mut kinds = kinds(&self.report.after.ipis);
        kinds.sort_by_key(|(_, total)| std::cmp::Reverse(*total));
        for (what, total) in kinds {
            self.line(&format!("{:>8}  {what}", thousands(total)));
        }
        if self.report.emulated {
            self.line("");
            self.line(
                "The CPUs are emulated: gaps without a kernel entry, and most of the length of",
            );
            self.line(
                "those with one, are pauses of the emulator. Counts of interrupts are exact; two",
            );
            self.line("kernel entries within one step of the spinner count once.");
        }
        self.line("");
    }
}

/// The causes seen in (b), in either state, in the order of the report.
pub fn causes(report: &Report) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for ipi in report.before.ipis.iter().chain(&report.after.ipis) {
        if ipi.load == Load::B && !causes.contains(&ipi.cause) {
            causes.push(ipi.cause.clone());
        }
    }
    causes
}

/// Cause, function and caller of what was sent in (b), however they were reached, and how often.
fn kinds(ipis: &[Ipi]) -> Vec<(String, u64)> {
    let mut kinds = BTreeMap::<String, u64>::new();
    for ipi in ipis.iter().filter(|ipi| ipi.load == Load::B) {
        let function = ipi.callback.as_deref().unwrap_or("reschedule");
        let from = ipi
            .called_from
            .first()
            .map_or(String::new(), |f| format!(" < {f}"));
        let kind = format!("{}: {function} from {}{from}", ipi.cause, ipi.caller);
        *kinds.entry(kind).or_default() += ipi.total();
    }
    kinds.into_iter().collect()
}

fn ms(us: f64) -> String {
    format!("{:.1}", us / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }
}
