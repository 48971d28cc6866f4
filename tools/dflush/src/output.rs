// SPDX-License-Identifier: GPL-2.0

//! Where a command's answer goes: text for people, JSON for programs.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Display;
use std::fs;
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

    /// Whether JSON is asked for at all.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.json.is_some()
    }

    /// Where JSON goes that comes bit by bit, an object a line.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub fn lines(&self) -> Result<JsonLines> {
        let file = match &self.json {
            Some(path) if !self.is_output() => Some(
                fs::File::create(path)
                    .with_context(|| format!("cannot write {}", path.display()))?,
            ),
            _ => None,
        };
        Ok(JsonLines {
            is_output: self.is_output(),
            file,
        })
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

/// JSON, an object a line.
pub struct JsonLines {
    is_output: bool,
    file: Option<fs::File>,
}

impl JsonLines {
    /// Adds a line, if JSON is asked for.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written.
    pub fn push(&mut self, value: &impl Serialize) -> Result<()> {
        if !self.is_output && self.file.is_none() {
            return Ok(());
        }
        let line = serde_json::to_string(value)? + "\n";
        match &mut self.file {
            Some(file) => file
                .write_all(line.as_bytes())
                .context("cannot write the JSON"),
            None => print(&line),
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
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces a file as a whole: whoever reads it sees either the old text or the new one.
///
/// The new text is written beside it first, under a name that no collector takes for its own.
///
/// # Errors
///
/// If it cannot be written. The old file is untouched then.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let what = || {
        format!(
            "cannot write {}: is its directory there and writable?",
            path.display()
        )
    };
    let name = path.file_name().with_context(what)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let result = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if result.is_err() {
        // What matters is the first error.
        let _ = fs::remove_file(&beside);
    }
    result.with_context(what)
}

/// Whether all that went wrong is that nobody reads the output any more, as with `| head`.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
