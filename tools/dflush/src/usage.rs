// SPDX-License-Identifier: GPL-2.0

//! What this process has used.

use anyhow::{Context, Result};

/// What this process has used so far.
pub(crate) struct Usage {
    /// Of a processor, rounded up.
    pub(crate) seconds: u64,
    /// Memory at most, rounded up.
    pub(crate) mebibytes: u64,
}

/// What the times in /proc are counted in: USER_HZ.
const TICKS_PER_SECOND: u64 = 100;

impl Usage {
    /// From /proc/self/stat and /proc/self/status.
    pub(crate) fn read() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = stat
            .rsplit_once(')')
            .context("/proc/self/stat has no name")?;
        // The 14th and 15th field, of which the first two are the number and the name.
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
            .context("/proc/self/status has no VmHWM")?;
        Ok(Self {
            seconds: ticks.div_ceil(TICKS_PER_SECOND),
            mebibytes: kibibytes.trim().parse::<u64>()?.div_ceil(1024),
        })
    }
}
