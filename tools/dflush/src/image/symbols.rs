// SPDX-License-Identifier: GPL-2.0

//! Names for addresses and addresses for names.

use anyhow::{Context, Result, ensure};
use std::collections::HashMap;

/// A symbol.
#[derive(Clone, Debug)]
pub struct Symbol {
    /// Where it starts.
    pub address: u64,
    /// Its name.
    pub name: String,
    /// Its kind as nm(1) has it.
    pub kind: char,
}

/// All symbols of an image.
#[derive(Default)]
pub struct Symbols {
    sorted: Vec<Symbol>,
    by_name: HashMap<String, u64>,
}

/// Aliases and padding that make poor names for an address.
fn rank(symbol: &Symbol) -> (bool, bool, bool) {
    (
        symbol.name.starts_with("__pfx_"),
        symbol.name.starts_with("__pi_")
            || symbol.name.starts_with("__irqentry_")
            || symbol.name.starts_with("__cfi_"),
        !symbol.kind.is_ascii_uppercase(),
    )
}

impl Symbols {
    /// Sorts the symbols. The first of several with one name wins.
    #[must_use]
    pub fn new(mut symbols: Vec<Symbol>) -> Self {
        symbols.sort_by_key(|s| (s.address, rank(s)));
        let mut by_name = HashMap::with_capacity(symbols.len());
        for symbol in &symbols {
            by_name.entry(symbol.name.clone()).or_insert(symbol.address);
        }
        Self {
            sorted: symbols,
            by_name,
        }
    }

    /// Parses lines of `ADDRESS KIND NAME`; symbols of modules are left out.
    ///
    /// # Errors
    ///
    /// On a line of another form, and if the addresses are hidden.
    pub fn from_kallsyms_text(text: &str) -> Result<Self> {
        let mut symbols = Vec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                anyhow::bail!("this is no line of kallsyms: {line}");
            };
            if words.next().is_some() {
                continue;
            }
            symbols.push(Symbol {
                address: u64::from_str_radix(address, 16)
                    .with_context(|| format!("this is no line of kallsyms: {line}"))?,
                name: name.into(),
                kind: kind.chars().next().unwrap_or('?'),
            });
        }
        ensure!(
            symbols.iter().any(|s| s.address != 0),
            "all addresses in kallsyms are zero: root may see them (kernel.kptr_restrict)"
        );
        Ok(Self::new(symbols))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// All, by address.
    #[must_use]
    pub fn all(&self) -> &[Symbol] {
        &self.sorted
    }

    /// Where the symbol of this name lies.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }

    /// The best symbol at or below an address.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<&Symbol> {
        let end = self.sorted.partition_point(|s| s.address <= address);
        let start = self.sorted.get(end.checked_sub(1)?)?.address;
        let first = self.sorted.partition_point(|s| s.address < start);
        self.sorted.get(first)
    }

    /// Every name of exactly this address.
    pub fn names_of(&self, address: u64) -> impl Iterator<Item = &str> {
        let first = self.sorted.partition_point(|s| s.address < address);
        self.sorted[first..]
            .iter()
            .take_while(move |s| s.address == address)
            .map(|s| s.name.as_str())
    }

    /// Where the next symbol after an address starts.
    #[must_use]
    pub fn next_after(&self, address: u64) -> Option<u64> {
        let next = self.sorted.partition_point(|s| s.address <= address);
        self.sorted.get(next).map(|s| s.address)
    }

    /// `name+0x10`, or the bare address.
    #[must_use]
    pub fn describe(&self, address: u64) -> String {
        match self.at(address) {
            Some(s) if s.address == address => s.name.clone(),
            Some(s) => format!("{}+{:#x}", s.name, address - s.address),
            None => format!("{address:#x}"),
        }
    }
}
