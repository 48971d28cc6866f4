// SPDX-License-Identifier: GPL-2.0

//! Raw bindings: what Kbuild's run of bindgen over `bindings_helper.h` adds to [`kernel::bindings`].
//!
//! No other file of this crate declares a C item.

#![expect(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc
)]
#![allow(dead_code, unused_imports, clippy::all)]

pub use kernel::bindings::*;

include!(env!("DEFERRED_FLUSH_BINDINGS"));
