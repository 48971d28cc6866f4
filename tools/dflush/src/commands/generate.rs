// SPDX-License-Identifier: GPL-2.0

//! `dflush man` and `dflush completions`: written from the definition of the command line itself,
//! for packages and for whoever built dflush from source.

use super::{Arguments, Outcome};
use crate::output;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::PathBuf;

/// Write the manual pages: dflush.1 and one for each command
#[derive(clap::Args)]
pub(super) struct Man {
    /// The directory to write them into
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> Result<Outcome> {
        std::fs::create_dir_all(&self.output)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), &self.output))
            .with_context(|| format!("cannot write manual pages into {}", self.output.display()))?;
        Ok(Outcome::Fine)
    }
}

/// Print what completes dflush's arguments in a shell
#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "dflush", &mut script);
        output::print(&String::from_utf8(script)?)?;
        Ok(Outcome::Fine)
    }
}
