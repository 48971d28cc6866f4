// SPDX-License-Identifier: GPL-2.0

//! The views: `/sys/kernel/debug/deferred_flush/{summary,cpus,recent}`.
//!
//! The kernel crate's debugfs files have no owner, so an open one would outlive the module. These
//! have file operations of their own; debugfs takes a reference on their owner at each open.

use crate::bindings;
use crate::control;
use crate::flush;
use crate::percpu::{self, Context, ALLOWED, NOHZ_FULL};
use crate::recent;
use crate::stats::{self, DRAINED, EXPIRED, SUSPENSIONS};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;

type Show = unsafe extern "C" fn(*mut bindings::seq_file, *mut c_void) -> c_int;
type Open = unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int;

struct Operations(bindings::file_operations);

// SAFETY: never written after it was made.
unsafe impl Sync for Operations {}

impl Operations {
    const fn new(open: Open) -> Self {
        // SAFETY: all-zero is how C makes static `struct file_operations`.
        let mut raw: bindings::file_operations = unsafe { MaybeUninit::zeroed().assume_init() };
        #[cfg(not(variant = "ownerless_views"))]
        {
            raw.owner = &raw mut bindings::__this_module;
        }
        raw.open = Some(open);
        raw.read = Some(bindings::seq_read);
        raw.llseek = Some(bindings::seq_lseek);
        raw.release = Some(bindings::single_release);
        Self(raw)
    }
}

static SUMMARY: Operations = Operations::new(open_summary);
static CPUS: Operations = Operations::new(open_cpus);
static RECENT: Operations = Operations::new(open_recent);

/// # Safety
///
/// `file` is being opened.
unsafe fn open(file: *mut bindings::file, show: Show) -> c_int {
    // SAFETY: called while the file is being opened, with a callback of this module.
    unsafe { bindings::single_open(file, Some(show), core::ptr::null_mut()) }
}

/// # Safety
///
/// debugfs calls it at each open.
unsafe extern "C" fn open_summary(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: the file is being opened.
    unsafe { open(file, show_summary) }
}

/// # Safety
///
/// As for [`open_summary`].
unsafe extern "C" fn open_cpus(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: the file is being opened.
    unsafe { open(file, show_cpus) }
}

/// # Safety
///
/// As for [`open_summary`].
unsafe extern "C" fn open_recent(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: the file is being opened, with a callback of this module.
    unsafe {
        bindings::single_open_size(
            file,
            Some(show_recent),
            core::ptr::null_mut(),
            recent::USUAL_SIZE,
        )
    }
}

/// The release that the module was built for, which the loader compares with the running one.
fn kernel_release() -> &'static str {
    CStr::from_bytes_until_nul(bindings::UTS_RELEASE)
        .ok()
        .and_then(|release| release.to_str().ok())
        .unwrap_or("unknown")
}

/// # Safety
///
/// seq_file calls it with a file that nobody else uses.
unsafe extern "C" fn show_summary(file: *mut bindings::seq_file, _data: *mut c_void) -> c_int {
    // SAFETY: seq_file calls this with a valid file that nobody else uses now.
    let file = unsafe { SeqFile::from_raw(file) };
    seq_print!(file, "version: {}\n", crate::VERSION);
    seq_print!(file, "kernel: {}\n", kernel_release());
    seq_print!(file, "mode: {}\n", control::mode().name());
    seq_print!(file, "state: {}\n", control::state());
    seq_print!(file, "flush_method: {}\n", flush::method().name());
    seq_print!(file, "cpus: {}\n", ALLOWED);
    seq_print!(file, "calls: {}\n", stats::sum(|slot| &slot.calls));
    seq_print!(
        file,
        "kept_range: {}\n",
        stats::sum(|slot| &slot.kept_range)
    );
    seq_print!(
        file,
        "kept_caller: {}\n",
        stats::sum(|slot| &slot.kept_caller)
    );
    seq_print!(
        file,
        "kept_blocked: {}\n",
        stats::sum(|slot| &slot.kept_blocked)
    );
    seq_print!(
        file,
        "redirected: {}\n",
        stats::sum(|slot| &slot.redirected)
    );
    seq_print!(file, "deferred: {}\n", stats::sum(|slot| &slot.deferred));
    seq_print!(
        file,
        "would_defer: {}\n",
        stats::sum(|slot| &slot.would_defer)
    );
    seq_print!(
        file,
        "ipi_not_quiet: {}\n",
        stats::sum(|slot| &slot.ipi_not_quiet)
    );
    seq_print!(file, "ipi_raced: {}\n", stats::sum(|slot| &slot.ipi_raced));
    type Received = fn(&percpu::CpuLocal) -> &AtomicU64;
    let received = |counter: Received| stats::sum_received(&NOHZ_FULL, counter);
    seq_print!(
        file,
        "flush_entry: {}\n",
        received(|local| &local.flush_entry)
    );
    seq_print!(file, "flush_nmi: {}\n", received(|local| &local.flush_nmi));
    seq_print!(
        file,
        "flush_ipi: {}\n",
        received(|local| &local.flush_interrupt)
    );
    seq_print!(file, "drained: {}\n", DRAINED.get());
    seq_print!(file, "suspensions: {}\n", SUSPENSIONS.get());
    seq_print!(file, "expired: {}\n", EXPIRED.get());
    0
}

