// SPDX-License-Identifier: GPL-2.0

//! Builds small kernels from tests/golden and audits them.
//!
//! They are assembled and linked by GNU as and ld, which every machine that links Rust has.

use dflush::audit::AuditReport;
use dflush::image::Image;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The macros of the kernel, and what they are if the test does not say.
const MACROS: [(&str, &str); 11] = [
    ("ON_ENTRY", ""),
    ("AFTER_ENTRY", ""),
    ("ON_EXIT", ""),
    ("IN_NMI", ""),
    ("NMI_IN_KERNEL", ""),
    ("TEXT", ""),
    (
        "CHANGE_STATE",
        "lock xadd %edi, %gs:context_tracking+8(%rip)",
    ),
    ("GATES", ""),
    ("JUMP_LABELS", ""),
    ("ALTERNATIVES", ""),
    ("STATIC_CALLS", ""),
];

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    assert!(status.success(), "{program} failed");
}

/// Builds the kernel with these macros, and with debug info if asked to. Returns it and the
/// allowlist with these additions.
pub fn build(name: &str, macros: &[(&str, &str)], allow: &str, debug: bool) -> (PathBuf, PathBuf) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let mut source = String::new();
    for (name, default) in MACROS {
        let body = macros
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(default, |(_, b)| b);
        source.extend([format!("\t.macro {name}\n{body}\n\t.endm\n")]);
    }
    source += &std::fs::read_to_string(golden().join("kernel.s")).unwrap();
    let [s, o, elf, toml] =
        ["kernel.s", "kernel.o", "kernel", "allowlist.toml"].map(|f| directory.join(f));
    std::fs::write(&s, source).unwrap();
    let mut arguments = vec![Path::new("-o"), &o, &s];
    arguments.extend(debug.then_some(Path::new("-g")));
    run("as", &arguments);
    run(
        "ld",
        &[
            Path::new("-T"),
            &golden().join("kernel.lds"),
            Path::new("-e"),
            Path::new("entry_SYSCALL_64"),
            Path::new("--no-warn-rwx-segments"),
            Path::new("-o"),
            &elf,
            &o,
        ],
    );
    let base = std::fs::read_to_string(golden().join("allowlist.toml")).unwrap();
    std::fs::write(&toml, base + allow).unwrap();
    (elf, toml)
}

/// Audits a kernel.
pub fn report_of(elf: &Path, toml: &Path) -> AuditReport {
    let image = Image::open(elf, None).unwrap();
    dflush::audit::run(&image, toml).unwrap()
}

/// Builds the kernel with these macros and audits it with these additions to the allowlist.
pub fn audit(name: &str, macros: &[(&str, &str)], allow: &str) -> Value {
    let (elf, toml) = build(name, macros, allow, false);
    as_json(report_of(&elf, &toml))
}

/// The report as data, with `clean` added.
pub fn as_json(mut report: AuditReport) -> Value {
    let mut value: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    value["clean"] = report.is_clean().into();
    value
}

/// The findings, as `FUNCTION: CLASS: SHAPE`.
pub fn findings(report: &Value) -> Vec<String> {
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            let text = |key: &str| f[key].as_str().unwrap().to_owned();
            format!("{}: {}: {}", text("function"), text("class"), text("shape"))
        })
        .collect()
}

/// Plants something and expects exactly this finding.
pub fn finds(name: &str, macros: &[(&str, &str)], allow: &str, expected: &str) -> Value {
    let report = audit(name, macros, allow);
    assert_eq!(findings(&report), [expected], "{report:#}");
    assert_eq!(report["clean"], false);
    report
}

pub const DEREFERENCE: &str = "mov vmalloc_pointer(%rip), %rax\nmov (%rax), %rax";
pub const FOUND: &str = "unknown: read8 [*vmalloc_pointer]";
