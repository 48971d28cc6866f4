// SPDX-License-Identifier: GPL-2.0

//! What changes: rates between one look at the module and the next.
//!
//! A look reads a few files, on the housekeeping CPU that dflush runs on. No other CPU is asked or
//! interrupted for it.

pub mod plain;
pub mod terminal;

use crate::module::{Recent, Snapshot, Unavailable};
use crate::status;
use crate::system::System;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was seen at one time.
#[derive(Clone, Debug)]
pub struct Look {
    at: Instant,
    snapshot: Snapshot,
    /// `None` if the module has no such view.
    recent: Option<Recent>,
}

impl Look {
    fn take(system: &System) -> Result<Self> {
        let recent = match Recent::read(system) {
            Ok(recent) => Some(recent),
            Err(error) if matches!(error.downcast_ref(), Some(Unavailable::NoFile(_))) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            at: Instant::now(),
            snapshot: Snapshot::read(system)?,
            recent,
        })
    }
}

/// What happened to a CPU, per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CpuRates {
    cpu: u32,
    deferred: f64,
    flushed: f64,
    sent: f64,
}

/// A line of `recent`, summed up: what became of flushes that one function sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    caller: String,
    decision: String,
    flushes: u64,
    deferred: u64,
}

/// What happened between two looks.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Seconds since the first look.
    time: f64,
    snapshot: Snapshot,
    /// Of each of the totals, per second.
    rates: BTreeMap<&'static str, f64>,
    cpu_rates: Vec<CpuRates>,
    /// Of the latest decisions, the most frequent first.
    causes: Vec<Cause>,
}

/// How much a counter rose. One that fell began anew, as the module was loaded anew.
fn rise(before: u64, after: u64) -> f64 {
    after.checked_sub(before).unwrap_or(after) as f64
}

impl Change {
    fn between(first: Instant, before: &Look, after: Look) -> Self {
        let seconds = (after.at - before.at).as_secs_f64().max(1e-6);
        let totals = |look: &Look| status::totals(&look.snapshot.summary.counters);
        let rates = totals(before)
            .iter()
            .zip(totals(&after))
            .map(|((name, before, _), (_, after, _))| (*name, rise(*before, after) / seconds))
            .collect();
        let cpu_rates = after.snapshot.cpus.iter().filter_map(|now| {
            let was = before.snapshot.cpus.iter().find(|was| was.cpu == now.cpu)?;
            let pairs = |pairs: &[(u64, u64)]| {
                pairs.iter().map(|(was, now)| rise(*was, *now)).sum::<f64>() / seconds
            };
            Some(CpuRates {
                cpu: now.cpu,
                deferred: pairs(&[(was.deferred, now.deferred)]),
                flushed: pairs(&[
                    (was.flush_entry, now.flush_entry),
                    (was.flush_nmi, now.flush_nmi),
                    (was.flush_ipi, now.flush_ipi),
                ]),
                sent: pairs(&[
                    (was.ipi_not_quiet, now.ipi_not_quiet),
                    (was.ipi_raced, now.ipi_raced),
                ]),
            })
        });
        Self {
            time: (after.at - first).as_secs_f64(),
            cpu_rates: cpu_rates.collect(),
            rates,
            causes: after.recent.as_ref().map(causes).unwrap_or_default(),
            snapshot: after.snapshot,
        }
    }

    fn rate(&self, names: &[&str]) -> f64 {
        names.iter().filter_map(|name| self.rates.get(name)).sum()
    }

    /// The state without its reason.
    fn short_state(&self) -> &str {
        self.snapshot
            .control
            .state
            .split(':')
            .next()
            .unwrap_or_default()
    }

    fn count_cpus(&self, is_meant: impl Fn(&crate::module::Cpu) -> bool) -> usize {
        self.snapshot
            .cpus
            .iter()
            .filter(|cpu| is_meant(cpu))
            .count()
    }
}

/// Sums up the latest decisions by caller and by what became of them.
fn causes(recent: &Recent) -> Vec<Cause> {
    let column = |name| recent.column(name).unwrap_or_default();
    let mut sums: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    let deferred = column("deferred");
    for (index, (caller, decision)) in column("caller").iter().zip(column("decision")).enumerate() {
        // Without the offset, which differs between the calls in one function.
        let function = caller.split('+').next().unwrap_or(caller);
        let sum = sums.entry((function, decision)).or_default();
        sum.0 += 1;
        sum.1 += deferred
            .get(index)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
    }
    let mut causes: Vec<_> = sums
        .into_iter()
        .map(|((caller, decision), (flushes, deferred))| Cause {
            caller: caller.into(),
            decision: decision.into(),
            flushes,
            deferred,
        })
        .collect();
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.flushes));
    causes
}

