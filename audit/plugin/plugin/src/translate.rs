// SPDX-License-Identifier: GPL-2.0

//! What is registered with QEMU, and for which instructions.

use crate::guest;
use crate::watch::{Access, Value, Watch, watch as get};
use entry_watch_logic::insn;
use entry_watch_logic::remapped::Function;
use qemu_plugin::sys::{
    qemu_plugin_cb_flags, qemu_plugin_id_t, qemu_plugin_insn, qemu_plugin_insn_data,
    qemu_plugin_insn_size, qemu_plugin_insn_vaddr, qemu_plugin_mem_get_value,
    qemu_plugin_mem_is_store, qemu_plugin_mem_rw, qemu_plugin_mem_value_type,
    qemu_plugin_meminfo_t, qemu_plugin_register_atexit_cb, qemu_plugin_register_vcpu_init_cb,
    qemu_plugin_register_vcpu_insn_exec_cb, qemu_plugin_register_vcpu_mem_cb,
    qemu_plugin_register_vcpu_tb_exec_cb, qemu_plugin_register_vcpu_tb_trans_cb, qemu_plugin_tb,
    qemu_plugin_tb_get_insn, qemu_plugin_tb_n_insns, qemu_plugin_tb_vaddr,
};
use qemu_plugin::{PluginId, Result};
use std::ffi::{c_uint, c_void};

const NO_REGISTERS: qemu_plugin_cb_flags = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
const MAY_READ: qemu_plugin_cb_flags = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS;
const KERNEL_HALF: u64 = 1 << 63;
const LONGEST_INSN: usize = 15;

/// Asks QEMU to be called.
// The signature is that of the method that calls it.
#[expect(clippy::unnecessary_wraps)]
pub(crate) fn register(id: PluginId) -> Result<()> {
    // SAFETY: the plugin with this id is being installed; the callbacks have the right types.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, Some(on_cpu));
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(on_translation));
        qemu_plugin_register_atexit_cb(id, Some(at_exit), std::ptr::null_mut());
    }
    Ok(())
}

unsafe extern "C" fn on_cpu(_id: qemu_plugin_id_t, _cpu: c_uint) {
    guest::find_registers();
}

unsafe extern "C" fn at_exit(_id: qemu_plugin_id_t, _data: *mut c_void) {
    get().finish();
}

/// An instruction and its bytes.
struct Insn {
    handle: *mut qemu_plugin_insn,
    pc: u64,
    bytes: [u8; LONGEST_INSN],
    length: usize,
}

impl Insn {
    /// # Safety
    ///
    /// Called while `block` is translated, with an index below its length.
    unsafe fn new(block: *mut qemu_plugin_tb, index: usize) -> Self {
        let mut bytes = [0; LONGEST_INSN];
        // SAFETY: this function's contract; QEMU writes as many bytes as there are, but not more
        // than asked for.
        unsafe {
            let handle = qemu_plugin_tb_get_insn(block, index);
            qemu_plugin_insn_data(handle, bytes.as_mut_ptr().cast(), bytes.len());
            Self {
                handle,
                pc: qemu_plugin_insn_vaddr(handle),
                bytes,
                length: qemu_plugin_insn_size(handle).min(LONGEST_INSN),
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn call(
        &self,
        callback: unsafe extern "C" fn(c_uint, *mut c_void),
        flags: qemu_plugin_cb_flags,
    ) {
        // SAFETY: made while the block is translated, and used then.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(
                self.handle,
                Some(callback),
                flags,
                std::ptr::null_mut(),
            );
        }
    }
}

unsafe extern "C" fn on_translation(_id: qemu_plugin_id_t, block: *mut qemu_plugin_tb) {
    let watch = get();
    // SAFETY: `block` is what QEMU translates now.
    let start = unsafe { qemu_plugin_tb_vaddr(block) };
    if start < KERNEL_HALF {
        // SAFETY: as above.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_cb(
                block,
                Some(on_user_code),
                MAY_READ,
                start as *mut c_void,
            );
        }
        return;
    }
    // SAFETY: as above.
    let insns: Vec<Insn> = unsafe {
        let count = qemu_plugin_tb_n_insns(block);
        (0..count).map(|index| Insn::new(block, index)).collect()
    };
    if watch.entry_text.contains(&start) {
        // SAFETY: as above.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_cb(
                block,
                Some(on_entry_code),
                NO_REGISTERS,
                start as *mut c_void,
            );
        }
    }
    if !watch.image.contains(&start)
        && let [endbr, compare, branch, ..] = &insns[..]
        && let Some(word) =
            insn::trampoline_word([endbr.bytes(), compare.bytes(), branch.bytes()], branch.pc)
    {
        watch.found_trampoline(endbr.pc, compare.bytes(), word);
    }
    for insn in &insns {
        let callback = if insn::is_atomic(insn.bytes()) {
            on_atomic_access
        } else if insn::returns(insn.bytes()) {
            on_return
        } else {
            on_access
        };
        // SAFETY: as above.
        unsafe {
            qemu_plugin_register_vcpu_mem_cb(
                insn.handle,
                Some(callback),
                NO_REGISTERS,
                qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_RW,
                insn.pc as *mut c_void,
            );
        }
        instrument(watch, insn);
    }
}

