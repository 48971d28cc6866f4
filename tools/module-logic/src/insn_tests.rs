// SPDX-License-Identifier: GPL-2.0

//! Decoding of call sites. The byte sequences are from Debian's 7.3.4 image.

use crate::insn::{
    call_target, calls, calls_and_jumps, encode_call, fentry_offset, has_lock_xadd, is_call,
    jump_target, Call,
};

#[test]
fn decodes_the_purge_s_call_of_the_flush() {
    // ffffffff816fafe1: e8 4a e5 c4 ff  call ffffffff81349530 <flush_tlb_kernel_range>
    let target = call_target([0xe8, 0x4a, 0xe5, 0xc4, 0xff], 0xffff_ffff_816f_afe6);
    assert_eq!(target, Some(0xffff_ffff_8134_9530));
}

#[test]
fn other_instructions_are_no_call() {
    let site = 0xffff_ffff_816f_afe6;
    for first in (0..=u8::MAX).filter(|&byte| byte != 0xe8) {
        assert_eq!(call_target([first, 0x4a, 0xe5, 0xc4, 0xff], site), None);
    }
}

#[test]
fn encoding_is_the_inverse_of_decoding() {
    let site = 0xffff_ffff_813f_0004;
    for target in [0xffff_ffff_c085_0000, site, site + 5, 0xffff_ffff_8100_0000] {
        let bytes = encode_call(site, target).expect("in reach");
        assert_eq!(call_target(bytes, site + 5), Some(target));
    }
}

#[test]
fn a_call_reaches_two_gib_and_no_further() {
    let site = 0xffff_fff0_0000_0000;
    let next = site + 5;
    assert!(encode_call(site, next + 0x7fff_ffff).is_some());
    assert!(encode_call(site, next.wrapping_add(0x8000_0000)).is_none());
    assert!(encode_call(site, next - 0x8000_0000).is_some());
    assert!(encode_call(site, next - 0x8000_0001).is_none());
}

#[test]
fn finds_all_calls_with_their_offsets() {
    // push %rbx; call +0; call -5 (to itself); ret
    let code = [0x53, 0xe8, 0, 0, 0, 0, 0xe8, 0xfb, 0xff, 0xff, 0xff, 0xc3];
    let found: Vec<Call> = calls(&code, 0x1000).collect();
    assert!(found.contains(&Call {
        offset: 1,
        target: 0x1006
    }));
    assert!(found.contains(&Call {
        offset: 6,
        target: 0x1006
    }));
}

#[test]
fn code_shorter_than_a_call_has_none() {
    for length in 0..5 {
        assert_eq!(calls(&[0xe8; 5][..length], 0).count(), 0);
    }
    assert_eq!(calls(&[0xe8; 5], 0).count(), 1);
}

#[test]
fn decodes_jumps() {
    // ffffffff813f0048: e9 63 c3 dd 00  jmp ffffffff821cc3b0
    let code = [0xe9, 0x63, 0xc3, 0xdd, 0x00, 0x90];
    assert_eq!(
        jump_target(&code, 0xffff_ffff_813f_004d),
        Some(0xffff_ffff_821c_c3b0)
    );
    assert_eq!(jump_target(&code[..4], 0), None);
    assert_eq!(jump_target(&[0xe8, 0, 0, 0, 0], 0), None);
}

#[test]
fn finds_the_locked_exchange_and_add() {
    assert!(has_lock_xadd(&[0x90, 0xf0, 0x0f, 0xc1, 0x07]));
    assert!(has_lock_xadd(&[0xf0, 0x41, 0x0f, 0xc1, 0x04, 0x24]));
    assert!(!has_lock_xadd(&[0xf0, 0x0f, 0xb1, 0x07]));
    assert!(!has_lock_xadd(&[0x0f, 0xc1, 0x07, 0xf0]));
}

#[test]
fn finds_jumps_along_with_calls() {
    // call +0; jmp +0
    let code = [0xe8, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0];
    let found: Vec<Call> = calls_and_jumps(&code, 0x1000).collect();
    assert!(found.contains(&Call {
        offset: 0,
        target: 0x1005
    }));
    assert!(found.contains(&Call {
        offset: 5,
        target: 0x100a
    }));
    assert_eq!(calls_and_jumps(&code[..4], 0x1000).count(), 0);
}

#[test]
fn the_fentry_site_is_behind_endbr() {
    let nop = [0x0f, 0x1f, 0x44, 0x00, 0x00];
    assert_eq!(fentry_offset(&nop), 0);
    assert_eq!(fentry_offset(&[0xf3, 0x0f, 0x1e, 0xfa, 0xe8]), 4);
    assert_eq!(fentry_offset(&[]), 0);
    assert!(is_call(&[0xe8, 0, 0, 0, 0]));
    assert!(!is_call(&nop));
    assert!(!is_call(&[]));
}
