// SPDX-License-Identifier: GPL-2.0

//! The audit against small kernels, each with one thing planted that it has to find.

mod harness;

use harness::{DEREFERENCE, FOUND, as_json, audit, build, findings, finds, golden, report_of};
use std::path::Path;

#[test]
fn a_clean_kernel_passes() {
    let report = audit("clean", &[], "");
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!(
        report["problems"].as_array().unwrap().len(),
        0,
        "{report:#}"
    );
    assert_eq!(report["clean"], true);
    let entries = report["entries"].as_array().unwrap();
    let of = |name: &str, key: &str| {
        let entry = entries.iter().find(|e| e["name"] == name).unwrap();
        entry[key].as_u64().unwrap()
    };
    // The NMI twice more, as an event that hits the kernel.
    assert_eq!(entries.len(), 5);
    assert_eq!(of("entry_SYSCALL_64", "receiver"), 1);
    assert_eq!(of("asm_exc_page_fault", "receiver"), 1);
    assert_eq!(of("asm_exc_nmi", "nmi_walk"), 1);
    for name in ["entry_SYSCALL_64", "asm_exc_page_fault", "asm_exc_nmi"] {
        assert_eq!(of(name, "state_changes"), 1, "{name}");
        assert_eq!(of(name, "left"), 1, "{name}");
    }
}

#[test]
fn a_pointer_from_a_global() {
    let report = finds(
        "global",
        &[("ON_ENTRY", DEREFERENCE)],
        "",
        &format!("do_syscall: {FOUND}"),
    );
    let finding = &report["findings"][0];
    assert_eq!(finding["entry"], "entry_SYSCALL_64");
    let trace = finding["trace"].as_array().unwrap();
    assert!(
        trace
            .last()
            .unwrap()
            .as_str()
            .unwrap()
            .contains("mov (%rax),%rax"),
        "{trace:#?}"
    );
    assert!(
        trace[0].as_str().unwrap().contains("entry_SYSCALL_64"),
        "{trace:#?}"
    );
}

#[test]
fn through_a_callee() {
    let code = "mov vmalloc_pointer(%rip), %rdi\ncall reads_argument";
    finds(
        "callee",
        &[("ON_ENTRY", code)],
        "",
        "reads_argument: unknown: read8 [*vmalloc_pointer + 0x8]",
    );
}

#[test]
fn spilled_to_the_stack_and_back() {
    let code =
        "mov vmalloc_pointer(%rip), %rax\npush %rax\nxor %eax, %eax\npop %rcx\nmov %rcx, (%rcx)";
    finds(
        "spilled",
        &[("ON_ENTRY", code)],
        "",
        "do_syscall: unknown: write8 [*vmalloc_pointer]",
    );
}

#[test]
fn behind_an_indirect_call_that_is_not_resolved() {
    let code = "mov handlers(%rip), %rax\ncall *%rax";
    finds(
        "indirect",
        &[("ON_ENTRY", code)],
        "",
        "do_syscall: indirect branch: through *handlers",
    );
}

#[test]
fn behind_an_indirect_call_that_the_allowlist_resolves() {
    let allow = r#"
        [[indirect]]
        function = "do_syscall"
        via = "*handlers"
        targets = ["reads_pointer"]
        reason = "The only handler there is."
    "#;
    for (name, call) in [
        ("resolved", "call *%rax"),
        ("retpoline", "call __x86_indirect_thunk_rax"),
    ] {
        let code = format!("mov handlers(%rip), %rax\n{call}");
        finds(
            name,
            &[("ON_ENTRY", &code)],
            allow,
            &format!("reads_pointer: {FOUND}"),
        );
    }
}

#[test]
fn behind_an_indirect_call_of_a_constant() {
    let code = "lea reads_pointer(%rip), %rax\ncall __x86_indirect_thunk_rax";
    finds(
        "constant",
        &[("ON_ENTRY", code)],
        "",
        &format!("reads_pointer: {FOUND}"),
    );
}

#[test]
fn in_the_nmi_path() {
    let report = finds(
        "nmi",
        &[("IN_NMI", DEREFERENCE)],
        "",
        &format!("exc_nmi: {FOUND}"),
    );
    assert_eq!(report["findings"][0]["entry"], "asm_exc_nmi");
}

