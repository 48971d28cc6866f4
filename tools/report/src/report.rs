// SPDX-License-Identifier: GPL-2.0

//! Puts the raw figures of one measurement together. What is serialised here is `report.json`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use ipi_trace::{
    cause::{self, Cause},
    trace,
};

use crate::raw::{self, PerCpu};

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    /// Release of the kernel that was measured.
    pub kernel: String,
    /// The processor that it ran on, as it names itself.
    pub cpu_model: String,
    /// Whether that processor is emulated in software.
    pub emulated: bool,
    /// The isolated CPUs, each with a spinner.
    pub isolated_cpus: Vec<u32>,
    /// Rounds of vmap, vunmap, vm_unmap_aliases in load (a).
    pub rounds: u64,
    /// A step of the spinner longer than this is a gap.
    pub gap_threshold_us: f64,
    /// Without the module.
    pub before: State,
    /// With the module.
    pub after: State,
    /// What was not as it has to be; empty if all is well.
    pub failures: Vec<String>,
}

/// What was seen without or with the module.
#[derive(Serialize)]
pub struct State {
    /// Load (a): interrupts to flush a range of kernel addresses.
    pub flush_ipis: PerCpu,
    /// Load (a): those of them that shared an interrupt with an earlier request.
    pub flush_ipis_shared: PerCpu,
    /// Load (a): rise of the CAL row of /proc/interrupts.
    pub cal_rise: PerCpu,
    /// Load (b): interrupts to flush a range of kernel addresses.
    pub load_flush_ipis: PerCpu,
    /// Load (b): rise of the CAL row.
    pub load_cal_rise: PerCpu,
    /// Load (b): all interrupts sent to isolated CPUs, by cause.
    pub other_ipis: BTreeMap<String, u64>,
    /// What the spinners saw, by load.
    pub gaps: BTreeMap<Load, PerCpu<Gaps>>,
    /// Interrupts sent to isolated CPUs, by load, cause, function and caller.
    pub ipis: Vec<Ipi>,
    /// How far the rows of /proc/interrupts rose, by load.
    pub interrupts: BTreeMap<Load, BTreeMap<String, PerCpu>>,
    /// How far the module's counters rose, by load; absent without the module.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub module: BTreeMap<Load, BTreeMap<String, u64>>,
}

/// The two loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Rounds of vmap, vunmap, vm_unmap_aliases.
    A,
    /// Everyday work.
    B,
}

/// What one spinner saw during one load.
#[derive(Default, Serialize)]
pub struct Gaps {
    /// Steps longer than the threshold.
    pub number: u64,
    /// Their sum.
    pub total_us: f64,
    /// The longest.
    pub longest_us: f64,
    /// Those of them during which the kernel was entered.
    pub in_kernel: u64,
    /// The sum of those.
    pub in_kernel_total_us: f64,
    /// The longest of those.
    pub in_kernel_longest_us: f64,
    /// Steps of any length during which the kernel was entered.
    pub kernel_entries: u64,
    /// How long the spinner watched.
    pub window_s: f64,
    /// Page faults that it took meanwhile.
    pub page_faults: u64,
    /// Times that it was switched away meanwhile.
    pub context_switches: u64,
    /// Number of gaps by length: from this many microseconds to twice as many.
    pub by_length_us: BTreeMap<String, u64>,
}

/// One kind of interrupt, and whom it hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipi {
    /// During which load.
    pub load: Load,
    /// Why, in words.
    pub cause: String,
    /// Whether it is a flush of a range of kernel addresses.
    #[serde(skip)]
    pub is_flush: bool,
    /// The function that it ran; none for a bare reschedule.
    pub callback: Option<String>,
    /// The function that sent it.
    pub caller: String,
    /// The functions above that, up to the entry into the kernel.
    pub called_from: Vec<String>,
    /// How many reached each CPU.
    pub cpus: PerCpu,
    /// How many of them shared an interrupt with an earlier request.
    pub shared: PerCpu,
}

impl Ipi {
    /// On all CPUs together.
    pub fn total(&self) -> u64 {
        self.cpus.values().sum()
    }
}

