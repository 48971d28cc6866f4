// SPDX-License-Identifier: GPL-2.0

//! The whole answer. What is serialised here is the JSON.

use super::count::ByCause;
use super::html;
use super::window::{Plan, Window};
use crate::cpulist::CpuList;
use crate::system::System;
use anyhow::Result;
use serde::Serialize;

/// What `dflush measure` found.
#[derive(Serialize)]
pub struct Report {
    /// The release of the kernel.
    pub(super) kernel: String,
    /// The processor, as it names itself.
    pub(super) cpu_model: String,
    /// The CPUs that were measured, as a list.
    pub(super) cpus: String,
    /// Whether a spinner ran on each of them.
    pub(super) has_spinners: bool,
    /// A jump of a spinner's clock longer than this is a gap.
    pub(super) gap_threshold_ns: u64,
    /// What ran meanwhile.
    pub(super) load: Vec<String>,
    /// One, or with `--compare` two: before and after.
    pub(super) windows: Vec<Window>,
    /// What the figures mean, in sentences.
    pub(super) findings: Vec<String>,
    /// What makes them wrong, in sentences; empty if all is well.
    pub(super) faults: Vec<String>,
    #[serde(skip)]
    pub(super) cpu_numbers: CpuList,
}

impl Report {
    /// Puts the windows together.
    pub(super) fn new(system: &System, plan: &Plan<'_>, mut windows: Vec<Window>) -> Self {
        let line = |file: &str| system.read(file).unwrap_or_default().trim().to_owned();
        let cpu_info = line("/proc/cpuinfo");
        let cpu_model = (cpu_info.lines())
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("an unnamed processor", |(_, model)| model);
        let mut faults = Vec::new();
        for window in &mut windows {
            faults.append(&mut window.faults);
        }
        Self {
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu_model: cpu_model.to_owned(),
            cpus: plan.cpus.to_string(),
            has_spinners: !plan.observe,
            gap_threshold_ns: plan.threshold_ns,
            load: plan.load.to_vec(),
            findings: windows.iter().flat_map(findings).collect(),
            windows,
            faults,
            cpu_numbers: plan.cpus.clone(),
        }
    }

    /// Whether nothing makes the figures wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// The report as one page that needs nothing but itself.
    ///
    /// # Errors
    ///
    /// If a chart cannot be drawn.
    pub fn to_html(&self) -> Result<String> {
        html::render(self)
    }

    /// The causes seen in any window, in the order of the first that has them, and for each window
    /// its figures, if it has any.
    pub(super) fn causes(&self) -> Vec<(&str, Vec<Option<&ByCause>>)> {
        let mut names: Vec<&str> = Vec::new();
        for cause in self
            .windows
            .iter()
            .flat_map(|window| &window.counts.by_cause)
        {
            if !names.contains(&cause.cause.as_str()) {
                names.push(&cause.cause);
            }
        }
        let of = |window: &'_ Window, name: &str| {
            window
                .counts
                .by_cause
                .iter()
                .position(|cause| cause.cause == name)
        };
        names
            .into_iter()
            .map(|name| {
                let figures = (self.windows.iter())
                    .map(|window| of(window, name).map(|index| &window.counts.by_cause[index]))
                    .collect();
                (name, figures)
            })
            .collect()
    }
}

/// What the module did in a window, or would have done.
fn findings(window: &Window) -> Vec<String> {
    let label = &window.label;
    let deferrable: u64 = (window.counts.by_cause.iter())
        .filter(|cause| cause.is_deferrable)
        .map(ByCause::total)
        .sum();
    let all = window.counts.total();
    let mode = window.module.as_ref().map(|module| module.mode.as_str());
    let mut findings = Vec::new();
    match mode {
        Some("on") => findings.push(format!(
            "{label}: the module spared its CPUs {} interrupts; {} of the same kind were sent to those \
             measured",
            thousands(window.counted("deferred")),
            thousands(deferrable)
        )),
        Some("shadow") => findings.push(format!(
            "{label}: in shadow mode every interrupt is sent; mode on would have spared at least one \
             CPU in each of {} flushes, and at most {} of the {} interrupts",
            thousands(window.counted("would_defer")),
            thousands(deferrable),
            thousands(all)
        )),
        _ if deferrable > 0 => findings.push(format!(
            "{label}: {} of the {} interrupts are flushes by the lazy vmalloc purge, which the module \
             defers for CPUs in user mode",
            thousands(deferrable),
            thousands(all)
        )),
        _ => findings.push(format!(
            "{label}: none of the {} interrupts is a flush that the module could defer",
            thousands(all)
        )),
    }
    findings
}

/// 1234567 -> 1,234,567.
pub(super) fn thousands(number: u64) -> String {
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

/// A time as people write it.
pub(super) fn duration(ns: u64) -> String {
    let ns_f = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns_f / 1e6),
        _ => format!("{:.1} s", ns_f / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, thousands};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1500), "1.5 us");
        assert_eq!(duration(176_435_112), "176.4 ms");
        assert_eq!(duration(10_040_000_000), "10.0 s");
    }
}
