// SPDX-License-Identifier: GPL-2.0

//! What the abstract interpretation must not take for known, and which ways out it must not miss:
//! each of these small kernels was once found clean.

mod harness;

use harness::{DEREFERENCE, FOUND, audit, findings, finds};

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
            shape("asm_exc_page_fault", "asm_exc_page_fault"),
            shape("entry_SYSCALL_64", "entry_SYSCALL_64"),
        ]
    );
    assert_eq!(report["problems"].as_array().unwrap().len(), 3);
    // Allowed as a finding, it still proves nothing of the way out.
    let allow = r#"
        [[access]]
        function = "entry_SYSCALL_64"
        class = "protocol"
        shape = "leaves for user mode without a state change, from {any}"
        reason = "Allowed in this test."
    "#;
    let report = audit("no_change_allowed", &[("CHANGE_STATE", "nop")], allow);
    assert_eq!(findings(&report).len(), 2);
    assert_eq!(
        report["problems"][2],
        "entry_SYSCALL_64: no path changes the state to user mode"
    );
}
