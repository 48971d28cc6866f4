// SPDX-License-Identifier: GPL-2.0

//! From raw figures to the report, and what the report has to fulfil.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::raw::Raw;

/// Round trips in one sample; `ITERATIONS` of bench/measure.c.
const ITERATIONS: u64 = 1000;

/// How much the same count may differ from run to run.
const REPEATS_WITHIN: f64 = 1.0;

/// The most that the module may add to a round trip while nothing is pending.
const IDLE_ADDS_AT_MOST: f64 = 6.0;

/// `pending` and `unconditional` run the same flush, and measure it in different ways.
const PENDING_AGREES_WITHIN: f64 = 3.0;

/// The most by which the rest of vm_unmap_aliases() may depend on how many CPUs are online.
const REST_AGREES_WITHIN: u64 = 3;

/// While a flush is deferred nobody but the sender executes anything, so the clock and the plugin
/// have to agree. They differ by 8, as many as a REP STOSB on that path has rounds.
const CLOCK_AGREES_WITHIN: u64 = 16;

/// Instructions of a `getppid()` round trip on an isolated CPU.
#[derive(Serialize)]
pub struct RoundTrip {
    /// The module is not loaded.
    pub without: f64,
    /// The mode is shadow.
    pub shadow: f64,
    /// The mode is on, no flush is pending.
    pub idle: f64,
    /// A flush is pending at each entry: idle, and what a system call that leaves its CPU owing
    /// takes longer than one that does the same without owing.
    pub pending: f64,
    /// The variant that flushes at each entry.
    pub unconditional: f64,
    /// The largest difference between runs of the same.
    pub spread: f64,
    /// What the kernel says of its mitigations.
    pub vulnerabilities: BTreeMap<String, String>,
}

/// A flush that is deferred.
#[derive(Serialize)]
pub struct Deferred {
    /// No other CPU owed a flush before.
    pub first: u64,
    /// All others did.
    pub pending: u64,
}

/// Instructions of one flush of two pages, by the number of other CPUs online.
#[derive(Serialize)]
pub struct Sender {
    /// Without the module, on the sender. It interrupts the others, which are idle, and waits.
    pub stock: BTreeMap<u32, u64>,
    /// The same on all CPUs together.
    pub stock_all_cpus: BTreeMap<u32, u64>,
    /// As `stock`, with the module, which looks at it and does not defer it.
    pub kept: BTreeMap<u32, u64>,
    /// With the module, on the sender; deferred for all others, which are in user mode.
    pub deferred: BTreeMap<u32, Deferred>,
    /// The rest of vm_unmap_aliases(), which was subtracted from `deferred`.
    pub rest: u64,
    /// The largest difference between runs of the same.
    pub spread: u64,
}

/// All of it.
#[derive(Serialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// How the receiver flushes there.
    pub flush_method: String,
    /// How it was counted.
    pub method: &'static str,
    /// With `mitigations=off`.
    pub round_trip: RoundTrip,
    /// With the mitigations that the kernel chooses.
    pub round_trip_mitigations: RoundTrip,
    /// The same for a CPU model that needs page-table isolation.
    pub round_trip_mitigations_skylake: RoundTrip,
    /// The same for a CPU model that needs untrained return thunks.
    pub round_trip_mitigations_epyc: RoundTrip,
    /// With `mitigations=off`.
    pub sender: Sender,
    /// What is not as it has to be.
    pub failures: Vec<String>,
}

const METHOD: &str = "QEMU, -icount shift=0,sleep=off. round_trip: getppid() by the C library's \
syscall() in a loop, -smp 2, CPU 1 isolated and CPU 0 idle; samples of 1000 round trips by the \
time-stamp counter, which advances by one with each instruction that any CPU executes; pending is \
idle and the difference of two system calls that or 1 or 0 into their CPU's word. sender: CPU 0 \
flushes two pages; instructions of CPU 0 alone, by a plugin of QEMU's; what is deferred is called \
by vm_unmap_aliases(), and what that takes besides is subtracted. Each count is the lower quartile \
of a run's samples.";

fn spread<T: Copy + PartialOrd + std::ops::Sub<Output = T> + Default>(runs: &[T]) -> T {
    let mut bounds = None;
    for &run in runs {
        let (low, high) = bounds.unwrap_or((run, run));
        bounds = Some((
            if run < low { run } else { low },
            if run > high { run } else { high },
        ));
    }
    bounds.map_or_else(T::default, |(low, high)| high - low)
}

