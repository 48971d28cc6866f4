// SPDX-License-Identifier: GPL-2.0

//! `dflush measure`: who interrupts the isolated CPUs?
//!
//! `window` measures once: with `tracefs`, which records who sends interrupts and what arrives, and
//! with a `spinner` on each CPU, which notes its `gaps`. `count` makes figures of that, `comparison`
//! switches the module in between, and `report`, `text`, `html` and `chart` show it.

mod chart;
mod comparison;
mod count;
mod gaps;
mod html;
mod report;
mod spinner;
mod text;
mod tracefs;
mod window;

pub use report::Report;

use crate::cpulist::CpuList;
use crate::system::System;
use anyhow::{Context, Result, bail, ensure};
use comparison::Comparison;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use window::Plan;

/// How long a window is if neither a time nor a load says.
const SECONDS: u64 = 10;

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The CPUs; by default those of nohz_full, or if there are none the isolated ones.
    pub cpus: Option<CpuList>,
    /// How long each window is, in seconds; by default until the load ends, or ten.
    pub seconds: Option<u64>,
    /// Leave the CPUs to what runs there.
    pub observe: bool,
    /// A jump of a spinner's clock longer than this, in nanoseconds, is a gap.
    pub threshold_ns: u64,
    /// Measure without and with the module at work.
    pub compare: bool,
    /// The module's file, if it has to be loaded and is not installed.
    pub module: Option<PathBuf>,
    /// What to run meanwhile, on housekeeping CPUs.
    pub load: Vec<String>,
}

/// Measures.
///
/// # Errors
///
/// If it cannot, or was interrupted by a signal. Everything is as it was before in any case.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.seconds != Some(0), "--seconds has to be at least 1");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(&interrupted))
            .context("cannot catch signals")?;
    }
    let system = System::live();
    let cpus = match &options.cpus {
        Some(cpus) => cpus.clone(),
        None => default_cpus(&system)?,
    };
    let offline = cpus.without(&system.cpus("online"));
    ensure!(
        offline.is_empty(),
        "CPU {offline} is not online; say --cpus LIST"
    );
    let elsewhere = crate::housekeeping::cpus(&system).without(&cpus);
    ensure!(
        !elsewhere.is_empty(),
        "no CPU is left for dflush and the load: measure fewer than all housekeeping CPUs"
    );
    if !options.observe {
        spinner::check_clock()?;
    }
    let plan = Plan {
        cpus: &cpus,
        observe: options.observe,
        threshold_ns: options.threshold_ns,
        seconds: options
            .seconds
            .or(options.load.is_empty().then_some(SECONDS)),
        load: &options.load,
        interrupted,
    };
    let mut windows = Vec::new();
    if options.compare {
        let comparison = Comparison::new(options.module.as_deref())?;
        windows.push(plan.measure(comparison.before()?)?);
        windows.push(plan.measure(comparison.after()?)?);
    } else {
        windows.push(plan.measure("as it is")?);
    }
    Ok(Report::new(&system, &plan, windows))
}

/// What `dflush measure --spinner CPU` does, which `measure` starts for each CPU.
///
/// # Errors
///
/// If it cannot run there undisturbed.
pub fn spin(cpu: u32, threshold_ns: u64) -> Result<()> {
    spinner::run(cpu, threshold_ns)
}

fn default_cpus(system: &System) -> Result<CpuList> {
    for list in ["nohz_full", "isolated"] {
        let cpus = system.cpus(list).and(&system.cpus("online"));
        if !cpus.is_empty() {
            return Ok(cpus);
        }
    }
    bail!(
        "this machine was booted without isolated CPUs (nohz_full= or isolcpus=); \
         say --cpus LIST for the CPUs to look at"
    )
}
