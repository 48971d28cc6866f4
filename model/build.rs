// SPDX-License-Identifier: GPL-2.0

//! Makes one module of each mutant from the module's own `ctx_tracking.rs`, and of each from `ring.rs`.
//!
//! A mutant is a list of exact replacements, and each has to match exactly once: a source that has
//! changed breaks the build instead of testing nothing. So do lines of the other files that
//! `machine.rs` copies the order of.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "mutants.rs"]
mod mutants;
use mutants::{ANCHORS, MUTANTS};
#[path = "ring_mutants.rs"]
mod ring_mutants;
use ring_mutants::RING_MUTANTS;

fn read(path: &Path) -> String {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_once(file: &str, text: &str, wanted: &str) {
    let found = text.matches(wanted).count();
    assert!(
        found == 1,
        "{file} has {found} times, not once, what the model relies on; \
         look at what changed, then at model/:\n{wanted}"
    );
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=mutants.rs");
    println!("cargo::rerun-if-changed=ring_mutants.rs");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());

    for (file, wanted) in ANCHORS {
        assert_once(file, &read(&root.join(file)), wanted);
    }

    let source = root.join("ctx_tracking.rs").canonicalize().unwrap();
    let original = read(&source);
    let mut instances = format!("instance!(original, {source:?});\n");
    for mutant in MUTANTS {
        let mut text = original.clone();
        for (from, to) in mutant.replacements {
            assert_once("ctx_tracking.rs", &text, from);
            text = text.replacen(from, to, 1);
        }
        let path = out.join(format!("{}.rs", mutant.name));
        fs::write(&path, text).unwrap();
        writeln!(instances, "instance!({}, {path:?});", mutant.name).unwrap();
    }
    instances.push_str("fn instance_named(name: &str) -> Make {\n    match name {\n");
    for name in std::iter::once("original").chain(MUTANTS.iter().map(|mutant| mutant.name)) {
        writeln!(instances, "        \"{name}\" => {name}::make,").unwrap();
    }
    instances.push_str("        _ => panic!(\"there is no mutant {name}\"),\n    }\n}\n");
    fs::write(out.join("instances.rs"), instances).unwrap();

    let source = root.join("ring.rs").canonicalize().unwrap();
    let original = read(&source);
    let mut instances = format!("ring_instance!(original, {source:?});\n");
    for (name, _, from, to) in RING_MUTANTS {
        assert_once("ring.rs", &original, from);
        let path = out.join(format!("ring_{name}.rs"));
        fs::write(&path, original.replacen(from, to, 1)).unwrap();
        writeln!(instances, "ring_instance!({name}, {path:?});").unwrap();
    }
    instances.push_str("const EXPLORATIONS: &[fn() -> Outcome] = &[original::explore");
    for (name, ..) in RING_MUTANTS {
        write!(instances, ", {name}::explore").unwrap();
    }
    instances.push_str("];\n");
    fs::write(out.join("ring_instances.rs"), instances).unwrap();
}
