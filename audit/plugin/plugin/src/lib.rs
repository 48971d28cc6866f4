// SPDX-License-Identifier: GPL-2.0

//! A TCG plugin of QEMU's that watches the isolated CPUs of a guest with deferred_flush in it: all
//! that they read and write while they may still owe a flush, see `entry_watch_logic::window`.
//!
//! Arguments: `kallsyms=FILE,cpus=LIST,out=DIRECTORY`. FILE is a copy of the guest's
//! /proc/kallsyms, of the same kernel booted with `nokaslr`, as this boot has to be. DIRECTORY gets
//! `report.txt`, `summary.json` and `seen.jsonl`, once a minute and when the guest ends.
//!
//! Of the crate qemu-plugin this uses what loads and registers a plugin and reads registers, and
//! its raw bindings for the rest: its wrappers allocate a closure for each instruction that is
//! translated and never free it, and its reading of memory hands QEMU a byte array that is none of
//! glib's, which QEMU then resizes.
//!
//! What it cannot see: accesses of the processor itself, when it walks page tables or delivers an
//! interrupt. Those of an interrupt from user mode go to the CPU entry area.

mod guest;
mod translate;
mod watch;

use qemu_plugin::{Args, HasCallbacks, Info, PluginId, Register, Result};
use std::path::PathBuf;
use watch::Watch;

struct EntryWatch;

impl HasCallbacks for EntryWatch {}

impl Register for EntryWatch {
    // The trait's own registers callbacks for everything, under one lock.
    fn register_default(&mut self, id: PluginId, args: &Args, info: &Info) -> Result<()> {
        let watch = Watch::new(&arguments(args, info)).unwrap_or_else(|error| {
            eprintln!("entry-watch: {error}");
            std::process::exit(1);
        });
        watch::start(watch);
        translate::register(id)
    }
}

/// The plugin's arguments.
struct Arguments {
    kallsyms: PathBuf,
    out: PathBuf,
    watched: Vec<usize>,
    cpus: usize,
}

fn arguments(args: &Args, info: &Info) -> Arguments {
    let value = |name: &str| {
        let prefix = format!("{name}=");
        let found = args.raw.iter().find_map(|raw| raw.strip_prefix(&prefix));
        found.unwrap_or_else(|| {
            eprintln!("entry-watch: the argument {prefix} is missing");
            std::process::exit(1);
        })
    };
    let cpus = info.system.as_ref().map_or(1, |system| system.smp_vcpus);
    Arguments {
        kallsyms: value("kallsyms").into(),
        out: value("out").into(),
        watched: cpu_list(value("cpus")).unwrap_or_else(|| {
            eprintln!("entry-watch: cpus= wants FIRST-LAST or one number");
            std::process::exit(1);
        }),
        cpus: usize::try_from(cpus).unwrap_or(1),
    }
}

fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?..=last.parse().ok()?).collect())
}

qemu_plugin::register!(EntryWatch);
