// SPDX-License-Identifier: GPL-2.0

//! A program that sits in user mode on one CPU and notes when its clock jumps.
//!
//! Each spinner is a process of its own, `dflush measure --spinner CPU`: a thread would share its
//! page tables with dflush, whose own unmapping would then interrupt it. All its memory is locked,
//! and while it spins it reads the clock in the vDSO and makes no system call. Its standard input
//! and output connect it with dflush: it says "ready", waits for "go", and after SIGTERM says what
//! it has seen.

use super::gaps::{Log, Seen};
use anyhow::{Context, Result, bail, ensure};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    CpuSet, Pid, Signal, kill_process, sched_getaffinity, sched_setaffinity,
    set_parent_process_death_signal,
};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const READY: &str = "ready\n";
const GO: &str = "go\n";

/// The clock sources that the vDSO can read without the kernel.
const IN_USER_MODE: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

/// Now, in nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What `dflush measure --spinner CPU` does.
pub(super) fn run(cpu: u32, threshold_ns: u64) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::Kill)).context("cannot tie itself to dflush")?;
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))
        .context("cannot catch SIGTERM")?;
    let elsewhere = sched_getaffinity(None).context("cannot tell where it may run")?;
    let mut here = CpuSet::new();
    ensure!(
        (cpu as usize) < CpuSet::MAX_CPU,
        "CPU {cpu} is out of reach"
    );
    here.set(cpu as usize);
    let mut log = Log::new();
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
        .context("cannot lock its memory (raise RLIMIT_MEMLOCK, or run as root)")?;
    sched_setaffinity(None, &here)
        .with_context(|| format!("cannot run on CPU {cpu} (is it online, and in this cpuset?)"))?;
    print!("{READY}");
    io::stdout().flush()?;
    let mut order = String::new();
    io::stdin().lock().read_line(&mut order)?;
    ensure!(order == GO, "it was not told to begin");
    let steps = spin(&mut log, &stop, threshold_ns);
    // The rest of the work is not for this CPU.
    sched_setaffinity(None, &elsewhere).context("cannot go back to where it came from")?;
    serde_json::to_writer(io::stdout().lock(), &log.into_seen(steps))?;
    Ok(())
}

/// Notes each step of the clock longer than `threshold_ns` until told to stop.
fn spin(log: &mut Log, stop: &AtomicBool, threshold_ns: u64) -> u64 {
    let mut steps = 0;
    let mut last = now();
    while !stop.load(Ordering::Relaxed) {
        let time = now();
        let length = time.saturating_sub(last);
        if length > threshold_ns {
            log.note(last, length);
        }
        last = time;
        steps += 1;
    }
    steps
}

/// A spinner as dflush sees it. Dropped, it is killed.
pub(super) struct Spinner {
    cpu: u32,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    usage: Usage,
}

/// What says that a spinner did not stay in user mode, since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Page faults.
    pub(super) page_faults: u64,
    /// Times that it was switched away.
    pub(super) context_switches: u64,
}

impl Spinner {
    /// Starts one, which waits on its CPU.
    pub(super) fn start(cpu: u32, threshold_ns: u64) -> Result<Self> {
        // A group of its own: Ctrl-C on the terminal is for dflush.
        let mut child = Command::new("/proc/self/exe")
            .args(["measure", "--spinner", &cpu.to_string()])
            .args(["--threshold-ns", &threshold_ns.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start a spinner")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the spinner has no pipes");
        };
        let mut spinner = Self {
            cpu,
            child,
            input,
            output: BufReader::new(output),
            usage: Usage::default(),
        };
        let mut answer = String::new();
        spinner.output.read_line(&mut answer)?;
        ensure!(
            answer == READY,
            "the spinner of CPU {cpu} has ended: its error stands above"
        );
        Ok(spinner)
    }

    /// Lets it spin.
    pub(super) fn go(&mut self) -> Result<()> {
        self.input
            .write_all(GO.as_bytes())
            .with_context(|| format!("the spinner of CPU {} has ended", self.cpu))
    }

    /// Counts its faults and switches from now on.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.usage = self.read_usage()?;
        Ok(())
    }

    /// Its faults and switches since [`Spinner::begin`].
    pub(super) fn usage(&self) -> Result<Usage> {
        let now = self.read_usage()?;
        Ok(Usage {
            page_faults: now.page_faults.saturating_sub(self.usage.page_faults),
            context_switches: now
                .context_switches
                .saturating_sub(self.usage.context_switches),
        })
    }

    fn read_usage(&self) -> Result<Usage> {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id()))
                .with_context(|| format!("the spinner of CPU {} has ended", self.cpu))
        };
        usage(&read("stat")?, &read("status")?)
            .with_context(|| format!("cannot tell what the spinner of CPU {} did", self.cpu))
    }

    /// Ends it. What it has seen goes on until after this call began.
    pub(super) fn stop(mut self) -> Result<Seen> {
        kill_process(self.pid()?, Signal::Term)
            .with_context(|| format!("cannot end the spinner of CPU {}", self.cpu))?;
        let mut text = Vec::new();
        self.output.read_to_end(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the spinner of CPU {} failed", self.cpu);
        serde_json::from_slice(&text)
            .with_context(|| format!("cannot read what the spinner of CPU {} saw", self.cpu))
    }

    /// The CPU that it spins on.
    pub(super) fn cpu(&self) -> u32 {
        self.cpu
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id() as i32).context("a process without a number")
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // Both do nothing if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails if reading the clock enters the kernel on this machine: then nobody can spin.
pub(super) fn check_clock() -> Result<()> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let source = source.trim();
    ensure!(
        IN_USER_MODE.contains(&source),
        "this machine's clock source is {source}, which user mode cannot read: a spinner would be in \
         the kernel all the time. Make tsc the clock source (see the kernel log for why it is not), \
         or say --observe to measure without spinners"
    );
    Ok(())
}

/// Page faults and context switches from `/proc/PID/stat` and `/proc/PID/status`.
fn usage(stat: &str, status: &str) -> Option<Usage> {
    // The name may hold anything, parentheses included.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let switches = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    Some(Usage {
        page_faults: number(7)? + number(9)?,
        context_switches: switches("voluntary_ctxt_switches:")?
            + switches("nonvoluntary_ctxt_switches:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Usage, now, usage};

    #[test]
    fn faults_and_switches_are_found() {
        let stat = "12 (a) b (c) R 1 12 12 0 -1 4194304 101 0 7 0 5 6 0 0 20 0 1 0 100 1 1\n";
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t40\n";
        assert_eq!(
            usage(stat, status),
            Some(Usage {
                page_faults: 108,
                context_switches: 43,
            })
        );
        assert_eq!(usage("12 (x) R", status), None);
        assert_eq!(usage(stat, "Name:\tx\n"), None);
    }

    #[test]
    fn the_clock_goes_on() {
        let first = now();
        assert!(now() >= first && first > 0);
    }
}
