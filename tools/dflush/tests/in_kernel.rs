// SPDX-License-Identifier: GPL-2.0

//! Events that hit the kernel while a flush may be owed, and faults on the way out.

mod harness;

use harness::{DEREFERENCE, FOUND, audit, findings, finds};

#[test]
fn an_nmi_that_hits_the_kernel() {
    let report = finds(
        "nmi_in_kernel",
        &[("NMI_IN_KERNEL", DEREFERENCE)],
        "",
        &format!("asm_exc_nmi: {FOUND}"),
    );
    assert_eq!(report["findings"][0]["entry"], "asm_exc_nmi, state user");
    assert_eq!(report["findings"][0]["entries"], 2);
}

#[test]
fn an_nmi_does_not_know_the_gs_base() {
    finds(
        "nmi_gs",
        &[("NMI_IN_KERNEL", "mov %gs:dynamic(%rip), %rax")],
        "",
        "asm_exc_nmi: segment: read8 gs:[dynamic]",
    );
}

#[test]
fn an_event_in_the_kernel_that_may_return_to_user_mode() {
    finds(
        "not_back",
        &[("NMI_IN_KERNEL", "movq $0x33, 8(%rsp)")],
        "",
        "asm_exc_nmi: control flow: leaves an event in the kernel, and the saved CS may be user mode's",
    );
}

#[test]
fn another_round_of_an_nmi() {
    // After the change of state it comes in again, where accesses count as before, and the handlers
    // are walked again.
    let again = |planted: &str| {
        format!(
            "call nmi_handle.part.0\ncall irqentry_nmi_exit\n\
             lock xadd %edi, %gs:context_tracking+8(%rip)\n{planted}"
        )
    };
    let report = audit("again_clean", &[("IN_NMI", &again(""))], "");
    assert_eq!(report["clean"], true, "{report:#}");
    assert_eq!(report["entries"][0]["nmi_walk"], 2);
    finds(
        "again",
        &[("IN_NMI", &again(DEREFERENCE))],
        "",
        &format!("exc_nmi: {FOUND}"),
    );
}

#[test]
fn what_is_not_audited_of_events_in_the_kernel_only() {
    let allow = r#"
        [[remainder]]
        function = "reads_pointer"
        reason = "Not audited in this test."
    "#;
    let call = "call reads_pointer";
    let report = audit("remainder", &[("NMI_IN_KERNEL", call)], allow);
    assert_eq!(report["clean"], true, "{report:#}");
    let entries = report["entries"].as_array().unwrap();
    let nmi = entries
        .iter()
        .find(|e| e["name"] == "asm_exc_nmi, state user");
    assert_eq!(nmi.unwrap()["remainders"][0], "reads_pointer");
    // From user mode it is audited.
    let report = audit("no_remainder", &[("IN_NMI", call)], allow);
    assert_eq!(findings(&report), [format!("reads_pointer: {FOUND}")]);
    assert_eq!(report["findings"][0]["entry"], "asm_exc_nmi");
}

/// FRED's two ways in, which need no SWAPGS: one for each level of privilege.
fn fred(of_type: u8, vector: u8) -> String {
    format!(
        ".type asm_fred_entrypoint_user, @function\nasm_fred_entrypoint_user:\n\
         call do_syscall\n.byte 0xf3, 0x0f, 0x01, 0xca\n\
         .type asm_fred_entrypoint_kernel, @function\nasm_fred_entrypoint_kernel:\n\
         cmpb ${vector}, 44(%rsp)\njne 1f\nmovzbl 46(%rsp), %eax\nand $15, %eax\n\
         cmp ${of_type}, %eax\njne 1f\n{DEREFERENCE}\n\
         1: .byte 0xf2, 0x0f, 0x01, 0xca"
    )
}

#[test]
fn by_fred() {
    let report = audit("fred_clean", &[("TEXT", &fred(0, 0))], "");
    assert_eq!(report["clean"], true, "{report:#}");
    let entries = report["entries"].as_array().unwrap();
    let user = entries
        .iter()
        .find(|e| e["name"] == "asm_fred_entrypoint_user")
        .unwrap();
    assert_eq!(user["receiver"], 1);
    assert_eq!(user["left"], 1);
    let report = finds(
        "fred_user",
        &[("TEXT", &fred(0, 0)), ("ON_EXIT", DEREFERENCE)],
        "",
        &format!("do_syscall: {FOUND}"),
    );
    assert_eq!(report["findings"][0]["entries"], 2);
    // Each kind of event by itself.
    for (name, of_type, vector) in [
        ("NMI", 2, 2),
        ("#DB", 3, 1),
        ("INT1", 5, 1),
        ("#BP", 6, 3),
        ("#MC", 3, 18),
    ] {
        let report = finds(
            &format!("fred_{of_type}_{vector}"),
            &[("TEXT", &fred(of_type, vector))],
            "",
            &format!("asm_fred_entrypoint_kernel: {FOUND}"),
        );
        let finding = &report["findings"][0];
        assert_eq!(finding["entries"], 2, "{name}");
        let expected = format!("asm_fred_entrypoint_kernel {name}, state user");
        assert_eq!(finding["entry"], expected);
    }
}

/// The handlers of faults that IRET can raise; one of them does more.
fn iret_faults(planted: &str) -> String {
    let mut text =
        ".type native_irq_return_iret, @function\nnative_irq_return_iret: iretq\n".to_owned();
    for name in ["general_protection", "stack_segment", "segment_not_present"] {
        let planted = if name == "stack_segment" { planted } else { "" };
        text.extend([format!(
            ".type asm_exc_{name}, @function\nasm_exc_{name}:\n\
             testb $3, 16(%rsp)\njne 1f\n\
             lea native_irq_return_iret(%rip), %rcx\ncmp %rcx, 8(%rsp)\njne 2f\n{planted}\n\
             1: swapgs\ncall do_page_fault\nswapgs\nadd $8, %rsp\n\
             jmp native_irq_return_iret\n2: ud2\n"
        )]);
    }
    text
}

#[test]
fn faults_of_iret() {
    let report = audit("iret_clean", &[("TEXT", &iret_faults(""))], "");
    assert_eq!(report["clean"], true, "{report:#}");
    let report = finds(
        "iret",
        &[("TEXT", &iret_faults(DEREFERENCE))],
        "",
        &format!("asm_exc_stack_segment: {FOUND}"),
    );
    let finding = &report["findings"][0];
    assert_eq!(finding["entry"], "asm_exc_stack_segment at IRET");
    assert_eq!(finding["entries"], 1);
    // In user mode, GS is not the kernel's before SWAPGS.
    finds(
        "iret_gs",
        &[("TEXT", &iret_faults("mov %gs:dynamic(%rip), %rax"))],
        "",
        "asm_exc_stack_segment: segment: read8 gs:[dynamic]",
    );
}