fn calibrated(raw: &Raw, failures: &mut Vec<String>) -> Result<()> {
    for run in raw.samples("calibrate")? {
        // 2,000 iterations of two instructions apart.
        if !matches!(run[..], [short, long] if long.checked_sub(short) == Some(4000)) {
            failures.push(format!(
                "the clock does not count instructions: loops that differ by 4000 took {run:?}"
            ));
        }
    }
    Ok(())
}

impl RoundTrip {
    /// Evaluates the raw figures of one boot.
    pub fn new(raw: &Raw, name: &str, failures: &mut Vec<String>) -> Result<Self> {
        calibrated(raw, failures)?;
        let mut largest_spread = 0.0_f64;
        let mut count = |key: &str| -> Result<f64> {
            let mut runs: Vec<f64> = raw
                .counts(key)?
                .into_iter()
                .map(|count| count as f64 / ITERATIONS as f64)
                .collect();
            ensure!(runs.len() > 1, "'{key}' was measured only once");
            largest_spread = largest_spread.max(spread(&runs));
            runs.sort_unstable_by(f64::total_cmp);
            Ok((runs[runs.len() / 2] * 10.0).round() / 10.0)
        };
        let (without, shadow, idle) = (count("without")?, count("shadow")?, count("idle")?);
        let owing = count("owe_flush")? - count("owe_nothing")?;
        let unconditional = count("unconditional")?;
        let trip = Self {
            without,
            shadow,
            idle,
            pending: idle + owing,
            unconditional,
            spread: largest_spread,
            vulnerabilities: raw.texts_below("vulnerability."),
        };
        flushed_as_it_should(raw, name, failures)?;
        trip.judge(name, failures);
        Ok(trip)
    }

    fn judge(&self, name: &str, failures: &mut Vec<String>) {
        let mut fail = |what: String| failures.push(format!("{name}: {what}"));
        if self.spread > REPEATS_WITHIN {
            fail(format!(
                "the runs do not repeat: they differ by {:.1} instructions",
                self.spread
            ));
        }
        let added = self.idle - self.without;
        if added > IDLE_ADDS_AT_MOST {
            fail(format!(
                "with nothing pending the module adds {added:.1} instructions to a round trip; at \
                 most {IDLE_ADDS_AT_MOST} are allowed"
            ));
        }
        if added <= 0.0 {
            fail("with the module a round trip takes no longer: it was not in use".to_owned());
        }
        if (self.pending - self.unconditional).abs() > PENDING_AGREES_WITHIN {
            fail(format!(
                "the flush on entry takes {:.1} instructions when it is pending and {:.1} when it \
                 is unconditional; one measurement is wrong",
                self.pending - self.idle,
                self.unconditional - self.idle
            ));
        }
    }
}

/// Checks that each series flushed on entry as often as it was to.
fn flushed_as_it_should(raw: &Raw, name: &str, failures: &mut Vec<String>) -> Result<()> {
    for (key, always) in [
        ("idle", false),
        ("owe_nothing", false),
        ("owe_flush", true),
        ("unconditional", true),
    ] {
        let round_trips = raw
            .samples(key)?
            .into_iter()
            .map(|run| run.len() as u64 * ITERATIONS);
        let flushes = raw.samples(&format!("{key}.flush_entry"))?;
        for (trips, flushes) in round_trips.zip(flushes) {
            let flushes = flushes.first().copied().unwrap_or_default();
            // Now and then the kernel has a flush of its own.
            let good = if always {
                flushes >= trips
            } else {
                flushes <= trips / ITERATIONS
            };
            if !good {
                failures.push(format!(
                    "{name}: '{key}' made {trips} round trips or more, and the receiver flushed \
                     {flushes} times"
                ));
            }
        }
    }
    Ok(())
}

