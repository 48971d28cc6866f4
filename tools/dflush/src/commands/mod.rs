// SPDX-License-Identifier: GPL-2.0

//! The subcommands: one file each, with its arguments and what it does with them.
//!
//! The work itself is done by the other modules of this crate.

mod audit;
mod check;
mod export;
mod generate;
mod measure;
mod status;
mod watch;

use crate::housekeeping;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and nothing was found fault with
  1  done, and something was: the output says what
  2  it could not be done: the error says what to do";

/// What is on the command line.
#[derive(Parser)]
#[command(name = "dflush", version, about, after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
    Status(status::Arguments),
    Watch(watch::Arguments),
    Measure(measure::Arguments),
    Export(export::Arguments),
    Audit(audit::Arguments),
    Man(generate::Man),
    Completions(generate::Completions),
}

/// How a command ended that could be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was found fault with.
    Fine,
    /// Something was, and the output says what.
    Found,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fine => Self::SUCCESS,
            Outcome::Found => Self::FAILURE,
        }
    }
}

impl Outcome {
    /// [`Outcome::Fine`] if `is_fine`.
    #[must_use]
    pub const fn of(is_fine: bool) -> Self {
        if is_fine { Self::Fine } else { Self::Found }
    }
}

impl Arguments {
    /// Runs the command, on housekeeping CPUs.
    ///
    /// # Errors
    ///
    /// What could not be done, and what to do about it.
    pub fn run(&self) -> Result<Outcome> {
        // Before anything else: threads that are started later inherit it.
        housekeeping::pin()?;
        match &self.command {
            Command::Check(arguments) => arguments.run(),
            Command::Status(arguments) => arguments.run(),
            Command::Watch(arguments) => arguments.run(),
            Command::Measure(arguments) => arguments.run(),
            Command::Export(arguments) => arguments.run(),
            Command::Audit(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
            Command::Completions(arguments) => arguments.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_can_answer_in_json() {
        for command in Arguments::command().get_subcommands() {
            let writes_a_file = ["man", "completions"].contains(&command.get_name());
            let has_json = command
                .get_arguments()
                .any(|argument| argument.get_id() == "json");
            assert!(has_json || writes_a_file, "{}", command.get_name());
        }
    }
}
