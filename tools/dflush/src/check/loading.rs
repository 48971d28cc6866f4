// SPDX-License-Identifier: GPL-2.0

//! Whether the kernel lets the module in.

use super::{Item, Machine};
use crate::system::System;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

pub(super) fn items(machine: &Machine) -> Vec<Item> {
    let mut items = vec![lockdown(machine), signature(machine)];
    if let Some(item) = modules_disabled(machine) {
        items.push(item);
    }
    items.push(module(machine));
    items
}

/// The level of lockdown, from `none [integrity] confidentiality`.
fn lockdown_level(system: &System) -> Option<String> {
    let text = system.read("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn has_secure_boot(system: &System) -> bool {
    const FILE: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    // Four bytes of attributes, then the value.
    std::fs::read(system.path(FILE)).is_ok_and(|bytes| bytes.get(4) == Some(&1))
}

fn lockdown(machine: &Machine) -> Item {
    const NAME: &str = "lockdown";
    let secure_boot = if has_secure_boot(machine.system) {
        ", with Secure Boot"
    } else {
        ""
    };
    match lockdown_level(machine.system).as_deref() {
        Some("none") => Item::fine(NAME, format!("none{secure_boot}")),
        Some(level) => Item::note(
            NAME,
            format!("{level}{secure_boot}: modules have to be signed"),
            "see 'signature'; the module's control files and views work under lockdown",
        ),
        None if lacks(machine, "SECURITY_LOCKDOWN_LSM") => Item::fine(NAME, "this kernel has none"),
        None => Item::unknown(
            NAME,
            "/sys/kernel/security/lockdown cannot be read",
            "run dflush check as root; mount it with 'mount -t securityfs securityfs \
             /sys/kernel/security' if it is missing",
        ),
    }
}

/// Whether the configuration is known and the option is not set.
fn lacks(machine: &Machine, option: &str) -> bool {
    machine
        .config
        .as_ref()
        .is_some_and(|config| !config.is_set(option))
}

/// Why an unsigned module would be refused.
fn enforcement(machine: &Machine) -> Option<&'static str> {
    let enforced = machine
        .system
        .read("/sys/module/module/parameters/sig_enforce");
    if enforced.is_ok_and(|value| value.trim() == "Y") {
        return Some("module.sig_enforce");
    }
    if machine
        .config
        .as_ref()
        .is_some_and(|config| config.is_set("MODULE_SIG_FORCE"))
    {
        return Some("CONFIG_MODULE_SIG_FORCE");
    }
    let level = lockdown_level(machine.system);
    level
        .is_some_and(|level| level != "none")
        .then_some("lockdown")
}

fn signature(machine: &Machine) -> Item {
    const NAME: &str = "signature";
    const SIGN: &str = "sign the module with a key that the kernel trusts: DKMS does so, and \
                        'mokutil --import /var/lib/dkms/mok.pub' followed by a reboot makes its \
                        key trusted";
    let Some(by) = enforcement(machine) else {
        return Item::fine(NAME, "the kernel takes modules without a signature");
    };
    if machine.is_loaded() {
        return Item::fine(
            NAME,
            format!("asked for by {by}; the loaded module has passed"),
        );
    }
    match installed(machine).map(|path| (is_signed(machine.system, &path), path)) {
        Some((Some(true), path)) => Item::note(
            NAME,
            format!("asked for by {by}; {path} has one"),
            "if it is refused all the same (\"Key was rejected by service\"), its key has to be \
             enrolled: 'mokutil --import /var/lib/dkms/mok.pub' and a reboot",
        ),
        Some((None, path)) => Item::unknown(
            NAME,
            format!("asked for by {by}; {path} is compressed"),
            format!("'modinfo {path}' says whether it has a signature; if not, {SIGN}"),
        ),
        Some((Some(false), path)) => Item::fail(
            NAME,
            format!("asked for by {by}, and {path} has none"),
            SIGN,
        ),
        None => Item::fail(NAME, format!("asked for by {by}"), SIGN),
    }
}

/// The path of the module that modprobe would load.
fn installed(machine: &Machine) -> Option<String> {
    let directory = format!("/lib/modules/{}", machine.release);
    let list = machine
        .system
        .read(format!("{directory}/modules.dep"))
        .ok()?;
    let is_module = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.strip_prefix("deferred_flush.ko")
            .is_some_and(|end| ["", ".xz", ".zst", ".gz"].contains(&end))
    };
    let mut paths = list.lines().filter_map(|line| line.split(':').next());
    paths.find(is_module).map(|path| {
        if path.starts_with('/') {
            path.into()
        } else {
            format!("{directory}/{path}")
        }
    })
}

/// Whether the file ends as a signed module does. `None` for a compressed one.
fn is_signed(system: &System, path: &str) -> Option<bool> {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    if Path::new(path).extension()? != "ko" {
        return None;
    }
    let mut end = Vec::new();
    let mut file = File::open(system.path(path)).ok()?;
    file.seek(SeekFrom::End(-i64::try_from(MAGIC.len()).ok()?))
        .ok()?;
    file.read_to_end(&mut end).ok()?;
    Some(end == MAGIC)
}

fn modules_disabled(machine: &Machine) -> Option<Item> {
    let value = machine
        .system
        .read("/proc/sys/kernel/modules_disabled")
        .ok()?;
    (value.trim() == "1" && !machine.is_loaded()).then(|| {
        Item::fail(
            "modules_disabled",
            "kernel.modules_disabled is 1: no module can be loaded until the next boot",
            "reboot, and load deferred_flush before whatever sets it (a file in \
             /etc/modules-load.d does)",
        )
    })
}

fn module(machine: &Machine) -> Item {
    const NAME: &str = "module";
    if machine.is_loaded() {
        return match &machine.control {
            Some(control) if control.is_degraded() => Item::fail(
                NAME,
                format!("loaded, state {}", control.state),
                "every interrupt is sent; reboot, and read the kernel's log for what ftrace \
                 complained about",
            ),
            Some(control) => Item::fine(NAME, format!("loaded, state {}", control.state)),
            None => Item::fine(NAME, "loaded"),
        };
    }
    match installed(machine) {
        Some(path) => Item::fine(
            NAME,
            format!("installed as {path}; load it with 'modprobe deferred_flush'"),
        ),
        None => Item::note(
            NAME,
            "not installed for this kernel",
            "install the package deferred-flush-dkms, or build it: 'make && make install'",
        ),
    }
}
