// SPDX-License-Identifier: GPL-2.0

//! The control files: `/sys/kernel/deferred_flush/{mode,state,cpus,max_stale_ms}`.
//!
//! sysfs and not debugfs, as lockdown forbids writing to the latter.

use crate::bindings;
use crate::control;
use crate::hooks::stale_limit;
use crate::percpu::{self, CpuSet, ALLOWED};
use crate::policy::{self, Mode};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_char, c_void};
use kernel::fmt;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

type Show = unsafe extern "C" fn(
    *mut bindings::kobject,
    *mut bindings::kobj_attribute,
    *mut c_char,
) -> isize;
type Store = unsafe extern "C" fn(
    *mut bindings::kobject,
    *mut bindings::kobj_attribute,
    *const c_char,
    usize,
) -> isize;

#[repr(transparent)]
struct Attribute(bindings::kobj_attribute);

// SAFETY: never written after it was made.
unsafe impl Sync for Attribute {}

impl Attribute {
    const fn new(name: &'static CStr, mode: u16, show: Show, store: Option<Store>) -> Self {
        // SAFETY: all-zero is how C makes a static `struct kobj_attribute`.
        let mut raw: bindings::kobj_attribute = unsafe { MaybeUninit::zeroed().assume_init() };
        raw.attr.name = name.to_bytes_with_nul().as_ptr();
        raw.attr.mode = match cfg!(variant = "open_to_all") {
            true => mode | 0o222,
            false => mode,
        };
        raw.__bindgen_anon_1.show = Some(show);
        raw.__bindgen_anon_2.store = store;
        Self(raw)
    }
}

static MODE: Attribute = Attribute::new(c"mode", 0o644, show_mode, Some(store_mode));
static STATE: Attribute = Attribute::new(c"state", 0o444, show_state, None);
static CPUS: Attribute = Attribute::new(c"cpus", 0o644, show_cpus, Some(store_cpus));
static MAX_STALE_MS: Attribute = Attribute::new(
    c"max_stale_ms",
    0o644,
    show_max_stale_ms,
    Some(store_max_stale_ms),
);

struct Attributes([*const bindings::attribute; 5]);

// SAFETY: never written; what it points to is `Sync`.
unsafe impl Sync for Attributes {}

static ATTRIBUTES: Attributes = Attributes([
    &raw const MODE.0.attr,
    &raw const STATE.0.attr,
    &raw const CPUS.0.attr,
    &raw const MAX_STALE_MS.0.attr,
    core::ptr::null(),
]);

/// Prints one line into a page that sysfs gave to a `show` callback.
///
/// # Safety
///
/// `buffer` is that page.
unsafe fn emit(buffer: *mut c_char, line: fmt::Arguments<'_>) -> isize {
    // SAFETY: this function's contract; %pA prints a `fmt::Arguments`.
    unsafe {
        bindings::sysfs_emit(
            buffer,
            c"%pA\n".as_char_ptr(),
            core::ptr::from_ref(&line).cast::<c_void>(),
        ) as isize
    }
}

/// # Safety
///
/// sysfs calls it with a page to fill.
unsafe extern "C" fn show_mode(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buffer: *mut c_char,
) -> isize {
    // SAFETY: this function's contract.
    unsafe { emit(buffer, fmt!("{}", control::mode().name())) }
}

/// # Safety
///
/// As for [`show_mode`].
unsafe extern "C" fn show_state(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buffer: *mut c_char,
) -> isize {
    // SAFETY: this function's contract.
    unsafe { emit(buffer, fmt!("{}", control::state())) }
}

/// # Safety
///
/// As for [`show_mode`].
unsafe extern "C" fn show_cpus(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buffer: *mut c_char,
) -> isize {
    // SAFETY: this function's contract.
    unsafe { emit(buffer, fmt!("{}", ALLOWED)) }
}

/// What was written, all of it or an error.
///
/// # Safety
///
/// `text` and `length` are what sysfs gave to a `store` callback.
unsafe fn stored(
    text: *const c_char,
    length: usize,
    accept: impl FnOnce(&[u8]) -> Result,
) -> isize {
    // SAFETY: this function's contract.
    let bytes = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), length) };
    from_result(|| {
        // sysfs passes on a page at most, and cuts off the rest.
        if length >= PAGE_SIZE && !cfg!(variant = "lenient_input") {
            return Err(EINVAL);
        }
        accept(bytes)?;
        Ok(length as isize)
    })
}

/// # Safety
///
/// sysfs calls it with what was written.
unsafe extern "C" fn store_mode(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    text: *const c_char,
    length: usize,
) -> isize {
    let accept = |bytes: &[u8]| control::set_mode(Mode::parse(bytes).ok_or(EINVAL)?);
    // SAFETY: this function's contract.
    unsafe { stored(text, length, accept) }
}

/// # Safety
///
/// As for [`store_mode`].
unsafe extern "C" fn store_cpus(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    text: *const c_char,
    length: usize,
) -> isize {
    let accept = |bytes: &[u8]| {
        // The parser ends at either, and ignores what follows.
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let is_line = !line.iter().any(|byte| matches!(byte, 0 | b'\n'));
        if !is_line && !cfg!(variant = "lenient_input") {
            return Err(EINVAL);
        }
        #[cfg(variant = "leaky_input")]
        core::mem::forget(KBox::new(CpuSet::new(), GFP_KERNEL)?);
        let wanted = KBox::new(CpuSet::new(), GFP_KERNEL)?;
        // SAFETY: sysfs terminates the text; the set has room for `cpu_bits` bits.
        to_result(unsafe {
            bindings::bitmap_parselist(text, wanted.as_ptr().cast(), percpu::cpu_bits() as i32)
        })?;
        control::set_cpus(&wanted)
    };
    // SAFETY: this function's contract.
    unsafe { stored(text, length, accept) }
}

/// # Safety
///
/// As for [`show_mode`].
unsafe extern "C" fn show_max_stale_ms(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    buffer: *mut c_char,
) -> isize {
    // SAFETY: this function's contract.
    unsafe { emit(buffer, fmt!("{}", stale_limit::limit())) }
}

/// # Safety
///
/// As for [`store_mode`].
unsafe extern "C" fn store_max_stale_ms(
    _kobj: *mut bindings::kobject,
    _attr: *mut bindings::kobj_attribute,
    text: *const c_char,
    length: usize,
) -> isize {
    let accept =
        |bytes: &[u8]| control::set_max_stale(policy::parse_max_stale(bytes).ok_or(EINVAL)?);
    // SAFETY: this function's contract.
    unsafe { stored(text, length, accept) }
}

/// The directory exists.
pub(crate) struct Directory(NonNull<bindings::kobject>);

// SAFETY: a kobject may be used from any thread.
unsafe impl Send for Directory {}
// SAFETY: there is nothing to do with a shared reference.
unsafe impl Sync for Directory {}

impl Directory {
    /// Makes the directory and its files. Process context; may sleep.
    pub(crate) fn create() -> Result<Self> {
        // SAFETY: `kernel_kobj` is /sys/kernel.
        let kobj = unsafe {
            bindings::kobject_create_and_add(c"deferred_flush".as_char_ptr(), bindings::kernel_kobj)
        };
        let directory = Self(NonNull::new(kobj).ok_or(ENOMEM)?);
        // SAFETY: a static, null-terminated list of static attributes.
        to_result(unsafe {
            bindings::sysfs_create_files(directory.0.as_ptr(), ATTRIBUTES.0.as_ptr())
        })?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: made in `create`; removes the files and waits for callbacks that run.
        unsafe { bindings::kobject_put(self.0.as_ptr()) };
    }
}
