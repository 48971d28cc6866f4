// SPDX-License-Identifier: GPL-2.0

//! What building the module needs.

use super::{Item, Machine, Verdict};
use std::path::Path;

pub(super) fn items(machine: &Machine) -> Vec<Item> {
    let kdir = if let Some(kdir) = &machine.options.kdir {
        machine.system.path(kdir)
    } else {
        let link = format!("/lib/modules/{}/build", machine.release);
        machine.system.path(machine.system.follow(link))
    };
    let mut items = vec![
        headers(machine, &kdir),
        metadata(&kdir),
        rustc(machine),
        bindgen(machine),
    ];
    if machine.is_loaded() {
        // It has been built already, here or elsewhere.
        for item in items
            .iter_mut()
            .filter(|item| item.verdict == Verdict::Fail)
        {
            item.verdict = Verdict::Note;
            item.found
                .push_str(" (only building needs it, and the module is loaded)");
        }
    }
    items
}

fn headers(machine: &Machine, kdir: &Path) -> Item {
    const NAME: &str = "headers";
    let release = &machine.release;
    let missing = ["Makefile", ".config", "Module.symvers"]
        .into_iter()
        .find(|file| !kdir.join(file).exists());
    match missing {
        None => Item::fine(NAME, kdir.display().to_string()),
        Some(file) => Item::fail(
            NAME,
            format!("{} is missing", kdir.join(file).display()),
            format!(
                "install this kernel's headers: 'apt install linux-headers-{release}' on Debian \
                 and Ubuntu, 'dnf install kernel-devel-{release}' on Fedora; or name a build \
                 directory with --kdir"
            ),
        ),
    }
}

fn metadata(kdir: &Path) -> Item {
    const NAME: &str = "rust_metadata";
    let rust = kdir.join("rust");
    let missing = ["libcore.rmeta", "libkernel.rmeta", "libmacros.so"]
        .into_iter()
        .find(|file| !rust.join(file).exists());
    match missing {
        None => Item::fine(NAME, rust.display().to_string()),
        Some(file) => Item::fail(
            NAME,
            format!(
                "{} is missing: these headers cannot build modules in Rust",
                rust.join(file).display()
            ),
            "Debian does not ship it: the package deferred-flush-dkms prepares it before it \
             builds, and 'scripts/kernel' in the source does so in a directory of its own; on \
             Fedora install kernel-devel, on Ubuntu linux-lib-rust of this kernel",
        ),
    }
}

fn rustc(machine: &Machine) -> Item {
    const NAME: &str = "rustc";
    let wanted = machine
        .config
        .as_ref()
        .and_then(|config| config.get("RUSTC_VERSION_TEXT"));
    match (wanted, machine.facts.rustc.as_deref()) {
        (Some(wanted), Some(found)) if wanted == found => Item::fine(NAME, found),
        (Some(wanted), found) => {
            let found = match found {
                Some(found) => {
                    format!("'{found}' is not the compiler that built the kernel, '{wanted}'")
                }
                None => format!("there is none; the kernel was built by '{wanted}'"),
            };
            Item::fail(
                NAME,
                found,
                "install exactly that compiler from the release that the kernel is built for \
                 (on Debian 'apt install rustc rust-src' of the same suite), or name it in the \
                 variable RUSTC",
            )
        }
        (None, found) => Item::unknown(
            NAME,
            format!(
                "{}; which compiler built the kernel is not known",
                found.unwrap_or("none")
            ),
            "see 'rust': a kernel without Rust names none",
        ),
    }
}

fn bindgen(machine: &Machine) -> Item {
    const NAME: &str = "bindgen";
    match &machine.facts.bindgen {
        Some(found) => Item::fine(NAME, found),
        None => Item::fail(
            NAME,
            "there is none",
            "'apt install bindgen clang' on Debian and Ubuntu, 'dnf install bindgen-cli clang' \
             on Fedora, or name it in the variable BINDGEN",
        ),
    }
}
