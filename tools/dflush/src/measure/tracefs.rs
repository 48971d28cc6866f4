// SPDX-License-Identifier: GPL-2.0

//! A trace instance of our own, which goes when it is dropped: nobody else's tracing is touched.
//!
//! Only what is aimed at or arrives at the measured CPUs is recorded, by filters in the kernel. The
//! buffers are read at the end: a reader that waits would have itself woken by an interrupt that
//! the writing CPU sends itself.

use crate::cpulist::CpuList;
use anyhow::{Context, Result, bail};
use ipi_trace::trace::{self, Trace};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where tracefs is mounted, as a rule by systemd.
const TRACING: &str = "/sys/kernel/tracing";

/// What the directories of our instances begin with; the process's number follows.
const PREFIX: &str = "dflush-";

/// The buffers of all CPUs together, in KiB.
const TOTAL_KIB: u64 = 128 << 10;

/// The buffer of one CPU, in KiB. An interrupt with its stack takes some 300 bytes.
const PER_CPU_KIB: std::ops::RangeInclusive<u64> = 512..=(16 << 10);

/// The events of interrupts that are sent, each with the field that names the target.
const SENDS: [(&str, &str); 2] = [("ipi_send_cpumask", "cpumask"), ("ipi_send_cpu", "cpu")];

/// A directory in `/sys/kernel/tracing/instances`.
pub(super) struct Instance {
    path: PathBuf,
}

impl Instance {
    /// Makes an instance that will record what interrupts `cpus`. Enabling its events patches kernel
    /// code, which interrupts every CPU a few times.
    pub(super) fn create(cpus: &CpuList) -> Result<Self> {
        let instances = Path::new(TRACING).join("instances");
        if !instances.is_dir() {
            bail!(
                "there is no {}: dflush measure has to run as root, with tracefs mounted \
                 (mount -t tracefs tracefs {TRACING}), on a kernel that lockdown lets trace",
                instances.display()
            );
        }
        remove_abandoned(&instances);
        let path = instances.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make a trace instance in {}: dflush measure has to run as root",
                instances.display()
            )
        })?;
        let instance = Self { path };
        instance.configure(cpus)?;
        Ok(instance)
    }

    fn configure(&self, cpus: &CpuList) -> Result<()> {
        self.write("tracing_on", "0")?;
        // The clock of the spinners' time stamps.
        self.write("trace_clock", "mono")?;
        // What comes when a buffer is full is counted and dropped, so that the rest is in one piece.
        self.write("options/overwrite", "0")?;
        let online = crate::system::System::live().cpus("online").len().max(1) as u64;
        let size = (TOTAL_KIB / online).clamp(*PER_CPU_KIB.start(), *PER_CPU_KIB.end());
        self.write("buffer_size_kb", &size.to_string())?;
        for (event, target) in SENDS {
            let condition = format!("{target} & CPUS{{{cpus}}}");
            self.write(&format!("events/ipi/{event}/filter"), &condition)?;
            self.write(
                &format!("events/ipi/{event}/trigger"),
                &format!("stacktrace if {condition}"),
            )?;
        }
        // Which function an interrupt is to run; the others name only the dispatcher.
        self.write(
            "events/csd/csd_queue_cpu/filter",
            &format!("cpu & CPUS{{{cpus}}}"),
        )?;
        let here = format!("CPU & CPUS{{{cpus}}}");
        let mut events = vec!["csd/csd_queue_cpu".to_owned()];
        events.extend(SENDS.map(|(event, _)| format!("ipi/{event}")));
        let mut arrivals = vec!["irq/irq_handler_entry".to_owned()];
        arrivals.extend(self.vectors()?);
        for event in &arrivals {
            self.write(&format!("events/{event}/filter"), &here)?;
        }
        events.extend(arrivals);
        for event in events {
            self.write(&format!("events/{event}/enable"), "1")?;
        }
        Ok(())
    }

    /// The events `irq_vectors/*_entry` of this kernel.
    fn vectors(&self) -> Result<Vec<String>> {
        let directory = self.path.join("events/irq_vectors");
        let entries = fs::read_dir(&directory).with_context(|| cannot("read", &directory))?;
        let mut events = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with("_entry") {
                events.push(format!("irq_vectors/{name}"));
            }
        }
        Ok(events)
    }

    /// Records from now on.
    pub(super) fn start(&self) -> Result<()> {
        self.write("tracing_on", "1")
    }

    /// Records no more.
    pub(super) fn stop(&self) -> Result<()> {
        self.write("tracing_on", "0")
    }

    /// What was recorded.
    pub(super) fn read(&self) -> Result<Trace> {
        let path = self.path.join("trace");
        let file = File::open(&path).with_context(|| cannot("read", &path))?;
        trace::read(BufReader::with_capacity(1 << 16, file))
    }

    /// How many events found no room in the buffers.
    pub(super) fn lost(&self) -> Result<u64> {
        let directory = self.path.join("per_cpu");
        let mut lost = 0;
        for cpu in fs::read_dir(&directory).with_context(|| cannot("read", &directory))? {
            let path = cpu?.path().join("stats");
            let text = fs::read_to_string(&path).with_context(|| cannot("read", &path))?;
            lost += lost_in(&text).with_context(|| format!("in {}", path.display()))?;
        }
        Ok(lost)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text)
            .with_context(|| format!("cannot write '{text}' to {}", path.display()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its events go with it.
        if let Err(error) = remove(&self.path) {
            eprintln!(
                "warning: cannot remove the trace instance: {error}; say: rmdir {}",
                self.path.display()
            );
        }
    }
}

/// EBUSY as long as somebody has one of its files open.
fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
    fs::remove_dir(path)
}

/// Removes the instances of processes that were killed.
fn remove_abandoned(instances: &Path) {
    let Ok(entries) = fs::read_dir(instances) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if process.is_some_and(is_gone) {
            // Whoever looks into it keeps it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn is_gone(process: &str) -> bool {
    process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}

/// The events that a buffer's statistics count as lost.
fn lost_in(stats: &str) -> Result<u64> {
    let mut lost = 0;
    let mut seen = 0;
    for (key, value) in stats.lines().filter_map(|line| line.split_once(':')) {
        if ["overrun", "commit overrun", "dropped events"].contains(&key.trim()) {
            lost += value.trim().parse::<u64>()?;
            seen += 1;
        }
    }
    if seen != 3 {
        bail!("the buffer's statistics do not say what was lost");
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::{is_gone, lost_in};

    #[test]
    fn whatever_is_lost_is_counted() {
        let stats = "entries: 286\noverrun: 1\ncommit overrun: 20\nbytes: 17\n\
            oldest event ts: 26.0\nnow ts: 27.0\ndropped events: 300\nread events: 0\n";
        assert_eq!(lost_in(stats).unwrap(), 321);
        assert!(lost_in("entries: 286\n").is_err());
    }

    #[test]
    fn the_instance_of_a_living_process_stays() {
        assert!(!is_gone(&std::process::id().to_string()));
        assert!(!is_gone("mine"));
        assert!(is_gone("4294967295"));
    }
}
