// SPDX-License-Identifier: GPL-2.0

//! The processor and what runs below the kernel.

use super::{Item, Machine};
use crate::system::System;
use anyhow::{Context, Result};

/// What /proc/cpuinfo says of the first CPU.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    vendor: String,
    family: u32,
    flags: Vec<String>,
}

impl Processor {
    pub(super) fn read(system: &System) -> Result<Self> {
        let text = system
            .read("/proc/cpuinfo")
            .context("cannot read /proc/cpuinfo: is /proc mounted?")?;
        let value = |name: &str| {
            let pairs = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = pairs.filter(|(key, _)| key.trim() == name);
            values
                .next()
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        Ok(Self {
            vendor: value("vendor_id"),
            family: value("cpu family").parse().unwrap_or(0),
            flags: value("flags")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }
}

pub(super) fn items(machine: &Machine) -> Vec<Item> {
    let mut items = vec![
        invlpgb(machine),
        family(machine),
        xen(machine),
        encryption(machine),
    ];
    if machine.processor.has("pti") {
        items.push(Item::note(
            "pti",
            "page-table isolation is on: it works, and each deferred flush empties the TLB of \
             both page tables",
            "none needed; processors without Meltdown run without it",
        ));
    }
    items
}

fn invlpgb(machine: &Machine) -> Item {
    const NAME: &str = "invlpgb";
    match machine.facts.has_invlpgb {
        Some(false) => Item::fine(NAME, "the processor flushes other CPUs by interrupts"),
        Some(true) => Item::fail(
            NAME,
            "the processor has INVLPGB: its kernel flushes other CPUs without interrupts",
            "none needed: there is nothing for the module to do here, and it refuses to load",
        ),
        None => Item::unknown(
            NAME,
            "this was not recorded",
            "run dflush check on the machine itself; AMD has INVLPGB since the EPYC 7003",
        ),
    }
}

fn family(machine: &Machine) -> Item {
    const NAME: &str = "amd_family_10h";
    match (machine.processor.vendor.as_str(), machine.processor.family) {
        ("AuthenticAMD", 0x10) => Item::fail(
            NAME,
            "AMD family 10h can machine-check on mixed page sizes in the TLB",
            "use another machine: the module refuses to load on this one",
        ),
        (vendor, family) => Item::fine(NAME, format!("{vendor} family {family:x}h")),
    }
}

fn xen(machine: &Machine) -> Item {
    const NAME: &str = "xen_pv";
    let hypervisor = |file: &str| {
        let text = machine.system.read(format!("/sys/hypervisor/{file}"));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    match (
        hypervisor("type").as_str(),
        hypervisor("guest_type").as_str(),
    ) {
        ("xen", "PV") => Item::fail(
            NAME,
            "a paravirtual guest of Xen flushes through the hypervisor",
            "make it a PVH or HVM guest (type=\"pvh\" in its configuration)",
        ),
        _ => Item::fine(NAME, "no paravirtual guest of Xen"),
    }
}

/// CC_ATTR_GUEST_MEM_ENCRYPT has no file of its own.
fn encryption(machine: &Machine) -> Item {
    const NAME: &str = "encrypted_guest";
    const REMEDY: &str = "run it in an ordinary guest or on the host: the module refuses to load \
                          where changes between shared and private pages rely on each flush";
    let found = |what: &str| Item::fail(NAME, format!("the memory is encrypted: {what}"), REMEDY);
    if machine.processor.has("tdx_guest") {
        return found("a TDX guest");
    }
    // Only guests have it.
    if machine.system.has("/sys/devices/system/cpu/sev/vmpl") {
        return found("an SEV-SNP guest");
    }
    match machine.facts.encryption.as_deref() {
        Some(features) if features.contains("SEV") => found(&format!("{features} guest")),
        Some(_) => Item::fine(
            NAME,
            "the guest's memory is not encrypted, or this is no guest",
        ),
        None if machine.is_loaded() => Item::fine(NAME, "the module is loaded, so it is none"),
        None if machine.processor.vendor != "AuthenticAMD" => Item::fine(NAME, "no TDX guest"),
        None => Item::unknown(
            NAME,
            "the kernel's log of the boot cannot be read",
            "run dflush check as root soon after booting, or look for 'Memory Encryption \
             Features' in 'journalctl -kb'",
        ),
    }
}
