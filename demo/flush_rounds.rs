// SPDX-License-Identifier: GPL-2.0

//! Load for `make demo`: map, unmap and flush kernel pages on request.
//!
//! A decimal number written to `/dev/flush_rounds` makes the writer run that many rounds of
//! vmap(), vunmap() and vm_unmap_aliases(). Each round ends in one flush_tlb_kernel_range(),
//! issued by the CPU that the writer runs on.

use kernel::{
    fs::{File, Kiocb},
    iov::IovIterSource,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    page::Page,
    prelude::*,
};

#[expect(improper_ctypes, unreachable_pub)]
mod bindings {
    use kernel::bindings::{page, pgprot_t};

    include!(env!("FLUSH_ROUNDS_BINDINGS"));
}

/// Pages of one mapping: few enough that the kernel flushes them one by one.
const PAGES: usize = 16;

/// The most rounds that one write may ask for.
const MAX_ROUNDS: u32 = 1_000_000;

module! {
    type: FlushRounds,
    name: "flush_rounds",
    authors: ["The deferred_flush authors"],
    description: "Load for the demonstration of deferred_flush",
    license: "GPL",
}

#[pin_data]
struct FlushRounds {
    #[pin]
    _device: MiscDeviceRegistration<Pages>,
}

impl kernel::InPlaceModule for FlushRounds {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"flush_rounds",
            }),
        })
    }
}

/// The pages that an open file maps again and again.
struct Pages(KVec<Page>);

#[vtable]
impl MiscDevice for Pages {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let mut pages = KVec::with_capacity(PAGES, GFP_KERNEL)?;
        for _ in 0..PAGES {
            pages.push(Page::alloc_page(GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(KBox::new(Self(pages), GFP_KERNEL)?)
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut text = KVec::new();
        let length = iov.copy_from_iter_vec(&mut text, GFP_KERNEL)?;
        let rounds = core::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|rounds| *rounds <= MAX_ROUNDS)
            .ok_or(EINVAL)?;

        kiocb.file().run(rounds)?;
        Ok(length)
    }
}

impl Pages {
    fn run(&self, rounds: u32) -> Result {
        let mut pages = KVec::with_capacity(self.0.len(), GFP_KERNEL)?;
        for page in &self.0 {
            pages.push(page.as_ptr(), GFP_KERNEL)?;
        }
        for _ in 0..rounds {
            round(&mut pages)?;
        }
        Ok(())
    }
}

/// The kernel's PAGE_KERNEL.
fn page_kernel() -> kernel::bindings::pgprot_t {
    // SAFETY: Both are written during early boot only.
    let (encryption, supported) = unsafe {
        (
            kernel::bindings::sme_me_mask as usize,
            kernel::bindings::__default_kernel_pte_mask,
        )
    };
    kernel::bindings::pgprot_t {
        pgprot: (bindings::FLUSH_ROUNDS_PAGE_KERNEL as usize | encryption) & supported,
    }
}

fn round(pages: &mut [*mut kernel::bindings::page]) -> Result {
    // SAFETY: `pages` holds `PAGES` valid pages, which the caller owns for longer than this
    // mapping lives.
    let address = unsafe {
        bindings::vmap(
            pages.as_mut_ptr(),
            PAGES as c_uint,
            bindings::FLUSH_ROUNDS_VM_MAP,
            page_kernel(),
        )
    };
    if address.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: `address` comes from vmap() and nobody else knows it.
    unsafe { bindings::vunmap(address) };
    // SAFETY: It may be called from any context that may sleep, and this is a system call.
    unsafe { bindings::vm_unmap_aliases() };
    Ok(())
}
