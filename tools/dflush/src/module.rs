// SPDX-License-Identifier: GPL-2.0

//! What the kernel module shows: its control files in sysfs, its views in debugfs.
//! Documentation/admin-guide.rst says what each value is.

use crate::cpulist::CpuList;
use crate::system::System;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, ErrorKind};

/// There as long as the module is loaded, for anybody to see.
const LOADED: &str = "/sys/module/deferred_flush";
const CONTROL: &str = "/sys/kernel/deferred_flush";
const DEBUGFS: &str = "/sys/kernel/debug";

/// Why the module cannot be asked. Prints what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The module is not loaded.
    NotLoaded,
    /// Only root may read that file.
    NotRoot(String),
    /// debugfs is not mounted.
    NoDebugfs,
    /// The loaded module has no such file.
    NoFile(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoaded => f.write_str(
                "the module deferred_flush is not loaded: load it with 'modprobe deferred_flush'; \
                 'dflush check' says whether this machine can use it",
            ),
            Self::NotRoot(file) => {
                write!(
                    f,
                    "{file} is for root only: run dflush as root, with sudo for example"
                )
            }
            Self::NoDebugfs => write!(
                f,
                "debugfs is not mounted: mount it with 'mount -t debugfs debugfs {DEBUGFS}'"
            ),
            Self::NoFile(file) => write!(
                f,
                "{file} is missing: the loaded module is older than this dflush; install the two \
                 of the same version"
            ),
        }
    }
}

impl std::error::Error for Unavailable {}

/// Whether the module is loaded.
#[must_use]
pub fn is_loaded(system: &System) -> bool {
    system.has(LOADED)
}

/// What the control files say. Anybody may read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    /// `off`, `shadow` or `on`: what was asked for.
    pub mode: String,
    /// `off`, `shadow`, `on`, `suspended: REASON` or `degraded: REASON`.
    pub state: String,
    /// The CPUs for which deferral is allowed.
    pub cpus: CpuList,
    /// For how long a CPU may owe a flush, in milliseconds; 0 is no bound.
    pub max_stale_ms: u64,
}

impl Control {
    /// Whether a hook could not be removed: every interrupt is sent until the next boot.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.state.starts_with("degraded")
    }

    /// Reads the control files.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], or a file that is not as documented.
    pub fn read(system: &System) -> Result<Self> {
        let read = |name: &str| read(system, &format!("{CONTROL}/{name}"));
        Ok(Self {
            mode: read("mode")?.trim().into(),
            state: read("state")?.trim().into(),
            cpus: read("cpus")?.parse()?,
            max_stale_ms: read("max_stale_ms")?
                .trim()
                .parse()
                .context("max_stale_ms is not a number")?,
        })
    }
}

/// The counters of `summary`, since the module was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Calls of `flush_tlb_kernel_range()` while hooked.
    pub calls: u64,
    /// Of these, kept as ever: the range reaches outside of vmalloc.
    pub kept_range: u64,
    /// ... the caller is not the lazy purge of vmalloc.
    pub kept_caller: u64,
    /// ... deferral was blocked.
    pub kept_blocked: u64,
    /// ... handled by the module.
    pub redirected: u64,
    /// CPUs that were spared an interrupt.
    pub deferred: u64,
    /// In shadow mode: flushes that would have spared a CPU.
    pub would_defer: u64,
    /// CPUs interrupted, as they were not in user mode.
    pub ipi_not_quiet: u64,
    /// ... as they left user mode just then, or deferral was blocked.
    pub ipi_raced: u64,
    /// Full flushes on entry from user mode.
    pub flush_entry: u64,
    /// Full flushes in NMIs.
    pub flush_nmi: u64,
    /// Full flushes in interrupts that the module sent.
    pub flush_ipi: u64,
    /// CPUs interrupted because deferral was blocked or turned off.
    pub drained: u64,
    /// How often a tracer suspended deferral.
    pub suspensions: u64,
    /// CPUs interrupted because of `max_stale_ms`.
    pub expired: u64,
}

