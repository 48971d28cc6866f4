// SPDX-License-Identifier: GPL-2.0

//! What the abstract interpretation must not take for known, and which ways out it must not miss:
//! each of these small kernels was once found clean.

mod harness;

use harness::{DEREFERENCE, FOUND, audit, findings, finds};

/// Plants this into the way in and expects the finding `shape` there.
fn finds_on_entry(name: &str, code: &str, allow: &str, shape: &str) {
    finds(
        name,
        &[("ON_ENTRY", code)],
        allow,
        &format!("do_syscall: {shape}"),
    );
}

#[test]
fn a_change_of_state_that_is_not_locked() {
    let macros = [
        ("ON_EXIT", DEREFERENCE),
        ("CHANGE_STATE", "xadd %edi, %gs:context_tracking+8(%rip)"),
    ];
    finds("unlocked", &macros, "", &format!("do_syscall: {FOUND}"));
    // Wider than the word, and from before it.
    let macros = [
        ("ON_EXIT", DEREFERENCE),
        ("CHANGE_STATE", "mov %rdi, %gs:context_tracking+4(%rip)"),
    ];
    finds("wide_change", &macros, "", &format!("do_syscall: {FOUND}"));
}

#[test]
fn a_way_out_without_a_change_of_state() {
    let report = audit("no_change", &[("CHANGE_STATE", "nop")], "");
    let shape = |function: &str, entry: &str| {
        format!("{function}: protocol: leaves for user mode without a state change, from {entry}")
    };
    assert_eq!(
        findings(&report),
        [
            shape("asm_exc_nmi", "asm_exc_nmi"),
            shape("asm_exc_nmi", "asm_exc_nmi, state user"),
            shape("asm_exc_page_fault", "asm_exc_page_fault"),
            shape("entry_SYSCALL_64", "entry_SYSCALL_64"),
        ]
    );
    assert_eq!(report["problems"].as_array().unwrap().len(), 4);
    // Allowed as a finding, it still proves nothing of the way out.
    let allow = r#"
        [[access]]
        function = "entry_SYSCALL_64"
        class = "protocol"
        shape = "leaves for user mode without a state change, from {any}"
        reason = "Allowed in this test."
    "#;
    let report = audit("no_change_allowed", &[("CHANGE_STATE", "nop")], allow);
    assert_eq!(findings(&report).len(), 3);
    assert_eq!(
        report["problems"][2],
        "entry_SYSCALL_64: no path changes the state to user mode"
    );
}

