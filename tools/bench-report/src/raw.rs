// SPDX-License-Identifier: GPL-2.0

//! The raw figures of one VM: lines of the form `KEY VALUE...`, see `bench/run`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

/// What one boot measured.
pub struct Raw {
    lines: BTreeMap<String, Vec<String>>,
}

/// The count of a series of samples of the same thing.
///
/// Interrupts make a sample longer. In some, an interrupted CPU is still on its way back to idle
/// when the next sample starts or the last ends, which makes one shorter. So neither the mean nor
/// the minimum repeats, and the median lies between two values where a wait takes one turn more in
/// every other sample. The lower quartile does repeat.
fn lower_quartile(mut samples: Vec<u64>) -> Option<u64> {
    samples.sort_unstable();
    samples.get(samples.len() / 4).copied()
}

impl Raw {
    /// Reads a file; an error unless the measurement came to its end.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses the contents of a file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = BTreeMap::<_, Vec<_>>::new();
        for line in text.lines() {
            let (key, values) = line.split_once(' ').unwrap_or((line, ""));
            lines
                .entry(key.to_owned())
                .or_default()
                .push(values.to_owned());
        }
        let raw = Self { lines };
        ensure!(
            raw.text("complete").is_ok_and(|value| value == "yes"),
            "the measurement did not come to its end"
        );
        Ok(raw)
    }

    fn lines(&self, key: &str) -> Result<&[String]> {
        match self.lines.get(key) {
            Some(lines) => Ok(lines),
            None => bail!("there is no line '{key}'"),
        }
    }

    /// The first line of a key.
    pub fn text(&self, key: &str) -> Result<&str> {
        Ok(self.lines(key)?.first().map_or("", String::as_str))
    }

    /// The keys that start with a prefix, without it, and their first lines.
    pub fn texts_below(&self, prefix: &str) -> BTreeMap<String, String> {
        self.lines
            .iter()
            .filter_map(|(key, lines)| {
                Some((key.strip_prefix(prefix)?.to_owned(), lines.first()?.clone()))
            })
            .collect()
    }

    /// All samples of each run.
    pub fn samples(&self, key: &str) -> Result<Vec<Vec<u64>>> {
        self.lines(key)?
            .iter()
            .map(|line| line.split_whitespace().map(str::parse).collect())
            .collect::<Result<_, _>>()
            .with_context(|| format!("'{key}' has a value that is no number"))
    }

    /// The count of each run.
    pub fn counts(&self, key: &str) -> Result<Vec<u64>> {
        self.samples(key)?
            .into_iter()
            .map(|run| lower_quartile(run).with_context(|| format!("'{key}' has no values")))
            .collect()
    }

    /// The counts of each run of a key whose values come in pairs.
    pub fn counts_of_pairs(&self, key: &str) -> Result<[Vec<u64>; 2]> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for run in self.samples(key)? {
            let pairs = run.chunks_exact(2);
            ensure!(pairs.remainder().is_empty(), "'{key}' has half a pair");
            let (a, b) = pairs.map(|pair| (pair[0], pair[1])).unzip();
            first.push(lower_quartile(a).with_context(|| format!("'{key}' has no values"))?);
            second.push(lower_quartile(b).with_context(|| format!("'{key}' has no values"))?);
        }
        Ok([first, second])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_measurement_is_refused() {
        assert!(Raw::parse("without 1 2 3\n").is_err());
        assert!(Raw::parse("without 1 2 3\ncomplete yes\n").is_ok());
    }

    #[test]
    fn outliers_on_both_sides_do_not_count() {
        let raw = Raw::parse("x 9 50 10 10 10 70 10 10 10\nx 10 10\ncomplete yes\n").unwrap();
        assert_eq!(raw.counts("x").unwrap(), [10, 10]);
    }

    #[test]
    fn pairs_are_taken_apart() {
        let raw = Raw::parse("x 5 4 5 4 5 4\ny 5 4 5\ncomplete yes\n").unwrap();
        assert_eq!(raw.counts_of_pairs("x").unwrap(), [[5], [4]]);
        assert!(raw.counts_of_pairs("y").is_err());
    }
}
