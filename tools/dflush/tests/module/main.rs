// SPDX-License-Identifier: GPL-2.0

//! The check of the module's machine code, on an assembled copy of what the compiler makes of the
//! protocol, with one thing wrong in each.

use std::path::Path;
use std::process::Command;

mod parts;
mod sender;

const SOURCE: &str = include_str!("../golden/module.s");

fn assemble(name: &str, source: &str) -> Vec<u8> {
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
    std::fs::read(&o).unwrap()
}

fn violations(object: &[u8]) -> Vec<String> {
    let report = dflush::audit::check_module(object).unwrap();
    let value = serde_json::to_value(&report).unwrap();
    let violations = value["violations"].as_array().unwrap();
    assert_eq!(report.is_clean(), violations.is_empty());
    violations
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn expect(name: &str, object: &[u8], expected: &str) {
    let violations = violations(object);
    assert!(
        violations.iter().any(|v| v.contains(expected)),
        "{name}: expected '{expected}' among {violations:#?}"
    );
}

/// Replaces the last occurrence of a text in one function.
fn catches(name: &str, function: &str, from: &str, to: &str, expected: &str) {
    let start = if function.is_empty() {
        0
    } else {
        SOURCE.find(&format!("\tfunction {function}")).unwrap()
    };
    let end = SOURCE[start..]
        .find(if function.is_empty() {
            ".endm\n\n"
        } else {
            "\tend\t"
        })
        .unwrap()
        + start;
    let body = &SOURCE[start..end];
    let at = body
        .rfind(from)
        .unwrap_or_else(|| panic!("{name}: no {from:?}"));
    let changed = format!("{}{to}{}", &body[..at], &body[at + from.len()..]);
    let source = format!("{}{changed}{}", &SOURCE[..start], &SOURCE[end..]);
    expect(name, &assemble(name, &source), expected);
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split(' ')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// Patches each occurrence of some bytes, and returns how many there are.
fn patch(object: &mut [u8], from: &str, to: &str) -> usize {
    let (from, to) = (bytes(from), bytes(to));
    assert_eq!(from.len(), to.len());
    let mut count = 0;
    for at in 0..object.len() - from.len() {
        if object[at..].starts_with(&from) {
            object[at..at + to.len()].copy_from_slice(&to);
            count += 1;
        }
    }
    count
}

/// Damage to the machine code: name, bytes, bytes instead, the violation.
const PATCHES: [(&str, &str, &str, &str); 4] = [
    (
        "the second look at the state is ignored",
        "83 e6 07 83 fe 02 75",
        "83 e6 07 83 fe 02 eb",
        "no path defers",
    ),
    (
        "the bit is set if it is set",
        "40 f6 c7 01 75 04 f0 83 0e 01",
        "40 f6 c7 01 74 04 f0 83 0e 01",
        "the bit is neither set nor seen",
    ),
    (
        "INVPCID of one context",
        "ba 02 00 00 00 66 0f 38 82 11",
        "ba 01 00 00 00 66 0f 38 82 11",
        "INVPCID of another type than 2",
    ),
    (
        "another bit of CR4",
        "48 81 f2 80 00 00 00",
        "48 81 f2 00 02 00 00",
        "CR4 is not written with PGE toggled",
    ),
];

/// The branch after the second look at the state, whose distance differs from build to build.
fn ignore_second_look(object: &mut [u8]) {
    let compare = bytes("83 e6 07 83 fe 02 75");
    let at = object
        .windows(compare.len())
        .position(|window| window == compare)
        .unwrap()
        + compare.len()
        - 1;
    object[at..at + 2].copy_from_slice(&[0x90, 0x90]);
}

/// The branch after the second look at what blocks: the last TEST and JE before a locked INC, of
/// whatever register and distance.
fn ignore_second_look_at_block(object: &mut [u8]) {
    let at = object
        .windows(7)
        .rposition(|window| matches!(window, [0x84, _, 0x74, _, 0xf0, 0x48, 0xff]))
        .unwrap();
    object[at + 2] = 0xeb;
}

fn patched(original: &[u8]) {
    assert_eq!(violations(original), [""; 0]);
    let mut object = original.to_vec();
    ignore_second_look(&mut object);
    expect(
        "no second look",
        &object,
        "without a second look after the barrier that the state is user",
    );
    let mut object = original.to_vec();
    ignore_second_look_at_block(&mut object);
    expect(
        "defers while blocked",
        &object,
        "without a second look after the barrier that nothing blocks",
    );
    for (name, from, to, expected) in PATCHES {
        let mut object = original.to_vec();
        assert!(patch(&mut object, from, to) > 0, "{name}: no such bytes");
        expect(name, &object, expected);
    }
}

#[test]
fn patches_of_the_machine_code() {
    patched(&assemble("right", SOURCE));
}

/// The same damage to the module itself, if it is built.
#[test]
fn patches_of_the_built_module() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../out/amd64/module/deferred_flush.ko");
    match std::fs::read(&path) {
        Ok(module) => patched(&module),
        Err(_) => eprintln!("the module is not built, so only the assembled copy was patched"),
    }
}
