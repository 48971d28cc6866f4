// SPDX-License-Identifier: GPL-2.0

//! What comes out: a table, a summary in JSON, and the accesses one by one.
//!
//! # `seen.jsonl`
//!
//! One JSON object a line, for each different access, so that the static audit can look whether it
//! knows the instruction and allows that class there:
//!
//! ```json
//! {"pc":"0xffffffff810000d4","symbol":"entry_SYSCALL_64","offset":84,"class":"per_cpu",
//!  "access":"load","way":"in","kind":"entry_SYSCALL_64","closed":"receiver_clear",
//!  "traced":false,"count":123}
//! ```
//!
//! - `pc`: address of the instruction, of a kernel booted with `nokaslr`;
//! - `symbol`, `offset`: where that is. The module's noinstr code is given by the distance from its
//!   start, `deferred_flush_trampoline`; other code outside the image is `[module]` with the
//!   address as offset;
//! - `class`: one of [`Class`], in `snake_case`; `access`: `load` or `store`;
//! - `way`: `in` or `out`; `kind`: the first symbol of the way in, or `resumed`, see
//!   [`RESUMED`]; ways out are all `resumed`;
//! - `closed`: one of [`Closed`]. Windows that had no receiver to end them are left out;
//! - `traced`: a tracer or a probe ran in the window. Deferral is suspended then, and its code is
//!   none that the static audit of the kernel knows: only lines with `false` have to be known.
//!
//! An instruction that both reads and writes has a line for each.

use crate::regions::Class;
use crate::symbols::Symbols;
use crate::window::{Access, Closed, Cpu, RESUMED, Way};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Length of the module's noinstr code, which the trampoline starts.
const NOINSTR_CODE: u64 = 512;

/// Names addresses.
#[derive(Debug)]
pub struct Names<'a> {
    /// The kernel's.
    pub symbols: &'a Symbols,
    /// Where the kernel's image ends, and with it what its symbols say.
    pub image_end: u64,
    /// Where the module's trampoline was seen.
    pub trampolines: &'a [u64],
}

impl Names<'_> {
    fn locate(&self, pc: u64) -> (String, i64) {
        if pc < self.image_end
            && let Some((name, offset)) = self.symbols.locate(pc)
        {
            return (name.to_owned(), offset.cast_signed());
        }
        let near = self
            .trampolines
            .iter()
            .map(|start| pc.wrapping_sub(*start))
            .find(|offset| *offset < NOINSTR_CODE);
        match near {
            Some(offset) => ("deferred_flush_trampoline".to_owned(), offset.cast_signed()),
            None => ("[module]".to_owned(), pc.cast_signed()),
        }
    }

    fn kind(&self, pc: u64) -> String {
        if pc == RESUMED {
            return "resumed".to_owned();
        }
        match self.locate(pc) {
            (name, 0) => name,
            (name, offset) => format!("{name}+{offset:#x}"),
        }
    }
}

/// A line of `seen.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Line {
    pc: Hex,
    symbol: String,
    offset: i64,
    class: Class,
    access: &'static str,
    way: Way,
    kind: String,
    closed: Option<Closed>,
    traced: bool,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Hex>,
}

/// Written as a string: JSON's numbers are too short for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Hex(u64);

impl std::fmt::Display for Hex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Line {
    fn new(names: &Names, access: Access, way: Way, kind: u64, count: u64) -> Self {
        let (symbol, offset) = names.locate(access.pc);
        Self {
            pc: Hex(access.pc),
            symbol,
            offset,
            class: access.class,
            access: if access.is_store { "store" } else { "load" },
            way,
            kind: names.kind(kind),
            closed: None,
            traced: false,
            count,
            address: None,
        }
    }
}

/// Loads and stores.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct LoadsAndStores {
    loads: u64,
    stores: u64,
}

impl LoadsAndStores {
    fn add(&mut self, access: &Access, count: u64) {
        if access.is_store {
            self.stores += count;
        } else {
            self.loads += count;
        }
    }
}

/// Everything that was seen.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    #[serde(skip)]
    lines: Vec<Line>,
    /// By kind and end.
    ways_in: BTreeMap<String, BTreeMap<Closed, u64>>,
    ways_out: BTreeMap<Closed, u64>,
    /// Exceptions from kernel mode inside a window.
    nested: BTreeMap<String, u64>,
    /// In windows that are judged and in which nothing traced.
    accesses: BTreeMap<Way, BTreeMap<Class, LoadsAndStores>>,
    instructions: u64,
    in_traced: u64,
    traced: u64,
    traced_and_owed: u64,
    not_judged: u64,
    violating: Vec<Line>,
    /// Accesses to what was remapped since the CPU had gone to user mode.
    pub violations: u64,
    /// Words that were cleared with no flush since they were set.
    pub dropped: u64,
    forgotten: u64,
    untracked: u64,
    untracked_at: BTreeMap<Hex, u64>,
    unannounced: u64,
    /// Calls of vunmap() that were seen, and ranges flushed after that.
    pub unmapped: u64,
    /// The same.
    pub remapped: u64,
    /// What went wrong with watching.
    pub problems: Vec<String>,
    /// The guest has ended: nothing more will come.
    pub is_complete: bool,
}

