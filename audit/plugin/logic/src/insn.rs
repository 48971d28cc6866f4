// SPDX-License-Identifier: GPL-2.0

//! The few instructions that the plugin has to know by their bytes.

use std::ops::Range;

/// Whether it flushes everything: a write of CR4, where this kernel and the module toggle PGE, or
/// INVPCID.
#[must_use]
pub fn flushes_everything(bytes: &[u8]) -> bool {
    match bytes {
        [0x0f, 0x22, modrm] | [0x40..=0x43, 0x0f, 0x22, modrm] => modrm >> 3 & 7 == 4,
        [0x66, 0x0f, 0x38, 0x82, ..] | [0x66, 0x40..=0x4f, 0x0f, 0x38, 0x82, ..] => true,
        _ => false,
    }
}

/// Whether it reads and writes memory in one: LOCK before it, or XCHG.
#[must_use]
pub fn is_atomic(bytes: &[u8]) -> bool {
    const PREFIXES: &[u8] = &[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3];
    let is_prefix = |byte: u8| PREFIXES.contains(&byte) || matches!(byte, 0x40..=0x4f);
    let opcode = bytes.iter().find(|byte| !is_prefix(**byte));
    matches!(opcode, Some(0xf0 | 0x86 | 0x87))
}

/// Whether it returns from a function. What it reads is the return address.
#[must_use]
pub fn returns(bytes: &[u8]) -> bool {
    let opcode = bytes.iter().find(|byte| !matches!(byte, 0xf2 | 0xf3));
    matches!(opcode, Some(0xc3 | 0xc2))
}

/// Where the module's trampoline finds its word, if these are the trampoline's first three
/// instructions: ENDBR64; CMPL $0, %gs:DISPLACEMENT(%rip); JNE, which stands at `branch`.
#[must_use]
pub fn trampoline_word(insns: [&[u8]; 3], branch: u64) -> Option<u64> {
    let [0x65, 0x83, 0x3d, d0, d1, d2, d3, 0] = *insns[1] else {
        return None;
    };
    let is_trampoline =
        insns[0] == [0xf3, 0x0f, 0x1e, 0xfa] && matches!(insns[2], [0x75, _] | [0x0f, 0x85, ..]);
    is_trampoline.then(|| branch.wrapping_add_signed(displacement([d0, d1, d2, d3])))
}

/// Whether the instruction at `pc` is a return from the function, or a jump out of it, as one to
/// the return thunk.
#[must_use]
pub fn leaves(bytes: &[u8], pc: u64, function: &Range<u64>) -> bool {
    match *bytes {
        [0xc3] => true,
        [0xe9, d0, d1, d2, d3] => {
            !function.contains(&(pc + 5).wrapping_add_signed(displacement([d0, d1, d2, d3])))
        }
        _ => false,
    }
}

fn displacement(bytes: [u8; 4]) -> i64 {
    i64::from(i32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_flushes_everything() {
        for bytes in [
            &[0x0f, 0x22, 0xe0][..],               // mov %rax, %cr4
            &[0x41, 0x0f, 0x22, 0xe4],             // mov %r12, %cr4
            &[0x66, 0x0f, 0x38, 0x82, 0x04, 0x24], // invpcid (%rsp), %rax
            &[0x66, 0x44, 0x0f, 0x38, 0x82, 0x07], // invpcid (%rdi), %r8
        ] {
            assert!(flushes_everything(bytes), "{bytes:x?}");
        }
        for bytes in [
            &[0x0f, 0x22, 0xd8][..],   // mov %rax, %cr3
            &[0x0f, 0x20, 0xe0],       // mov %cr4, %rax
            &[0x44, 0x0f, 0x22, 0xc0], // mov %rax, %cr8
            &[0x0f, 0x01, 0x38],       // invlpg (%rax)
        ] {
            assert!(!flushes_everything(bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn knows_what_is_atomic() {
        for bytes in [
            &[0xf0, 0x29, 0x58, 0x08][..],         // lock sub %ebx, 8(%rax)
            &[0x87, 0x07],                         // xchg %eax, (%rdi)
            &[0x65, 0x48, 0x87, 0x05, 0, 0, 0, 0], // xchg %rax, %gs:0(%rip)
            &[0x65, 0xf0, 0x83, 0x25, 0, 0, 0, 0, 0xfd],
        ] {
            assert!(is_atomic(bytes), "{bytes:x?}");
        }
        for bytes in [
            &[0x65, 0x83, 0x3d, 0, 0, 0, 0, 0][..], // cmpl $0, %gs:0(%rip)
            &[0x48, 0x8b, 0x87, 0, 0, 0, 0],        // mov 0(%rdi), %rax
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        ] {
            assert!(!is_atomic(bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn knows_a_return() {
        for bytes in [&[0xc3][..], &[0xf3, 0xc3], &[0xc2, 0x08, 0x00]] {
            assert!(returns(bytes), "{bytes:x?}");
        }
        // jmp, call, lret, iretq
        for bytes in [
            &[0xe9, 0, 0, 0, 0][..],
            &[0xe8, 0xc3, 0xc3, 0, 0],
            &[0xcb],
            &[0x48, 0xcf],
        ] {
            assert!(!returns(bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn finds_the_word_in_the_trampoline() {
        let endbr = &[0xf3, 0x0f, 0x1e, 0xfa][..];
        let compare = &[0x65, 0x83, 0x3d, 0x00, 0x10, 0x00, 0x00, 0][..];
        let branch = &[0x75, 0x05][..];
        let at = 0xffff_ffff_c000_000c;
        assert_eq!(
            trampoline_word([endbr, compare, branch], at),
            Some(at + 0x1000)
        );
        let back = &[0x65, 0x83, 0x3d, 0xf4, 0xff, 0xff, 0xff, 0][..];
        assert_eq!(trampoline_word([endbr, back, branch], at), Some(at - 12));
        assert_eq!(trampoline_word([branch, compare, branch], at), None);
        assert_eq!(trampoline_word([endbr, compare, endbr], at), None);
        let one = &[0x65, 0x83, 0x3d, 0x00, 0x10, 0x00, 0x00, 1][..];
        assert_eq!(trampoline_word([endbr, one, branch], at), None);
    }

    #[test]
    fn knows_how_a_function_is_left() {
        let function = 0x1000..0x1100;
        assert!(leaves(&[0xc3], 0x1010, &function));
        assert!(leaves(&[0xe9, 0x00, 0x10, 0, 0], 0x1010, &function));
        assert!(!leaves(&[0xe9, 0x10, 0, 0, 0], 0x1010, &function));
        assert!(!leaves(&[0xe9, 0xf0, 0xff, 0xff, 0xff], 0x1010, &function));
        assert!(!leaves(&[0x90], 0x1010, &function));
    }
}
