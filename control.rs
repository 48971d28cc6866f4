// SPDX-License-Identifier: GPL-2.0

//! Going on and off: which hooks are installed in which mode, and in which order.

use crate::ctx_tracking::Reason;
use crate::flush;
use crate::hooks;
use crate::hooks::drain::{drain_online, Deferring, BLOCKED};
use crate::hooks::memory::MemoryNotifier;
use crate::hooks::memory_failure::MemoryFailureNotifier;
use crate::hooks::nmi::NmiHandler;
use crate::hooks::receiver::Receiver;
use crate::hooks::stale_limit::{self, StaleLimit};
use crate::hooks::symbols::{Symbolic, Symbols};
use crate::hooks::text_watch::{self, Look, TextWatch};
use crate::hooks::wrapper::{self, Wrapper};
use crate::percpu::{CpuSet, ALLOWED, NOHZ_FULL};
use crate::policy::Mode;
use crate::stats::{self, DRAINED};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use kernel::fmt;
use kernel::prelude::*;

/// The hooks of mode `on`.
///
/// Fields are dropped in this order, which is the order of going off: block and drain, take the
/// wrapper out and wait, drain what slow senders left, then the rest against the order of
/// installation.
struct Engaged {
    _deferring: Deferring,
    _wrapper: Wrapper,
    _stale_limit: StaleLimit,
    _memory_failure: MemoryFailureNotifier,
    _memory: MemoryNotifier,
    _receiver: Receiver,
    _nmi: NmiHandler,
    watch: TextWatch,
}

impl Engaged {
    /// Installs everything. On an error, what was installed is undone in reverse order.
    fn new(symbols: &Symbols) -> Result<Self> {
        let mut watch = TextWatch::register(symbols, on_resume)?;
        let nmi = NmiHandler::register()?;
        let receiver = Receiver::install(symbols.receiver_site).inspect_err(|_| {
            pr_err!("vtime_user_exit is taken by another direct call (BPF or livepatch): remove it first\n");
        })?;
        let generation = watch.check(symbols, &receiver)?;
        if Receiver::PATCHES_SITE && !watch.saw_write() {
            pr_err!(
                "the watch on __text_poke does not see this kernel's patching: not supported\n"
            );
            return Err(ENOENT);
        }
        let memory = MemoryNotifier::register()?;
        let memory_failure = MemoryFailureNotifier::register();
        let stale_limit = StaleLimit::new();
        let wrapper = Self::wrapper(wrapper::Kind::Deferring, symbols)?;
        // A write to watched code since the check makes one of these fail. Once the mode does not
        // block any more, the watch itself reports it.
        let is_unchanged = BLOCKED.resume(generation);
        let deferring = Deferring::start();
        if !is_unchanged || BLOCKED.has(Reason::Tracer) {
            pr_err!("code that runs before a deferred flush is being changed: try again later\n");
            return Err(EBUSY);
        }
        Ok(Self {
            _deferring: deferring,
            _wrapper: wrapper,
            _stale_limit: stale_limit,
            _memory_failure: memory_failure,
            _memory: memory,
            _receiver: receiver,
            _nmi: nmi,
            watch,
        })
    }

    fn wrapper(kind: wrapper::Kind, symbols: &Symbols) -> Result<Wrapper> {
        Wrapper::install(kind, symbols.flush_site, symbols.policy).inspect_err(|_| {
            pr_err!("flush_tlb_kernel_range is redirected by somebody else (livepatch): remove it first\n");
        })
    }
}

/// What is installed.
enum Installed {
    Nothing,
    Shadow(#[expect(dead_code, reason = "held for its drop")] Wrapper),
    On(Engaged),
}

fn this_module() -> *mut crate::bindings::module {
    kernel::module::this_module::<crate::DeferredFlush>().as_ptr()
}

/// A reference of the module on itself, so that rmmod says "in use" while hooks are installed.
struct SelfReference(());

impl SelfReference {
    fn take() -> Result<Self> {
        // SAFETY: this module's own structure. Fails once the module is being removed.
        match unsafe { crate::bindings::try_module_get(this_module()) } {
            true => Ok(Self(())),
            false => Err(ENODEV),
        }
    }
}

impl Drop for SelfReference {
    fn drop(&mut self) {
        // SAFETY: taken in `take`.
        unsafe { crate::bindings::module_put(this_module()) };
    }
}

/// Everything that changes with the mode.
struct Control {
    symbols: Symbols,
    installed: Installed,
    reference: Option<SelfReference>,
}

kernel::sync::global_lock! {
    // SAFETY: initialised by `start`, before anything uses it.
    unsafe(uninit) static CONTROL: Mutex<Option<Control>> = None;
}

/// A copy of the mode for readers, who must not wait for somebody who is changing it.
static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);