impl Report {
    /// Puts together what the CPUs have seen.
    #[must_use]
    pub fn new<'a>(names: &Names, cpus: impl IntoIterator<Item = &'a Cpu>) -> Self {
        let mut report = Self::default();
        let mut lines: BTreeMap<Line, (Hex, u64)> = BTreeMap::new();
        let mut violating: BTreeMap<Line, (u64, u64)> = BTreeMap::new();
        for cpu in cpus {
            report.dropped += cpu.dropped;
            report.forgotten += cpu.forgotten;
            report.untracked += cpu.untracked.values().sum::<u64>();
            for (&pc, count) in &cpu.untracked {
                *report.untracked_at.entry(Hex(pc)).or_default() += count;
            }
            report.unannounced += cpu.unannounced;
            report.traced += cpu.traced;
            report.traced_and_owed += cpu.traced_and_owed;
            report.not_judged += cpu.not_judged;
            for (&(way, kind, closed), count) in &cpu.windows {
                let ends = match way {
                    Way::In => report.ways_in.entry(names.kind(kind)).or_default(),
                    Way::Out => &mut report.ways_out,
                };
                *ends.entry(closed).or_default() += count;
            }
            for (&pc, count) in &cpu.nested {
                *report.nested.entry(names.kind(pc)).or_default() += count;
            }
            for (seen, &count) in &cpu.seen {
                if seen.is_traced {
                    report.in_traced += count;
                } else {
                    let classes = report.accesses.entry(seen.way).or_default();
                    classes
                        .entry(seen.access.class)
                        .or_default()
                        .add(&seen.access, count);
                }
                let mut line = Line::new(names, seen.access, seen.way, seen.kind, 0);
                line.closed = Some(seen.closed);
                line.traced = seen.is_traced;
                // The module may have lain elsewhere before: one line, one address.
                let pc = std::mem::take(&mut line.pc);
                lines.entry(line).or_insert((pc, 0)).1 += count;
            }
            for (violation, &(address, count)) in &cpu.violations {
                let line = Line::new(names, violation.access, violation.way, violation.kind, 0);
                violating.entry(line).or_insert((address, 0)).1 += count;
                report.violations += count;
            }
        }
        for (mut line, (address, count)) in violating {
            line.address = Some(Hex(address));
            line.count = count;
            report.violating.push(line);
        }
        report.lines = lines
            .into_iter()
            .map(|(line, (pc, count))| Line { pc, count, ..line })
            .collect();
        report.lines.sort();
        let untraced = report.lines.iter().filter(|line| !line.traced);
        let places = untraced.map(|line| (&line.symbol, line.offset));
        report.instructions = places.collect::<std::collections::BTreeSet<_>>().len() as u64;
        report
            .violating
            .sort_by_key(|line| std::cmp::Reverse(line.count));
        report
    }

    /// The file `seen.jsonl`.
    ///
    /// # Errors
    ///
    /// If it cannot be put into JSON.
    pub fn lines(&self) -> serde_json::Result<String> {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// The file `summary.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be put into JSON.
    pub fn summary(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The file `report.txt`.
    ///
    /// # Errors
    ///
    /// A string takes whatever is written to it.
    pub fn table(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        self.write_table(&mut text)?;
        Ok(text)
    }

    fn write_table(&self, to: &mut String) -> std::fmt::Result {
        let mut total = 0;
        writeln!(to, "WAYS IN, and how far it was to a clean TLB")?;
        writeln!(
            to,
            "{:<44}{:>10}{:>10}{:>10}{:>12}{:>10}",
            "", "entries", "clear", "flushed", "no receiver", "other"
        )?;
        for (kind, ends) in &self.ways_in {
            let of = |closed| ends.get(&closed).copied().unwrap_or(0);
            let clear = of(Closed::ReceiverClear) + of(Closed::OtherClear);
            let (flushed, no_receiver) = (of(Closed::Flushed), of(Closed::NoReceiver));
            let all: u64 = ends.values().sum();
            let other = all - clear - flushed - no_receiver;
            total += all;
            writeln!(
                to,
                "{kind:<44}{all:>10}{clear:>10}{flushed:>10}{no_receiver:>12}{other:>10}"
            )?;
        }
        writeln!(to, "{:<44}{total:>10}", "all")?;
        let out: u64 = self.ways_out.values().sum();
        writeln!(to, "{:<44}{out:>10}", "ways out")?;
        if !self.nested.is_empty() {
            writeln!(to, "\nEXCEPTIONS from kernel mode inside a window")?;
        }
        for (kind, count) in &self.nested {
            writeln!(to, "{kind:<44}{count:>10}")?;
        }
        writeln!(
            to,
            "\nACCESSES by class, before a receiver and on the way out"
        )?;
        writeln!(
            to,
            "{:<24}{:>14}{:>14}{:>14}{:>14}",
            "", "loads in", "stores in", "loads out", "stores out"
        )?;
        let mut classes: BTreeMap<Class, [LoadsAndStores; 2]> = BTreeMap::new();
        for (way, sums) in &self.accesses {
            for (class, sum) in sums {
                classes.entry(*class).or_default()[usize::from(*way == Way::Out)] = *sum;
            }
        }
        for (class, [way_in, way_out]) in &classes {
            writeln!(
                to,
                "{:<24}{:>14}{:>14}{:>14}{:>14}",
                format!("{class:?}"),
                way_in.loads,
                way_in.stores,
                way_out.loads,
                way_out.stores
            )?;
        }
        writeln!(to)?;
        for (name, value) in [
            ("different instructions", self.instructions),
            ("windows in which a tracer or probe ran", self.traced),
            ("of these while a flush was owed", self.traced_and_owed),
            ("accesses in them", self.in_traced),
            ("accesses before no receiver, not judged", self.not_judged),
            ("ranges unmapped", self.unmapped),
            ("of these flushed, so free to be remapped", self.remapped),
            ("to user mode without a change of the state", self.untracked),
            ("into the kernel by no known way", self.unannounced),
            ("accesses too late to judge", self.forgotten),
            ("words cleared without a flush", self.dropped),
        ] {
            writeln!(to, "{name:<44}{value:>10}")?;
        }
        for (pc, count) in self.untracked_at.iter().take(20) {
            writeln!(to, "  without a change of the state at {pc}: {count}")?;
        }
        for problem in &self.problems {
            writeln!(to, "problem: {problem}")?;
        }
        writeln!(
            to,
            "accesses to what was remapped since the CPU went to user mode: {}",
            self.violations
        )?;
        self.write_violating(to)?;
        if self.is_complete {
            writeln!(to, "complete")?;
        }
        Ok(())
    }

    fn write_violating(&self, to: &mut String) -> std::fmt::Result {
        for line in self.violating.iter().take(40) {
            writeln!(
                to,
                "  {:>8} {} {:<5} {:<3} {:?} from {}, by {}+{:#x}",
                line.count,
                line.address.unwrap_or_default(),
                line.access,
                if line.way == Way::In { "in" } else { "out" },
                line.class,
                line.kind,
                line.symbol,
                line.offset
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remapped::Past;

    const TEXT: &str = "ffffffff81000080 T entry_SYSCALL_64\nffffffff813f0000 T vtime_user_exit\n";
    const TRAMPOLINE: u64 = 0xffff_ffff_c000_1000;

    fn report() -> Report {
        let symbols = Symbols::parse(TEXT).unwrap();
        let names = Names {
            symbols: &symbols,
            image_end: 0xffff_ffff_8400_0000,
            trampolines: &[TRAMPOLINE],
        };
        let mut cpu = Cpu::default();
        cpu.state_changed(true, 0);
        cpu.user(0x40_1000);
        cpu.entry_code(0xffff_ffff_8100_0080, true);
        for (pc, class, past) in [
            (0xffff_ffff_8100_0090, Class::PerCpu, Past::Unchanged),
            (TRAMPOLINE + 4, Class::PerCpuFirstChunk, Past::Unchanged),
            (0xffff_ffff_813f_0020, Class::Vmalloc, Past::Remapped(3)),
        ] {
            let access = Access {
                pc,
                class,
                is_store: true,
            };
            cpu.access(access, 0xffff_c900_1234_5000, past);
        }
        cpu.changed_word(2);
        cpu.read_word(0, true);
        Report::new(&names, [&cpu])
    }

    #[test]
    fn names_what_it_saw() {
        let lines = report().lines().unwrap();
        assert!(lines.contains(
            r#"{"pc":"0xffffffff81000090","symbol":"entry_SYSCALL_64","offset":16,"class":"per_cpu","access":"store","way":"in","kind":"entry_SYSCALL_64","closed":"receiver_clear","traced":false,"count":1}"#
        ));
        assert!(lines.contains(r#""symbol":"deferred_flush_trampoline","offset":4,"#));
        assert_eq!(lines.lines().count(), 3);
    }

    #[test]
    fn says_that_it_is_complete_only_at_the_end() {
        let mut report = report();
        assert!(!report.table().unwrap().contains("complete"));
        report.is_complete = true;
        assert!(report.table().unwrap().ends_with("\ncomplete\n"));
    }

    #[test]
    fn a_violation_is_counted_and_shown() {
        let report = report();
        assert_eq!(report.violations, 1);
        let table = report.table().unwrap();
        assert!(table.contains("went to user mode: 1\n"));
        assert!(table.contains(&format!(
            "{:<44}{:>10}\n",
            "words cleared without a flush", 1
        )));
        assert!(table.contains("0xffffc90012345000 store"));
        assert!(table.contains("by vtime_user_exit+0x20"));
        assert!(report.summary().unwrap().contains("\"violations\": 1"));
    }
}