impl Report {
    /// Read everything that `demo/run` left in `directory`.
    pub fn read(directory: &Path) -> Result<Self> {
        let text = raw::read(&directory.join("info"))?;
        let info = raw::info(&text);
        let get = |key: &str| {
            info.get(key)
                .copied()
                .with_context(|| format!("there is no '{key}' in info"))
        };
        ensure!(
            info.get("complete") == Some(&"yes"),
            "the measurement did not come to its end"
        );
        let isolated_cpus = raw::cpu_list(get("isolated")?)?;
        let spinners = raw::spinners(&raw::read(&directory.join("spinner"))?)?;
        let threshold_ns = spinners
            .values()
            .flat_map(PerCpu::values)
            .find_map(|spinner| spinner.figures.get("threshold_ns"))
            .context("the spinners printed no threshold")?;
        let state = |name: &str| State::read(directory, name, &isolated_cpus, &spinners);
        Ok(Self {
            kernel: get("kernel")?.to_owned(),
            cpu_model: get("cpu_model")?.to_owned(),
            emulated: get("cpu_model")?.contains("TCG"),
            rounds: get("rounds")?.parse()?,
            gap_threshold_us: (threshold_ns / 1000.0).round(),
            before: state("before")?,
            after: state("after")?,
            isolated_cpus,
            failures: Vec::new(),
        })
    }
}

impl State {
    fn read(
        directory: &Path,
        name: &str,
        cpus: &[u32],
        spinners: &BTreeMap<String, PerCpu<raw::Spinner>>,
    ) -> Result<Self> {
        let mut ipis = Vec::new();
        let mut gaps = BTreeMap::new();
        let mut interrupts = BTreeMap::new();
        let mut module = BTreeMap::new();
        for (load, letter) in [(Load::A, "a"), (Load::B, "b")] {
            let window = format!("{letter}-{name}");
            let at = directory.join(&window);
            raw::check_buffers(&raw::read(&at.join("buffers"))?)
                .with_context(|| format!("window {window}"))?;
            let sends = trace::parse(&raw::read(&at.join("trace"))?)
                .with_context(|| format!("window {window}"))?;
            ipis.extend(group(load, &sends, cpus));
            let (start, end) = (at.join("interrupts.start"), at.join("interrupts.end"));
            interrupts.insert(
                load,
                raw::rises(&raw::read(&start)?, &raw::read(&end)?, cpus)?,
            );
            if at.join("module.start").exists() {
                module.insert(load, counter_rises(&at)?);
            }
            let seen = spinners
                .get(&window)
                .with_context(|| format!("the spinners saw nothing of window {window}"))?;
            ensure!(
                seen.keys().eq(cpus),
                "not every CPU had a spinner in window {window}"
            );
            gaps.insert(
                load,
                seen.iter().map(|(cpu, s)| (*cpu, Gaps::from(s))).collect(),
            );
        }
        let mut other_ipis = BTreeMap::new();
        for ipi in ipis.iter().filter(|ipi| ipi.load == Load::B) {
            *other_ipis.entry(ipi.cause.clone()).or_default() += ipi.total();
        }
        let cal = |load| {
            let rises: &BTreeMap<String, PerCpu> = &interrupts[&load];
            rises.get("CAL").cloned().unwrap_or_else(|| zeros(cpus))
        };
        Ok(Self {
            flush_ipis: flushes(&ipis, Load::A, cpus, |ipi| &ipi.cpus),
            flush_ipis_shared: flushes(&ipis, Load::A, cpus, |ipi| &ipi.shared),
            cal_rise: cal(Load::A),
            load_flush_ipis: flushes(&ipis, Load::B, cpus, |ipi| &ipi.cpus),
            load_cal_rise: cal(Load::B),
            other_ipis,
            gaps,
            ipis,
            interrupts,
            module,
        })
    }
}

fn zeros(cpus: &[u32]) -> PerCpu {
    cpus.iter().map(|cpu| (*cpu, 0)).collect()
}

fn flushes(ipis: &[Ipi], load: Load, cpus: &[u32], which: fn(&Ipi) -> &PerCpu) -> PerCpu {
    let mut sum = zeros(cpus);
    for ipi in ipis.iter().filter(|ipi| ipi.load == load && ipi.is_flush) {
        for (cpu, number) in which(ipi) {
            *sum.entry(*cpu).or_default() += number;
        }
    }
    sum
}

