// SPDX-License-Identifier: GPL-2.0

//! Who has attached code to the functions on the paths of the running kernel: ftrace callbacks, and
//! with them fprobes and BPF trampolines, and kprobes.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

const ENABLED_FUNCTIONS: &str = "enabled_functions";
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const KPROBES: &str = "/sys/kernel/debug/kprobes/list";

/// A function and what the kernel says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) function: String,
    pub(super) what: String,
}

/// Reads both lists of the running kernel and keeps what is on the paths.
pub(super) fn read(functions: &BTreeSet<String>) -> Result<Vec<Attached>> {
    let enabled = TRACEFS
        .iter()
        .map(|root| Path::new(root).join(ENABLED_FUNCTIONS))
        .find_map(|path| std::fs::read_to_string(path).ok())
        .context("cannot read enabled_functions: is tracefs mounted?")?;
    let kprobes = std::fs::read_to_string(KPROBES)
        .with_context(|| format!("cannot read {KPROBES}: is debugfs mounted?"))?;
    Ok(on_paths(&enabled, &kprobes, functions))
}

/// `NAME (COUNT) FLAGS ...` and `ADDRESS KIND NAME+OFFSET [STATE]`.
fn on_paths(enabled: &str, kprobes: &str, functions: &BTreeSet<String>) -> Vec<Attached> {
    let mut attached = Vec::new();
    for line in enabled.lines() {
        let mut words = line.split_whitespace();
        if let Some(name) = words.next() {
            if functions.contains(name) {
                attached.push(Attached {
                    function: name.into(),
                    what: format!("ftrace: {}", words.collect::<Vec<_>>().join(" ")),
                });
            }
        }
    }
    for line in kprobes.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [_, _, place, ..] = words[..] {
            if let Some(name) = place.split('+').next() {
                if functions.contains(name) {
                    attached.push(Attached {
                        function: name.into(),
                        what: format!("kprobe: {}", words[1..].join(" ")),
                    });
                }
            }
        }
    }
    attached
}

#[cfg(test)]
mod tests {
    use super::{Attached, on_paths};

    #[test]
    fn only_what_is_on_the_paths_is_listed() {
        let enabled = "vfs_read (1)           \tI\tcallback\n\
                       __rcu_read_lock (2) R D \tdirect-->bpf_trampoline_1\n";
        let kprobes = "ffffffff81000010  k  __rcu_read_lock+0x4    [OPTIMIZED]\n\
                       ffffffff81000020  r  vfs_write+0x0    [DISABLED]\n";
        let functions = ["__rcu_read_lock".to_owned(), "nmi_handle".to_owned()];
        let found = on_paths(enabled, kprobes, &functions.into());
        let entry = |what: &str| Attached {
            function: "__rcu_read_lock".into(),
            what: what.into(),
        };
        assert_eq!(
            found,
            [
                entry("ftrace: (2) R D direct-->bpf_trampoline_1"),
                entry("kprobe: k __rcu_read_lock+0x4 [OPTIMIZED]")
            ]
        );
    }
}
