// SPDX-License-Identifier: GPL-2.0

//! The configuration that the running kernel was built with.

use crate::system::System;
use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Options that are set, without `CONFIG_`.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// The file that it was read from.
    pub(super) source: String,
    options: BTreeMap<String, String>,
}

impl Config {
    /// Looks where distributions put it.
    pub(super) fn find(system: &System, release: &str, kdir: Option<&Path>) -> Option<Self> {
        if let Some(config) = Self::from_running_kernel(system) {
            return Some(config);
        }
        let mut places = vec![
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
            format!("/usr/lib/modules/{release}/config"),
        ];
        let build = system.follow(format!("/lib/modules/{release}/build"));
        places.push(build.join(".config").display().to_string());
        places.extend(kdir.map(|kdir| kdir.join(".config").display().to_string()));
        places
            .into_iter()
            .find_map(|place| Some(Self::parse(&system.read(&place).ok()?, place)))
    }

    fn from_running_kernel(system: &System) -> Option<Self> {
        const FILE: &str = "/proc/config.gz";
        let packed = std::fs::read(system.path(FILE)).ok()?;
        let mut text = String::new();
        GzDecoder::new(&*packed).read_to_string(&mut text).ok()?;
        Some(Self::parse(&text, FILE.into()))
    }

    fn parse(text: &str, source: String) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        Self {
            source,
            options: options.collect(),
        }
    }

    /// The value of an option; `None` if it is not set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Whether an option is built in.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("y")
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn options_are_told_from_what_is_not_set() {
        let config = Config::parse(
            "CONFIG_RUST=y\n# CONFIG_RCU_TRACE is not set\nCONFIG_A=\"b c\"\nCONFIG_M=m\n",
            String::new(),
        );
        assert!(config.is_set("RUST") && !config.is_set("RCU_TRACE") && !config.is_set("M"));
        assert_eq!(config.get("A"), Some("b c"));
    }
}
