// SPDX-License-Identifier: GPL-2.0

//! Can this machine use the module? A list of what it needs, each with what was found and, where
//! that is not enough, with the remedy. Needs neither the module nor root, but sees more with them.
//!
//! The module decides for itself when it is loaded (machine.rs, hooks/symbols.rs in its source);
//! this says it before, and in more words.

mod building;
mod config;
mod facts;
mod hooks;
mod kernel;
mod loading;
mod processor;

pub use facts::Facts;

use crate::module::{self, Control};
use crate::system::System;
use anyhow::{Context, Result};
use config::Config;
use processor::Processor;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// How a line of the list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it has to be.
    Fine,
    /// Nothing that keeps the module from working, but worth knowing.
    Note,
    /// It could not be found out; the remedy says how.
    Unknown,
    /// The module cannot be used until this is changed.
    Fail,
}

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// A stable name.
    pub name: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Item {
    fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fine,
            found: found.into(),
            remedy: None,
        }
    }

    fn with(
        verdict: Verdict,
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::with(Verdict::Note, name, found, remedy)
    }

    fn unknown(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::with(Verdict::Unknown, name, found, remedy)
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::with(Verdict::Fail, name, found, remedy)
    }
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel build directory, instead of the running kernel's own.
    pub kdir: Option<PathBuf>,
    /// Also look for what only building the module needs.
    pub build: bool,
}

/// What every part of the list may look at.
struct Machine<'a> {
    system: &'a System,
    facts: &'a Facts,
    options: &'a Options,
    release: String,
    config: Option<Config>,
    processor: Processor,
    /// Of a loaded module.
    control: Option<Control>,
}

impl Machine<'_> {
    fn is_loaded(&self) -> bool {
        module::is_loaded(self.system)
    }

    /// The mode of a loaded module.
    fn mode(&self) -> Option<&str> {
        self.control.as_ref().map(|control| control.mode.as_str())
    }
}

/// The list for one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    kernel: String,
    items: Vec<Item>,
}

impl Report {
    /// The lines.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether no line fails.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.count(Verdict::Fail) == 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.items
            .iter()
            .filter(|item| item.verdict == verdict)
            .count()
    }
}

/// Makes the list.
///
/// # Errors
///
/// If not even the kernel's release or its processor can be read.
pub fn run(system: &System, facts: &Facts, options: &Options) -> Result<Report> {
    let release = system
        .read("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's release: is /proc mounted?")?
        .trim()
        .to_owned();
    let machine = Machine {
        config: Config::find(system, &release, options.kdir.as_deref()),
        processor: Processor::read(system)?,
        control: Control::read(system).ok(),
        system,
        facts,
        options,
        release,
    };
    let mut items = Vec::new();
    items.extend(kernel::items(&machine));
    items.extend(processor::items(&machine));
    items.extend(hooks::items(&machine));
    items.extend(loading::items(&machine));
    if options.build {
        items.extend(building::items(&machine));
    }
    Ok(Report {
        kernel: machine.release,
        items,
    })
}

/// Columns before what was found.
const INDENT: usize = 23;
const WIDTH: usize = 79;

/// Words in lines that begin at [`INDENT`].
fn wrap(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    let mut column = INDENT;
    for (index, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > WIDTH {
            write!(f, "\n{:INDENT$}", "")?;
            column = INDENT;
        } else if index > 0 {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
    }
    writeln!(f)
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {}\n", self.kernel)?;
        for item in &self.items {
            let verdict = match item.verdict {
                Verdict::Fine => "ok",
                Verdict::Note => "note",
                Verdict::Unknown => "?",
                Verdict::Fail => "FAIL",
            };
            write!(f, "{verdict:<4}  {:<17}", item.name)?;
            wrap(f, &item.found)?;
            if let Some(remedy) = &item.remedy {
                write!(f, "{:width$}-> ", "", width = INDENT - 3)?;
                wrap(f, remedy)?;
            }
        }
        let counts = [
            (Verdict::Fail, "to be changed before the module can be used"),
            (Verdict::Unknown, "could not be found out"),
            (Verdict::Note, "worth knowing"),
        ];
        writeln!(f)?;
        for (verdict, what) in counts {
            let count = self.count(verdict);
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        if self.is_fine() {
            writeln!(
                f,
                "nothing found that keeps this machine from using the module"
            )?;
        }
        Ok(())
    }
}
