// SPDX-License-Identifier: GPL-2.0

//! Takes two locks in one order and then in the other: a report of lockdep on request.
//!
//! The control of `scripts/test-debug`, which has to notice it.

use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::SpinLock;

module! {
    type: Splat,
    name: "dflush_splat",
    authors: ["The deferred_flush authors"],
    description: "Provokes a report of lockdep",
    license: "GPL",
}

#[pin_data]
struct Locks {
    #[pin]
    first: SpinLock<()>,
    #[pin]
    second: SpinLock<()>,
}

struct Splat;

impl kernel::Module for Splat {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let locks = KBox::pin_init(
            pin_init!(Locks {
                first <- new_spinlock!(()),
                second <- new_spinlock!(()),
            }),
            GFP_KERNEL,
        )?;
        for swapped in [false, true] {
            let (outer, inner) = if swapped {
                (&locks.second, &locks.first)
            } else {
                (&locks.first, &locks.second)
            };
            let outer = outer.lock();
            drop(inner.lock());
            drop(outer);
        }
        Ok(Self)
    }
}
