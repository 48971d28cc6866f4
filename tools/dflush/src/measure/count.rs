// SPDX-License-Identifier: GPL-2.0

//! What was sent and what arrived in one window: by cause, by call stack, by vector, by time.

use super::gaps::{Seen, Sum};
use super::spinner::Usage;
use crate::cpulist::CpuList;
use ipi_trace::cause::{self, Cause};
use ipi_trace::interrupts::PerCpu;
use ipi_trace::trace::{Arrival, Send, Trace};
use serde::Serialize;
use std::collections::BTreeMap;

/// Into how many steps a time line is divided.
pub(super) const STEPS: usize = 100;

/// When it was, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    /// The first that counts.
    pub(super) start_ns: u64,
    /// The first that does not any more.
    pub(super) end_ns: u64,
}

impl Span {
    /// How long it is.
    pub(super) fn length_ns(self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    /// Whether that time lies in it.
    fn has(self, time_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&time_ns)
    }

    /// Which step of the time line that time lies in.
    fn step(self, time_ns: u64) -> usize {
        let from_start = u128::from(time_ns.saturating_sub(self.start_ns));
        let step = from_start * STEPS as u128 / u128::from(self.length_ns().max(1));
        (step as usize).min(STEPS - 1)
    }
}

/// Interrupts for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ByCause {
    /// Why, in words.
    pub(super) cause: String,
    /// Whether it is a flush of a range of kernel addresses.
    pub(super) is_kernel_range_flush: bool,
    /// Whether it is one of those that the module can defer: the lazy purge of vmalloc.
    pub(super) is_deferrable: bool,
    /// How many interrupts were sent to each CPU.
    pub(super) sent: PerCpu,
    /// Requests that needed no interrupt, as one was on its way to that CPU already.
    pub(super) shared: PerCpu,
}

/// Interrupts from one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ByStack {
    /// Why, in words.
    pub(super) cause: String,
    /// The function that it ran; none for a bare reschedule.
    pub(super) callback: Option<String>,
    /// The functions that sent it, innermost first, up to the entry into the kernel.
    pub(super) stack: Vec<String>,
    /// How many interrupts were sent to each CPU.
    pub(super) sent: PerCpu,
    /// Requests that needed no interrupt of their own.
    pub(super) shared: PerCpu,
}

impl ByCause {
    /// To all CPUs together.
    pub(super) fn total(&self) -> u64 {
        self.sent.values().sum()
    }
}

impl ByStack {
    /// To all CPUs together.
    pub(super) fn total(&self) -> u64 {
        self.sent.values().sum()
    }
}

/// What the spinner of one CPU saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Gaps {
    /// All steps of its clock longer than the threshold.
    pub(super) all: Sum,
    /// Those during which an interrupt arrived.
    pub(super) interrupted: Sum,
    /// Of `all`, those that came too late to be kept one by one: they are not in `interrupted`.
    pub(super) not_kept: u64,
    /// How often it read its clock.
    pub(super) steps: u64,
    /// Page faults that it took meanwhile.
    pub(super) page_faults: u64,
    /// Times that it was switched away meanwhile.
    pub(super) context_switches: u64,
}

/// The window in [`STEPS`] equal steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TimeLine {
    /// The length of a step.
    pub(super) step_ns: u64,
    /// Interrupts sent to flush a range of kernel addresses.
    pub(super) kernel_range_flushes: Vec<u64>,
    /// All others.
    pub(super) others: Vec<u64>,
    /// For each spinner the longest gap that began in each step, in nanoseconds.
    pub(super) longest_gap_ns: PerCpu<Vec<u64>>,
}

/// What a trace says about a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Interrupts that other CPUs, or a CPU itself, sent: by cause, in the order of the causes.
    pub(super) by_cause: Vec<ByCause>,
    /// The same by call stack, the most frequent first.
    pub(super) by_stack: Vec<ByStack>,
    /// Interrupts that arrived, of whatever kind, by vector.
    pub(super) arrived: BTreeMap<String, PerCpu>,
    /// What the spinners saw; empty without them.
    pub(super) gaps: PerCpu<Gaps>,
    /// When it all was.
    pub(super) time_line: TimeLine,
}

