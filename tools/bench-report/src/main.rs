// SPDX-License-Identifier: GPL-2.0

//! Turns the raw figures of `bench/run` into a table and `bench.json`, and fails if they do not
//! repeat or the module costs more than it may.

mod raw;
mod report;
mod table;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

use raw::Raw;
use report::Report;

/// Report what the benchmark counted.
#[derive(Parser)]
struct Arguments {
    /// Where bench/run wrote one file for each boot.
    #[arg(long, value_name = "DIRECTORY")]
    raw: PathBuf,
    /// Where bench.json and bench.txt are to be written.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = Report::new(|boot| Raw::read(&arguments.raw.join(boot)))?;

    let write = |name: &str, text: &str| {
        let path = arguments.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let table = table::render(&report);
    write("bench.txt", &table)?;
    write(
        "bench.json",
        &(serde_json::to_string_pretty(&report)? + "\n"),
    )?;

    print!("{table}");
    for failure in &report.failures {
        eprintln!("bench-report: missed: {failure}");
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
