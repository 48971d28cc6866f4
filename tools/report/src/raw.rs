// SPDX-License-Identifier: GPL-2.0

//! Reads the other raw files that `demo/run` writes.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

pub use ipi_trace::interrupts::{PerCpu, cpu_list, rises};

/// The text of one raw file.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `key=value` lines.
pub fn info(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .collect()
}

/// `key: value` lines with numbers, as in the module's summary; other values are left out.
pub fn counters(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| Some((key.trim(), value.trim().parse().ok()?)))
        .collect()
}

/// The tracing buffers' statistics: fails if a single event was lost.
pub fn check_buffers(text: &str) -> Result<()> {
    let mut seen = 0;
    for line in text.lines() {
        let (key, value) = line.split_once(": ").context("not a line of statistics")?;
        if ["overrun", "commit overrun", "dropped events"]
            .iter()
            .any(|lost| key.split_once(' ').is_some_and(|(_cpu, key)| key == *lost))
        {
            ensure!(value == "0", "the tracing buffer lost events: {line}");
            seen += 1;
        }
    }
    ensure!(seen > 0, "the statistics of the tracing buffers are empty");
    Ok(())
}

/// What one spinner saw in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spinner {
    /// Figures by name, as printed.
    pub figures: BTreeMap<String, f64>,
    /// Number of gaps by the power of two of their length in nanoseconds.
    pub classes: BTreeMap<u32, u64>,
}

/// The spinners' lines: for each window its figures by CPU.
pub fn spinners(text: &str) -> Result<BTreeMap<String, PerCpu<Spinner>>> {
    let mut windows: BTreeMap<String, PerCpu<Spinner>> = BTreeMap::new();
    for line in text.lines() {
        let (fields, classes) = line
            .split_once(" classes")
            .with_context(|| format!("the spinner's line is cut off: {line}"))?;
        let words: Vec<_> = fields.split_whitespace().collect();
        let mut spinner = Spinner::default();
        let mut window = None;
        for pair in words.chunks_exact(2) {
            if pair[0] == "window" {
                window = Some(pair[1]);
            } else {
                spinner.figures.insert(pair[0].to_owned(), pair[1].parse()?);
            }
        }
        for class in classes.split_whitespace() {
            let (power, number) = class.split_once(':').context("a class without a number")?;
            spinner.classes.insert(power.parse()?, number.parse()?);
        }
        let cpu = fields
            .split_once(" cpu ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("the spinner's line names no CPU")?
            .parse()?;
        windows
            .entry(
                window
                    .context("the spinner's line names no window")?
                    .to_owned(),
            )
            .or_default()
            .insert(cpu, spinner);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_event_is_too_many() {
        let good = include_str!("../tests/buffers");
        check_buffers(good).unwrap();
        for lost in ["overrun: ", "commit overrun: ", "dropped events: "] {
            let bad = good.replacen(&format!("cpu2 {lost}0"), &format!("cpu2 {lost}1"), 1);
            assert_ne!(good, bad);
            assert!(check_buffers(&bad).is_err());
        }
        assert!(check_buffers("").is_err());
    }

    #[test]
    fn counters_leave_out_what_is_no_number() {
        let counters = counters("state: on\ndeferred: 3000\ncpus: 1-3\ncalls: 7\n");
        assert_eq!(counters, BTreeMap::from([("deferred", 3000), ("calls", 7)]));
    }

    #[test]
    fn spinner_lines() {
        let windows = spinners(include_str!("../tests/spinner")).unwrap();
        let before = &windows["a-before"][&1];
        assert!((before.figures["entries"] - 299.0).abs() < f64::EPSILON);
        assert!((before.figures["kernel_longest_ns"] - 176_435_112.0).abs() < f64::EPSILON);
        assert_eq!(before.classes[&14], 221);
        assert_eq!(before.classes.len(), 14);
        assert!(windows["a-after"][&3].figures["entries"].abs() < f64::EPSILON);
        assert!(spinners("window a-before cpu 1 gaps 3\n").is_err());
    }
}