impl Counts {
    /// Counts what lies in `span` and concerns `cpus`.
    pub(super) fn new(
        trace: &Trace,
        seen: &[(u32, Usage, Seen)],
        span: Span,
        cpus: &CpuList,
    ) -> Self {
        let sends: Vec<_> = trace
            .sends
            .iter()
            .filter(|send| span.has(send.time_ns))
            .collect();
        let arrivals: Vec<_> = (trace.arrivals.iter())
            .filter(|arrival| span.has(arrival.time_ns) && cpus.contains(arrival.cpu))
            .collect();
        let (by_cause, by_stack) = group(&sends, cpus);
        let mut arrived: BTreeMap<String, PerCpu> = BTreeMap::new();
        for arrival in &arrivals {
            let counts = arrived
                .entry(arrival.vector.clone())
                .or_insert_with(|| zeros(cpus));
            *counts.entry(arrival.cpu).or_default() += 1;
        }
        let gaps = (seen.iter())
            .map(|(cpu, usage, seen)| (*cpu, gaps(seen, *usage, *cpu, &arrivals, span)))
            .collect();
        Self {
            by_cause,
            by_stack,
            arrived,
            gaps,
            time_line: TimeLine::new(&sends, seen, span, cpus),
        }
    }

    /// Interrupts sent to all CPUs together.
    pub(super) fn total(&self) -> u64 {
        self.by_cause.iter().map(ByCause::total).sum()
    }

    /// The gaps of all spinners together.
    pub(super) fn all_gaps(&self) -> Sum {
        let mut sum = Sum::default();
        for gaps in self.gaps.values() {
            sum.merge(&gaps.all);
        }
        sum
    }
}

impl TimeLine {
    fn new(sends: &[&Send], seen: &[(u32, Usage, Seen)], span: Span, cpus: &CpuList) -> Self {
        let mut line = Self {
            step_ns: span.length_ns() / STEPS as u64,
            kernel_range_flushes: vec![0; STEPS],
            others: vec![0; STEPS],
            longest_gap_ns: PerCpu::new(),
        };
        for send in sends {
            let number = (send.targets.iter())
                .filter(|(cpu, is_own)| **is_own && cpus.contains(**cpu))
                .count() as u64;
            if number > 0 {
                let counts = if Cause::of(send).is_kernel_range_flush() {
                    &mut line.kernel_range_flushes
                } else {
                    &mut line.others
                };
                counts[span.step(send.time_ns)] += number;
            }
        }
        for (cpu, _, seen) in seen {
            let mut longest = vec![0; STEPS];
            for gap in seen.gaps.iter().filter(|gap| span.has(gap.start)) {
                let step = &mut longest[span.step(gap.start)];
                *step = gap.length.max(*step);
            }
            line.longest_gap_ns.insert(*cpu, longest);
        }
        line
    }
}

fn zeros(cpus: &CpuList) -> PerCpu {
    cpus.iter().map(|cpu| (cpu, 0)).collect()
}

/// The module defers the lazy purge of vmalloc, as far as the range does not reach outside.
fn is_deferrable(cause: &Cause) -> bool {
    matches!(cause, Cause::FlushPurge | Cause::FlushAliases)
}

fn group(sends: &[&Send], cpus: &CpuList) -> (Vec<ByCause>, Vec<ByStack>) {
    let mut causes: BTreeMap<Cause, ByCause> = BTreeMap::new();
    let mut stacks: BTreeMap<(Cause, Option<String>, Vec<String>), ByStack> = BTreeMap::new();
    for send in sends {
        if !send.targets.keys().any(|cpu| cpus.contains(*cpu)) {
            continue;
        }
        let cause = Cause::of(send);
        let callback = send.callback.as_deref().map(cause::readable);
        let stack = cause::callers(send);
        let by_cause = causes.entry(cause.clone()).or_insert_with(|| ByCause {
            cause: cause.to_string(),
            is_kernel_range_flush: cause.is_kernel_range_flush(),
            is_deferrable: is_deferrable(&cause),
            sent: zeros(cpus),
            shared: zeros(cpus),
        });
        let text = by_cause.cause.clone();
        let by_stack = stacks
            .entry((cause, callback.clone(), stack.clone()))
            .or_insert_with(|| ByStack {
                cause: text,
                callback,
                stack,
                sent: zeros(cpus),
                shared: zeros(cpus),
            });
        for (cpu, is_own) in send.targets.iter().filter(|(cpu, _)| cpus.contains(**cpu)) {
            let (cause, stack) = if *is_own {
                (&mut by_cause.sent, &mut by_stack.sent)
            } else {
                (&mut by_cause.shared, &mut by_stack.shared)
            };
            *cause.entry(*cpu).or_default() += 1;
            *stack.entry(*cpu).or_default() += 1;
        }
    }
    let mut stacks: Vec<_> = stacks.into_values().collect();
    stacks.sort_by_key(|stack| std::cmp::Reverse(stack.total()));
    (causes.into_values().collect(), stacks)
}

