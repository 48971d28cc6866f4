// SPDX-License-Identifier: GPL-2.0

//! The atomics that the protocol in `ctx_tracking.rs` uses.
//!
//! They are a module of their own so that `model/` can compile that file unchanged with the atomics
//! of a model checker.

pub(crate) use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
