// SPDX-License-Identifier: GPL-2.0

//! Turns the raw figures of `demo/run` into a table, `report.json` and `report.svg`, and fails if
//! they do not show what they have to.

mod bar;
mod chart;
mod raw;
mod report;
mod table;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

use report::Report;

/// Report what the demonstration measured.
#[derive(Parser)]
struct Arguments {
    /// What demo/run wrote.
    #[arg(long, value_name = "DIRECTORY")]
    raw: PathBuf,
    /// Where report.json, report.svg and report.txt are to be written.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                eprintln!("demo-report: missed: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo-report: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Write everything, and return what was missed.
fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let mut report = Report::read(&arguments.raw)?;
    report.failures = bar::failures(&report);

    let write = |name: &str, text: &str| {
        let path = arguments.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let table = table::render(&report);
    write("report.txt", &table)?;
    write(
        "report.json",
        &(serde_json::to_string_pretty(&report)? + "\n"),
    )?;
    write("report.svg", &chart::render(&report)?)?;

    print!("{table}");
    Ok(report.failures)
}
