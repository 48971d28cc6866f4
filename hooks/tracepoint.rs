// SPDX-License-Identifier: GPL-2.0

//! Test only: a receiver on the tracepoint `user_exit`, where it is too late.

use crate::bindings;
use crate::percpu;
use core::ffi::CStr;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// A registered probe.
pub(crate) struct UserExitProbe(*mut bindings::tracepoint);

// SAFETY: tracepoints are static objects of the kernel and may be used from any thread.
unsafe impl Send for UserExitProbe {}

static RECEIVE: kernel::sync::SetOnce<unsafe extern "C" fn()> = kernel::sync::SetOnce::new();

/// # Safety
///
/// Called by the tracepoint.
unsafe extern "C" fn on_user_exit(_data: *mut c_void, _dummy: c_int) {
    if percpu::this().word.is_clear() {
        return;
    }
    if let Some(receive) = RECEIVE.copy() {
        // SAFETY: on entry from user mode, interrupts off.
        unsafe { receive() };
    }
}

/// # Safety
///
/// Called for each tracepoint, with a pointer to the result.
unsafe extern "C" fn find(tracepoint: *mut bindings::tracepoint, found: *mut c_void) {
    // SAFETY: the name is a C string of the kernel.
    if unsafe { CStr::from_ptr((*tracepoint).name.cast()) } == c"user_exit" {
        // SAFETY: `found` is the local below.
        unsafe { *found.cast::<*mut bindings::tracepoint>() = tracepoint };
    }
}

impl UserExitProbe {
    /// Registers `receive` with the default priority.
    pub(crate) fn install(receive: unsafe extern "C" fn()) -> Result<Self> {
        RECEIVE.populate(receive);
        let mut tracepoint: *mut bindings::tracepoint = core::ptr::null_mut();
        // SAFETY: the callback gets the pointer to the local above.
        unsafe { bindings::for_each_kernel_tracepoint(Some(find), (&raw mut tracepoint).cast()) };
        if tracepoint.is_null() {
            return Err(ENOENT);
        }
        // SAFETY: the probe has the tracepoint's prototype, void (void *, int).
        to_result(unsafe {
            bindings::tracepoint_probe_register(
                tracepoint,
                on_user_exit as *mut c_void,
                core::ptr::null_mut(),
            )
        })?;
        Ok(Self(tracepoint))
    }
}

impl Drop for UserExitProbe {
    fn drop(&mut self) {
        // SAFETY: registered in `install`.
        unsafe {
            bindings::tracepoint_probe_unregister(
                self.0,
                on_user_exit as *mut c_void,
                core::ptr::null_mut(),
            );
            bindings::synchronize_rcu_tasks();
            bindings::synchronize_rcu();
        }
    }
}
