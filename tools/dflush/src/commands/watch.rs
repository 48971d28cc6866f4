// SPDX-License-Identifier: GPL-2.0

//! `dflush watch`: what changes.

use super::Outcome;
use crate::output::{self, Json};
use crate::system::Root;
use crate::watch::{Change, Watch, plain, terminal};
use anyhow::Result;
use std::io::{IsTerminal, stdin, stdout};
use std::thread::sleep;
use std::time::Duration;

/// Lines between two headers.
const PAGE: u64 = 20;

/// Watch the module's counters and their rates live
///
/// On a terminal: q or Ctrl-C quits, the arrow keys scroll the CPUs. Otherwise, and with --plain,
/// one line a look; with --json one JSON object a line. It runs on housekeeping CPUs and reads a few
/// files a look: isolated CPUs are not disturbed.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Seconds between two looks
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// End after that many looks
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One line a look, also on a terminal
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    json: Json,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds from 0.05 to 86400".into()),
    }
}

/// Whether a live view makes sense there.
fn has_terminal() -> bool {
    let is_able = std::env::var("TERM").is_ok_and(|name| !name.is_empty() && name != "dumb");
    is_able && stdout().is_terminal() && stdin().is_terminal()
}

impl Arguments {
    pub(super) fn run(&self) -> Result<Outcome> {
        let system = self.root.system();
        let mut watch = Watch::new(&system, self.interval)?;
        if !self.plain && !self.json.is_asked() && self.count.is_none() && has_terminal() {
            terminal::run(&mut watch)?;
            return Ok(Outcome::Fine);
        }
        let mut json = self.json.lines()?;
        let mut number = 0;
        while self.count != Some(number) {
            sleep(watch.remaining());
            let change = watch.look()?;
            json.push(&change)?;
            if !self.json.is_output() {
                print(number, &change)?;
            }
            number += 1;
        }
        Ok(Outcome::Fine)
    }
}

fn print(number: u64, change: &Change) -> Result<()> {
    let header = match number % PAGE {
        0 => format!("{}\n", plain::HEADER),
        _ => String::new(),
    };
    output::print(&format!("{header}{}\n", plain::line(change)))
}
