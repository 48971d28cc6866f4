// SPDX-License-Identifier: GPL-2.0

//! What the kernel patches in its own text at boot and later: alternatives, jump labels, static
//! calls; and the table of BUG() and WARN() sites.
//!
//! In a file none of it has been applied, so each site stands for several instructions. In the
//! running kernel the text already says what runs.

use super::config::Assumptions;
use crate::image::Image;
use anyhow::{Result, ensure};
use std::collections::{BTreeMap, HashMap};

const ALT_NOT: u16 = 1 << 0;
const ALT_DIRECT_CALL: u16 = 1 << 1;
const ALT_ENTRY: u64 = 14;
const JUMP_ENTRY: u64 = 16;
const STATIC_CALL_SITE: u64 = 8;
/// X86_FEATURE_ALWAYS.
const ALWAYS: u16 = 3 * 32 + 21;

/// One replacement of an instruction.
#[derive(Clone, Debug)]
pub(super) struct Replacement {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Where execution goes on after it.
    pub(super) resume: u64,
    /// The indirect call that stands there becomes a direct call of what it calls at boot.
    pub(super) is_direct_call: bool,
}

/// Everything that may stand at an address.
#[derive(Clone, Debug)]
pub(super) struct Alternative {
    /// Whether the instructions in the image can run, too.
    pub(super) original_runs: bool,
    pub(super) replacements: Vec<Replacement>,
}

/// A jump label.
pub(super) struct JumpLabel {
    pub(super) target: u64,
    /// Whether it jumps when the key is false.
    is_branch: bool,
    pub(super) assumed: Option<bool>,
}

impl JumpLabel {
    /// Whether it jumps: known, or both.
    pub(super) fn jumps(&self) -> Option<bool> {
        self.assumed.map(|key| key != self.is_branch)
    }
}

/// All sites of an image.
#[derive(Default)]
pub(super) struct Patches {
    pub(super) alternatives: HashMap<u64, Alternative>,
    /// Start of each replacement: its end, where execution goes on, and where it is copied to.
    replacements: BTreeMap<u64, (u64, u64, u64)>,
    pub(super) jump_labels: HashMap<u64, JumpLabel>,
    pub(super) static_calls: HashMap<u64, u64>,
}

impl Patches {
    /// Reads the tables. Nothing is there to be read in the running kernel.
    pub(super) fn read(image: &Image, assume: &Assumptions) -> Result<Self> {
        let mut patches = Self::default();
        if !image.is_live {
            patches.read_alternatives(image, assume)?;
            patches.read_jump_labels(image, assume)?;
            patches.read_static_calls(image)?;
        }
        Ok(patches)
    }

    fn read_alternatives(&mut self, image: &Image, assume: &Assumptions) -> Result<()> {
        let start = image.require("__alt_instructions")?;
        let end = image.require("__alt_instructions_end")?;
        ensure!(
            end >= start && (end - start) % ALT_ENTRY == 0,
            "the table of alternatives has entries of another size than {ALT_ENTRY}"
        );
        let release = super::report::release(image);
        for at in (start..end).step_by(ALT_ENTRY as usize) {
            let site = image.relative(at)?;
            let replacement = image.relative(at + 4)?;
            let word = image.u32(at + 8)?;
            let [feature, flags] = [word as u16, (word >> 16) as u16];
            let [site_length, length] = image.array::<2>(at + 12)?;
            let (site_length, length) = (u64::from(site_length), u64::from(length));
            let known = if feature == ALWAYS {
                Some(true)
            } else {
                assume.feature(feature, &release)
            };
            let applies = known.map(|set| set != (flags & ALT_NOT != 0));
            let alternative = self
                .alternatives
                .entry(site)
                .or_insert_with(|| Alternative {
                    original_runs: true,
                    replacements: Vec::new(),
                });
            // They are applied in the order of the table, so a later one covers an earlier.
            if applies == Some(false) {
                continue;
            }
            if applies == Some(true) {
                alternative.original_runs = false;
                alternative.replacements.clear();
            }
            alternative.replacements.push(Replacement {
                start: replacement,
                length,
                resume: site + site_length,
                is_direct_call: flags & ALT_DIRECT_CALL != 0,
            });
            if length > 0 && flags & ALT_DIRECT_CALL == 0 {
                self.replacements.insert(
                    replacement,
                    (replacement + length, site + site_length, site),
                );
            }
        }
        Ok(())
    }

    fn read_jump_labels(&mut self, image: &Image, assume: &Assumptions) -> Result<()> {
        let start = image.require("__start___jump_table")?;
        let end = image.require("__stop___jump_table")?;
        for at in (start..end).step_by(JUMP_ENTRY as usize) {
            let key = image.u64(at + 8)?;
            let address = (at + 8).wrapping_add(key & !3);
            self.jump_labels.insert(
                image.relative(at)?,
                JumpLabel {
                    target: image.relative(at + 4)?,
                    is_branch: key & 1 != 0,
                    assumed: image
                        .symbols
                        .names_of(address)
                        .find_map(|name| assume.static_key(name)),
                },
            );
        }
        Ok(())
    }

    fn read_static_calls(&mut self, image: &Image) -> Result<()> {
        let start = image.require("__start_static_call_sites")?;
        let end = image.require("__stop_static_call_sites")?;
        for at in (start..end).step_by(STATIC_CALL_SITE as usize) {
            let key = image.relative(at + 4)? & !3;
            self.static_calls.insert(image.relative(at)?, key);
        }
        Ok(())
    }

    /// If `address` is the end of a replacement that `from` lies in: where execution goes on.
    pub(super) fn resume(&self, from: u64, address: u64) -> u64 {
        match self.replacements.range(..=from).next_back() {
            Some((_, (end, resume, _))) if from < *end && address == *end => *resume,
            _ => address,
        }
    }

    /// The site whose replacement `address` lies in, as that is where it runs.
    pub(super) fn home(&self, address: u64) -> u64 {
        match self.replacements.range(..=address).next_back() {
            Some((_, (end, resume, _))) if address < *end => *resume - 1,
            _ => address,
        }
    }

    /// Where the instruction at `address` stands in a running kernel.
    pub(super) fn runs_at(&self, address: u64) -> u64 {
        match self.replacements.range(..=address).next_back() {
            Some((start, (end, _, site))) if address < *end => *site + (address - *start),
            _ => address,
        }
    }
}
