// SPDX-License-Identifier: GPL-2.0

//! The atomics that `ctx_tracking.rs` uses, here those of loom.
//!
//! loom treats a `SeqCst` access as acquire and release. What the module runs on is stronger: a
//! `SeqCst` read-modify-write is one locked instruction, a full barrier under x86-TSO and, as
//! `atomic_fetch_or()` or `xchg()`, under the kernel's memory model. So each one stands between two
//! sequentially consistent fences here, which loom does model. A `SeqCst` load is an ordinary load
//! on x86, so it is an acquire load here; everything else is loom's.

use crate::trace;
use std::sync::OnceLock;

pub(crate) use loom::sync::atomic::Ordering;
use Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

/// A full barrier.
pub(crate) fn fence(order: Ordering) {
    loom::sync::atomic::fence(order);
    trace::record(|| "full barrier".into());
}

/// Runs one access with the strength that x86 gives it.
fn locked<R>(order: Ordering, access: impl FnOnce(Ordering) -> R) -> R {
    if order != SeqCst {
        return access(order);
    }
    loom::sync::atomic::fence(SeqCst);
    let result = access(AcqRel);
    loom::sync::atomic::fence(SeqCst);
    result
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        /// An atomic integer. loom's are made at run time, and only within an exploration; this one
        /// is made when it is first used, so that `new` can be const as in `core`.
        pub(crate) struct $name {
            initial: $int,
            inner: OnceLock<loom::sync::atomic::$name>,
        }

        #[expect(dead_code, reason = "not every type is used in every way")]
        impl $name {
            pub(crate) const fn new(initial: $int) -> Self {
                Self {
                    initial,
                    inner: OnceLock::new(),
                }
            }

            fn get(&self) -> &loom::sync::atomic::$name {
                self.inner
                    .get_or_init(|| loom::sync::atomic::$name::new(self.initial))
            }

            fn name(&self) -> &'static str {
                trace::name(std::ptr::from_ref(self).cast())
            }

            pub(crate) fn load(&self, order: Ordering) -> $int {
                let order = if order == SeqCst { Acquire } else { order };
                let value = self.get().load(order);
                trace::record(|| format!("{} is {value}", self.name()));
                value
            }

            pub(crate) fn store(&self, value: $int, order: Ordering) {
                if order == SeqCst {
                    loom::sync::atomic::fence(SeqCst);
                    self.get().store(value, Ordering::Release);
                    loom::sync::atomic::fence(SeqCst);
                } else {
                    self.get().store(value, order);
                }
                trace::record(|| format!("{} = {value}", self.name()));
            }

            pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                let old = locked(order, |order| self.get().swap(value, order));
                trace::record(|| format!("{} = {value}, was {old}", self.name()));
                old
            }

            pub(crate) fn fetch_or(&self, bits: $int, order: Ordering) -> $int {
                let old = locked(order, |order| self.get().fetch_or(bits, order));
                trace::record(|| format!("{} |= {bits}, was {old}", self.name()));
                old
            }

            pub(crate) fn fetch_and(&self, bits: $int, order: Ordering) -> $int {
                let old = locked(order, |order| self.get().fetch_and(bits, order));
                trace::record(|| format!("{} &= !{}, was {old}", self.name(), !bits));
                old
            }

            pub(crate) fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                let old = locked(order, |order| self.get().fetch_add(value, order));
                trace::record(|| format!("{} += {value}, was {old}", self.name()));
                old
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $int,
                new: $int,
                success: Ordering,
                _failure: Ordering,
            ) -> Result<$int, $int> {
                let result = locked(success, |order| {
                    self.get().compare_exchange(old, new, order, Relaxed)
                });
                trace::record(|| format!("{} {old} -> {new}: {}", self.name(), result.is_ok()));
                result
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
