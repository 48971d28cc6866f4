// SPDX-License-Identifier: GPL-2.0

//! The command line of dflush.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dflush::{audit, image::Image};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Audits, measures and watches deferred flushes")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check which memory a kernel touches before the deferred flush
    Audit(Audit),
}

#[derive(clap::Args)]
struct Audit {
    /// A vmlinux or a boot image
    #[arg(required_unless_present_any = ["live", "module"])]
    image: Option<PathBuf>,
    /// Symbols with addresses, as in /proc/kallsyms, instead of the image's own
    #[arg(long)]
    kallsyms: Option<PathBuf>,
    /// The running kernel, as it is patched now
    #[arg(long, conflicts_with = "image")]
    live: bool,
    /// A built deferred_flush.ko, whose sender and receiver are checked instead of a kernel
    #[arg(long, conflicts_with_all = ["image", "live", "rst"])]
    module: Option<PathBuf>,
    /// What is allowed, and why
    #[arg(long, default_value = "audit/allowlist.toml")]
    allowlist: PathBuf,
    /// Write the report as JSON into this file, or to the output with "-"
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the emulator saw (out/audit-dynamic/seen.jsonl): each access has to be known
    #[arg(long, value_name = "FILE", conflicts_with_all = ["live", "module"])]
    seen: Option<PathBuf>,
    /// Write the tables of Documentation/entry-audit.rst, likewise
    #[arg(long, value_name = "FILE")]
    rst: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Command::Audit(arguments) = Arguments::parse().command;
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Audit) -> Result<bool> {
    if let Some(path) = &arguments.module {
        return check_module(path, arguments.json.as_deref());
    }
    let image = match &arguments.image {
        Some(path) => Image::open(path, arguments.kallsyms.as_deref())?,
        None => Image::live()?,
    };
    let mut report = audit::run(&image, &arguments.allowlist)?;
    if let Some(path) = &arguments.seen {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let comparison = report.compare(BufReader::new(file))?;
        print!("{comparison}");
        return Ok(comparison.is_clean());
    }
    let mut is_printed = false;
    if let Some(path) = &arguments.json {
        is_printed |= write(path, &report.to_json()?)?;
    }
    if let Some(path) = &arguments.rst {
        is_printed |= write(path, &report.to_rst())?;
    }
    if !is_printed {
        print!("{report}");
        let usage = Usage::read()?;
        println!("used {} s and {} MiB", usage.seconds, usage.mebibytes);
    }
    Ok(report.is_clean())
}

/// What this process has used so far.
struct Usage {
    /// Of a processor, rounded up.
    seconds: u64,
    /// Memory at most, rounded up.
    mebibytes: u64,
}

/// What the times in /proc are counted in: USER_HZ.
const TICKS_PER_SECOND: u64 = 100;

impl Usage {
    /// From /proc/self/stat and /proc/self/status.
    fn read() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat
            .rsplit_once(')')
            .context("/proc/self/stat has no name")?;
        // The 14th and 15th field, of which the first two are the number and the name.
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
            .context("/proc/self/status has no VmHWM")?;
        Ok(Self {
            seconds: ticks.div_ceil(TICKS_PER_SECOND),
            mebibytes: kibibytes.trim().parse::<u64>()?.div_ceil(1024),
        })
    }
}

/// Writes a file. True: it was the standard output.
fn write(path: &Path, text: &str) -> Result<bool> {
    if path == Path::new("-") {
        print!("{text}");
        return Ok(true);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(false)
}

fn check_module(path: &Path, json: Option<&Path>) -> Result<bool> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report = audit::check_module(&bytes)?;
    let is_printed = match json {
        Some(json) => write(json, &serde_json::to_string_pretty(&report)?)?,
        None => false,
    };
    if !is_printed {
        print!("{report}");
    }
    Ok(report.is_clean())
}
