// SPDX-License-Identifier: GPL-2.0

//! `dflush check`: can this machine use the module?

use super::Outcome;
use crate::check::{self, Facts, Options};
use crate::output::Json;
use crate::system::Root;
use anyhow::Result;
use std::path::PathBuf;

/// Check whether this machine can use the module, with the remedy where it cannot
///
/// Works without the module; root sees more. Ends with 0 if nothing keeps the machine from using
/// the module, with 1 if a line fails.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The kernel build directory to look at, instead of /lib/modules/RELEASE/build
    #[arg(long, value_name = "DIR")]
    kdir: Option<PathBuf>,
    /// Leave out what only building the module needs: headers and compilers
    #[arg(long, conflicts_with = "kdir")]
    no_build: bool,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    json: Json,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        let system = self.root.system();
        let facts = if system.is_live() {
            Facts::live()
        } else {
            Facts::default()
        };
        let options = Options {
            kdir: self.kdir.clone(),
            build: !self.no_build,
        };
        let report = check::run(&system, &facts, &options)?;
        self.json.print(&report, &report)?;
        Ok(Outcome::of(report.is_fine()))
    }
}
