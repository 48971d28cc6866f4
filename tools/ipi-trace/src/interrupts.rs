// SPDX-License-Identifier: GPL-2.0

//! Reads `/proc/interrupts`, and lists of CPUs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// A count for each CPU.
pub type PerCpu<T = u64> = BTreeMap<u32, T>;

/// `1-3,5` -> 1, 2, 3, 5.
///
/// # Errors
///
/// If the text is not one.
pub fn cpu_list(text: &str) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>(), last.parse::<u32>());
        let (Ok(first), Ok(last)) = (first, last) else {
            bail!("'{text}' is not a list of CPUs");
        };
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// /proc/interrupts: for each row its counts by CPU.
///
/// # Errors
///
/// If the text is not the file's.
pub fn interrupts(text: &str) -> Result<BTreeMap<String, PerCpu>> {
    let mut lines = text.lines();
    let cpus: Vec<u32> = lines
        .next()
        .context("/proc/interrupts is empty")?
        .split_whitespace()
        .map(|cpu| cpu.trim_start_matches("CPU").parse())
        .collect::<Result<_, _>>()
        .context("the first line of /proc/interrupts names no CPUs")?;
    let mut rows = BTreeMap::new();
    for line in lines {
        let (name, rest) = line.split_once(':').context("a row without a name")?;
        let counts = rest.split_whitespace().map_while(|n| n.parse().ok());
        rows.insert(
            name.trim().to_owned(),
            cpus.iter().copied().zip(counts).collect(),
        );
    }
    Ok(rows)
}

/// How much each row of /proc/interrupts rose on the CPUs given; rows that did not rise are left out.
///
/// # Errors
///
/// If either text is not the file's.
pub fn rises(start: &str, end: &str, cpus: &[u32]) -> Result<BTreeMap<String, PerCpu>> {
    let start = interrupts(start)?;
    let mut rises = BTreeMap::new();
    for (name, counts) in interrupts(end)? {
        let before = start.get(&name);
        let rise: PerCpu = cpus
            .iter()
            .filter_map(|cpu| {
                let old = before.and_then(|b| b.get(cpu)).copied().unwrap_or(0);
                Some((*cpu, counts.get(cpu)?.checked_sub(old)?))
            })
            .collect();
        if rise.values().any(|n| *n > 0) {
            rises.insert(name, rise);
        }
    }
    Ok(rises)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_of_a_real_machine() {
        let start = include_str!("../tests/interrupts.start");
        let end = include_str!("../tests/interrupts.end");
        let rises = rises(start, end, &[1, 2, 3]).unwrap();
        assert_eq!(
            rises["CAL"],
            PerCpu::from([(1, 1000), (2, 1000), (3, 1000)])
        );
        assert_eq!(rises["LOC"], PerCpu::from([(1, 2), (2, 0), (3, 0)]));
        assert!(!rises.contains_key("RES"));
        assert!(interrupts("").is_err());
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("1-3,5\n").unwrap(), [1, 2, 3, 5]);
        assert!(cpu_list("(null)").is_err());
    }
}