/// What was asked for, also while suspended.
pub(crate) fn mode() -> Mode {
    Mode::from_parameter(MODE.load(Relaxed).into()).unwrap_or(Mode::Off)
}

/// How things stand, for `state`.
pub(crate) fn state() -> State {
    State(mode())
}

/// Prints as the file `state` does.
pub(crate) struct State(Mode);

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if hooks::is_stuck() {
            return f.write_str("degraded: a hook could not be removed, every interrupt is sent");
        }
        // While the mode is changed, the module's own patching blocks too.
        match self.0 {
            mode if BLOCKED.has(Reason::Mode) => f.write_str(mode.name()),
            Mode::On if BLOCKED.has(Reason::Tracer) => {
                let address = Symbolic(text_watch::last_write());
                f.write_fmt(fmt!("suspended: watched code changed at {address}"))
            }
            Mode::On if BLOCKED.has(Reason::MemoryOffline) => {
                f.write_str("suspended: memory is going offline")
            }
            mode => f.write_str(mode.name()),
        }
    }
}

impl Control {
    /// Removes every hook. -EIO if the kernel would not let go of one.
    fn disengage(&mut self) -> Result {
        let was = mode();
        if was == Mode::Off {
            return Ok(());
        }
        self.installed = Installed::Nothing;
        MODE.store(Mode::Off as u8, Relaxed);
        pr_info!(
            "off: {} flushes deferred for CPUs that flushed {} times on entry and {} by interrupt, {} drained\n",
            stats::sum(|slot| &slot.deferred),
            stats::sum_received(&NOHZ_FULL, |local| &local.flush_entry),
            stats::sum_received(&NOHZ_FULL, |local| &local.flush_interrupt),
            DRAINED.get()
        );
        if hooks::is_stuck() {
            // The patched site still calls into this module: it may never go.
            core::mem::forget(self.reference.take());
            return Err(EIO);
        }
        self.reference = None;
        Ok(())
    }

    /// Installs the hooks of `mode` where none is installed.
    fn engage(&mut self, mode: Mode) -> Result {
        let reference = SelfReference::take()?;
        let installed = match mode {
            Mode::Off => Ok(Installed::Nothing),
            Mode::Shadow => {
                Engaged::wrapper(wrapper::Kind::Shadow, &self.symbols).map(Installed::Shadow)
            }
            Mode::On => Engaged::new(&self.symbols).map(Installed::On),
        };
        if hooks::is_stuck() {
            core::mem::forget(reference);
            return installed.and(Err(EIO));
        }
        self.installed = installed?;
        self.reference = Some(reference);
        MODE.store(mode as u8, Relaxed);
        match mode {
            Mode::Off => {}
            Mode::Shadow => pr_info!(
                "shadow: counting for CPUs {}, every interrupt is sent\n",
                ALLOWED
            ),
            Mode::On => pr_info!(
                "on: deferring kernel TLB flushes for CPUs {}, flush method {}\n",
                ALLOWED,
                flush::method().name()
            ),
        }
        Ok(())
    }

    fn set_mode(&mut self, wanted: Mode) -> Result {
        if hooks::is_stuck() {
            pr_err!("a hook could not be removed: the mode stays as it is until the next boot\n");
            return Err(EIO);
        }
        let current = mode();
        if current == wanted {
            return self.resume();
        }
        self.disengage()?;
        if wanted == Mode::Off {
            return Ok(());
        }
        self.engage(wanted).inspect_err(|_| {
            // What was asked for cannot be had: what there was should stay.
            if current != Mode::Off && !hooks::is_stuck() && self.engage(current).is_err() {
                pr_err!(
                    "mode {} could not be restored either: off\n",
                    current.name()
                );
            }
        })
    }

    /// Ends a suspension by a tracer that has gone. -EBUSY if it has not.
    fn resume(&self) -> Result {
        match self.try_resume()? {
            Resumed::Done => Ok(()),
            Resumed::Changed(address) => Err(text_watch::busy(address)),
            Resumed::Raced => Err(EBUSY),
        }
    }

