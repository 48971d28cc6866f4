// SPDX-License-Identifier: GPL-2.0

//! What happened in the execution that is being explored, for the one that fails.
//!
//! loom runs all threads of an execution on one thread of the system, so this is thread-local there.

use std::cell::{Cell, RefCell};

/// What the first thread of an execution is.
const MAIN: &str = "cpu0";

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static EVENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static NAMES: RefCell<Vec<(usize, &'static str)>> = const { RefCell::new(Vec::new()) };
}

/// Whether to record. Explorations are quicker without; a failing one is repeated with it.
pub(crate) fn enable(on: bool) {
    IS_ON.set(on);
}

/// A new execution has been set up: forget what was before, but the names.
pub(crate) fn start() {
    EVENTS.with_borrow_mut(Vec::clear);
}

/// Another execution is being set up.
pub(crate) fn forget_names() {
    NAMES.with_borrow_mut(Vec::clear);
}

/// What to call the atomic at this address.
pub(crate) fn set_name(address: *const (), name: &'static str) {
    if IS_ON.get() {
        NAMES.with_borrow_mut(|names| names.push((address as usize, name)));
    }
}

/// The name of the atomic at this address.
pub(crate) fn name(address: *const ()) -> &'static str {
    NAMES.with_borrow(|names| {
        let found = names.iter().find(|(at, _)| *at == address as usize);
        found.map_or("?", |(_, name)| name)
    })
}

/// Adds an event of the running thread.
pub(crate) fn record(event: impl FnOnce() -> String) {
    if IS_ON.get() {
        let thread = loom::thread::current();
        let event = format!("{}: {}", thread.name().unwrap_or(MAIN), event());
        EVENTS.with_borrow_mut(|events| events.push(event));
    }
}

/// The events of the execution that ran last.
pub(crate) fn events() -> Vec<String> {
    EVENTS.with_borrow(Vec::clone)
}
