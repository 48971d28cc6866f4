// SPDX-License-Identifier: GPL-2.0

//! The comparison with what an emulator saw: an access that the audit does not know has to be told,
//! and the stack accesses of patched code have to be known.

#[expect(dead_code, reason = "the reports are not looked at here")]
mod harness;

use harness::{build, report_of};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A function that returns by the thunk, and a retpoline.
const TEXT: &str = ".type leaf, @function\nleaf: nop\njmp __x86_return_thunk\n\
    .type __x86_return_thunk, @function\n__x86_return_thunk: ret\nint3\n\
    .type __x86_indirect_thunk_rcx, @function\n__x86_indirect_thunk_rcx:\n\
    call 1f\nint3\n1: mov %rcx, (%rsp)\nret\nint3\n.type after_thunk, @function\nafter_thunk:";
const ON_ENTRY: &str = "call leaf\nlea leaf(%rip), %rcx\ncall __x86_indirect_thunk_rcx";

/// Where something was seen: symbol, offset, class, access, way.
type Seen = (&'static str, u64, &'static str, &'static str, &'static str);

/// What there is to see, and all of it known.
const KNOWN: [Seen; 9] = [
    ("entry_SYSCALL_64", 3, "per_cpu", "store", "in"),
    ("do_syscall", 0, "task_stack", "store", "in"),
    ("vtime_user_exit", 0, "task_stack", "store", "in"),
    ("leaf", 1, "task_stack", "load", "in"),
    ("__x86_indirect_thunk_rcx", 0, "task_stack", "store", "in"),
    ("__x86_indirect_thunk_rcx", 6, "task_stack", "store", "in"),
    ("__x86_indirect_thunk_rcx", 10, "task_stack", "load", "in"),
    ("ct_kernel_exit", 9, "task_stack", "load", "out"),
    // An NMI in the kernel, on its own stack.
    ("exc_nmi", 0, "cpu_entry_area", "store", "in"),
];

struct Kernel {
    elf: PathBuf,
    allow: PathBuf,
    image: dflush::image::Image,
}

impl Kernel {
    fn new(name: &str) -> Self {
        let macros = [("TEXT", TEXT), ("ON_ENTRY", ON_ENTRY)];
        let (elf, allow) = build(name, &macros, "", false);
        let image = dflush::image::Image::open(&elf, None).unwrap();
        Self { elf, allow, image }
    }

    fn lines(&self, seen: &[Seen]) -> String {
        let line = |(symbol, offset, class, access, way): &Seen| {
            let pc = self.image.symbols.address(symbol).unwrap() + offset;
            format!(
                "{{\"pc\":\"{pc:#x}\",\"symbol\":\"{symbol}\",\"offset\":{offset},\
                 \"class\":\"{class}\",\"access\":\"{access}\",\"way\":\"{way}\",\
                 \"kind\":\"resumed\",\"closed\":\"receiver_clear\",\"traced\":false,\
                 \"count\":1}}"
            )
        };
        seen.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What is said to be unknown.
    fn unknown(&self, seen: &[Seen]) -> Vec<String> {
        let report = report_of(&self.elf, &self.allow);
        let comparison = report.compare(self.lines(seen).as_bytes()).unwrap();
        let text = comparison.to_string();
        let unknown: Vec<_> = text
            .lines()
            .filter_map(|line| Some(line.strip_prefix("unknown: ")?.to_owned()))
            .collect();
        assert_eq!(comparison.is_clean(), unknown.is_empty());
        unknown
    }
}

#[test]
fn what_the_audit_knows_passes() {
    let kernel = Kernel::new("seen_known");
    assert_eq!(kernel.unknown(&KNOWN), [""; 0]);
}

#[test]
fn what_it_does_not_know_is_told() {
    let kernel = Kernel::new("seen_unknown");
    for (seen, expected) in [
        (
            ("leaf", 0, "task_stack", "load", "in"),
            "leaf+0x0 (in): load of task_stack, 1 times: the audit knows no access there",
        ),
        (
            ("leaf", 1, "vmalloc", "load", "in"),
            "leaf+0x1 (in): load of vmalloc, 1 times: the audit takes it for: pt_regs",
        ),
        (
            ("entry_SYSCALL_64", 3, "direct_map", "store", "in"),
            "entry_SYSCALL_64+0x3 (in): store of direct_map, 1 times: the audit takes it for: static per-CPU",
        ),
        // What only the way out has.
        (
            ("ct_kernel_exit", 9, "task_stack", "load", "in"),
            "ct_kernel_exit+0x9 (in): load of task_stack, 1 times: the audit knows no access there",
        ),
        // After the flush nothing is known, as nothing counts there.
        (
            ("__ct_user_enter", 5, "task_stack", "store", "in"),
            "__ct_user_enter+0x5 (in): store of task_stack, 1 times: the audit knows no access there",
        ),
    ] {
        let mut all = KNOWN.to_vec();
        all.push(seen);
        assert_eq!(kernel.unknown(&all), [expected]);
    }
}

#[test]
fn the_exit_status_says_so() {
    let kernel = Kernel::new("seen_status");
    let status = |name: &str, seen: &[Seen]| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, kernel.lines(seen)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_dflush"))
            .args(["audit", "--allowlist"])
            .arg(&kernel.allow)
            .arg("--seen")
            .arg(&path)
            .arg(&kernel.elf)
            .output()
            .unwrap();
        output.status.code()
    };
    assert_eq!(status("known.jsonl", &KNOWN), Some(0));
    let mut all = KNOWN.to_vec();
    all.push(("leaf", 0, "direct_map", "load", "in"));
    assert_eq!(status("unknown.jsonl", &all), Some(1));
    assert_eq!(status("nothing.jsonl", &[]), Some(2));
}
