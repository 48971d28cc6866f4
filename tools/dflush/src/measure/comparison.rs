// SPDX-License-Identifier: GPL-2.0

//! The module as `measure` needs it: what it counts meanwhile, and switching it for `--compare`.

use super::window::Module;
use crate::module::{Control, Summary, is_loaded};
use crate::system::System;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODE: &str = "/sys/kernel/deferred_flush/mode";
const NAME: &str = "deferred_flush";

/// What the module shows at one time.
pub(super) struct View {
    mode: String,
    state: String,
    counters: BTreeMap<String, u64>,
}

impl View {
    /// None if it is not loaded.
    pub(super) fn read() -> Result<Option<Self>> {
        let system = System::live();
        if !is_loaded(&system) {
            return Ok(None);
        }
        let control = Control::read(&system)?;
        let counters = serde_json::to_value(Summary::read(&system)?.counters)?;
        Ok(Some(Self {
            mode: control.mode,
            state: control.state,
            counters: serde_json::from_value(counters)?,
        }))
    }
}

/// What it did between two looks.
pub(super) fn between(before: Option<View>, after: Option<View>) -> Option<Module> {
    let (before, after) = (before?, after?);
    let rise = |(key, now): (String, u64)| {
        let old = before.counters.get(&key).copied().unwrap_or(0);
        let rise = now.saturating_sub(old);
        (key, rise)
    };
    Some(Module {
        mode: after.mode,
        state: after.state,
        counters: after.counters.into_iter().map(rise).collect(),
    })
}

/// The module's mode; none if it is not loaded.
fn mode() -> Result<Option<String>> {
    let system = System::live();
    if !is_loaded(&system) {
        return Ok(None);
    }
    Ok(Some(Control::read(&system)?.mode))
}

fn set_mode(mode: &str) -> Result<()> {
    fs::write(MODE, mode)
        .with_context(|| format!("cannot write '{mode}' to {MODE}; the kernel log says why"))
}

/// The module is switched for a comparison. Dropped, it is as it was before.
pub(super) struct Comparison {
    /// Its mode, if it was loaded.
    original: Option<String>,
    file: Option<PathBuf>,
}

impl Comparison {
    /// `file`: what to load instead of the module that modprobe finds.
    pub(super) fn new(file: Option<&Path>) -> Result<Self> {
        Ok(Self {
            original: mode()?,
            file: file.map(Path::to_path_buf),
        })
    }

    /// Every interrupt is sent from now on. Returns how that came about.
    pub(super) fn before(&self) -> Result<&'static str> {
        match self.original.as_deref() {
            None => Ok("before (module not loaded)"),
            // It sends them all, and counts on.
            Some("shadow") => Ok("before (mode shadow)"),
            Some("off") => Ok("before (mode off)"),
            Some(_) => {
                set_mode("off")?;
                Ok("before (mode off)")
            }
        }
    }

    /// Interrupts are deferred from now on.
    pub(super) fn after(&self) -> Result<&'static str> {
        if mode()?.is_none() {
            self.load()?;
        }
        set_mode("on")?;
        let state = Control::read(&System::live())?.state;
        ensure!(
            state == "on",
            "the module was switched on, and its state is '{state}': nothing would be deferred"
        );
        Ok("after (mode on)")
    }

    fn load(&self) -> Result<()> {
        let mut command = if let Some(file) = &self.file {
            let mut command = Command::new("insmod");
            command.arg(file);
            command
        } else {
            let mut command = Command::new("modprobe");
            command.arg(NAME);
            command
        };
        // Not its first mode's default: modprobe.d may say shadow.
        let output = command
            .arg("mode=2")
            .output()
            .context("cannot start modprobe or insmod")?;
        if !output.status.success() {
            bail!(
                "cannot load the module: {} (say --module FILE if it is not installed; the kernel \
                 log says why it refused)",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn restore(&self) -> Result<()> {
        let Some(mode) = mode()? else {
            return Ok(());
        };
        if let Some(original) = &self.original {
            return if mode == *original {
                Ok(())
            } else {
                set_mode(original)
            };
        }
        set_mode("off")?;
        let output = Command::new("rmmod")
            .arg(NAME)
            .output()
            .context("cannot start rmmod")?;
        ensure!(
            output.status.success(),
            "cannot unload the module: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Comparison {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("warning: the module is not as it was before: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{View, between};
    use std::collections::BTreeMap;

    fn view(counters: &[(&str, u64)]) -> View {
        let named = |(key, value): &(&str, u64)| ((*key).to_owned(), *value);
        View {
            mode: "on".into(),
            state: "on".into(),
            counters: counters.iter().map(named).collect(),
        }
    }

    #[test]
    fn counters_are_compared() {
        let before = view(&[("deferred", 10), ("calls", 7)]);
        let after = view(&[("deferred", 3010), ("calls", 7)]);
        let module = between(Some(before), Some(after)).unwrap();
        let expected = [("calls".to_owned(), 0), ("deferred".to_owned(), 3000)];
        assert_eq!(module.counters, BTreeMap::from(expected));
        assert!(between(None, Some(view(&[]))).is_none());
    }
}