#[test]
fn on_the_way_out() {
    finds(
        "out",
        &[("ON_EXIT", DEREFERENCE)],
        "",
        &format!("do_syscall: {FOUND}"),
    );
}

#[test]
fn dynamic_per_cpu_memory() {
    let code = "mov %gs:dynamic(%rip), %rax\nincq %gs:(%rax)";
    finds(
        "dynamic",
        &[("ON_ENTRY", code)],
        "",
        "do_syscall: unknown: write8 gs:[*percpu dynamic]",
    );
}

#[test]
fn the_wrong_gs_base() {
    let code = "swapgs\nmov %gs:dynamic(%rip), %rax\nswapgs";
    finds(
        "gs",
        &[("ON_ENTRY", code)],
        "",
        "do_syscall: segment: read8 gs:[dynamic]",
    );
}

#[test]
fn an_index_without_a_bound() {
    finds(
        "index",
        &[("ON_ENTRY", "mov init_task(,%rsi,8), %rax")],
        "",
        "do_syscall: unknown: read8 [user + init_task]",
    );
    let bounded = "cmp $15, %rsi\nja 1f\nmov init_task(,%rsi,8), %rax\n1:";
    assert_eq!(
        audit("bounded", &[("ON_ENTRY", bounded)], "")["clean"],
        true
    );
}

#[test]
fn the_other_arm_of_a_static_key() {
    let code =
        ".Lsite: .byte 0x0f, 0x1f, 0x44, 0, 0\njmp 1f\n.Larm:\n".to_owned() + DEREFERENCE + "\n1:";
    let table = ".long .Lsite - .\n.long .Larm - .\n.quad some_key - .";
    let macros = [("ON_ENTRY", &*code), ("JUMP_LABELS", table)];
    finds("key", &macros, "", &format!("do_syscall: {FOUND}"));
    let allow = r#"
        [[static_key]]
        name = "some_key"
        value = false
        reason = "Never enabled in this test."
    "#;
    assert_eq!(audit("known_key", &macros, allow)["clean"], true);
}

#[test]
fn in_a_replacement() {
    let code = ".Lsite: .byte 0x90, 0x90, 0x90, 0x90, 0x90";
    let table = ".long .Lsite - .\n.long reads_pointer_call - .\n.long 7\n.byte 5, 5";
    let replacement =
        "\n.section .rodata\nreads_pointer_call: call reads_pointer\n.section .init.data";
    let table = table.to_owned() + replacement;
    let macros = [("ON_ENTRY", code), ("ALTERNATIVES", &*table)];
    finds(
        "replacement",
        &macros,
        "",
        &format!("reads_pointer: {FOUND}"),
    );
    let allow = r#"
        [[feature]]
        name = "X86_FEATURE_7"
        bit = 7
        release = "unknown"
        value = false
        reason = "Not in this test."
    "#;
    assert_eq!(audit("no_feature", &macros, allow)["clean"], true);
    // In another release the bit may be another feature.
    let allow = allow.replace("unknown", "7.3");
    assert_eq!(findings(&audit("other_release", &macros, &allow)).len(), 1);
}

#[test]
fn what_a_replacement_replaces() {
    let code = ".Lsite: call reads_pointer";
    let table = ".long .Lsite - .\n.long .Lsite - .\n.long 7\n.byte 5, 0";
    let macros = [("ON_ENTRY", code), ("ALTERNATIVES", table)];
    finds("original", &macros, "", &format!("reads_pointer: {FOUND}"));
    // X86_FEATURE_ALWAYS: the original is never run.
    let table = ".long .Lsite - .\n.long .Lsite - .\n.long 117\n.byte 5, 0";
    let macros = [("ON_ENTRY", code), ("ALTERNATIVES", table)];
    assert_eq!(audit("always", &macros, "")["clean"], true);
}

#[test]
fn a_static_call() {
    let code = ".Lsite: call __SCT__hook";
    let macros = [
        ("ON_ENTRY", code),
        ("STATIC_CALLS", ".long .Lsite - .\n.long __SCK__hook - ."),
    ];
    finds(
        "static_call",
        &macros,
        "",
        "do_syscall: control flow: static call hook",
    );
    let allow = r#"
        [[static_call]]
        name = "hook"
        targets = ["reads_pointer"]
        reason = "The only function it is ever given."
    "#;
    finds(
        "static_target",
        &macros,
        allow,
        &format!("reads_pointer: {FOUND}"),
    );
}

