// SPDX-License-Identifier: GPL-2.0

//! One window: everything is set up, then it counts for a while, then everything is read.

use super::comparison::{self, View};
use super::count::{Counts, Span};
use super::spinner::{Spinner, now};
use super::tracefs::Instance;
use crate::cpulist::CpuList;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ipi_trace::interrupts::{self, PerCpu};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// How often it looks whether the time is over.
const LOOK: Duration = Duration::from_millis(50);

/// How long what has been set up may take to calm down.
const SETTLE: Duration = Duration::from_millis(500);

/// What to measure.
pub(super) struct Plan<'a> {
    /// The CPUs.
    pub(super) cpus: &'a CpuList,
    /// Whether they are left to what runs there, without spinners.
    pub(super) observe: bool,
    /// A step of a spinner's clock longer than this is a gap.
    pub(super) threshold_ns: u64,
    /// How long; without it until the load ends.
    pub(super) seconds: Option<u64>,
    /// What to run meanwhile.
    pub(super) load: &'a [String],
    /// Set by a signal: it is to end now.
    pub(super) interrupted: Arc<AtomicBool>,
}

/// What was seen in a window.
#[derive(Serialize)]
pub(super) struct Window {
    /// What it is called.
    pub(super) label: String,
    /// When it was.
    #[serde(flatten)]
    pub(super) span: Span,
    /// The module at its end, and what it counted meanwhile; none if it was not loaded.
    pub(super) module: Option<Module>,
    /// What the trace and the spinners say.
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// How far the rows of /proc/interrupts rose.
    pub(super) interrupts: BTreeMap<String, PerCpu>,
    /// Events that found no room in the buffers.
    pub(super) lost_events: u64,
    /// How the load ended, if there was one and it ended by itself.
    pub(super) load_status: Option<String>,
    /// What makes its figures wrong, a sentence each.
    pub(super) faults: Vec<String>,
}

/// The module during a window.
#[derive(Serialize)]
pub(super) struct Module {
    /// `off`, `shadow` or `on`.
    pub(super) mode: String,
    /// `on`, `suspended: REASON` and so on.
    pub(super) state: String,
    /// How far its counters rose.
    pub(super) counters: BTreeMap<String, u64>,
}

impl Window {
    /// What a counter of the module's rose by; 0 without it.
    pub(super) fn counted(&self, counter: &str) -> u64 {
        let module = self.module.as_ref();
        module
            .and_then(|module| module.counters.get(counter))
            .copied()
            .unwrap_or(0)
    }
}

/// A load that runs. Dropped, it is killed with all its children that are still in its group.
struct Load(Child);

impl Load {
    fn start(command: &[String]) -> Result<Option<Self>> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(None);
        };
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // The output is the report's.
            .stdout(io::stderr())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the load '{program}'"))?;
        Ok(Some(Self(child)))
    }

    fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.0
            .try_wait()
            .context("cannot tell whether the load has ended")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A group that is gone has nobody to kill; its leader's number is ours until we wait.
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            if self.0.try_wait().is_ok_and(|status| status.is_none()) {
                let _ = kill_process_group(group, Signal::Kill);
            }
        }
        let _ = self.0.wait();
    }
}

impl Plan<'_> {
    /// Measures once.
    pub(super) fn measure(&self, label: &str) -> Result<Window> {
        let instance = Instance::create(self.cpus)?;
        let mut spinners = Vec::new();
        if !self.observe {
            for cpu in self.cpus.iter() {
                spinners.push(Spinner::start(cpu, self.threshold_ns)?);
            }
            for spinner in &mut spinners {
                spinner.go()?;
            }
        }
        sleep(SETTLE);
        for spinner in &mut spinners {
            spinner.begin()?;
        }
        let module_before = View::read()?;
        let interrupts_before = interrupts_now()?;
        instance.start()?;
        let start_ns = now();
        let load_status = self.wait(label)?;
        let end_ns = now();
        instance.stop()?;
        let interrupts_after = interrupts_now()?;
        let module_after = View::read()?;
        let mut seen = Vec::new();
        let usages: Vec<_> = spinners.iter().map(Spinner::usage).collect::<Result<_>>()?;
        for (spinner, usage) in spinners.into_iter().zip(usages) {
            seen.push((spinner.cpu(), usage, spinner.stop()?));
        }
        let span = Span { start_ns, end_ns };
        let lost_events = instance.lost()?;
        let counts = Counts::new(&instance.read()?, &seen, span, self.cpus);
        let cpus: Vec<u32> = self.cpus.iter().collect();
        let mut window = Window {
            label: label.to_owned(),
            span,
            module: comparison::between(module_before, module_after),
            counts,
            interrupts: interrupts::rises(&interrupts_before, &interrupts_after, &cpus)?,
            lost_events,
            load_status: load_status.map(|status| status.to_string()),
            faults: Vec::new(),
        };
        window.faults = faults(&window, load_status);
        Ok(window)
    }

    /// Runs the load, and waits until the window is over.
    fn wait(&self, label: &str) -> Result<Option<ExitStatus>> {
        let start = now();
        let limit = self.seconds.map(|seconds| seconds * 1_000_000_000);
        let bar = progress(label, limit);
        let mut load = Load::start(self.load)?;
        loop {
            sleep(LOOK);
            let elapsed = now() - start;
            bar.set_position(elapsed / 1_000_000);
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted; everything was put back as it was");
            }
            if let Some(status) = load.as_mut().map(Load::status).transpose()?.flatten() {
                bar.finish_and_clear();
                return Ok(Some(status));
            }
            if limit.is_some_and(|limit| elapsed >= limit) {
                bar.finish_and_clear();
                return Ok(None);
            }
        }
    }
}

/// On the error output, if that is a terminal.
fn progress(label: &str, limit_ns: Option<u64>) -> ProgressBar {
    let (bar, template) = match limit_ns {
        Some(limit) => (
            ProgressBar::new(limit / 1_000_000),
            "{prefix} [{bar:40}] {elapsed} of {msg}",
        ),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {elapsed}"),
    };
    if let Some(limit) = limit_ns {
        bar.set_message(format!("{} s", limit / 1_000_000_000));
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(format!("measure: {label}"))
}

fn interrupts_now() -> Result<String> {
    std::fs::read_to_string("/proc/interrupts").context("cannot read /proc/interrupts")
}

/// What makes the figures of a window other than what they seem.
fn faults(window: &Window, load: Option<ExitStatus>) -> Vec<String> {
    let mut faults = Vec::new();
    let label = &window.label;
    if window.lost_events > 0 {
        faults.push(format!(
            "{label}: {} events found no room in the trace buffers: the counts are too low, and the \
             end of the time line is missing. Measure fewer CPUs, or for a shorter time",
            window.lost_events
        ));
    }
    if let Some(status) = load.filter(|status| !status.success()) {
        faults.push(format!("{label}: the load failed ({status})"));
    }
    for (cpu, gaps) in &window.counts.gaps {
        if gaps.page_faults > 0 || gaps.context_switches > 0 {
            faults.push(format!(
                "{label}: the spinner of CPU {cpu} took {} page faults and was switched away {} \
                 times: it did not have the CPU for itself",
                gaps.page_faults, gaps.context_switches
            ));
        }
    }
    if let Some(module) = &window.module {
        let suspensions = window.counted("suspensions");
        if module.mode == "on" && (module.state != "on" || suspensions > 0) {
            faults.push(format!(
                "{label}: deferral was suspended {suspensions} times meanwhile, and is now \
                 '{}': the figures show the module with its work undone. Who traces this kernel \
                 besides dflush?",
                module.state
            ));
        }
    }
    faults
}
