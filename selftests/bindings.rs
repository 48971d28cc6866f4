// SPDX-License-Identifier: GPL-2.0

//! Raw bindings: what Kbuild's run of bindgen over `bindings_helper.h` adds to [`kernel::bindings`].

#![allow(
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports,
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks
)]

pub use kernel::bindings::*;

include!(env!("DFLUSH_TEST_BINDINGS"));
