// SPDX-License-Identifier: GPL-2.0

//! Keeps dflush itself off the CPUs that must not be disturbed.

use crate::cpulist::CpuList;
use crate::system::System;
use anyhow::{Context, Result};
use rustix::process::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs of a machine on which anything may run: online, neither nohz_full nor isolated.
#[must_use]
pub fn cpus(system: &System) -> CpuList {
    system
        .cpus("online")
        .without(&system.cpus("nohz_full"))
        .without(&system.cpus("isolated"))
}

/// Binds this thread, and those that it starts from now on, to housekeeping CPUs: to those of them
/// on which it may run already, else to all.
///
/// # Errors
///
/// If the kernel does not let it run there.
pub fn pin() -> Result<()> {
    let wanted = cpus(&System::live());
    if wanted.is_empty() {
        return Ok(());
    }
    let chosen = match allowed().map(|allowed| allowed.and(&wanted)) {
        Some(both) if !both.is_empty() => both,
        _ => wanted,
    };
    let mut set = CpuSet::new();
    for cpu in chosen
        .iter()
        .filter(|cpu| (*cpu as usize) < CpuSet::MAX_CPU)
    {
        set.set(cpu as usize);
    }
    sched_setaffinity(None, &set).with_context(|| {
        format!(
            "cannot move to the housekeeping CPUs {chosen}, and would disturb isolated ones: \
             start dflush from a cpuset that has one of them"
        )
    })
}

/// Where this thread may run. `None` if the kernel has more CPUs than the set has room for.
fn allowed() -> Option<CpuList> {
    let set = sched_getaffinity(None).ok()?;
    Some(
        (0..CpuSet::MAX_CPU as u32)
            .filter(|cpu| set.is_set(*cpu as usize))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::{allowed, pin};
    use crate::housekeeping::cpus;
    use crate::system::System;

    #[test]
    fn a_pinned_thread_runs_on_housekeeping_cpus_only() {
        pin().expect("pinned");
        let housekeeping = cpus(&System::live());
        let allowed = allowed().expect("a machine of this size");
        assert!(!allowed.is_empty());
        assert!(housekeeping.is_empty() || allowed.without(&housekeeping).is_empty());
    }
}
