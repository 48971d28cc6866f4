// SPDX-License-Identifier: GPL-2.0

//! Tables over the whole image: WARN() sites, and who calls whom.

use super::patch::Patches;
use crate::image::Image;
use anyhow::{Result, bail};
use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};
use std::collections::{BTreeSet, HashMap, HashSet};

const BUGFLAG_WARNING: u16 = 1 << 0;

/// The addresses of WARN().
pub(super) struct Warnings(HashSet<u64>);

impl Warnings {
    pub(super) fn read(image: &Image) -> Result<Self> {
        let start = image.require("__start___bug_table")?;
        let end = image.require("__stop___bug_table")?;
        // The layout depends on the configuration; the right one leads to UD1 and UD2 mostly.
        // (WARN() with arguments is a call of a trap, through a static call.)
        for (size, flags) in [(16, 14), (12, 10), (8, 4), (20, 18)] {
            let mut warnings = HashSet::new();
            let (mut hits, mut misses) = (0usize, 0usize);
            for at in (start..end).step_by(size) {
                let site = image.relative(at)?;
                let code = image.bytes_at(site, 3).unwrap_or_default();
                let is_ud = matches!(
                    *code,
                    [0x0f, 0x0b | 0xb9, ..] | [0x67, 0x0f | 0x48, 0xb9 | 0x0f]
                ) || is_init(image, site);
                if !is_ud {
                    misses += 1;
                    continue;
                }
                hits += 1;
                if u16::from_le_bytes(image.array(at + flags)?) & BUGFLAG_WARNING != 0 {
                    warnings.insert(site);
                }
            }
            if hits >= 4 * misses {
                return Ok(Self(warnings));
            }
        }
        bail!("the table of BUG() sites has another layout");
    }

    pub(super) fn contains(&self, ip: u64) -> bool {
        self.0.contains(&ip)
    }
}

/// In a running kernel the init sections are gone.
fn is_init(image: &Image, site: u64) -> bool {
    image.is_live
        && image
            .symbols
            .address("__init_begin")
            .is_some_and(|start| site >= start)
}

/// Who calls or jumps to whom, directly.
pub(super) struct CallGraph {
    callers: HashMap<u64, BTreeSet<u64>>,
}

impl CallGraph {
    /// Decodes all of the text once.
    pub(super) fn read(image: &Image, patches: &Patches) -> Result<Self> {
        let (start, end) = (image.require("_stext")?, image.require("_etext")?);
        let starts: BTreeSet<u64> = image
            .symbols
            .all()
            .iter()
            .filter(|s| matches!(s.kind, 't' | 'T' | 'w' | 'W'))
            .map(|s| s.address)
            .collect();
        let mut callers: HashMap<u64, BTreeSet<u64>> = HashMap::new();
        let mut bounds: Vec<u64> = starts.range(start..end).copied().collect();
        bounds.push(end);
        for pair in bounds.windows(2) {
            let length = usize::try_from(pair[1] - pair[0])?;
            let bytes = image.bytes_at(pair[0], length).unwrap_or_default();
            for i in Decoder::with_ip(64, &bytes, pair[0], DecoderOptions::NONE) {
                let is_direct = matches!(
                    i.flow_control(),
                    FlowControl::Call
                        | FlowControl::UnconditionalBranch
                        | FlowControl::ConditionalBranch
                ) && i.op0_kind() == OpKind::NearBranch64;
                if !is_direct {
                    continue;
                }
                let target = i.near_branch_target();
                if target != pair[0] && starts.contains(&target) {
                    callers.entry(target).or_default().insert(pair[0]);
                }
            }
        }
        // Calls in replacements belong to the function that they replace something in.
        for (site, alternative) in &patches.alternatives {
            for replacement in &alternative.replacements {
                let length = usize::try_from(replacement.length)?;
                let bytes = image
                    .bytes_at(replacement.start, length)
                    .unwrap_or_default();
                for i in Decoder::with_ip(64, &bytes, replacement.start, DecoderOptions::NONE) {
                    if i.op0_kind() == OpKind::NearBranch64
                        && starts.contains(&i.near_branch_target())
                    {
                        if let Some(home) = starts.range(..=*site).next_back() {
                            callers
                                .entry(i.near_branch_target())
                                .or_default()
                                .insert(*home);
                        }
                    }
                }
            }
        }
        Ok(Self { callers })
    }

    pub(super) fn callers(&self, function: u64) -> impl Iterator<Item = u64> {
        self.callers.get(&function).into_iter().flatten().copied()
    }

    /// All functions from which one of `targets` can be reached by direct calls.
    /// Those that are cut do not count.
    pub(super) fn reaching(
        &self,
        targets: impl IntoIterator<Item = u64>,
        is_cut: impl Fn(u64) -> bool,
    ) -> Reachable {
        let mut reached = HashSet::new();
        let mut open: Vec<u64> = targets.into_iter().collect();
        while let Some(function) = open.pop() {
            if !is_cut(function) && reached.insert(function) {
                open.extend(self.callers(function));
            }
        }
        Reachable(reached)
    }
}

/// A set of functions.
pub(super) struct Reachable(HashSet<u64>);

impl Reachable {
    pub(super) fn contains(&self, function: u64) -> bool {
        self.0.contains(&function)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