    fn try_resume(&self) -> Result<Resumed> {
        let Installed::On(engaged) = &self.installed else {
            return Ok(Resumed::Done);
        };
        if !BLOCKED.has(Reason::Tracer) {
            return Ok(Resumed::Done);
        }
        match engaged.watch.look()? {
            Look::Changed(address) => Ok(Resumed::Changed(address)),
            Look::Unchanged(generation) if BLOCKED.resume(generation) => {
                pr_info!("on: resumed for CPUs {}\n", ALLOWED);
                Ok(Resumed::Done)
            }
            Look::Unchanged(_) => Ok(Resumed::Raced),
        }
    }
}

/// How an attempt to end a suspension went.
enum Resumed {
    /// There is none now.
    Done,
    /// The tracer is still there, at this address.
    Changed(usize),
    /// Watched code was written to meanwhile.
    Raced,
}

/// Ends a suspension if the tracer has gone. If it has not, its going writes to watched code again,
/// which brings this back.
///
/// # Safety
///
/// The function of a piece of work.
unsafe extern "C" fn on_resume(_work: *mut crate::bindings::work_struct) {
    // Not waiting for the lock: whoever has it may be waiting for this to end.
    let resumed = match CONTROL.try_lock() {
        Some(guard) => match guard.as_ref() {
            Some(control) => control.try_resume(),
            None => return,
        },
        None => Ok(Resumed::Raced),
    };
    // Without memory for the look, it is worth another try, too.
    if matches!(resumed, Ok(Resumed::Raced) | Err(_)) {
        TextWatch::look_again_later();
    }
}

/// Changes the mode. Process context; may sleep.
///
/// Errors: -EBUSY if a tracer, livepatch or BPF program is in the way; -EIO if a hook could not be
/// removed; -ENODEV if the module is being removed. After an error the mode is what it was.
pub(crate) fn set_mode(mode: Mode) -> Result {
    CONTROL.lock().as_mut().ok_or(ENODEV)?.set_mode(mode)
}

/// Changes the CPUs for which deferral is allowed. -EINVAL unless they are some of nohz_full.
pub(crate) fn set_cpus(wanted: &CpuSet) -> Result {
    if wanted.is_empty() || !wanted.is_subset_of(&NOHZ_FULL) {
        return Err(EINVAL);
    }
    let guard = CONTROL.lock();
    if guard.is_none() {
        return Err(ENODEV);
    }
    ALLOWED.assign(wanted);
    // What a CPU owes that was just taken out it should not owe for long.
    drain_online();
    Ok(())
}

/// Sets `max_stale_ms`. -ENODEV while the module is being removed.
pub(crate) fn set_max_stale(milliseconds: u32) -> Result {
    let guard = CONTROL.lock();
    if guard.is_none() {
        return Err(ENODEV);
    }
    stale_limit::set_limit(milliseconds);
    Ok(())
}

/// Control is possible; dropping this removes every hook.
pub(crate) struct Running(());

impl Running {
    /// Starts with no hook installed. Called once, by the module's init.
    pub(crate) fn start(symbols: Symbols) -> Self {
        // SAFETY: called exactly once, before anything else locks it.
        unsafe { CONTROL.init() };
        *CONTROL.lock() = Some(Control {
            symbols,
            installed: Installed::Nothing,
            reference: None,
        });
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        #[cfg(variant = "no_forced_off")]
        test::leave_hooks();
        #[cfg(variant = "late_files")]
        test::wait_for_writers();
        // Nobody can change the mode from here on. Only a forced unload finds hooks installed.
        let control = CONTROL.lock().take();
        if let Some(mut control) = control {
            if control.disengage().is_err() {
                pr_emerg!("unloaded by force with a hook in place: reboot now\n");
            }
        }
    }
}

/// What the test-only variants do when the module goes, before they do what they should: the machine
/// survives them.
#[cfg(any(variant = "no_forced_off", variant = "late_files"))]
mod test {
    use super::{mode, Mode};
    use kernel::prelude::*;
    use kernel::time::{delay::fsleep, Delta};

    /// A forced unload leaves the hooks where they are, until rmmod is killed.
    pub(super) fn leave_hooks() {
        while mode() != Mode::Off && !current!().signal_pending() {
            fsleep(Delta::from_millis(10));
        }
    }

    /// Of files that are still there.
    pub(super) fn wait_for_writers() {
        fsleep(Delta::from_millis(1000));
    }
}
