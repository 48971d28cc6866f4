// SPDX-License-Identifier: GPL-2.0

//! One thing wrong in the sender.

use super::catches;

fn sender(name: &str, from: &str, to: &str, expected: &str) {
    catches(name, "x7wrapper14must_interrupt", from, to, expected);
}

#[test]
fn a_sender_without_a_barrier_or_looking_before_it() {
    sender(
        "no_barrier",
        "4:\tmfence",
        "4:\tnop",
        "defers without a barrier",
    );
    sender(
        "early_state",
        "4:\tmfence\n\tmov\tcontext_tracking+8(%rcx), %esi",
        "4:\tmov\tcontext_tracking+8(%rcx), %esi\n\tmfence",
        "second look after the barrier that the state is user",
    );
    sender(
        "early_blocked",
        "4:\tmfence",
        "4:\tmov\tx7BLOCKED(%rip), %rbp\n\tmfence\n\tmov\t%rbp, %rcx\n\ttest\t%cl, %cl\n\tje\t6f",
        "second look after the barrier that nothing blocks",
    );
}

#[test]
fn a_sender_that_does_not_look_at_all_of_it() {
    let second = "barrier that";
    for (name, from, to, expected) in [
        ("nmi", "and\t$7, %esi", "and\t$3, %esi", "the state is user"),
        (
            "idle",
            "cmp\t$2, %esi",
            "cmp\t$1, %esi",
            "the state is user",
        ),
        (
            "not_user",
            "cmp\t$2, %esi\n\tjne",
            "cmp\t$2, %esi\n\tje",
            "the state is user",
        ),
        (
            "inactive",
            "test\t%sil, %sil\n\tje\t5f",
            "nop",
            "context tracking is active",
        ),
        (
            "not_active",
            "test\t%sil, %sil\n\tje",
            "test\t%sil, %sil\n\tjne",
            "context tracking is active",
        ),
        (
            "debugged",
            "test\t%cl, %cl\n\tjne\t5f",
            "nop",
            "no breakpoint is set",
        ),
        (
            "one_breakpoint",
            "test\t%cl, %cl\n\tjne",
            "test\t$1, %cl\n\tjne",
            "no breakpoint is set",
        ),
        (
            "one_reason",
            "test\t%cl, %cl\n\tje",
            "test\t$1, %cl\n\tje",
            "nothing blocks",
        ),
        (
            "other_cpu",
            "(,%rdx,8), %rcx",
            "(,%rax,8), %rcx",
            "a first look",
        ),
    ] {
        let expected = match expected {
            "a first look" => "no path sets the bit".to_owned(),
            _ => format!("{second} {expected}"),
        };
        sender(name, from, to, &expected);
    }
    sender(
        "no_first_look",
        "cmp\t$2, %edx\n\tjne\t2f",
        "cmp\t$2, %edx",
        "without a first look",
    );
}

#[test]
fn a_sender_that_returns_what_is_not_known() {
    sender(
        "setcc",
        "je\t8f\n\tmov\t(%rsi), %edx",
        "sete\t%bl\n\tje\t8f\n\tmov\t(%rsi), %edx",
        "may defer without a barrier",
    );
}

#[test]
fn a_sender_that_sets_the_bit_wrongly() {
    let wrong = "writes the word otherwise than by a locked OR";
    sender("no_lock", "lock orl $1", "orl $1", wrong);
    sender(
        "no_lock_at_all",
        "lock orl $1",
        "orl $1",
        "no path sets the bit",
    );
    sender("other_bit", "lock orl $1", "lock orl $2", wrong);
    sender(
        "late_bit",
        "4:\tmfence",
        "4:\tmfence\n\tlock orl $1, (%rsi)",
        "writes the word after the barrier",
    );
    let other = ("test\t$1, %dil", "test\t$2, %dil");
    sender("sees_flushing", other.0, other.1, "neither set nor seen");
}

#[test]
fn what_cannot_be_followed_is_a_violation() {
    sender(
        "indirect",
        "jmp\t8b\n6:",
        "jmp\t*%rax\n6:",
        "has an indirect jump",
    );
    sender(
        "middle",
        "jmp\t8b\n6:",
        "jmp\t8b+1\n6:",
        "where nothing begins",
    );
    sender(
        "end",
        "xor\t%ebx, %ebx\n\tjmp\t8b",
        "nop",
        "runs past its end",
    );
    catches(
        "indirect_drain",
        "x5drain13flush_if_owed",
        "je\t9f",
        "jmp\t*%rsi",
        "x5drain13flush_if_owed has an indirect jump",
    );
}