#[test]
fn a_bound_on_one_byte_of_a_slot() {
    // In the frame of do_syscall(), and undone on both ways.
    let code = "push %rsi\ncmpb $15, (%rsp)\nja 1f\nmov (%rsp), %rax\n\
                mov init_task(,%rax,8), %rax\n1: pop %rsi";
    finds_on_entry("slot", code, "", "unknown: read8 [user + init_task]");
    let whole = code.replace("cmpb", "cmpq");
    let report = audit("whole_slot", &[("ON_ENTRY", &whole)], "");
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn two_bits_that_are_not_both_clear() {
    // 1 or 2, too: only of a saved CS is it known that they are both set then.
    let code = "push %rsi\ntestq $3, (%rsp)\nje 1f\nmov (%rsp), %rax\nand $3, %eax\n\
                cmp $3, %eax\nje 1f\nmov vmalloc_pointer(%rip), %rax\nmov (%rax), %rax\n\
                1: pop %rsi";
    finds_on_entry("two_bits", code, "", FOUND);
}

#[test]
fn an_address_outside_the_stack() {
    for (name, code, source) in [
        ("far_below", "lea -0x100000(%rsp), %rax", "stack value"),
        ("far_above", "lea 0x100000(%rsp), %rax", "stack value"),
        ("below", "lea -0x3ff0(%rsp), %rax", "stack value"),
        ("above", "lea 0x1000(%rsp), %rax", "task stack"),
    ] {
        let code = code.to_owned() + "\nmov (%rax), %rax";
        finds_on_entry(name, &code, "", &format!("unknown: read8 [{source}]"));
    }
    let inside = "lea -0x3000(%rsp), %rax\nmov (%rax), %rax";
    let report = audit("inside", &[("ON_ENTRY", inside)], "");
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn a_stack_pointer_that_grows_in_a_loop() {
    let code = "lea 8(%rsp), %rax\n1: mov (%rax), %rcx\nadd $8, %rax\ndec %esi\njne 1b";
    finds_on_entry("loop", code, "", "unknown: read8 [stack value]");
}

#[test]
fn two_entry_stacks_with_the_same_offset() {
    let allow = r#"
        [[pointer]]
        symbol = "current_task"
        yields = "entry_stack_top"
        reason = "One of several in this test."
    "#;
    let code = "mov %gs:current_task(%rip), %rax\nmov %gs:current_task(%rip), %rcx\n\
                cmp %rcx, %rax\nje 1f\nmov vmalloc_pointer(%rip), %rax\nmov (%rax), %rax\n1:";
    finds_on_entry("two_stacks", code, allow, FOUND);
}

#[test]
fn a_gs_base_from_anywhere() {
    let code = "wrgsbase %rsi\nmov %gs:dynamic(%rip), %rax";
    let report = audit("wrgsbase", &[("ON_ENTRY", code)], "");
    assert_eq!(
        findings(&report),
        [
            "__ct_user_exit: segment: write4 gs:[context_tracking+0x8]",
            "do_syscall: segment: read8 gs:[dynamic]",
        ]
    );
    // And the right one, as paranoid_entry() finds it.
    let code = "swapgs\nmov $7, %eax\nand %esi, %eax\nmov __per_cpu_offset(,%rax,8), %rax\n\
                wrgsbase %rax\nmov %gs:dynamic(%rip), %rax";
    let report = audit("wrgsbase_kernel", &[("ON_ENTRY", code)], "");
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn a_sign_that_is_extended() {
    let code = "movzbl %sil, %eax\ntest %eax, %eax\nje 1f\nmovsbq %al, %rax\n\
                mov init_task(,%rax,8), %rax\n1:";
    finds_on_entry("nonzero", code, "", "unknown: read8 [user + init_task]");
    let bits = code.replace("test %eax, %eax", "test $1, %eax");
    finds_on_entry("bits", &bits, "", "unknown: read8 [computed + init_task]");
    let unsigned = code.replace("movsbq", "movzbq");
    let report = audit("unsigned", &[("ON_ENTRY", &unsigned)], "");
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn an_assumed_variable_that_is_overwritten() {
    let allow = r#"
        [[memory]]
        symbol = "dynamic"
        size = 4
        value = 0
        reason = "Zero at first in this test."
    "#;
    let code = |store: &str| {
        format!(
            "{store}\ncmpl $0, %gs:dynamic(%rip)\nje 1f\n\
             mov vmalloc_pointer(%rip), %rax\nmov (%rax), %rax\n1:"
        )
    };
    for (name, store) in [
        ("from_before", "mov %rsi, %gs:dynamic-2(%rip)"),
        ("a_part", "mov %sil, %gs:dynamic+1(%rip)"),
        ("an_index", "and $7, %esi\nmovb $1, %gs:dynamic-4(%rsi)"),
    ] {
        finds_on_entry(name, &code(store), allow, FOUND);
    }
    let report = audit(
        "beside",
        &[("ON_ENTRY", &code("movl $1, %gs:dynamic+4(%rip)"))],
        allow,
    );
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn an_assumption_that_is_of_no_use() {
    let allow = r#"
        [[memory]]
        symbol = "dynamic"
        size = 8
        value = 0
        reason = "Nothing reads it here."
    "#;
    let report = audit("useless", &[], allow);
    assert_eq!(
        report["problems"][0],
        "stale entry in the allowlist: memory dynamic"
    );
}

#[test]
fn a_static_call_that_is_known_in_one_place_only() {
    let code = ".Lsite: call __SCT__hook";
    let macros = [
        ("ON_ENTRY", code),
        ("STATIC_CALLS", ".long .Lsite - .\n.long __SCK__hook - ."),
    ];
    let allow = |within: &str| {
        format!(
            "[[static_call]]\nname = \"hook\"\nwithin = \"{within}\"\ntargets = []\n\
             reason = \"Nothing in this test.\"\n"
        )
    };
    let report = audit("within", &macros, &allow("entry_SYSCALL_64"));
    assert_eq!(report["clean"], true, "{report:#}");
    let report = audit("not_within", &macros, &allow("exc_nmi"));
    assert_eq!(
        findings(&report),
        ["do_syscall: control flow: static call hook"]
    );
}

#[test]
fn a_register_of_user_mode_that_the_kernel_has_changed() {
    // SS is 0x2b at first, but a function that is not followed may have written it.
    let code = "cmpq $0x2b, 0x20(%rbx)\nje 1f\n".to_owned() + DEREFERENCE + "\n1:";
    let macros = [("AFTER_ENTRY", "call reads_pointer"), ("ON_EXIT", &*code)];
    finds("changed_ss", &macros, "", &format!("do_syscall: {FOUND}"));
    let macros = [("ON_EXIT", &*code)];
    let report = audit("same_ss", &macros, "");
    assert_eq!(report["clean"], true, "{report:#}");
}

#[test]
fn a_caller_that_no_path_leads_to() {
    let code = ".text\n.type stray, @function\nstray: call __ct_user_enter\nret\n\
                .section .init.data, \"aw\"";
    finds(
        "coverage",
        &[("GATES", code)],
        "",
        ": coverage: stray calls __ct_user_enter and no path leads there",
    );
}

#[test]
fn a_path_that_may_end_in_one_place_only() {
    let allow = |caller: &str| {
        format!(
            "[[stop]]\nfunction = \"reads_pointer\"\ncaller = \"{caller}\"\n\
             reason = \"Only from there in this test.\"\n"
        )
    };
    let code = "testb $1, some_key(%rip)\nje 1f\ncall reads_pointer\n1:";
    let macros = [("ON_ENTRY", code)];
    let report = audit("stop", &macros, &allow("do_syscall"));
    assert_eq!(report["clean"], true, "{report:#}");
    let report = audit("stop_elsewhere", &macros, &allow("exc_nmi"));
    assert_eq!(findings(&report), [format!("reads_pointer: {FOUND}")]);
}
