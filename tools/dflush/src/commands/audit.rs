// SPDX-License-Identifier: GPL-2.0

//! `dflush audit`: what a kernel touches before the deferred flush.

use super::Outcome;
use crate::output::Json;
use crate::usage::Usage;
use crate::{audit, image::Image, output};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Check which memory a kernel touches before the deferred flush
#[derive(clap::Args)]
pub(super) struct Arguments {
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
    /// What the emulator saw (out/audit-dynamic/seen.jsonl): each access has to be known
    #[arg(long, value_name = "FILE", conflicts_with_all = ["live", "module"])]
    seen: Option<PathBuf>,
    /// Write the tables of Documentation/entry-audit.rst, likewise
    #[arg(long, value_name = "FILE")]
    rst: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        if let Some(path) = &self.module {
            return self.check_module(path);
        }
        let image = match &self.image {
            Some(path) => Image::open(path, self.kallsyms.as_deref())?,
            None => Image::live()?,
        };
        let mut report = audit::run(&image, &self.allowlist)?;
        if let Some(path) = &self.seen {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let comparison = report.compare(BufReader::new(file))?;
            self.json.print(&comparison, &comparison)?;
            return Ok(Outcome::of(comparison.is_clean()));
        }
        self.json.write_text(|| report.to_json())?;
        if let Some(path) = &self.rst {
            output::write(path, &report.to_rst())?;
        }
        if !self.json.is_output() && self.rst.as_deref() != Some(Path::new("-")) {
            output::print(&report)?;
            let usage = Usage::read()?;
            output::print(&format_args!(
                "used {} s and {} MiB\n",
                usage.seconds, usage.mebibytes
            ))?;
        }
        Ok(Outcome::of(report.is_clean()))
    }

    fn check_module(&self, path: &Path) -> Result<Outcome> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report = audit::check_module(&bytes)?;
        self.json.print(&report, &report)?;
        Ok(Outcome::of(report.is_clean()))
    }
}
