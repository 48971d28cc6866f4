// SPDX-License-Identifier: GPL-2.0

//! The files of a machine: of the one that this runs on, or recorded from another one.

use crate::cpulist::CpuList;
use std::io;
use std::path::{Path, PathBuf};

/// Where to read `/sys`, `/proc` and the rest, as an argument.
#[derive(clap::Args)]
pub struct Root {
    /// Read /sys, /proc, /boot and so on below this directory: what was recorded on another machine
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true
    )]
    root: PathBuf,
}

impl Root {
    /// The machine meant.
    #[must_use]
    pub fn system(&self) -> System {
        System::below(&self.root)
    }
}

/// A machine's files.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The machine that this runs on.
    #[must_use]
    pub fn live() -> Self {
        Self::below(Path::new("/"))
    }

    /// The machine whose files lie below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Whether it is the machine that this runs on, as far as its own files go.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where that file of the machine is. A relative path is none of the machine's, and stays.
    #[must_use]
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        let file = file.as_ref();
        file.strip_prefix("/")
            .map_or_else(|_| file.into(), |below| self.root.join(below))
    }

    /// Where that link of the machine points to, as a path of the machine; the path itself if it is
    /// no link.
    #[must_use]
    pub fn follow(&self, link: impl AsRef<Path>) -> PathBuf {
        let link = link.as_ref();
        match (std::fs::read_link(self.path(link)), link.parent()) {
            (Ok(target), Some(parent)) => parent.join(target),
            _ => link.into(),
        }
    }

    /// Whether that file is there.
    #[must_use]
    pub fn has(&self, file: impl AsRef<Path>) -> bool {
        self.path(file).exists()
    }

    /// What is in that text file.
    ///
    /// # Errors
    ///
    /// As [`std::fs::read_to_string`].
    pub fn read(&self, file: impl AsRef<Path>) -> io::Result<String> {
        std::fs::read_to_string(self.path(file))
    }

    /// The CPUs in `/sys/devices/system/cpu/NAME`; none if there is no such list.
    #[must_use]
    pub fn cpus(&self, name: &str) -> CpuList {
        self.read(format!("/sys/devices/system/cpu/{name}"))
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default()
    }
}
