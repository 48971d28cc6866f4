// SPDX-License-Identifier: GPL-2.0

//! The kernel: how it was built, and with which CPUs it was told to leave alone.

use super::{Item, Machine};
use crate::cpulist::CpuList;

const OTHER_KERNEL: &str = "use a kernel that is built with it: Debian's 7.2 or newer, for example";

pub(super) fn items(machine: &Machine) -> Vec<Item> {
    let mut items = vec![architecture(machine)];
    items.extend(config(machine));
    items.push(nohz_full(machine));
    items.extend(isolation(machine));
    items
}

fn architecture(machine: &Machine) -> Item {
    const NAME: &str = "architecture";
    let arch = machine
        .system
        .read("/proc/sys/kernel/arch")
        .unwrap_or_default();
    match arch.trim() {
        "x86_64" => Item::fine(NAME, "x86-64"),
        "" => Item::unknown(
            NAME,
            "this kernel does not tell",
            "the module is for x86-64 only",
        ),
        other => Item::fail(NAME, other, "the module is for x86-64 only"),
    }
}

/// What the module builds on, and what is missing without it.
const NEEDED: [(&str, &[&str], &str); 4] = [
    ("rust", &["RUST"], "modules in Rust"),
    (
        "context_tracking",
        &["NO_HZ_FULL", "CONTEXT_TRACKING_USER"],
        "the kernel's knowledge which CPU is in user mode",
    ),
    (
        "ftrace",
        &[
            "DYNAMIC_FTRACE_WITH_ARGS",
            "DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
        ],
        "hooks without changes to the kernel (ftrace's direct calls and IPMODIFY)",
    ),
    (
        "kprobes",
        &["KPROBES", "KALLSYMS"],
        "finding the functions to hook",
    ),
];

fn config(machine: &Machine) -> Vec<Item> {
    let Some(config) = &machine.config else {
        return vec![Item::unknown(
            "config",
            format!("no configuration of kernel {} is found", machine.release),
            "install the package with this kernel's headers, or name its build directory with \
             --kdir",
        )];
    };
    let mut items: Vec<_> = NEEDED
        .iter()
        .map(|(name, options, what)| {
            let missing: Vec<_> = options
                .iter()
                .filter(|option| !config.is_set(option))
                .map(|option| format!("CONFIG_{option}"))
                .collect();
            if missing.is_empty() {
                Item::fine(name, format!("{what} ({})", config.source))
            } else {
                Item::fail(
                    name,
                    format!("{} is off: {what}", missing.join(" and ")),
                    OTHER_KERNEL,
                )
            }
        })
        .collect();
    items.push(if config.is_set("RCU_TRACE") {
        Item::fail(
            "rcu_trace",
            "CONFIG_RCU_TRACE is on: a tracepoint lies before the deferred flush",
            "use a kernel without it: distributions' ordinary kernels are",
        )
    } else {
        Item::fine("rcu_trace", "no tracepoint lies before the deferred flush")
    });
    if !config.is_set("DEBUG_FS") {
        items.push(Item::note(
            "debugfs",
            "CONFIG_DEBUG_FS is off: the module works, but its counters cannot be read",
            OTHER_KERNEL,
        ));
    }
    items
}

fn nohz_full(machine: &Machine) -> Item {
    const NAME: &str = "nohz_full";
    let cpus = machine.system.cpus("nohz_full");
    if cpus.is_empty() {
        let remedy = format!(
            "boot with nohz_full={} on the kernel's command line, or another list of the CPUs that \
             are not to be interrupted; on Debian add it to GRUB_CMDLINE_LINUX in \
             /etc/default/grub, run update-grub and reboot",
            example(&machine.system.cpus("online"))
        );
        return Item::fail(
            NAME,
            "no CPU is in nohz_full: there is nothing to protect",
            remedy,
        );
    }
    Item::fine(NAME, format!("CPUs {cpus}"))
}

/// All but the first CPU.
fn example(online: &CpuList) -> String {
    let others: CpuList = online.iter().skip(1).collect();
    if others.is_empty() {
        "1-3".into()
    } else {
        others.to_string()
    }
}

/// Not needed, but what else keeps work away from such CPUs.
fn isolation(machine: &Machine) -> Vec<Item> {
    let cpus = machine.system.cpus("nohz_full");
    if cpus.is_empty() {
        return Vec::new();
    }
    let mut items = Vec::new();
    let open = cpus.without(&machine.system.cpus("isolated"));
    items.push(if open.is_empty() {
        Item::fine("isolation", "the scheduler leaves these CPUs alone")
    } else {
        Item::note(
            "isolation",
            format!("the scheduler may put any task on CPUs {open}"),
            format!(
                "boot with isolcpus=domain,managed_irq,{cpus}, or make an isolated cpuset \
             partition of them"
            ),
        )
    });
    let command_line = machine.system.read("/proc/cmdline").unwrap_or_default();
    let mut isolcpus = command_line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("isolcpus="));
    if !isolcpus.any(|value| value.split(',').any(|flag| flag == "managed_irq")) {
        items.push(Item::note(
            "managed_irq",
            "devices with many queues may interrupt these CPUs",
            format!("add managed_irq to isolcpus=, as in isolcpus=domain,managed_irq,{cpus}"),
        ));
    }
    items
}
