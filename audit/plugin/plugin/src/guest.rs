// SPDX-License-Identifier: GPL-2.0

//! Reading the guest's memory and registers.

use qemu_plugin::sys::{GByteArray, qemu_plugin_read_memory_vaddr};
use qemu_plugin::{RegisterDescriptor, qemu_plugin_get_registers};
use std::ffi::c_int;
use std::sync::OnceLock;

// Of glib, which QEMU brings.
unsafe extern "C" {
    fn g_byte_array_new() -> *mut GByteArray;
    fn g_byte_array_free(array: *mut GByteArray, free_segment: c_int) -> *mut u8;
}

/// A number of at most eight bytes at a virtual address of the CPU that runs the callback.
pub(crate) fn read(address: u64, size: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    // SAFETY: an array of glib's, which QEMU grows to `size` bytes if it returns true, and which
    // nobody else has.
    unsafe {
        let array = g_byte_array_new();
        let is_read = qemu_plugin_read_memory_vaddr(address, array, size);
        if is_read && (*array).len as usize >= size && size <= bytes.len() {
            std::ptr::copy_nonoverlapping((*array).data, bytes.as_mut_ptr(), size);
        }
        g_byte_array_free(array, 1);
        is_read.then_some(u64::from_le_bytes(bytes))
    }
}

struct Registers {
    /// A function's first argument, and its second one.
    first: RegisterDescriptor<'static>,
    second: RegisterDescriptor<'static>,
    stack: RegisterDescriptor<'static>,
    code_segment: RegisterDescriptor<'static>,
}

static REGISTERS: OnceLock<Registers> = OnceLock::new();

/// To be called when a CPU has been made.
pub(crate) fn find_registers() {
    if REGISTERS.get().is_some() {
        return;
    }
    let registers = qemu_plugin_get_registers().unwrap_or_default();
    let find = |name: &str| {
        registers
            .iter()
            .find(|register| register.name == name)
            .cloned()
    };
    if let (Some(first), Some(second), Some(stack), Some(code_segment)) =
        (find("rdi"), find("rsi"), find("rsp"), find("cs"))
    {
        // Another CPU may have been faster: it has found the same.
        let _ = REGISTERS.set(Registers {
            first,
            second,
            stack,
            code_segment,
        });
    }
}

/// A register of at most eight bytes.
fn value(register: &RegisterDescriptor) -> Option<u64> {
    let read = register.read().ok()?;
    let mut bytes = [0; 8];
    bytes.get_mut(..read.len())?.copy_from_slice(&read);
    Some(u64::from_le_bytes(bytes))
}

/// A function that starts.
pub(crate) struct Call {
    /// Its first two arguments.
    pub(crate) arguments: (u64, u64),
    /// Where its return address stands.
    pub(crate) frame: u64,
}

/// The function that starts; only in a callback that may read registers.
pub(crate) fn call() -> Option<Call> {
    let registers = REGISTERS.get()?;
    Some(Call {
        arguments: (value(&registers.first)?, value(&registers.second)?),
        frame: value(&registers.stack)?,
    })
}

/// Whether the CPU is in user mode; only in a callback that may read registers.
pub(crate) fn is_user_mode() -> Option<bool> {
    Some(value(&REGISTERS.get()?.code_segment)? & 3 == 3)
}