/// The view `summary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The module's version.
    pub version: String,
    /// The kernel release that it was built for.
    pub kernel: String,
    /// `invpcid` or `cr4`.
    pub flush_method: String,
    /// All that is counted.
    pub counters: Counters,
}

impl Summary {
    /// Reads the view.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], or a file that is not as documented.
    pub fn read(system: &System) -> Result<Self> {
        Self::parse(&view(system, "summary")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let lines = || text.lines().filter_map(|line| line.split_once(": "));
        let word = |name: &str| {
            lines()
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
                .with_context(|| format!("the view summary has no line {name:?}"))
        };
        let numbers = lines().filter_map(|(key, value)| {
            let number: u64 = value.parse().ok()?;
            Some((key.to_owned(), number.into()))
        });
        Ok(Self {
            version: word("version")?,
            kernel: word("kernel")?,
            flush_method: word("flush_method")?,
            counters: from_fields(numbers.collect()).context("in the view summary")?,
        })
    }
}

/// One line of the view `cpus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Where it is: `user`, `kernel`, `nmi`, `idle`, `guest` or `offline`.
    pub mode: String,
    /// Its word: 1 a flush is owed, 2 it is running.
    pub word: u32,
    /// Flushes deferred for it.
    pub deferred: u64,
    /// Full flushes on entry from user mode.
    pub flush_entry: u64,
    /// Full flushes in NMIs.
    pub flush_nmi: u64,
    /// Full flushes in interrupts that the module sent.
    pub flush_ipi: u64,
    /// Interrupted, as it was not in user mode.
    pub ipi_not_quiet: u64,
    /// Interrupted, as it left user mode just then, or deferral was blocked.
    pub ipi_raced: u64,
}

/// Reads the view `cpus`: the CPUs of nohz_full.
///
/// # Errors
///
/// [`Unavailable`], or a file that is not as documented.
pub fn cpus(system: &System) -> Result<Vec<Cpu>> {
    parse_cpus(&view(system, "cpus")?)
}

fn parse_cpus(text: &str) -> Result<Vec<Cpu>> {
    let mut lines = text.lines();
    let header: Vec<_> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let parse = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.len() != header.len() {
            bail!(
                "the view cpus has {} columns but a line {line:?}",
                header.len()
            );
        }
        let value = |word: &str| {
            let number = word.parse::<u64>();
            number.map_or_else(|_| word.into(), Value::from)
        };
        let fields = header
            .iter()
            .zip(words)
            .map(|(name, word)| ((*name).into(), value(word)));
        from_fields(fields.collect()).context("in the view cpus")
    };
    lines.map(parse).collect()
}

/// The view `recent`: the latest decisions of senders, a line each, with the columns that the
/// module gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recent {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Recent {
    /// Reads the view.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]; [`Unavailable::NoFile`] if the module has no such view.
    pub fn read(system: &System) -> Result<Self> {
        Self::parse(&view(system, "recent")?)
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut lines = text.lines();
        let columns = lines
            .next()
            .and_then(|line| line.strip_prefix('#'))
            .map(words)
            .context("the view recent has no first line with the names of its columns")?;
        let rows: Vec<_> = lines.map(words).collect();
        if let Some(row) = rows.iter().find(|row| row.len() != columns.len()) {
            bail!(
                "the view recent has {} columns but a line {:?}",
                columns.len(),
                row.join(" ")
            );
        }
        Ok(Self { columns, rows })
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many decisions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The values of one column, in the order of the lines; `None` if there is no such column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<Vec<&str>> {
        let index = self.columns.iter().position(|column| column == name)?;
        Some(self.rows.iter().map(|row| row[index].as_str()).collect())
    }
}

/// Everything but `recent`, read one after the other: the parts may be some decisions apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The control files.
    pub control: Control,
    /// The view `summary`.
    pub summary: Summary,
    /// The view `cpus`.
    pub cpus: Vec<Cpu>,
}

