// SPDX-License-Identifier: GPL-2.0

//! The check of the module's machine code, on hand-written objects with one thing wrong in each.

use std::path::Path;
use std::process::Command;

const SENDER: &str = "
	mov	__per_cpu_offset(,%rdi,8), %rcx
	lea	DEFERRED_FLUSH_CPU(%rcx), %rsi
	mov	$1, %eax
	mov	context_tracking+8(%rcx), %edx
	cmp	$2, %edx
	jne	9f
	mov	(%rsi), %edx
	test	$1, %dl
	jne	1f
	lock orl $1, (%rsi)
1:	mfence
	mov	context_tracking+8(%rcx), %edx
	cmp	$2, %edx
	jne	9f
	mov	x7BLOCKED(%rip), %rdx
	test	%dl, %dl
	jne	9f
	xor	%eax, %eax
9:	ret
";
const BARRIER: &str = "
	mfence
	call	on_each_cpu_cond_mask
	ret
";
const NMI: &str = "
	lea	DEFERRED_FLUSH_CPU(%rip), %rax
	add	%gs:this_cpu_off(%rip), %rax
	mov	(%rax), %ecx
	test	%ecx, %ecx
	je	1f
	mov	%cr4, %rcx
	xor	$0x80, %rcx
	mov	%rcx, %cr4
	xor	$0x80, %rcx
	mov	%rcx, %cr4
1:	xor	%eax, %eax
	ret
";
const TRAMPOLINE: &str = "
	cmpl	$0, %gs:DEFERRED_FLUSH_CPU(%rip)
	jne	2f
1:	ret
2:	call	deferred_flush_receive
	jmp	1b
";
const RECEIVER: &str = "
	lea	DEFERRED_FLUSH_CPU(%rip), %rax
	add	%gs:this_cpu_off(%rip), %rax
	mov	$2, %ecx
	xchg	%ecx, (%rax)
	mov	$2, %edx
	invpcid	(%rsp), %rdx
	lock andl $0xfffffffd, (%rax)
	ret
";

const FUNCTIONS: [(&str, &str); 5] = [
    ("x7wrapper14must_interrupt", SENDER),
    ("x7wrapper15deferring_flush", BARRIER),
    ("x3nmi6on_nmi", NMI),
    ("deferred_flush_trampoline", TRAMPOLINE),
    ("deferred_flush_receive", RECEIVER),
];

/// Assembles the module with one text replaced by another and returns the violations.
fn check(name: &str, from: &str, to: &str) -> Vec<String> {
    let mut source = String::from("\t.text\n");
    let mut replaced = from.is_empty();
    for (function, body) in FUNCTIONS {
        replaced |= body.contains(from);
        let body = if from.is_empty() {
            body.into()
        } else {
            body.replacen(from, to, 1)
        };
        source.extend([format!(
            "\t.globl {function}\n\t.type {function}, @function\n{function}:{body}\n\t.size {function}, . - {function}\n"
        )]);
    }
    assert!(replaced, "{name}: nothing to replace");
    source += "\t.data\n\t.type x7BLOCKED, @object\nx7BLOCKED: .quad 0\n\t.size x7BLOCKED, 8\n";
    source += "\t.globl DEFERRED_FLUSH_CPU\n\t.type DEFERRED_FLUSH_CPU, @object\nDEFERRED_FLUSH_CPU: .quad 0\n\t.size DEFERRED_FLUSH_CPU, 8\n";
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module");
    std::fs::create_dir_all(&directory).unwrap();
    let (s, o) = (
        directory.join(format!("{name}.s")),
        directory.join(format!("{name}.o")),
    );
    std::fs::write(&s, source).unwrap();
    let status = Command::new("as")
        .arg("-o")
        .arg(&o)
        .arg(&s)
        .status()
        .unwrap();
    assert!(status.success(), "{name} does not assemble");
    let report = dflush::audit::check_module(&std::fs::read(&o).unwrap()).unwrap();
    let value = serde_json::to_value(&report).unwrap();
    let violations = value["violations"].as_array().unwrap();
    assert_eq!(report.is_clean(), violations.is_empty());
    violations
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn catches(name: &str, from: &str, to: &str, expected: &str) {
    let violations = check(name, from, to);
    assert!(
        violations.iter().any(|v| v.contains(expected)),
        "{name}: expected '{expected}' among {violations:#?}"
    );
}

#[test]
fn the_right_order_passes() {
    assert_eq!(check("right", "", ""), [""; 0]);
}

#[test]
fn a_sender_that_does_not_look_again() {
    let look = "mov	context_tracking+8(%rcx), %edx\n\tcmp	$2, %edx\n\tjne	9f\n\tmov	x7";
    catches("no_recheck", look, "mov	x7", "without a second look");
    catches(
        "no_block_recheck",
        "mov	x7BLOCKED(%rip), %rdx",
        "nop",
        "without a second look",
    );
}

#[test]
fn a_sender_without_its_barrier() {
    catches(
        "no_barrier",
        "1:	mfence",
        "1:	nop",
        "defers without a barrier",
    );
}

#[test]
fn a_sender_that_looks_before_the_barrier() {
    let code = "1:	mfence\n\tmov	context_tracking+8(%rcx), %edx";
    let swapped = "1:	mov	context_tracking+8(%rcx), %edx\n\tmfence";
    catches("early_look", code, swapped, "without a second look");
}

#[test]
fn a_sender_that_sets_the_bit_without_a_lock() {
    catches(
        "no_lock",
        "lock orl $1",
        "orl $1",
        "no path sets the bit by a locked operation",
    );
}

#[test]
fn a_sender_without_a_first_look() {
    let look = "mov	context_tracking+8(%rcx), %edx\n\tcmp	$2, %edx\n\tjne	9f\n\tmov	(%rsi)";
    catches("no_first_look", look, "mov	(%rsi)", "without a first look");
}

#[test]
fn a_sender_without_the_first_barrier() {
    catches(
        "first_barrier",
        "	mfence\n	call",
        "	call",
        "before the barrier",
    );
}

#[test]
fn a_receiver_that_flushes_first() {
    let code = "xchg	%ecx, (%rax)\n\tmov	$2, %edx\n\tinvpcid	(%rsp), %rdx";
    let swapped = "mov	$2, %edx\n\tinvpcid	(%rsp), %rdx\n\txchg	%ecx, (%rax)";
    catches(
        "flush_before_exchange",
        code,
        swapped,
        "not exchange, flush, clear",
    );
    catches(
        "no_flush",
        "invpcid	(%rsp), %rdx",
        "nop",
        "not exchange, flush, clear",
    );
    catches(
        "no_clear",
        "lock andl $0xfffffffd, (%rax)",
        "nop",
        "not exchange, flush, clear",
    );
}

#[test]
fn an_nmi_handler_that_takes_the_bit() {
    catches(
        "nmi_clears",
        "1:	xor",
        "1:	lock andl $0, (%rax)\n\txor",
        "writes the word",
    );
    catches(
        "nmi_blind",
        "mov	(%rax), %ecx",
        "nop",
        "does not look at the word first",
    );
}

#[test]
fn a_trampoline_that_does_not_look() {
    catches(
        "blind",
        "cmpl	$0, %gs:DEFERRED_FLUSH_CPU(%rip)",
        "nop",
        "not a look",
    );
}
