// SPDX-License-Identifier: GPL-2.0

//! `dflush measure`: who interrupts the isolated CPUs?

use super::Outcome;
use crate::cpulist::CpuList;
use crate::measure::{self, Options};
use crate::output::{self, Json};
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Count what interrupts isolated CPUs: who, why, and how long it takes them away
///
/// A spinner occupies each of the CPUs and notes when it is interrupted, while the kernel's events
/// (in a trace instance of their own) tell who sent it and why. LOAD runs meanwhile on housekeeping
/// CPUs. Without it, whatever the machine does anyway is measured.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The CPUs to look at, as a list such as 1-3,8; by default nohz_full's
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// How long; by default until LOAD ends, or 10 without a LOAD
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Start no spinners: look at the CPUs with what runs there
    #[arg(long)]
    observe: bool,
    /// A jump of a spinner's clock longer than this many nanoseconds is a gap
    #[arg(long, value_name = "NS", default_value_t = 2000)]
    threshold_ns: u64,
    /// Measure twice, without and with the module at work: loads it or switches its mode, and puts
    /// it back as it was
    #[arg(long)]
    compare: bool,
    /// The module's file, for --compare if it is not installed
    #[arg(long, value_name = "FILE", requires = "compare")]
    module: Option<PathBuf>,
    /// Write a page with charts, which needs no network to be looked at
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
    /// What measure starts on each CPU
    #[arg(long, hide = true, value_name = "CPU")]
    spinner: Option<u32>,
    /// A command to run meanwhile, with its arguments
    #[arg(last = true, value_name = "LOAD")]
    load: Vec<String>,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        if let Some(cpu) = self.spinner {
            measure::spin(cpu, self.threshold_ns)?;
            return Ok(Outcome::Fine);
        }
        ensure!(
            self.cpus.as_ref().is_none_or(|cpus| !cpus.is_empty()),
            "--cpus names no CPU"
        );
        let report = measure::run(&Options {
            cpus: self.cpus.clone(),
            seconds: self.seconds,
            observe: self.observe,
            threshold_ns: self.threshold_ns,
            compare: self.compare,
            module: self.module.clone(),
            load: self.load.clone(),
        })?;
        if let Some(path) = &self.html {
            output::write(path, &report.to_html()?)?;
        }
        self.json.print(&report, &report)?;
        Ok(Outcome::of(report.is_sound()))
    }
}