impl Snapshot {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], or a file that is not as documented.
    pub fn read(system: &System) -> Result<Self> {
        Ok(Self {
            control: Control::read(system)?,
            summary: Summary::read(system)?,
            cpus: cpus(system)?,
        })
    }
}

/// A structure from named fields. Names that it does not know, as of a newer module, are left out.
fn from_fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    Ok(serde_json::from_value(Value::Object(fields))?)
}

fn view(system: &System, name: &str) -> Result<String> {
    read(system, &format!("{DEBUGFS}/deferred_flush/{name}"))
}

fn read(system: &System, file: &str) -> Result<String> {
    system
        .read(file)
        .map_err(|error| explain(system, file, error))
}

fn explain(system: &System, file: &str, error: io::Error) -> anyhow::Error {
    let has_debugfs = || {
        std::fs::read_dir(system.path(DEBUGFS)).is_ok_and(|mut entries| entries.next().is_some())
    };
    match error.kind() {
        _ if !is_loaded(system) => Unavailable::NotLoaded.into(),
        ErrorKind::PermissionDenied => Unavailable::NotRoot(file.into()).into(),
        ErrorKind::NotFound if file.starts_with(DEBUGFS) && !has_debugfs() => {
            Unavailable::NoDebugfs.into()
        }
        ErrorKind::NotFound => Unavailable::NoFile(file.into()).into(),
        _ => anyhow::Error::new(error).context(format!("cannot read {file}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Recent, Summary, Unavailable, explain, parse_cpus};
    use crate::system::System;
    use std::io::ErrorKind;
    use std::path::Path;

    #[test]
    fn what_only_root_may_read_is_told_from_what_is_missing() {
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/on");
        let system = System::below(Path::new(recorded));
        let file = "/sys/kernel/debug/deferred_flush/recent";
        let reason = |kind: ErrorKind| {
            explain(&system, file, kind.into())
                .downcast::<Unavailable>()
                .expect("a reason")
        };
        assert_eq!(
            reason(ErrorKind::PermissionDenied),
            Unavailable::NotRoot(file.into())
        );
        assert!(
            reason(ErrorKind::PermissionDenied)
                .to_string()
                .contains("as root")
        );
        assert_eq!(
            reason(ErrorKind::NotFound),
            Unavailable::NoFile(file.into())
        );
    }

    #[test]
    fn what_a_newer_module_adds_is_left_out() {
        let rows = parse_cpus(
            "cpu mode word new deferred flush_entry flush_nmi flush_ipi ipi_not_quiet ipi_raced\n\
             1 user 1 x 5 4 3 2 1 0\n",
        )
        .expect("a table");
        assert_eq!(
            (rows[0].cpu, rows[0].mode.as_str(), rows[0].deferred),
            (1, "user", 5)
        );
        assert_eq!((rows[0].word, rows[0].ipi_raced), (1, 0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = parse_cpus("cpu mode\n1 user\n").expect_err("columns are missing");
        assert!(format!("{error:#}").contains("word"), "{error:#}");
        let error = Summary::parse("version: 1\n").expect_err("lines are missing");
        assert!(format!("{error:#}").contains("kernel"), "{error:#}");
        let error = parse_cpus("cpu mode\n1\n").expect_err("a short line");
        assert!(format!("{error:#}").contains("2 columns"), "{error:#}");
    }

    #[test]
    fn recent_is_read_by_the_names_of_its_columns() {
        let recent = Recent::parse("# time cpu caller\n1.5 0 __purge_vmap_area_lazy+0x1/0x2\n")
            .expect("a table");
        assert_eq!((recent.len(), recent.columns().len()), (1, 3));
        assert_eq!(recent.column("cpu"), Some(vec!["0"]));
        assert_eq!(recent.column("range"), None);
        assert!(Recent::parse("1.5 0\n").is_err());
        assert!(Recent::parse("# time cpu\n1.5\n").is_err());
    }
}