fn instrument(watch: &Watch, insn: &Insn) {
    if insn.pc == watch.unmap {
        insn.call(on_unmap, MAY_READ);
    } else if insn.pc == watch.flush {
        insn.call(on_flush, MAY_READ);
    }
    if insn::flushes_everything(insn.bytes()) {
        insn.call(on_full_flush, NO_REGISTERS);
    }
    if watch.user_exit.contains(&insn.pc) && insn::leaves(insn.bytes(), insn.pc, &watch.user_exit) {
        insn.call(on_user_exit_end, NO_REGISTERS);
    }
}

unsafe extern "C" fn on_user_code(cpu: c_uint, pc: *mut c_void) {
    get().user_code(cpu as usize, pc as u64);
}

unsafe extern "C" fn on_entry_code(cpu: c_uint, pc: *mut c_void) {
    get().entry_code(cpu as usize, pc as u64);
}

unsafe extern "C" fn on_full_flush(cpu: c_uint, _data: *mut c_void) {
    get().full_flush(cpu as usize);
}

unsafe extern "C" fn on_user_exit_end(cpu: c_uint, _data: *mut c_void) {
    get().user_exit_end(cpu as usize);
}

unsafe extern "C" fn on_unmap(_cpu: c_uint, _data: *mut c_void) {
    get().called(Function::Unmap, guest::call());
}

unsafe extern "C" fn on_flush(_cpu: c_uint, _data: *mut c_void) {
    get().called(Function::Flush, guest::call());
}

unsafe extern "C" fn on_access(
    cpu: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    pc: *mut c_void,
) {
    let value = || {
        // SAFETY: `info` is what QEMU passed to this callback; the union's member is the one that
        // the type names.
        unsafe {
            let value = qemu_plugin_mem_get_value(info);
            match value.type_ {
                qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U32 => {
                    Value::Plain(value.data.u32_)
                }
                _ => Value::OtherSize,
            }
        }
    };
    happened(cpu, info, address, pc, value);
}

/// A function returns, and has read its return address at `address`.
unsafe extern "C" fn on_return(
    cpu: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    pc: *mut c_void,
) {
    happened(cpu, info, address, pc, || Value::OtherSize);
    get().returned(address);
}

/// QEMU gives one of the two values of such an instruction, but which one depends on the
/// instruction.
unsafe extern "C" fn on_atomic_access(
    cpu: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    pc: *mut c_void,
) {
    happened(cpu, info, address, pc, || Value::Atomic);
    let (cpu, pc) = (cpu as usize, pc as u64);
    Access { cpu, pc, address }.was_atomic(get());
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the hottest path of all")]
fn happened(
    cpu: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    pc: *mut c_void,
    value: impl Fn() -> Value,
) {
    // SAFETY: `info` is what QEMU passed to the callback.
    let is_store = || unsafe { qemu_plugin_mem_is_store(info) };
    Access {
        cpu: cpu as usize,
        pc: pc as u64,
        address,
    }
    .happened(get(), is_store, value);
}