impl Sender {
    /// Evaluates the raw figures of one boot.
    pub fn new(raw: &Raw, failures: &mut Vec<String>) -> Result<Self> {
        calibrated(raw, failures)?;
        let mut largest_spread = 0;
        let mut middle = |mut runs: Vec<u64>| -> Result<u64> {
            ensure!(runs.len() > 1, "the sender was measured only once");
            largest_spread = largest_spread.max(spread(&runs));
            runs.sort_unstable();
            Ok(runs[runs.len() / 2])
        };
        let empty = middle(raw.counts("empty.own")?)?;
        let mut own = |key: &str, others: u32| -> Result<u64> {
            let count = middle(raw.counts(&format!("{key}.{others}.own"))?)?;
            Ok(count.saturating_sub(empty))
        };

        let (mut stock, mut kept, mut rests) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for others in 0..=3 {
            let flush = own("stock.direct", others)?;
            rests.push(own("stock.purge", others)?.saturating_sub(flush));
            stock.insert(others, flush);
            if others > 0 {
                kept.insert(others, own("kept.direct", others)?);
            }
        }
        if spread(&rests) > REST_AGREES_WITHIN {
            failures.push(format!(
                "sender: the rest of vm_unmap_aliases() takes {rests:?} instructions with 0 to 3 \
                 other CPUs; it should not depend on them"
            ));
        }
        let rest = rests[0];

        let mut deferred = BTreeMap::new();
        for others in 1..=3 {
            let key = format!("deferred.{others}");
            let [first, pending] = raw.counts_of_pairs(&format!("{key}.own"))?;
            let counts = Deferred {
                first: middle(first)?.saturating_sub(rest + empty),
                pending: middle(pending)?.saturating_sub(rest + empty),
            };
            was_deferred(raw, &key, &counts, rest, failures)?;
            deferred.insert(others, counts);
        }
        Ok(Self {
            stock,
            stock_all_cpus: elapsed(raw)?,
            kept,
            deferred,
            rest,
            spread: largest_spread,
        })
    }
}

/// What a flush without the module takes by the clock, to which all CPUs contribute.
fn elapsed(raw: &Raw) -> Result<BTreeMap<u32, u64>> {
    let empty = raw.counts("empty")?.first().copied().unwrap_or_default();
    (0..=3)
        .map(|others| {
            let runs = raw.counts(&format!("stock.direct.{others}"))?;
            let least = runs.into_iter().min().unwrap_or_default();
            Ok((others, least.saturating_sub(empty)))
        })
        .collect()
}

/// Checks that the flushes of a series were deferred for each other CPU.
fn was_deferred(
    raw: &Raw,
    key: &str,
    counts: &Deferred,
    rest: u64,
    failures: &mut Vec<String>,
) -> Result<()> {
    let others: u64 = key.rsplit('.').next().unwrap_or_default().parse()?;
    let flushes = raw
        .samples(key)?
        .into_iter()
        .map(|run| run.len() as u64 * others);
    for (flushes, deferred) in flushes.zip(raw.samples(&format!("{key}.deferred"))?) {
        let deferred = deferred.first().copied().unwrap_or_default();
        if deferred < flushes {
            failures.push(format!(
                "sender: of {flushes} flushes or more, only {deferred} were deferred for {others} \
                 CPUs in user mode"
            ));
        }
    }
    let empty = raw.counts("empty")?.first().copied().unwrap_or_default();
    let [first, pending] = raw.counts_of_pairs(key)?;
    for (runs, own) in [(first, counts.first), (pending, counts.pending)] {
        let least = runs.into_iter().min().unwrap_or_default();
        let clock = least.saturating_sub(rest + empty);
        if clock.abs_diff(own) > CLOCK_AGREES_WITHIN {
            failures.push(format!(
                "sender: a flush that is deferred for {others} CPUs takes {clock} instructions by \
                 the clock and {own} by the plugin; somebody else ran, or one is wrong"
            ));
        }
    }
    Ok(())
}