#[test]
fn a_way_around_the_receiver() {
    let code = "testb $1, some_key(%rip)\nje 1f\npop %rbx\nret\n1:";
    finds(
        "around",
        &[("ON_ENTRY", code)],
        "",
        "entry_SYSCALL_64: protocol: leaves without a flush, from entry_SYSCALL_64",
    );
}

#[test]
fn a_changed_return_address() {
    let code = "lea reads_pointer(%rip), %rax\nmov %rax, 8(%rsp)\npop %rbx\nret";
    finds(
        "return",
        &[("ON_ENTRY", code)],
        "",
        "do_syscall: control flow: the return address has been changed",
    );
}

#[test]
fn a_gate_without_a_symbol() {
    let gate = ".long 0x80, 0x10\n.quad 0\n.quad without_symbol";
    finds(
        "gate",
        &[("GATES", gate)],
        "",
        ": interrupt table: vector 0x80 leads to without_symbol",
    );
}

#[test]
fn what_is_allowed_passes_and_what_is_stale_does_not() {
    let entry = |shape: &str| {
        format!(
            "[[access]]\nfunction = \"do_syscall\"\nclass = \"unknown\"\nshape = \"{shape}\"\n\
             reason = \"A reason that can be checked.\"\n"
        )
    };
    let planted = [("ON_ENTRY", DEREFERENCE)];
    let report = audit("allowed", &planted, &entry("read8 [*vmalloc_pointer]"));
    assert_eq!(report["clean"], true, "{report:#}");
    assert_eq!(report["allowed"].as_array().unwrap().len(), 1);
    let report = audit("stale", &[], &entry("read8 [*vmalloc_pointer]"));
    assert_eq!(report["clean"], false);
    assert_eq!(
        report["problems"][0],
        "stale entry in the allowlist: access do_syscall: unknown: read8 [*vmalloc_pointer]"
    );
    // Another shape is another access.
    let report = audit("other", &planted, &entry("write8 [*vmalloc_pointer]"));
    assert_eq!(findings(&report).len(), 1);
}

#[test]
fn a_chain_of_calls_without_end() {
    let text = ".type recurses, @function\nrecurses: call recurses\nret";
    finds(
        "recursion",
        &[("TEXT", text), ("ON_ENTRY", "call recurses")],
        "",
        "recurses: limit: the chain of calls is too long",
    );
}

#[test]
fn more_program_points_than_can_be_looked_at() {
    let report = audit("points", &[("ON_ENTRY", ".rept 60001\nnop\n.endr")], "");
    assert_eq!(report["clean"], false);
    let problem = report["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("entry_SYSCALL_64: more than 60000 program points"),
        "{problem}"
    );
}

#[test]
fn with_debug_info_the_source_line_is_there() {
    let planted = [("ON_ENTRY", DEREFERENCE)];
    let (elf, allow) = build("debug_info", &planted, "", true);
    let report = as_json(report_of(&elf, &allow));
    let source = report["findings"][0]["source"].as_str().unwrap();
    let (file, line) = source.rsplit_once(':').unwrap();
    assert!(file.ends_with("debug_info/kernel.s"), "{source}");
    // The line that calls the macro, or the one in it that dereferences.
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().nth(line.parse::<usize>().unwrap() - 1);
    assert!(
        line.is_some_and(|l| l.contains("ON_ENTRY") || l.contains("mov (%rax), %rax")),
        "{source}: {line:?}"
    );
    let without = audit("no_debug_info", &planted, "");
    assert!(without["findings"][0]["source"].is_null());
}

#[test]
fn a_reason_is_needed() {
    let allow = "[[stop]]\nfunction = \"panic\"\nreason = \"\"\n";
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reason.toml");
    std::fs::write(
        &path,
        std::fs::read_to_string(golden().join("allowlist.toml")).unwrap() + allow,
    )
    .unwrap();
    audit("for_reason", &[], "");
    let elf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("for_reason/kernel");
    let image = dflush::image::Image::open(&elf, None).unwrap();
    let Err(error) = dflush::audit::run(&image, &path) else {
        panic!("an entry without a reason was taken");
    };
    assert!(format!("{error:#}").contains("has no reason"), "{error:#}");
}
