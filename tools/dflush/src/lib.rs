// SPDX-License-Identifier: GPL-2.0

//! `dflush`: what a deferred flush relies on, checked against a kernel, and what it does, watched
//! on a machine.
//!
//! `commands` has one module per subcommand. What more than one of them needs lies beside it:
//! `system` (the files of this machine or of a recorded one), `housekeeping` (where dflush itself
//! may run), `module` (what the kernel module shows), `output`, and `image` (kernels as files).

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "addresses and machine words are reinterpreted as the processor does it, on 64 bits"
)]

pub mod audit;
pub mod check;
pub mod commands;
pub mod cpulist;
pub mod housekeeping;
pub mod image;
pub mod measure;
pub mod module;
pub mod output;
pub mod prometheus;
pub mod status;
pub mod system;
pub mod text;
mod usage;
pub mod watch;
