// SPDX-License-Identifier: GPL-2.0

//! What the plugin `entry-watch` makes of what it sees of a guest's isolated CPUs: the windows in
//! which a deferred flush may still be owed, the accesses in them, and what they went to.

pub mod insn;
pub mod regions;
pub mod remapped;
pub mod report;
pub mod symbols;
pub mod window;
