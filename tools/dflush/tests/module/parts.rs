// SPDX-License-Identifier: GPL-2.0

//! One thing wrong in another part than the sender.

use super::{SOURCE, assemble, catches, expect};

#[test]
fn a_flush_that_is_none() {
    let none = "a write of CR3 keeps global entries";
    catches(
        "cr3",
        "",
        "mov\t%rdx, %cr4\n\tmov\t%rcx, %cr4",
        "mov\t%rcx, %cr3",
        none,
    );
    let cr4 = "CR4 is not written with PGE toggled";
    catches("same_cr4", "", "mov\t%rdx, %cr4", "mov\t%rcx, %cr4", cr4);
    let left = "CR4 is left with PGE toggled";
    catches(
        "half_cr4",
        "",
        "mov\t%rdx, %cr4\n\tmov\t%rcx, %cr4",
        "mov\t%rdx, %cr4",
        left,
    );
    let kind = "INVPCID of another type than 2";
    catches(
        "unknown_type",
        "",
        "mov\t$2, %edx",
        "mov\t(%rsp), %edx",
        kind,
    );
}

#[test]
fn the_first_barrier_is_missing() {
    let function = "x7wrapper15deferring_flush";
    catches(
        "first_barrier",
        function,
        "mfence",
        "nop",
        "before the barrier",
    );
    let skips = "test\t%rdi, %rdi\n\tje\t1f\n\tcall\ton_each_cpu_cond_mask\n1:";
    let never = "returns without asking";
    catches(
        "never_asks",
        function,
        "call\ton_each_cpu_cond_mask",
        skips,
        never,
    );
}

#[test]
fn a_receiver_in_another_order() {
    let wrong = "not exchange, flush, clear";
    let function = "deferred_flush_receive";
    let code = "xchg\t%ecx, (%rax)\n\tflush_all";
    let early = "flush_all\n\tmov\t$2, %ecx\n\txchg\t%ecx, (%rax)";
    catches("flush_before_exchange", function, code, early, wrong);
    catches("no_flush", function, "flush_all", "nop", wrong);
    catches(
        "no_clear",
        function,
        "lock andl $0xfffffffd, (%rax)",
        "nop",
        wrong,
    );
    catches("unlocked_clear", function, "lock andl", "andl", wrong);
    catches(
        "clears_all",
        function,
        "andl $0xfffffffd",
        "andl $0xfffffffc",
        wrong,
    );
    catches(
        "exchanges_0",
        function,
        "mov\t$2, %ecx",
        "mov\t$0, %ecx",
        wrong,
    );
    let unseen = "the word not seen clear";
    let drain = "x5drain13flush_if_owed";
    catches("inverted", drain, "je\t9f", "jne\t9f", unseen);
    catches(
        "pending_only",
        drain,
        "test\t%esi, %esi",
        "test\t$1, %esi",
        unseen,
    );
    catches(
        "drain_early",
        drain,
        "lock andl $-3, (%rax)",
        "movl\t$0, (%rax)",
        wrong,
    );
}

#[test]
fn a_drain_that_passes_over_a_cpu() {
    let function = "x5drain10owes_flush";
    let over = "passes over a CPU, its word not seen clear";
    let test = "test\t%eax, %eax\n\tje";
    catches("over_all", function, test, "test\t%eax, %eax\n\tjne", over);
    catches(
        "over_flushing",
        function,
        test,
        "test\t$1, %eax\n\tje",
        over,
    );
    let never = "never asks for an interrupt";
    catches(
        "over_each",
        function,
        "mov\t$1, %al",
        "xor\t%eax, %eax",
        never,
    );
}

#[test]
fn a_reset_of_a_cpu_that_is_online() {
    let function = "x5drain9drain_all";
    let online = "clears the word of a CPU not seen offline";
    catches("resets_online", function, "jb\t1b", "jae\t1b", online);
    catches("resets_all", function, "jb\t1b", "nop", online);
    let early = "clears words before the drain";
    catches(
        "early_reset",
        function,
        "call\ton_each_cpu_cond_mask",
        "nop",
        early,
    );
    let skips = "test\t%rdi, %rdi\n\tje\t2f\n\tcall\ton_each_cpu_cond_mask";
    let never = "drain: returns without interrupting";
    catches(
        "no_interrupt",
        function,
        "call\ton_each_cpu_cond_mask",
        skips,
        never,
    );
    let other = "writes a CPU's word";
    catches(
        "resets_to",
        function,
        "xor\t%edx, %edx",
        "mov\t$2, %edx",
        other,
    );
}

