// SPDX-License-Identifier: GPL-2.0

//! Lists of CPUs as the kernel writes them: `1-3,8`.

use anyhow::{Context, Error, Result, ensure};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// What no kernel reaches (`CONFIG_NR_CPUS` is at most 8192), so that a typing error does not fill
/// the memory.
const LIMIT: u32 = 1 << 16;

/// A set of CPU numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CpuList(BTreeSet<u32>);

impl CpuList {
    /// Whether it has no CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has this one.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Those that `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Those that `other` has, too.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        // The kernel's way to print a mask that was never allocated.
        if text.is_empty() || text == "(null)" {
            return Ok(Self::default());
        }
        let number = |digits: &str| {
            let cpu: u32 = digits
                .parse()
                .with_context(|| format!("{text:?} is not a list of CPUs such as 1-3,8"))?;
            ensure!(cpu < LIMIT, "there is no CPU {cpu}");
            Ok(cpu)
        };
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            ensure!(first <= last, "the range {part} in {text:?} runs backwards");
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::CpuList;

    fn list(text: &str) -> CpuList {
        text.parse().expect("a list")
    }

    #[test]
    fn what_was_read_is_printed_alike() {
        for text in ["", "0", "1-3", "1-3,8", "0,2,4-5,8191"] {
            assert_eq!(list(text).to_string(), text);
        }
        assert_eq!(list("3,1,2\n").to_string(), "1-3");
        assert!(list("(null)\n").is_empty());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["x", "1-", "-1", "3-1", "1,,2", "0-4294967295", "1 2"] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
    }

    #[test]
    fn sets_are_combined() {
        assert_eq!(list("0-7").without(&list("1-3,9")).to_string(), "0,4-7");
        assert_eq!(list("0-7").and(&list("1-3,9")).to_string(), "1-3");
        assert_eq!(list("1-3,8").len(), 4);
        assert!(list("1-3").contains(2) && !list("1-3").contains(0));
    }
}
