// SPDX-License-Identifier: GPL-2.0

//! What may be deferred: callers, ranges, machines, modes.

use crate::insn::encode_call;
use crate::policy::{
    flush_by_page, parse_max_stale, vmalloc_range, Kept, Machine, Mode, Policy, Range, Refusal,
    MAX_STALE_MS, PAGE_SIZE,
};

const FLUSH: usize = 0xffff_ffff_8134_9530;
const PURGE: usize = 0xffff_ffff_816f_adf0;
const UNMAP_ALIASES: usize = 0xffff_ffff_816f_b170;
const VMALLOC: usize = 0xffff_c900_0000_0000;

fn policy() -> Policy {
    Policy {
        flush: FLUSH,
        purgers: [Range::new(PURGE, 0x300), Range::new(UNMAP_ALIASES, 0x300)],
        vmalloc: vmalloc_range(VMALLOC, false, 32, 12800),
    }
}

fn pages(start: usize, count: usize) -> Range {
    Range::new(start, count * PAGE_SIZE)
}

/// Checks a flush whose CALL stands at `site` and goes to `target`.
fn check(flushed: Range, site: usize, target: usize) -> Result<(), Kept> {
    policy().check(flushed, site + 5, || encode_call(site, target).unwrap())
}

#[test]
fn the_lazy_purge_of_vmalloc_is_deferred() {
    let flushed = pages(VMALLOC + 0x1000, 64);
    assert_eq!(check(flushed, PURGE + 0x1f1, FLUSH), Ok(()));
    assert_eq!(check(flushed, UNMAP_ALIASES + 0x24f, FLUSH), Ok(()));
}

#[test]
fn other_callers_are_kept() {
    let flushed = pages(VMALLOC, 1);
    for site in [
        0,
        PURGE - 0x1000,
        PURGE + 0x300,
        UNMAP_ALIASES + 0x300,
        0xffff_ffff_c000_0000,
    ] {
        assert_eq!(check(flushed, site, FLUSH), Err(Kept::Caller), "{site:#x}");
    }
}

#[test]
fn a_call_that_only_partly_lies_in_the_purger_is_kept() {
    let flushed = pages(VMALLOC, 1);
    for (site, expected) in [
        (PURGE - 1, Err(Kept::Caller)),
        (PURGE, Ok(())),
        (PURGE + 0x300 - 5, Ok(())),
        (PURGE + 0x300 - 4, Err(Kept::Caller)),
    ] {
        assert_eq!(check(flushed, site, FLUSH), expected, "{site:#x}");
    }
}

#[test]
fn a_tail_call_s_return_address_is_kept() {
    // The purger called another function, and that one jumped to the flush.
    let flushed = pages(VMALLOC, 1);
    assert_eq!(
        check(flushed, PURGE + 0x10, FLUSH + 0x100),
        Err(Kept::Caller)
    );
    let not_a_call = policy().check(flushed, PURGE + 0x15, || [0x90; 5]);
    assert_eq!(not_a_call, Err(Kept::Caller));
}

#[test]
fn text_is_not_read_outside_of_the_purgers() {
    let _ = policy().check(pages(VMALLOC, 1), 5, || panic!("read foreign text"));
    let _ = policy().check(pages(VMALLOC, 1), 0, || panic!("read foreign text"));
}

#[test]
fn ranges_that_reach_outside_vmalloc_are_kept() {
    let end = VMALLOC + (32 << 40);
    for (flushed, expected) in [
        (pages(VMALLOC, 1), Ok(())),
        (pages(end - PAGE_SIZE, 1), Ok(())),
        (pages(VMALLOC - PAGE_SIZE, 2), Err(Kept::Range)),
        (pages(end - PAGE_SIZE, 2), Err(Kept::Range)),
        (pages(end, 1), Err(Kept::Range)),
        (pages(0xffff_ffff_c000_0000, 1), Err(Kept::Range)),
        (pages(0xffff_8880_0000_0000, 1), Err(Kept::Range)),
        // From the direct map through vmalloc into module space.
        (
            Range {
                start: 0xffff_8880_0000_0000,
                end: 0xffff_ffff_c000_0000,
            },
            Err(Kept::Range),
        ),
        (
            Range {
                start: 0,
                end: usize::MAX,
            },
            Err(Kept::Range),
        ),
        // Empty and backward ranges are nobody's business.
        (
            Range {
                start: VMALLOC,
                end: VMALLOC,
            },
            Err(Kept::Range),
        ),
        (
            Range {
                start: VMALLOC + 0x2000,
                end: VMALLOC + 0x1000,
            },
            Err(Kept::Range),
        ),
    ] {
        assert_eq!(
            check(flushed, PURGE + 0x10, FLUSH),
            expected,
            "{flushed:x?}"
        );
    }
}

