// SPDX-License-Identifier: GPL-2.0

//! Where a command's answer goes: text for people, JSON for programs.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The argument `--json`, the same for every command.
#[derive(clap::Args)]
pub struct Json {
    /// Answer in JSON: on the output, or into FILE besides the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

impl Json {
    /// Whether the output is to be JSON instead of text.
    #[must_use]
    pub fn is_output(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Gives the answer as asked for: as text, as JSON, or as both.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&self, value: &impl Serialize, text: &impl Display) -> Result<()> {
        self.write_text(|| serde_json::to_string_pretty(value))?;
        if self.is_output() {
            Ok(())
        } else {
            print(text)
        }
    }

    /// Writes the JSON, if it is asked for. The text is up to the caller.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written.
    pub fn write_text(&self, json: impl FnOnce() -> serde_json::Result<String>) -> Result<()> {
        match &self.json {
            Some(path) => write(path, &(json()? + "\n")),
            None => Ok(()),
        }
    }
}

/// Writes to the output.
///
/// # Errors
///
/// If it cannot be written; see [`is_broken_pipe`].
pub fn print(text: &impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .context("cannot write to the output")
}

/// Writes a file, or with "-" to the output.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        return print(&text);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether all that went wrong is that nobody reads the output any more, as with `| head`.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
