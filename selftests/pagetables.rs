// SPDX-License-Identifier: GPL-2.0

//! Page-table pages that are freed: huge mappings that take the place of page tables, and a copy of
//! a function that frees them, such as a livepatch would bring.

use crate::{
    area,
    bindings, //
};
use core::{
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{
        AtomicU8,
        AtomicUsize,
        Ordering::SeqCst, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Physical addresses where no machine of the tests has memory or a device.
const NOWHERE: u64 = 1 << 38;
const GIGABYTE: usize = 1 << 30;

/// Maps `size` bytes of nothing, and unmaps them for good.
fn map_once(physical: u64, size: usize) -> Result {
    // SAFETY: Nobody accesses the mapping.
    let address = NonNull::new(unsafe { bindings::ioremap(physical, size) }).ok_or(ENOMEM)?;
    // SAFETY: Mapped above, unmapped once.
    unsafe {
        bindings::iounmap(address.as_ptr());
        bindings::vm_unmap_aliases();
    }
    Ok(())
}

/// A 1 GiB page where a page of 2 MiB entries was: that one is freed, by `pud_free_pmd_page()`.
pub(crate) fn replace_middle_table() -> Result {
    // Not aligned to 1 GiB, so mapped by entries of 2 MiB. The same alignment and size as below,
    // so the allocator gives the same addresses.
    map_once(NOWHERE + (2 << 20), GIGABYTE)?;
    area::owe_again();
    map_once(NOWHERE, GIGABYTE)
}

/// Where functions are that the kernel does not export, from a kprobe that is never armed.
pub(crate) fn address_of(symbol: &'static CStr) -> Result<usize> {
    // SAFETY: All zeroes is a valid probe without handlers.
    let zeroed = unsafe { core::mem::zeroed::<bindings::kprobe>() };
    let mut probe = KBox::new(zeroed, GFP_KERNEL)?;
    probe.symbol_name = symbol.as_char_ptr();
    probe.flags = bindings::KPROBE_FLAG_DISABLED;
    // SAFETY: The probe stays in its box until it is unregistered.
    unsafe {
        kernel::error::to_result(bindings::register_kprobe(&raw mut *probe))?;
        bindings::unregister_kprobe(&raw mut *probe);
    }
    Ok(probe.addr as usize)
}

static FLUSH: AtomicUsize = AtomicUsize::new(0);
static FREE: AtomicUsize = AtomicUsize::new(0);

/// Looks up what [`copied_pmd_free_pte_page`] calls.
pub(crate) fn prepare_copy() -> Result {
    if tracks_indirect_branches() {
        return Err(EOPNOTSUPP);
    }
    FLUSH.store(address_of(c"flush_tlb_kernel_range")?, SeqCst);
    FREE.store(address_of(c"pagetable_free_kernel")?, SeqCst);
    Ok(())
}

/// Whether an indirect branch has to arrive at ENDBR, which functions that are not exported may have
/// lost at boot.
fn tracks_indirect_branches() -> bool {
    const CET: u64 = 1 << 23;
    let cr4: u64;
    // SAFETY: Reading the register has no effect.
    unsafe { core::arch::asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack)) };
    cr4 & CET != 0
}

/// Calls a function of the kernel's by its address.
///
/// # Safety
///
/// As for the function at `target`, which takes one or two words; after [`prepare_copy`].
unsafe fn call(target: &AtomicUsize, first: usize, second: usize) {
    // SAFETY: By this function's contract. Arguments in excess are ignored.
    unsafe {
        let target =
            core::mem::transmute::<usize, unsafe extern "C" fn(usize, usize)>(target.load(SeqCst));
        target(first, second);
    }
}

/// Bits of an entry that are the physical address of what it points to.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// `PG_referenced`, by which `ptdesc_test_kernel()` knows a page table of the kernel.
const IS_KERNEL: u8 = 1 << 2;

/// A copy of `pmd_free_pte_page()` of arch/x86/mm/pgtable.c for one that is a page table of the
/// kernel, on a machine that is no Xen guest: the code of a livepatch.
///
/// # Safety
///
/// Entered in place of that function, after [`prepare_copy`].
pub(crate) unsafe extern "C" fn copied_pmd_free_pte_page(entry: *mut u64, address: usize) -> c_int {
    let page_size = size_of::<bindings::page>();
    // SAFETY: The caller passes a valid entry that points to a page table, which nobody else
    // changes; the kernel's array of pages has a description of it.
    unsafe {
        let frame = ((*entry & ADDRESS) / PAGE_SIZE as u64) as usize;
        let page = bindings::vmemmap_base + frame * page_size;
        entry.write_volatile(0);
        call(&FLUSH, address, address + PAGE_SIZE - 1);
        let page = page as *mut bindings::page;
        (*page).__bindgen_anon_2.page_type = u32::MAX;
        bindings::lruvec_stat_mod_folio(page.cast(), bindings::node_stat_item_NR_PAGETABLE, -1);
        let flags = page.byte_add(offset_of!(bindings::page, flags)).cast();
        AtomicU8::from_ptr(flags).fetch_and(!IS_KERNEL, SeqCst);
        call(&FREE, page as usize, 0);
    }
    1
}
