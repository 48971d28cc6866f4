// SPDX-License-Identifier: GPL-2.0

//! The kernel's symbols, from a copy of the guest's /proc/kallsyms.

use std::collections::HashMap;

/// Addresses and names of the kernel's own symbols, modules left out.
#[derive(Debug, Default)]
pub struct Symbols {
    by_address: Vec<(u64, String)>,
    by_name: HashMap<String, u64>,
}

impl Symbols {
    /// Reads the text of /proc/kallsyms. Where several symbols share an address, the first global
    /// one names it, but none of those that objcopy has put a prefix to.
    ///
    /// # Errors
    ///
    /// If a line is not one of kallsyms, or all addresses are zero, as for a reader without rights.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut by_address: Vec<(u64, bool, String)> = Vec::new();
        let mut by_name = HashMap::new();
        for line in text.lines().filter(|line| !line.contains('[')) {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                return Err(format!("'{line}' is no line of kallsyms"));
            };
            let address = u64::from_str_radix(address, 16)
                .map_err(|error| format!("'{line}' is no line of kallsyms: {error}"))?;
            let is_local = kind.starts_with(|letter: char| letter.is_ascii_lowercase());
            let is_second_name = is_local || name.starts_with("__pi_");
            by_address.push((address, is_second_name, name.to_owned()));
            by_name.entry(name.to_owned()).or_insert(address);
        }
        by_address.sort_by_key(|(address, is_second_name, _)| (*address, *is_second_name));
        by_address.dedup_by_key(|(address, ..)| *address);
        if by_address.last().is_none_or(|(address, ..)| *address == 0) {
            return Err("these symbols have no addresses; root has to read kallsyms".to_owned());
        }
        let by_address = by_address
            .into_iter()
            .map(|(address, _, name)| (address, name))
            .collect();
        Ok(Self {
            by_address,
            by_name,
        })
    }

    /// The address of a symbol.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn address(&self, name: &str) -> Result<u64, String> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| format!("the kernel has no symbol {name}"))
    }

    /// The symbol that an address lies behind, and how far.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<(&str, u64)> {
        let behind = self
            .by_address
            .partition_point(|(start, _)| *start <= address);
        let (start, name) = self.by_address.get(behind.checked_sub(1)?)?;
        Some((name, address - start))
    }

    /// Start and end of the function or object of this name; it ends where the next one starts.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn extent(&self, name: &str) -> Result<std::ops::Range<u64>, String> {
        let start = self.address(name)?;
        let behind = self
            .by_address
            .partition_point(|(other, _)| *other <= start);
        let end = self.by_address.get(behind).map_or(start, |(end, _)| *end);
        Ok(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ffffffff81000000 T _text\n\
        ffffffff81000100 t local\n\
        ffffffff81000100 T __pi_global\n\
        ffffffff81000100 T global\n\
        ffffffff81000180 T next\n\
        ffffffffc0000000 t in_module\t[dummy]\n";

    #[test]
    fn locates_addresses() {
        let symbols = Symbols::parse(TEXT).unwrap();
        assert_eq!(
            symbols.locate(0xffff_ffff_8100_0117),
            Some(("global", 0x17))
        );
        assert_eq!(symbols.locate(0xffff_ffff_8000_0000), None);
        assert_eq!(symbols.address("local"), Ok(0xffff_ffff_8100_0100));
        assert!(symbols.address("in_module").is_err());
        assert_eq!(
            symbols.extent("global"),
            Ok(0xffff_ffff_8100_0100..0xffff_ffff_8100_0180)
        );
    }

    #[test]
    fn refuses_what_has_no_addresses() {
        assert!(Symbols::parse("0000000000000000 T _text\n").is_err());
        assert!(Symbols::parse("not kallsyms\n").is_err());
        assert!(Symbols::parse("").is_err());
    }
}