/// Sends of one kind together, by cause, the most frequent first. Other CPUs' are left out.
fn group(load: Load, sends: &[trace::Send], cpus: &[u32]) -> Vec<Ipi> {
    let mut kinds: BTreeMap<(Cause, Option<String>, Vec<String>), Ipi> = BTreeMap::new();
    for send in sends {
        let hit: Vec<_> = send
            .targets
            .iter()
            .filter(|(cpu, _)| cpus.contains(cpu))
            .collect();
        if hit.is_empty() {
            continue;
        }
        let cause = Cause::of(send);
        let callback = send.callback.as_deref().map(cause::readable);
        let callers = cause::callers(send);
        let ipi = kinds
            .entry((cause.clone(), callback.clone(), callers.clone()))
            .or_insert_with(|| Ipi {
                load,
                is_flush: cause.is_kernel_range_flush(),
                cause: cause.to_string(),
                callback,
                caller: callers[0].clone(),
                called_from: callers[1..].to_vec(),
                cpus: zeros(cpus),
                shared: zeros(cpus),
            });
        for (cpu, own_interrupt) in hit {
            *ipi.cpus.entry(*cpu).or_default() += 1;
            *ipi.shared.entry(*cpu).or_default() += u64::from(!own_interrupt);
        }
    }
    let mut ipis: Vec<_> = kinds.into_iter().collect();
    ipis.sort_by(|((a, ..), x), ((b, ..), y)| a.cmp(b).then(y.total().cmp(&x.total())));
    ipis.into_iter().map(|(_, ipi)| ipi).collect()
}

fn counter_rises(window: &Path) -> Result<BTreeMap<String, u64>> {
    let (start, end) = (
        raw::read(&window.join("module.start"))?,
        raw::read(&window.join("module.end"))?,
    );
    let start = raw::counters(&start);
    Ok(raw::counters(&end)
        .into_iter()
        .map(|(key, value)| {
            (
                key.to_owned(),
                value - start.get(key).copied().unwrap_or(0).min(value),
            )
        })
        .collect())
}

impl From<&raw::Spinner> for Gaps {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "they are counts"
    )]
    fn from(spinner: &raw::Spinner) -> Self {
        let get = |name: &str| spinner.figures.get(name).copied().unwrap_or_default();
        let us = |name: &str| (get(name) / 100.0).round() / 10.0;
        Self {
            number: get("gaps") as u64,
            total_us: us("total_ns"),
            longest_us: us("longest_ns"),
            in_kernel: get("kernel_gaps") as u64,
            in_kernel_total_us: us("kernel_total_ns"),
            in_kernel_longest_us: us("kernel_longest_ns"),
            kernel_entries: get("entries") as u64,
            window_s: (get("elapsed_ns") / 1e8).round() / 10.0,
            page_faults: get("faults") as u64,
            context_switches: get("switches") as u64,
            by_length_us: spinner
                .classes
                .iter()
                .map(|(power, number)| (format!("{:.0}", (1u64 << power) as f64 / 1000.0), *number))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_a_real_capture() {
        let sends = trace::parse(include_str!("../../ipi-trace/tests/trace.txt")).unwrap();
        let ipis = group(Load::A, &sends, &[1, 2, 3]);
        let flush = flushes(&ipis, Load::A, &[1, 2, 3], |ipi| &ipi.cpus);
        let shared = flushes(&ipis, Load::A, &[1, 2, 3], |ipi| &ipi.shared);
        assert_eq!(flush, PerCpu::from([(1, 3), (2, 3), (3, 3)]));
        assert_eq!(shared, PerCpu::from([(1, 1), (2, 0), (3, 0)]));
        assert_eq!(ipis[0].cause, "kernel TLB flush: vm_unmap_aliases()");
        assert_eq!(ipis[0].caller, "flush_tlb_kernel_range");
        let watchdog: Vec<_> = ipis.iter().filter(|ipi| !ipi.is_flush).collect();
        assert_eq!(watchdog.len(), 1);
        assert_eq!(watchdog[0].cpus, PerCpu::from([(1, 1), (2, 0), (3, 0)]));
        assert_eq!(watchdog[0].cause, "clock source watchdog");
    }

    #[test]
    fn cpus_that_are_not_isolated_are_left_out() {
        let sends = trace::parse(include_str!("../../ipi-trace/tests/trace.txt")).unwrap();
        assert_eq!(group(Load::A, &sends, &[0]), []);
    }
}