impl Report {
    /// Evaluates what `read` gives for each boot.
    pub fn new(read: impl Fn(&str) -> Result<Raw>) -> Result<Self> {
        let mut failures = Vec::new();
        let off = read("round-trip-off")?;
        let mut trip = |boot: &str, name: &str| -> Result<RoundTrip> {
            RoundTrip::new(&read(boot)?, name, &mut failures)
        };
        let round_trip = trip("round-trip-off", "round_trip")?;
        let round_trip_mitigations = trip("round-trip-default", "round_trip_mitigations")?;
        let round_trip_mitigations_skylake =
            trip("round-trip-skylake", "round_trip_mitigations_skylake")?;
        let round_trip_mitigations_epyc = trip("round-trip-epyc", "round_trip_mitigations_epyc")?;
        Ok(Self {
            kernel: off.text("kernel")?.to_owned(),
            flush_method: off.text("flush_method")?.to_owned(),
            method: METHOD,
            round_trip,
            round_trip_mitigations,
            round_trip_mitigations_skylake,
            round_trip_mitigations_epyc,
            sender: Sender::new(&read("sender")?, &mut failures)?,
            failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "calibrate 2003 6003\n\
        without 717005 717005\nshadow 717005 717005\n\
        idle 721005 721005\nidle.flush_entry 0\n\
        owe_nothing 1010005 1010005\nowe_nothing.flush_entry 0\n\
        owe_flush 1048005 1048005\nowe_flush.flush_entry 2000\n\
        unconditional 758005 758005\nunconditional.flush_entry 2002\n";

    /// What the report complains about when one line of both runs differs from a good one, and one
    /// more of the second run.
    fn complaints(both: &str, second: &str) -> Vec<String> {
        let run = |changed: &[&str]| -> String {
            let lines: Vec<&str> = GOOD
                .lines()
                .map(|line| {
                    let key = line.split(' ').next();
                    let new = changed.iter().find(|new| new.split(' ').next() == key);
                    new.copied().unwrap_or(line)
                })
                .collect();
            lines.join("\n") + "\n"
        };
        let text = run(&[both]) + &run(&[both, second]) + "complete yes\n";
        let mut failures = Vec::new();
        RoundTrip::new(&Raw::parse(&text).unwrap(), "x", &mut failures).unwrap();
        failures
    }

    #[test]
    fn good_round_trips() {
        assert!(complaints("", "").is_empty());
    }

    #[test]
    fn each_bar_can_be_missed() {
        for (both, second, part) in [
            ("without 714005 714005", "", "adds 7.0 instructions"),
            ("idle 717005 717005", "", "not in use"),
            ("", "shadow 718105 718105", "do not repeat"),
            (
                "unconditional 730005 730005",
                "",
                "one measurement is wrong",
            ),
            ("owe_flush.flush_entry 1999", "", "'owe_flush' made 2000"),
            ("idle.flush_entry 3", "", "'idle' made 2000"),
            ("calibrate 2003 4003", "", "does not count instructions"),
        ] {
            let complaints = complaints(both, second);
            assert!(
                complaints.iter().any(|complaint| complaint.contains(part)),
                "{both} {second}: {complaints:?}"
            );
        }
    }

    fn sender(deferred: u64, clock: u64, purge: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..2 {
            lines.push("calibrate 2003 6003\nempty 4 4\nempty.own 9 9".to_owned());
            for others in 0..=3 {
                let flush = 255 + 1000 * others;
                let all = flush + 500 * others;
                let purge = flush + 1000 + purge * others;
                let counted = deferred * others;
                lines.push(format!("stock.direct.{others} {all}"));
                lines.push(format!("stock.direct.{others}.own {flush}"));
                lines.push(format!("stock.purge.{others}.own {purge}"));
                lines.push(format!("kept.direct.{others}.own {flush}"));
                lines.push(format!("deferred.{others} {clock} {clock}"));
                lines.push(format!("deferred.{others}.own 1605 1604"));
                lines.push(format!("deferred.{others}.deferred {counted}"));
            }
        }
        lines.push("complete yes".to_owned());
        let raw = Raw::parse(&lines.join("\n")).unwrap();
        let mut failures = Vec::new();
        let sender = Sender::new(&raw, &mut failures).unwrap();
        assert_eq!(sender.stock[&2], 2246);
        assert_eq!(sender.stock_all_cpus[&2], 3251);
        assert_eq!(sender.deferred[&3].first, 596);
        assert_eq!(sender.deferred[&3].pending, 595);
        failures
    }

    #[test]
    fn sender_was_measured_in_the_state_that_it_claims() {
        assert!(sender(2, 1600, 0).is_empty());
        assert!(sender(1, 1600, 0)[0].contains("only 1 were deferred"));
        assert!(sender(2, 2600, 0)[0].contains("somebody else ran"));
        assert!(sender(2, 1600, 2)[0].contains("should not depend"));
    }
}
