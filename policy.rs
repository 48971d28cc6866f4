// SPDX-License-Identifier: GPL-2.0

//! What may be deferred, on which machines, and what the user may ask for.
//!
//! Pure functions; the same source is tested on the build host. Everything here is an allowlist:
//! what is not known to be safe is interrupted as before.

use crate::insn::{self, CALL_LENGTH};

/// Half-open range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: usize,
    /// First address behind it.
    pub(crate) end: usize,
}

impl Range {
    /// The range of `length` bytes from `start`.
    pub(crate) const fn new(start: usize, length: usize) -> Self {
        Self {
            start,
            end: start.saturating_add(length),
        }
    }

    /// Length in bytes.
    pub(crate) const fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether `address` lies inside.
    pub(crate) const fn contains(self, address: usize) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether `other` is not empty and lies wholly inside.
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.start < other.end && other.end <= self.end
    }

    /// Whether the two have an address in common.
    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// The running kernel's vmalloc range.
///
/// `base` is `vmalloc_base`, the sizes are `VMALLOC_SIZE_TB_L4` and `VMALLOC_SIZE_TB_L5` in
/// units of 1 TiB (arch/x86/include/asm/pgtable_64_types.h).
pub(crate) const fn vmalloc_range(
    base: usize,
    five_levels: bool,
    tib_l4: usize,
    tib_l5: usize,
) -> Range {
    let tib = if five_levels { tib_l5 } else { tib_l4 };
    Range::new(base, tib << 40)
}

/// Why a flush runs as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It was not called by the lazy purge of vmalloc.
    Caller,
    /// It reaches outside the vmalloc range.
    Range,
}

/// Which flushes may be deferred.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Start of `flush_tlb_kernel_range`.
    pub(crate) flush: usize,
    /// The functions that purge vmalloc lazily and free no page tables: `__purge_vmap_area_lazy`
    /// and `_vm_unmap_aliases`.
    pub(crate) purgers: [Range; 2],
    /// The range that may be deferred.
    pub(crate) vmalloc: Range,
}

impl Policy {
    /// Whether a call that returns to `address` may be one of a purger.
    #[inline]
    pub(crate) fn returns_to_purger(&self, address: usize) -> bool {
        self.purgers.iter().any(|purger| purger.contains(address))
    }

    /// Whether a flush of `flushed`, called so that it returns to `return_address`, may be
    /// deferred.
    ///
    /// `bytes_before` are the [`CALL_LENGTH`] bytes before the return address; it is asked for
    /// them only when the return address lies in a purger. A function that tail-calls the flush
    /// leaves its own caller's return address on the stack, so the address alone is not enough:
    /// the bytes before it have to be a CALL of the flush itself.
    #[inline]
    pub(crate) fn check(
        &self,
        flushed: Range,
        return_address: usize,
        bytes_before: impl FnOnce() -> [u8; CALL_LENGTH],
    ) -> Result<(), Kept> {
        // The whole CALL has to lie in the purger, or the bytes belong to somebody else.
        let call = Range {
            start: return_address.wrapping_sub(CALL_LENGTH),
            end: return_address,
        };
        #[cfg(not(variant = "any_caller"))]
        if !self.purgers.iter().any(|purger| purger.covers(call))
            || insn::call_target(bytes_before(), return_address) != Some(self.flush)
        {
            return Err(Kept::Caller);
        }
        #[cfg(not(variant = "any_range"))]
        if !self.vmalloc.covers(flushed) {
            return Err(Kept::Range);
        }
        Ok(())
    }
}

/// More pages than this are flushed wholesale: the default of the kernel's
/// `tlb_single_page_flush_ceiling` (arch/x86/mm/tlb.c).
pub(crate) const SINGLE_PAGE_CEILING: usize = 33;

/// Size of a page in bytes.
pub(crate) const PAGE_SIZE: usize = 4096;

/// Whether an interrupted CPU may flush `range` page by page with INVLPG. It may not under
/// page-table isolation, where the user half of the address spaces would be left out.
pub(crate) const fn flush_by_page(range: Range, page_table_isolation: bool) -> bool {
    !page_table_isolation && range.len() / PAGE_SIZE <= SINGLE_PAGE_CEILING
}

