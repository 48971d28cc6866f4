// SPDX-License-Identifier: GPL-2.0

//! The area of swapped pages: mapped, unmapped and mapped anew at one address.
//!
//! Each page starts with a tag that names the generation in which it was mapped. Pages of earlier
//! generations keep their tags until their set comes round again, so a stale translation shows.

use crate::bindings;
use core::sync::atomic::{
    AtomicU64,
    AtomicUsize,
    Ordering::SeqCst, //
};
use kernel::{
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

// Read by probes and handlers in any context, so no lock. The order of these accesses is part of
// what is tested, hence the strongest one everywhere.
static BASE: AtomicUsize = AtomicUsize::new(0);
static PAGES: AtomicUsize = AtomicUsize::new(0);
static PUBLISHED: AtomicU64 = AtomicU64::new(0);

const MAGIC: u64 = 0xdf;

/// How many areas may be put aside while waiting for the old address to come back.
const ASIDE: usize = 16;

fn tag(generation: u64, index: usize) -> u64 {
    (MAGIC << 56) | ((generation & 0xff_ffff_ffff) << 16) | (index as u64 & 0xffff)
}

/// What one look at the pages found.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reading {
    pub(crate) generation: u64,
    pub(crate) reads: u64,
    pub(crate) stale: u64,
    pub(crate) absent: u64,
}

impl Reading {
    pub(crate) fn add(&mut self, other: &Self) {
        self.generation = other.generation;
        self.reads += other.reads;
        self.stale += other.stale;
        self.absent += other.absent;
    }
}

/// The newest generation whose flush has returned.
pub(crate) fn generation() -> u64 {
    PUBLISHED.load(SeqCst)
}

/// Reads all pages on this CPU; works in any context.
///
/// A page is stale if its generation had been replaced, and the flush for that had returned,
/// before this function looked.
pub(crate) fn read() -> Reading {
    let mut reading = Reading {
        generation: PUBLISHED.load(SeqCst),
        ..Reading::default()
    };
    let base = BASE.load(SeqCst);
    if base == 0 {
        return reading;
    }
    for index in 0..PAGES.load(SeqCst) {
        let mut found = 0u64;
        // SAFETY: The destination is eight writable bytes; a source that is not mapped is reported
        // as an error.
        let error = unsafe {
            bindings::copy_from_kernel_nofault(
                (&raw mut found).cast(),
                (base + index * PAGE_SIZE) as *const c_void,
                size_of::<u64>(),
            )
        };
        reading.reads += 1;
        let generation = (found >> 16) & 0xff_ffff_ffff;
        if error != 0 || found != tag(generation, index) {
            reading.absent += 1;
        } else if generation < reading.generation {
            reading.stale += 1;
        }
    }
    reading
}

/// One more flush that may be deferred, on kernels with KASAN for vmalloc.
///
/// There each purge of lazily freed areas ends with a flush of KASAN's shadow, which lies outside
/// the vmalloc range: every CPU is interrupted, and none owes anything. The flush of a block of
/// `vm_map_ram()` is no purge, so whoever is in user mode again owes one after it. Where memory is
/// too short for that nobody does. May sleep.
pub(crate) fn owe_again() {
    if cfg!(not(CONFIG_KASAN_VMALLOC)) {
        return;
    }
    // The CPUs that were interrupted need some time to go back to user mode.
    fsleep(Delta::from_millis(5));
    let Ok(page) = Page::alloc_page(GFP_KERNEL) else {
        return;
    };
    let mut pages = [page.as_ptr()];
    // SAFETY: `pages` holds one pointer to a page, which outlives the mapping.
    let address = unsafe { bindings::vm_map_ram(pages.as_mut_ptr(), 1, -1) };
    if address.is_null() {
        return;
    }
    // SAFETY: Mapped above, with that size. No translation to the page can have been made: nobody
    // else knows the address.
    unsafe {
        bindings::vm_unmap_ram(address, 1);
        bindings::vm_unmap_aliases();
    }
}

/// Pages that take turns at one address.
pub(crate) struct Area {
    sets: KVec<KVec<Page>>,
    base: *mut c_void,
    generation: u64,
    moved: u64,
}

// SAFETY: The mapping belongs to the area alone and may be undone from any thread.
unsafe impl Send for Area {}