/// One change after the other.
pub struct Watch<'a> {
    system: &'a System,
    interval: Duration,
    first: Instant,
    last: Look,
    next: Instant,
}

impl<'a> Watch<'a> {
    /// Begins with a first look.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::read`].
    pub fn new(system: &'a System, interval: Duration) -> Result<Self> {
        let last = Look::take(system)?;
        Ok(Self {
            system,
            interval,
            first: last.at,
            next: last.at + interval,
            last,
        })
    }

    /// For how long to wait before the next look.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks again.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::read`]: the module may have been unloaded.
    pub fn look(&mut self) -> Result<Change> {
        let now = Look::take(self.system)?;
        let change = Change::between(self.first, &self.last, now.clone());
        // Not behind the time, if this machine or this process stood still.
        self.next = (self.next + self.interval).max(now.at);
        self.last = now;
        Ok(change)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Change, Look, causes, rise};
    use crate::cpulist::CpuList;
    use crate::module::{Control, Counters, Cpu, Recent, Snapshot, Summary};
    use std::time::{Duration, Instant};

    fn snapshot(deferred: u64) -> Snapshot {
        let cpu = |cpu, mode: &str, word| Cpu {
            cpu,
            mode: mode.into(),
            word,
            deferred,
            flush_entry: deferred / 2,
            flush_nmi: 1,
            flush_ipi: 0,
            ipi_not_quiet: 3,
            ipi_raced: 0,
        };
        Snapshot {
            control: Control {
                mode: "on".into(),
                state: "suspended: watched code changed at vtime_user_exit+0x4/0x100".into(),
                cpus: "1-2".parse::<CpuList>().expect("a list"),
                max_stale_ms: 0,
            },
            summary: Summary {
                version: "0.1.0".into(),
                kernel: "7.3.4".into(),
                flush_method: "cr4".into(),
                counters: Counters {
                    calls: deferred,
                    deferred,
                    ..Counters::default()
                },
            },
            cpus: vec![cpu(1, "user", 1), cpu(2, "idle", 0)],
        }
    }

    const RECENT: &str = "\
# time cpu decision deferred ipi_not_quiet ipi_raced ipi_not_allowed start size caller
1.000000000 0 redirected 2 1 0 0 - 4096 __purge_vmap_area_lazy+0x1c2/0x900
1.500000000 0 redirected 3 0 0 0 - 4096 __purge_vmap_area_lazy+0x1d0/0x900
2.000000000 0 kept_caller - - - - - 8192 vunmap_range+0x10/0x20
";

    /// 40 deferred flushes in 2 seconds.
    pub(crate) fn change() -> Change {
        let first = Instant::now();
        let recent = Recent::parse(RECENT).expect("a table");
        let look = |seconds, deferred| Look {
            at: first + Duration::from_secs(seconds),
            snapshot: snapshot(deferred),
            recent: Some(recent.clone()),
        };
        Change::between(first, &look(0, 100), look(2, 140))
    }

    #[test]
    fn rates_are_per_second() {
        let change = change();
        assert!((change.rate(&["deferred"]) - 20.0).abs() < 1e-9);
        assert!((change.rate(&["calls", "deferred"]) - 40.0).abs() < 1e-9);
        assert!((change.cpu_rates[0].flushed - 10.0).abs() < 1e-9);
        assert!(change.cpu_rates[0].sent.abs() < 1e-9);
        assert_eq!(change.short_state(), "suspended");
        assert_eq!(change.count_cpus(|cpu| cpu.word != 0), 1);
    }

    #[test]
    fn a_counter_that_fell_began_anew() {
        assert!((rise(10, 12) - 2.0).abs() < 1e-9);
        assert!((rise(10, 3) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn decisions_are_summed_up_by_function() {
        let causes = causes(&Recent::parse(RECENT).expect("a table"));
        assert_eq!(causes.len(), 2);
        assert_eq!(
            (causes[0].caller.as_str(), causes[0].flushes),
            ("__purge_vmap_area_lazy", 2)
        );
        assert_eq!(causes[0].deferred, 5);
        assert_eq!(
            (causes[1].decision.as_str(), causes[1].deferred),
            ("kept_caller", 0)
        );
    }
}