/// # Safety
///
/// As for [`show_summary`].
unsafe extern "C" fn show_cpus(file: *mut bindings::seq_file, _data: *mut c_void) -> c_int {
    // SAFETY: as above.
    let file = unsafe { SeqFile::from_raw(file) };
    seq_print!(
        file,
        "cpu mode word deferred flush_entry flush_nmi flush_ipi ipi_not_quiet ipi_raced\n"
    );
    for cpu in NOHZ_FULL.iter() {
        let (Some(local), Some(context), Some(slot)) =
            (percpu::of(cpu), Context::of(cpu), stats::slot(cpu))
        else {
            continue;
        };
        seq_print!(
            file,
            "{} {} {} {} {} {} {} {} {}\n",
            cpu,
            if percpu::is_online(cpu) {
                context.name()
            } else {
                "offline"
            },
            local.word.value(),
            slot.deferred.get(),
            local.flush_entry.load(Relaxed),
            local.flush_nmi.load(Relaxed),
            local.flush_interrupt.load(Relaxed),
            slot.ipi_not_quiet.get(),
            slot.ipi_raced.get()
        );
    }
    0
}

/// # Safety
///
/// As for [`show_summary`].
unsafe extern "C" fn show_recent(file: *mut bindings::seq_file, _data: *mut c_void) -> c_int {
    // SAFETY: as above.
    let file = unsafe { SeqFile::from_raw(file) };
    match recent::print(file) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// The directory exists.
pub(crate) struct Directory(*mut bindings::dentry);

// SAFETY: a dentry may be used from any thread.
unsafe impl Send for Directory {}
// SAFETY: there is nothing to do with a shared reference.
unsafe impl Sync for Directory {}

impl Directory {
    /// Makes the directory and its files. Process context; may sleep.
    ///
    /// As usual with debugfs, a failure is not an error: the views are missing then.
    pub(crate) fn create() -> Self {
        // SAFETY: a directory at the root of debugfs; errors come back as error pointers, which
        // the calls below accept.
        let directory = unsafe {
            bindings::debugfs_create_dir(c"deferred_flush".as_char_ptr(), core::ptr::null_mut())
        };
        let mode = if cfg!(variant = "open_to_all") {
            0o444
        } else {
            0o400
        };
        for (name, operations) in [
            (c"summary", &SUMMARY),
            (c"cpus", &CPUS),
            (c"recent", &RECENT),
        ] {
            // SAFETY: the operations are statics; their owner is pinned while a file is open.
            unsafe {
                bindings::debugfs_create_file_full(
                    name.as_char_ptr(),
                    mode,
                    directory,
                    core::ptr::null_mut(),
                    core::ptr::null(),
                    &raw const operations.0,
                );
            }
        }
        Self(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: made in `create`, or an error pointer, which is ignored.
        unsafe { bindings::debugfs_remove(self.0) };
    }
}
