// SPDX-License-Identifier: GPL-2.0

//! `dflush`: what a deferred flush relies on, checked against a kernel.
//!
//! One module per subcommand; `image` is what they share.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "addresses and machine words are reinterpreted as the processor does it, on 64 bits"
)]

pub mod audit;
pub mod image;