/// The gaps that began in `span`; whether they are interrupts' doing, the arrivals tell.
fn gaps(seen: &Seen, usage: Usage, cpu: u32, arrivals: &[&Arrival], span: Span) -> Gaps {
    let mut times: Vec<u64> = (arrivals.iter())
        .filter(|arrival| arrival.cpu == cpu)
        .map(|arrival| arrival.time_ns)
        .collect();
    times.sort_unstable();
    let mut gaps = Gaps {
        not_kept: seen.later.number,
        steps: seen.steps,
        page_faults: usage.page_faults,
        context_switches: usage.context_switches,
        ..Gaps::default()
    };
    for gap in seen.gaps.iter().filter(|gap| span.has(gap.start)) {
        gaps.all.add(gap.length);
        // The trace's times are rounded to microseconds.
        let start = gap.start.saturating_sub(1000);
        let next = times.partition_point(|time| *time < start);
        if times
            .get(next)
            .is_some_and(|time| *time <= gap.start + gap.length + 1000)
        {
            gaps.interrupted.add(gap.length);
        }
    }
    gaps.all.merge(&seen.later);
    gaps
}

#[cfg(test)]
mod tests {
    use super::{Counts, STEPS, Span};
    use crate::cpulist::CpuList;
    use crate::measure::gaps::{Gap, Seen, Sum};
    use crate::measure::spinner::Usage;
    use ipi_trace::interrupts::PerCpu;
    use ipi_trace::trace::{self, Arrival, Trace};

    /// What the demonstration recorded once: three flushes and a watchdog.
    fn capture() -> Trace {
        let text = include_str!("../../../ipi-trace/tests/trace.txt");
        trace::read(text.as_bytes()).unwrap()
    }

    fn cpus(list: &str) -> CpuList {
        list.parse().unwrap()
    }

    const ALL: Span = Span {
        start_ns: 17_000_000_000,
        end_ns: 18_000_000_000,
    };

    #[test]
    fn interrupts_of_their_own_are_told_from_shared_ones() {
        let counts = Counts::new(&capture(), &[], ALL, &cpus("1-3"));
        assert_eq!(counts.by_cause.len(), 2);
        let flush = &counts.by_cause[0];
        assert_eq!(flush.cause, "kernel TLB flush: vm_unmap_aliases()");
        assert!(flush.is_kernel_range_flush && flush.is_deferrable);
        assert_eq!(flush.sent, PerCpu::from([(1, 2), (2, 3), (3, 3)]));
        assert_eq!(flush.shared, PerCpu::from([(1, 1), (2, 0), (3, 0)]));
        assert!(!counts.by_cause[1].is_deferrable);
        assert_eq!(counts.total(), 9);
        assert_eq!(counts.by_stack[0].total(), 8);
        assert_eq!(counts.by_stack[0].stack[0], "flush_tlb_kernel_range");
        let line = &counts.time_line;
        assert_eq!(line.kernel_range_flushes.iter().sum::<u64>(), 8);
        assert_eq!(line.others.iter().sum::<u64>(), 1);
        assert_eq!(line.kernel_range_flushes[58], 3);
    }

    #[test]
    fn nothing_outside_of_the_window_counts_and_no_other_cpu() {
        let early = Span {
            end_ns: 17_600_000_000,
            ..ALL
        };
        let counts = Counts::new(&capture(), &[], early, &cpus("2"));
        assert_eq!(counts.total(), 1);
        assert_eq!(counts.by_cause[0].sent, PerCpu::from([(2, 1)]));
        assert_eq!(Counts::new(&capture(), &[], ALL, &cpus("0")).total(), 0);
    }

    #[test]
    fn a_gap_with_an_arrival_was_an_interrupt() {
        let arrival = |cpu, time_ns| Arrival {
            cpu,
            time_ns,
            vector: "call_function".into(),
        };
        let trace = Trace {
            sends: Vec::new(),
            arrivals: vec![
                arrival(1, 205_000),
                arrival(2, 405_000),
                arrival(1, 990_000),
            ],
        };
        let gap = |start, length| Gap { start, length };
        let seen = Seen {
            steps: 5,
            gaps: vec![
                gap(1, 9),
                gap(200_000, 9000),
                gap(400_000, 9000),
                gap(700_000, 70),
            ],
            later: Sum::default(),
        };
        let span = Span {
            start_ns: 100_000,
            end_ns: 900_000,
        };
        let counts = Counts::new(&trace, &[(1, Usage::default(), seen)], span, &cpus("1-2"));
        let gaps = &counts.gaps[&1];
        assert_eq!((gaps.all.number, gaps.all.total_ns), (3, 18_070));
        assert_eq!(
            (gaps.interrupted.number, gaps.interrupted.total_ns),
            (1, 9000)
        );
        assert_eq!(
            counts.arrived["call_function"],
            PerCpu::from([(1, 1), (2, 1)])
        );
        assert_eq!(counts.time_line.longest_gap_ns[&1][12], 9000);
        assert_eq!(counts.time_line.longest_gap_ns[&1].len(), STEPS);
    }
}
