// SPDX-License-Identifier: GPL-2.0

//! What the demonstration has to show.

use crate::report::{Gaps, Load, Report, State};

/// The most that the CAL row may rise on an isolated CPU with the module: the rare other call.
const CAL_ALLOWED: u64 = 3;

/// What is not as it has to be, a sentence each.
pub fn failures(report: &Report) -> Vec<String> {
    let mut failures = Vec::new();
    for (state, when) in [(&report.before, "without"), (&report.after, "with")] {
        for (cpu, gaps) in &state.gaps[&Load::A] {
            failures.extend(disturbed(*cpu, when, gaps));
        }
    }
    for (cpu, number) in &report.before.flush_ipis {
        if *number != report.rounds {
            failures.push(format!(
                "CPU {cpu} got {number} kernel-range flush interrupts without the module, and {} rounds were run: \
                 the measurement is not what it claims to be",
                report.rounds
            ));
        }
    }
    for (cpu, number) in &report.after.flush_ipis {
        if *number != 0 {
            failures.push(format!(
                "CPU {cpu} got {number} kernel-range flush interrupts with the module, and was in user mode"
            ));
        }
    }
    for (cpu, rise) in &report.after.cal_rise {
        if *rise > CAL_ALLOWED {
            failures.push(format!(
                "the CAL row of CPU {cpu} rose by {rise} with the module; at most {CAL_ALLOWED} is allowed"
            ));
        }
    }
    failures.extend(really_deferred(report));
    if purges(&report.before) == 0 {
        failures.push(
            "load (b) never made the kernel purge its vmalloc space by itself: it is too short"
                .into(),
        );
    }
    failures
}

/// A spinner that did anything but spin says nothing about user mode.
fn disturbed(cpu: u32, when: &str, gaps: &Gaps) -> Option<String> {
    (gaps.page_faults > 0 || gaps.context_switches > 0).then(|| {
        format!(
            "the spinner of CPU {cpu} took {} page faults and was switched away {} times during (a) {when} the module: \
             it did not stay in user mode",
            gaps.page_faults, gaps.context_switches
        )
    })
}

/// No interrupt is only good if the flush was put off, not dropped.
fn really_deferred(report: &Report) -> Option<String> {
    let deferred = |load| {
        let counters = report.after.module.get(&load);
        counters
            .and_then(|c| c.get("deferred"))
            .copied()
            .unwrap_or(0)
    };
    let expected = report.rounds * report.isolated_cpus.len() as u64;
    if deferred(Load::A) < expected {
        Some(format!(
            "the module counted {} deferred flushes during (a), and {expected} were due",
            deferred(Load::A)
        ))
    } else if deferred(Load::B) == 0 {
        Some("the module deferred nothing during (b)".into())
    } else {
        None
    }
}

/// Interrupts of the purge that starts by itself.
fn purges(state: &State) -> u64 {
    let cause = ipi_trace::cause::Cause::FlushPurge.to_string();
    state.other_ipis.get(&cause).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raw::PerCpu;
    use ipi_trace::cause::Cause;

    fn state(flushes: u64, cal: u64, deferred: Option<(u64, u64)>) -> State {
        let per_cpu = |n: u64| PerCpu::from([(1, n), (2, n)]);
        let gaps = || PerCpu::from([(1, Gaps::default()), (2, Gaps::default())]);
        let counter = |n| BTreeMap::from([("deferred".to_owned(), n)]);
        State {
            flush_ipis: per_cpu(flushes),
            flush_ipis_shared: per_cpu(0),
            cal_rise: per_cpu(cal),
            load_flush_ipis: per_cpu(0),
            load_cal_rise: per_cpu(0),
            other_ipis: BTreeMap::from([(Cause::FlushPurge.to_string(), 18)]),
            gaps: BTreeMap::from([(Load::A, gaps()), (Load::B, gaps())]),
            ipis: Vec::new(),
            interrupts: BTreeMap::new(),
            module: deferred
                .map(|(a, b)| BTreeMap::from([(Load::A, counter(a)), (Load::B, counter(b))]))
                .unwrap_or_default(),
        }
    }

    fn good() -> Report {
        Report {
            kernel: "7".into(),
            cpu_model: "x".into(),
            emulated: false,
            isolated_cpus: vec![1, 2],
            rounds: 1000,
            gap_threshold_us: 20.0,
            before: state(1000, 1001, None),
            after: state(0, 3, Some((2001, 12))),
            failures: Vec::new(),
        }
    }

    fn only_failure(spoil: impl FnOnce(&mut Report)) -> String {
        let mut report = good();
        spoil(&mut report);
        let failures = failures(&report);
        assert_eq!(failures.len(), 1, "{failures:?}");
        failures.into_iter().next().unwrap()
    }

    #[test]
    fn nothing_to_complain_about() {
        assert_eq!(failures(&good()), [""; 0]);
    }

    #[test]
    fn each_miss_is_told() {
        let told = only_failure(|r| *r.after.flush_ipis.get_mut(&2).unwrap() = 1);
        assert!(
            told.starts_with("CPU 2 got 1 kernel-range flush interrupts with"),
            "{told}"
        );
        let told = only_failure(|r| *r.before.flush_ipis.get_mut(&1).unwrap() = 999);
        assert!(told.starts_with("CPU 1 got 999"), "{told}");
        let told = only_failure(|r| *r.after.cal_rise.get_mut(&1).unwrap() = 4);
        assert!(told.contains("rose by 4"), "{told}");
        let told = only_failure(|r| r.after.module.clear());
        assert!(told.contains("counted 0 deferred"), "{told}");
        let told = only_failure(|r| _ = r.after.module.remove(&Load::B));
        assert!(told.contains("nothing during (b)"), "{told}");
        let told = only_failure(|r| r.before.other_ipis.clear());
        assert!(told.contains("too short"), "{told}");
        let told = only_failure(|r| {
            r.before
                .gaps
                .get_mut(&Load::A)
                .unwrap()
                .get_mut(&1)
                .unwrap()
                .page_faults = 1;
        });
        assert!(told.contains("did not stay in user mode"), "{told}");
    }
}
