// SPDX-License-Identifier: GPL-2.0

//! The command line of dflush.

use clap::Parser;
use dflush::commands::Arguments;
use dflush::output;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(outcome) => outcome.into(),
        // Whoever read the output has seen enough of it.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
