// SPDX-License-Identifier: GPL-2.0

//! The module's own source files, not copies, with their tests.

// What only the module uses is unused here.
#![allow(dead_code)]

#[path = "../../../atomics.rs"]
mod atomics;
#[path = "../../../ctx_tracking.rs"]
mod ctx_tracking;
#[path = "../../../insn.rs"]
mod insn;
#[path = "../../../policy.rs"]
mod policy;
#[path = "../../../ring.rs"]
mod ring;

#[cfg(test)]
mod insn_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod protocol_tests;
#[cfg(test)]
mod ring_tests;