#[test]
fn five_levels_have_their_own_vmalloc_size() {
    let base = 0xffa0_0000_0000_0000;
    assert_eq!(vmalloc_range(base, true, 32, 12800).len(), 12800 << 40);
    assert_eq!(vmalloc_range(base, false, 32, 12800).len(), 32 << 40);
}

#[test]
fn a_range_at_the_top_does_not_wrap() {
    let top = Range::new(usize::MAX - 10, 100);
    assert_eq!(top.end, usize::MAX);
    assert!(!top.contains(0));
}

#[test]
fn overlap_is_symmetric_and_exact() {
    let watched = Range::new(100, 10);
    for (other, expected) in [
        (Range::new(90, 10), false),
        (Range::new(90, 11), true),
        (Range::new(109, 1), true),
        (Range::new(110, 5), false),
        (Range::new(0, 1000), true),
    ] {
        assert_eq!(watched.overlaps(other), expected);
        assert_eq!(other.overlaps(watched), expected);
    }
}

#[test]
fn pages_are_flushed_one_by_one_as_the_kernel_does() {
    assert!(flush_by_page(pages(VMALLOC, 33), false));
    assert!(!flush_by_page(pages(VMALLOC, 34), false));
    assert!(
        !flush_by_page(pages(VMALLOC, 1), true),
        "page-table isolation"
    );
}

#[test]
fn each_unsuitable_machine_is_refused_for_its_own_reason() {
    let good = Machine {
        has_nohz_full: true,
        ..Machine::default()
    };
    assert_eq!(good.refusal(), None);
    let cases = [
        (Machine::default(), Refusal::NoIsolatedCpu),
        (
            Machine {
                has_invlpgb: true,
                ..good
            },
            Refusal::Invlpgb,
        ),
        (
            Machine {
                is_xen_pv: true,
                ..good
            },
            Refusal::XenPv,
        ),
        (
            Machine {
                is_amd_family_10h: true,
                ..good
            },
            Refusal::AmdFamily10h,
        ),
        (
            Machine {
                is_encrypted_guest: true,
                ..good
            },
            Refusal::EncryptedGuest,
        ),
        (
            Machine {
                has_rcu_trace: true,
                ..good
            },
            Refusal::RcuTrace,
        ),
    ];
    for (machine, refusal) in cases {
        assert_eq!(machine.refusal(), Some(refusal));
        assert!(
            refusal.message().contains(": "),
            "what is wrong, and what to do"
        );
    }
}

#[test]
fn modes_are_read_exactly() {
    for mode in [Mode::Off, Mode::Shadow, Mode::On] {
        let name = mode.name();
        assert_eq!(Mode::parse(name.as_bytes()), Some(mode));
        assert_eq!(Mode::parse(format!("{name}\n").as_bytes()), Some(mode));
        assert_eq!(Mode::parse(format!("{name}\n\n").as_bytes()), None);
        assert_eq!(Mode::parse(format!(" {name}").as_bytes()), None);
        assert_eq!(Mode::parse(name.to_uppercase().as_bytes()), None);
        assert_eq!(Mode::from_parameter(mode as i64), Some(mode));
    }
    for text in ["", "\n", "o", "onn", "on\0", "2", "offshadow"] {
        assert_eq!(Mode::parse(text.as_bytes()), None, "{text:?}");
    }
    for value in [-1, 3, i64::MIN, i64::MAX] {
        assert_eq!(Mode::from_parameter(value), None);
    }
}

#[test]
fn the_stale_limit_is_read_exactly() {
    for (text, value) in [
        ("0", 0),
        ("1\n", 1),
        ("007", 7),
        ("86400000\n", MAX_STALE_MS),
    ] {
        assert_eq!(parse_max_stale(text.as_bytes()), Some(value), "{text:?}");
    }
    for text in [
        "",
        "\n",
        "1\n\n",
        " 1",
        "1 ",
        "-1",
        "+1",
        "0x10",
        "1.5",
        "1k",
        "86400001",
        "999999999",
        "4294967296",
        "0000000001",
        "1\0",
    ] {
        assert_eq!(parse_max_stale(text.as_bytes()), None, "{text:?}");
    }
}