/// What decides whether this machine and kernel can be served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// `nohz_full=` names at least one CPU.
    pub(crate) has_nohz_full: bool,
    /// The CPU broadcasts TLB flushes itself.
    pub(crate) has_invlpgb: bool,
    /// This is a Xen PV guest.
    pub(crate) is_xen_pv: bool,
    /// AMD family 10h.
    pub(crate) is_amd_family_10h: bool,
    /// This is a guest whose memory is encrypted.
    pub(crate) is_encrypted_guest: bool,
    /// CONFIG_RCU_TRACE: a tracepoint lies before the receiver.
    pub(crate) has_rcu_trace: bool,
}

/// Why the module will not load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// ENODEV.
    NoIsolatedCpu,
    /// EOPNOTSUPP.
    Invlpgb,
    /// EOPNOTSUPP.
    XenPv,
    /// EOPNOTSUPP.
    AmdFamily10h,
    /// EOPNOTSUPP.
    EncryptedGuest,
    /// EOPNOTSUPP.
    RcuTrace,
}

impl Refusal {
    /// What is wrong and what to do, for the log.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::NoIsolatedCpu => {
                "no nohz_full CPU: there is nothing to protect; boot with nohz_full=LIST"
            }
            Self::Invlpgb => {
                "this CPU has INVLPGB and flushes without interrupts: the module is not needed here"
            }
            Self::XenPv => {
                "Xen PV guests flush through the hypervisor: use a PVH or HVM guest instead"
            }
            Self::AmdFamily10h => {
                "AMD family 10h can machine-check on mixed page sizes in the TLB: do not load here"
            }
            Self::EncryptedGuest => {
                "encrypted-memory guests rely on each alias flush: do not load here"
            }
            Self::RcuTrace => {
                "CONFIG_RCU_TRACE puts a tracepoint before the receiver: use a kernel without it"
            }
        }
    }
}

impl Machine {
    /// The first reason not to load, if there is one.
    pub(crate) const fn refusal(&self) -> Option<Refusal> {
        if !self.has_nohz_full {
            Some(Refusal::NoIsolatedCpu)
        } else if self.has_invlpgb {
            Some(Refusal::Invlpgb)
        } else if self.is_xen_pv {
            Some(Refusal::XenPv)
        } else if self.is_amd_family_10h {
            Some(Refusal::AmdFamily10h)
        } else if self.is_encrypted_guest {
            Some(Refusal::EncryptedGuest)
        } else if self.has_rcu_trace {
            Some(Refusal::RcuTrace)
        } else {
            None
        }
    }
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No hook is installed.
    Off,
    /// Flushes are counted; every interrupt is sent as before.
    Shadow,
    /// Flushes are deferred.
    On,
}

impl Mode {
    /// From the module parameter.
    pub(crate) const fn from_parameter(value: i64) -> Option<Self> {
        match value {
            0 => Some(Self::Off),
            1 => Some(Self::Shadow),
            2 => Some(Self::On),
            _ => None,
        }
    }

    /// From what was written to `mode`: the name, with at most one newline behind it.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        match text.strip_suffix(b"\n").unwrap_or(text) {
            b"off" => Some(Self::Off),
            b"shadow" => Some(Self::Shadow),
            b"on" => Some(Self::On),
            _ => None,
        }
    }

    /// The name, as read and written in `mode`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::On => "on",
        }
    }
}

/// The longest `max_stale_ms`: a day.
pub(crate) const MAX_STALE_MS: u32 = 24 * 60 * 60 * 1000;

/// From what was written to `max_stale_ms`: a decimal number of milliseconds up to
/// [`MAX_STALE_MS`], with at most one newline behind it.
pub(crate) fn parse_max_stale(text: &[u8]) -> Option<u32> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    // Longer is out of range, or zeros that nobody means.
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    (value <= MAX_STALE_MS).then_some(value)
}