#[test]
fn an_nmi_handler_that_takes_the_bit_or_does_not_flush() {
    let function = "x3nmi6on_nmi";
    let clears = "9:\tlock andl $0, (%rax)\n\txor";
    catches("nmi_clears", function, "9:\txor", clears, "writes the word");
    let blind = "does not look at the word first";
    catches("nmi_blind", function, "mov\t(%rax), %ecx", "nop", blind);
    let unseen = "no flush, and the word not seen clear";
    catches("nmi_inverted", function, "je\t9f", "jne\t9f", unseen);
    catches(
        "nmi_pending_only",
        function,
        "test\t%ecx, %ecx",
        "test\t$1, %ecx",
        unseen,
    );
    catches(
        "no_nmi_flush",
        function,
        "flush_all",
        "nop",
        "never flushes",
    );
}

#[test]
fn a_trampoline_that_does_not_look() {
    let function = "deferred_flush_trampoline";
    let look = "cmpl\t$0, %gs:DEFERRED_FLUSH_CPU(%rip)";
    catches("blind", function, look, "nop", "not a look");
    let unseen = "no receiver, and the word not seen clear";
    catches("inverted_look", function, "jne\t2f", "je\t2f", unseen);
    catches(
        "no_receiver",
        function,
        "deferred_flush_receive",
        "nothing",
        "never calls",
    );
}

#[test]
fn a_blocker_without_its_lock_barrier_or_drain() {
    let function = "x6memory9on_memory";
    let barrier = "blocks without a barrier";
    catches("no_block_barrier", function, "mfence", "nop", barrier);
    let unlocked = "writes BLOCKED without a lock";
    catches("no_block_lock", function, "lock orq", "orq", unlocked);
    let drain = "call\tx5drain9drain_all";
    catches("no_drain", function, drain, "nop", "does not drain");
    let early = "call\tx5drain9drain_all\n\tlock orq $4, x7BLOCKED(%rip)\n\tmfence";
    let right = "lock orq $4, x7BLOCKED(%rip)\n\tmfence\n\tcall\tx5drain9drain_all";
    catches("early_drain", function, right, early, "does not drain");
    let only = "takes back what only a resume may";
    catches("unblocks_all", function, "andq $-5", "andq $-7", only);
    catches(
        "no_block",
        function,
        "lock orq $4, x7BLOCKED(%rip)",
        "nop",
        "blocks nothing",
    );
    let poke = "x10text_watch12on_text_poke";
    let test = "test\t$0x200, %eax\n\tje";
    catches(
        "poke_inverted",
        poke,
        test,
        "test\t$0x200, %eax\n\tjne",
        "does not drain",
    );
    let escapes = "takes the address of BLOCKED";
    catches(
        "escapes",
        poke,
        "pushf",
        "lea\tx7BLOCKED(%rip), %rdi\n\tpushf",
        escapes,
    );
}

#[test]
fn a_resume_that_does_not_compare() {
    let function = "x7control10try_resume";
    let hasty = "without having compared the count";
    catches(
        "hasty",
        function,
        "cmp\t$0xff, %rcx\n\tja\t2f",
        "nop",
        hasty,
    );
    catches("inverted_count", function, "ja\t2f", "jbe\t2f", hasty);
    let value = "the old value less the tracer's reason";
    catches(
        "takes_all",
        function,
        "and\t$0xfffffffffffffffd",
        "and\t$0xfffffffffffffffc",
        value,
    );
    let unseen = "the outcome of the exchange is not looked at";
    catches("no_outcome", function, "jne\t1b\n", "nop\n", unseen);
    catches(
        "no_retry",
        function,
        "jne\t1b",
        "jne\t2f",
        "is not tried again",
    );
    let unlocked = "writes BLOCKED without a lock";
    catches(
        "no_resume_lock",
        function,
        "lock cmpxchg",
        "cmpxchg",
        unlocked,
    );
}

#[test]
fn others_leave_the_word_alone_and_every_part_is_there() {
    let other = "\n\tfunction another\n\tlea\tDEFERRED_FLUSH_CPU(%rip), %rax\n\tadd\t%gs:this_cpu_off(%rip), %rax\n\tmovl\t$0, (%rax)\n\tret\n\tend\tanother\n";
    let source = SOURCE.replacen("\n\t.bss", &format!("{other}\n\t.bss"), 1);
    expect(
        "bystander",
        &assemble("bystander", &source),
        "writes a CPU's word",
    );
    let second = other.replace("another", "y7wrapper14must_interrupt");
    let source = SOURCE.replacen("\n\t.bss", &format!("{second}\n\t.bss"), 1);
    expect(
        "twice",
        &assemble("twice", &source),
        "y7wrapper14must_interrupt: sender",
    );
    let source = SOURCE.replace("x3nmi6on_nmi", "x3nmi7handler");
    expect(
        "gone",
        &assemble("gone", &source),
        "no function 3nmi6on_nmi",
    );
}