impl Area {
    /// Allocates `sets` sets of `pages` pages and maps the first.
    pub(crate) fn new(pages: usize, sets: usize) -> Result<Self> {
        // 255 pages and their guard page are the most that one pool of the allocator holds.
        if !(1..=255).contains(&pages) || !(2..=512).contains(&sets) {
            return Err(EINVAL);
        }
        let mut area = Self {
            sets: KVec::with_capacity(sets, GFP_KERNEL)?,
            base: core::ptr::null_mut(),
            generation: PUBLISHED.load(SeqCst) + 1,
            moved: 0,
        };
        for _ in 0..sets {
            let mut set = KVec::with_capacity(pages, GFP_KERNEL)?;
            for _ in 0..pages {
                set.push(Page::alloc_page(GFP_KERNEL)?, GFP_KERNEL)?;
            }
            area.sets.push(set, GFP_KERNEL)?;
        }
        area.base = area.map()?;
        area.publish(pages);
        Ok(area)
    }

    fn publish(&self, pages: usize) {
        BASE.store(self.base as usize, SeqCst);
        PAGES.store(pages, SeqCst);
        PUBLISHED.store(self.generation, SeqCst);
    }

    /// Tags the set whose turn it is and maps it somewhere.
    fn map(&self) -> Result<*mut c_void> {
        let turn = (self.generation % self.sets.len() as u64) as usize;
        let set = self.sets.get(turn).ok_or(EINVAL)?;
        let mut pages = KVec::with_capacity(set.len(), GFP_KERNEL)?;
        for (index, page) in set.iter().enumerate() {
            let tag = tag(self.generation, index);
            // SAFETY: `tag` is eight readable bytes; this set is not mapped, so nobody but a reader
            // with a stale translation can look at the page.
            unsafe { page.write_raw((&raw const tag).cast(), 0, size_of::<u64>())? };
            pages.push(page.as_ptr(), GFP_KERNEL)?;
        }
        // SAFETY: Reading an integer that is constant after boot.
        let mask = unsafe { bindings::__default_kernel_pte_mask };
        let protection = bindings::pgprot_t {
            pgprot: (bindings::DFLUSH_PAGE_KERNEL_LOW | 1 << bindings::DFLUSH_PAGE_BIT_NX) & mask,
        };
        // SAFETY: `pages` holds as many pointers to pages as it says; the pages outlive the mapping.
        let address =
            unsafe { bindings::vmap(pages.as_mut_ptr(), pages.len() as u32, 0, protection) };
        if address.is_null() {
            return Err(ENOMEM);
        }
        Ok(address)
    }

    /// Unmaps the pages, flushes, and maps the next set at the same address if that can be had.
    pub(crate) fn swap(&mut self) -> Result {
        self.generation += 1;
        // SAFETY: `base` came from vmap(). A reader may still look: it does not fault.
        unsafe { bindings::vunmap(self.base) };
        // SAFETY: May be called in any context that can sleep.
        unsafe { bindings::vm_unmap_aliases() };
        owe_again();

        let old = self.base;
        let mut aside = KVec::with_capacity(ASIDE, GFP_KERNEL)?;
        let mut new = self.map();
        while let Ok(address) = new {
            if address == old || aside.len() == ASIDE {
                break;
            }
            aside.push(address, GFP_KERNEL)?;
            new = self.map();
        }
        for address in aside {
            // SAFETY: It came from vmap() and nobody else knows it.
            unsafe { bindings::vunmap(address) };
        }
        match new {
            Ok(address) => self.base = address,
            Err(error) => {
                self.base = core::ptr::null_mut();
                self.publish(0);
                return Err(error);
            }
        }
        if self.base != old {
            self.moved += 1;
        }
        self.publish(PAGES.load(SeqCst));
        Ok(())
    }

    pub(crate) fn address(&self) -> u64 {
        self.base as u64
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        BASE.store(0, SeqCst);
        PAGES.store(0, SeqCst);
        // SAFETY: A grace period: probes, callbacks and handlers that read the old base have ended.
        unsafe { bindings::synchronize_rcu() };
        if !self.base.is_null() {
            // SAFETY: `base` came from vmap() and is unmapped once. The purge before the pages go
            // leaves no translation to them behind.
            unsafe {
                bindings::vunmap(self.base);
                bindings::vm_unmap_aliases();
            }
        }
    }
}
