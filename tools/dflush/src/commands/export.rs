// SPDX-License-Identifier: GPL-2.0

//! `dflush export`: the counters for monitoring.

use super::Outcome;
use crate::module::{Snapshot, is_loaded};
use crate::output::{self, Json};
use crate::prometheus::Metrics;
use crate::system::Root;
use anyhow::Result;
use std::path::PathBuf;

/// Write the counters in the format of a monitoring system
///
/// A module that is not loaded is no error here: the metric deferred_flush_loaded is 0 then, and
/// the others are missing, so that an alert can tell.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// In Prometheus' text format
    #[arg(long, required_unless_present = "json")]
    prometheus: bool,
    /// Write this file instead of the output. It is replaced as a whole, so that a collector never
    /// reads half of it; for node_exporter's textfile collector its name has to end in .prom
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    output: Option<PathBuf>,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    json: Json,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        let system = self.root.system();
        let snapshot = if is_loaded(&system) {
            Some(Snapshot::read(&system)?)
        } else {
            None
        };
        self.json
            .write_text(|| serde_json::to_string_pretty(&snapshot))?;
        if self.prometheus {
            let text = Metrics(snapshot.as_ref()).to_string();
            match &self.output {
                Some(path) => output::replace(path, &text)?,
                None if self.json.is_output() => {}
                None => output::print(&text)?,
            }
        }
        Ok(Outcome::Fine)
    }
}
