// SPDX-License-Identifier: GPL-2.0

//! `audit/allowlist.toml` in use: what is assumed, and what is allowed although it cannot be proved.
//!
//! Each entry has a reason, and each that matched nothing is an error.

use super::allowlist_file::{Effect, Feature, File, Memory, Pointer, Protocol, StaticCall, Stop};
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// The file, and which of its entries have been of use.
pub(super) struct Allowlist {
    file: File,
    used: RefCell<BTreeSet<String>>,
}

/// What is assumed of the machine.
pub(super) type Assumptions = Allowlist;

macro_rules! lookup {
    ($self:ident, $table:ident, $key:expr, |$entry:ident| $matches:expr) => {{
        let found = $self.file.$table.iter().find(|$entry| $matches);
        if found.is_some() {
            $self.mark(stringify!($table), $key);
        }
        found
    }};
}

impl Allowlist {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is wrong", path.display()))
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let list = Self {
            file,
            used: RefCell::default(),
        };
        let mut seen = BTreeSet::new();
        for (key, reason) in list.entries() {
            ensure!(
                reason.split_whitespace().count() >= 3,
                "{key} has no reason that a reviewer could check"
            );
            if !seen.insert(key.clone()) {
                bail!("{key} is there twice");
            }
        }
        Ok(list)
    }

    /// All entries, as `TABLE KEY` with their reasons.
    pub(super) fn entries(&self) -> Vec<(String, &str)> {
        let f = &self.file;
        let mut all: Vec<(String, &str)> = Vec::new();
        let mut add =
            |table: &str, key: String, reason| all.push((format!("{table} {key}"), reason));
        f.static_key
            .iter()
            .for_each(|e| add("static_key", e.name.clone(), &*e.reason));
        f.feature
            .iter()
            .for_each(|e| add("feature", e.name.clone(), &*e.reason));
        f.memory
            .iter()
            .for_each(|e| add("memory", place(&e.symbol, e.offset), &*e.reason));
        f.pointer
            .iter()
            .for_each(|e| add("pointer", place(&e.symbol, e.offset), &*e.reason));
        f.summary
            .iter()
            .for_each(|e| add("summary", e.function.clone(), &*e.reason));
        f.stop
            .iter()
            .for_each(|e| add("stop", stop_key(e), &*e.reason));
        f.indirect
            .iter()
            .for_each(|e| add("indirect", format!("{}: {}", e.function, e.via), &*e.reason));
        f.static_call
            .iter()
            .for_each(|e| add("static_call", e.name.clone(), &*e.reason));
        f.exclude
            .iter()
            .for_each(|e| add("exclude", e.entry.clone(), &*e.reason));
        f.access.iter().for_each(|e| {
            add(
                "access",
                access_key(&e.function, &e.class, &e.shape),
                &*e.reason,
            );
        });
        f.caller
            .iter()
            .for_each(|e| add("caller", e.function.clone(), &*e.reason));
        f.cut
            .iter()
            .for_each(|e| add("cut", e.function.clone(), &*e.reason));
        f.one_way
            .iter()
            .for_each(|e| add("one_way", e.entry.clone(), &*e.reason));
        f.remainder
            .iter()
            .for_each(|e| add("remainder", e.function.clone(), &*e.reason));
        f.image_pointer
            .iter()
            .for_each(|e| add("image_pointer", e.symbol.clone(), &*e.reason));
        all
    }

    fn mark(&self, table: &str, key: impl AsRef<str>) {
        self.used
            .borrow_mut()
            .insert(format!("{table} {}", key.as_ref()));
    }

    /// The entries that have matched nothing.
    pub(super) fn stale(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.entries()
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| !used.contains(key))
            .collect()
    }

    pub(super) fn protocol(&self) -> &Protocol {
        &self.file.protocol
    }

    pub(super) fn static_key(&self, name: &str) -> Option<bool> {
        lookup!(self, static_key, name, |e| e.name == name).map(|e| e.value)
    }

    pub(super) fn feature(&self, bit: u16, release: &str) -> Option<bool> {
        let is_for = |e: &Feature| e.bit == bit && release.starts_with(&e.release);
        let entry = self.file.feature.iter().find(|e| is_for(e))?;
        self.mark("feature", &entry.name);
        Some(entry.value)
    }

    pub(super) fn memory(&self) -> &[Memory] {
        &self.file.memory
    }

    pub(super) fn use_memory(&self, entry: &Memory) {
        self.mark("memory", place(&entry.symbol, entry.offset));
    }

    pub(super) fn pointers(&self) -> &[Pointer] {
        &self.file.pointer
    }

    pub(super) fn use_pointer(&self, index: usize) {
        let entry = &self.file.pointer[index];
        self.mark("pointer", place(&entry.symbol, entry.offset));
    }

    pub(super) fn summary(&self, function: &str) -> Option<Effect> {
        lookup!(self, summary, function, |e| e.function == function).map(|e| e.effect)
    }

    /// Whether a path ends in `function`; `caller` is given while accesses count.
    pub(super) fn is_stop(&self, function: &str, caller: Option<&str>) -> bool {
        let found = self.file.stop.iter().find(|e| {
            e.function == function && (e.caller.is_none() || e.caller.as_deref() == caller)
        });
        if let Some(found) = found {
            self.mark("stop", stop_key(found));
        }
        found.is_some()
    }

    pub(super) fn indirect(&self, function: &str, via: &str) -> Option<&[String]> {
        lookup!(self, indirect, format!("{function}: {via}"), |e| e.function
            == function
            && e.via == via)
        .map(|e| &*e.targets)
    }

    /// `chain`: the function of the call, and those that it was called by.
    pub(super) fn static_call(&self, name: &str, chain: &[String]) -> Option<&[String]> {
        let is_within = |e: &StaticCall| e.within.as_ref().is_none_or(|f| chain.contains(f));
        lookup!(self, static_call, name, |e| e.name == name && is_within(e)).map(|e| &*e.targets)
    }

    pub(super) fn exclude(&self, entry: &str) -> bool {
        let found = self
            .file
            .exclude
            .iter()
            .find(|e| match e.entry.strip_suffix('*') {
                Some(prefix) => entry.starts_with(prefix),
                None => e.entry == entry,
            });
        if let Some(found) = found {
            self.mark("exclude", &found.entry);
        }
        found.is_some()
    }

    pub(super) fn access(&self, function: &str, class: &str, shape: &str) -> Option<&str> {
        let found = self
            .file
            .access
            .iter()
            .find(|e| e.function == function && e.class == class && matches(&e.shape, shape))?;
        self.mark(
            "access",
            access_key(&found.function, &found.class, &found.shape),
        );
        Some(&found.reason)
    }

    pub(super) fn caller(&self, function: &str) -> bool {
        lookup!(self, caller, function, |e| e.function == function).is_some()
    }

    pub(super) fn is_cut(&self, function: &str) -> bool {
        lookup!(self, cut, function, |e| e.function == function).is_some()
    }

    pub(super) fn is_one_way(&self, entry: &str) -> bool {
        lookup!(self, one_way, entry, |e| e.entry == entry).is_some()
    }

    pub(super) fn remainder(&self, function: &str) -> bool {
        lookup!(self, remainder, function, |e| e.function == function).is_some()
    }

    pub(super) fn image_pointer(&self, symbol: &str, offset: u64) -> bool {
        lookup!(self, image_pointer, symbol, |e| e.symbol == symbol
            && !e.except.contains(&offset))
        .is_some()
    }
}

/// Whether a text is like a pattern in which `{any}` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("{any}");
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

fn stop_key(stop: &Stop) -> String {
    match &stop.caller {
        Some(caller) => format!("{} from {caller}", stop.function),
        None => stop.function.clone(),
    }
}

fn access_key(function: &str, class: &str, shape: &str) -> String {
    format!("{function}: {class}: {shape}")
}

fn place(symbol: &str, offset: u64) -> String {
    if offset == 0 {
        symbol.into()
    } else {
        format!("{symbol}+{offset:#x}")
    }
}
