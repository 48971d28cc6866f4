// SPDX-License-Identifier: GPL-2.0

//! What is in no file of the machine: what its processor says of itself, what its boot log said,
//! which compilers answer.

use raw_cpuid::CpuId;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

/// Each is `None` if it could not be found out, as for a recorded machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The processor has INVLPGB.
    pub has_invlpgb: Option<bool>,
    /// What the kernel logged of memory encryption; empty if it logged nothing of it.
    pub encryption: Option<String>,
    /// What `rustc --version` says.
    pub rustc: Option<String>,
    /// What `bindgen --version` says.
    pub bindgen: Option<String>,
}

impl Facts {
    /// Asks this machine.
    #[must_use]
    pub fn live() -> Self {
        let features = CpuId::new().get_processor_capacity_feature_info();
        Self {
            has_invlpgb: Some(features.is_some_and(|features| features.has_invlpgb())),
            encryption: boot_log().map(|log| encryption(&log)),
            rustc: version("RUSTC", "rustc"),
            bindgen: version("BINDGEN", "bindgen"),
        }
    }
}

/// The first line that a program says of its version; make takes the same variables.
fn version(variable: &str, program: &str) -> Option<String> {
    let program = std::env::var(variable).unwrap_or_else(|_| program.into());
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines()
        .next()
        .filter(|_| output.status.success())
        .map(str::to_owned)
}

/// The kernel's log, if this may be read and still begins with the boot.
fn boot_log() -> Option<String> {
    const O_NONBLOCK: i32 = 0o4000;
    let mut options = OpenOptions::new();
    let mut device = options
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    let mut log = String::new();
    // A record at a time; a longer one is an error, as is the end of what there is.
    let mut record = [0; 8192];
    while let Ok(length @ 1..) = device.read(&mut record) {
        log.push_str(&String::from_utf8_lossy(&record[..length]));
    }
    log.contains("Linux version ").then_some(log)
}

/// What print_mem_encrypt_feature_info() (arch/x86/mm/mem_encrypt.c) says.
fn encryption(log: &str) -> String {
    const MARK: &str = "Memory Encryption Features active: ";
    log.lines()
        .find_map(|line| line.split_once(MARK))
        .map(|(_, features)| features.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::encryption;

    #[test]
    fn the_boot_log_tells_of_encryption() {
        let log = "6,1,0,-;Linux version 7.3\n6,9,0,-;Memory Encryption Features active: AMD SEV SEV-ES\n";
        assert_eq!(encryption(log), "AMD SEV SEV-ES");
        assert_eq!(encryption("6,1,0,-;Linux version 7.3\n"), "");
    }
}
