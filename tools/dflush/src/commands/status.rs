// SPDX-License-Identifier: GPL-2.0

//! `dflush status`: how things stand.

use super::Outcome;
use crate::module::Snapshot;
use crate::output::Json;
use crate::system::Root;
use anyhow::Result;

/// Show the module's mode, state, policy and counters
///
/// Ends with 1 if the module is degraded: a hook could not be removed, and it stays until the next
/// boot.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    json: Json,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        let snapshot = Snapshot::read(&self.root.system())?;
        self.json.print(&snapshot, &snapshot)?;
        Ok(Outcome::of(!snapshot.control.is_degraded()))
    }
}
