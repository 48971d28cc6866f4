// SPDX-License-Identifier: GPL-2.0

//! Keeps kernel TLB-flush interrupts away from CPUs that are in user mode.
//!
//! A CPU in user mode cannot use a kernel mapping, so a flush of the vmalloc range can wait until it
//! comes back. [`ctx_tracking`] has the protocol, [`policy`] what may be deferred, [`hooks`] where
//! the running kernel is hooked, [`control`] in which order. `Documentation/design.rst` explains.

mod atomics;
mod bindings;
mod control;
mod ctx_tracking;
mod debugfs;
mod flush;
mod hooks;
mod insn;
mod machine;
mod percpu;
mod policy;
mod recent;
mod ring;
mod stats;
mod sysfs;

use hooks::symbols::Symbols;
use kernel::prelude::*;
use policy::Mode;

/// The module's version.
const VERSION: &str = "0.1.0";

module! {
    type: DeferredFlush,
    name: "deferred_flush",
    authors: ["The deferred_flush authors"],
    description: "Defers kernel TLB flushes for CPUs in user mode",
    license: "GPL",
    params: {
        mode: i64 {
            default: 2,
            description: "First mode: 0 off, 1 shadow (count only), 2 on",
        },
    },
}

/// The loaded module. Fields are dropped in this order: first nobody can ask for anything any more,
/// then the hooks go, then what they write to.
struct DeferredFlush {
    #[cfg(not(variant = "late_files"))]
    _sysfs: Option<sysfs::Directory>,
    _debugfs: debugfs::Directory,
    _running: control::Running,
    #[cfg(variant = "late_files")]
    _sysfs: Option<sysfs::Directory>,
    _slots: stats::Slots,
    _rings: recent::Rings,
}

impl kernel::Module for DeferredFlush {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let parameter = module_parameters::mode.value();
        let mode = Mode::from_parameter(parameter).ok_or_else(|| {
            pr_err!("mode={parameter} is out of range: 0 is off, 1 shadow, 2 on\n");
            EINVAL
        })?;
        machine::check()?;
        machine::init();
        let symbols = Symbols::find(machine::vmalloc_range())?;
        let slots = stats::Slots::new()?;
        let rings = recent::Rings::new()?;
        let running = control::Running::start(symbols);
        Self::unless_stuck(control::set_mode(mode))?;
        // The files come last: a load that fails frees the module, whoever has one of them open.
        let sysfs = Self::unless_stuck(sysfs::Directory::create().inspect_err(|_| {
            // If hooks cannot be removed now, the module has to stay, without its files.
            let _ = control::set_mode(Mode::Off);
        }))?;
        Ok(Self {
            _sysfs: sysfs,
            _debugfs: debugfs::Directory::create(),
            _running: running,
            _slots: slots,
            _rings: rings,
        })
    }
}

impl DeferredFlush {
    /// An error fails the load, unless a hook that cannot be removed calls into this module.
    fn unless_stuck<T>(result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if hooks::is_stuck() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
