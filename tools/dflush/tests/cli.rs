// SPDX-License-Identifier: GPL-2.0

//! The commands as a user runs them, on the files of a machine on which the module was on:
//! tests/data/on, recorded from the stock kernel 7.3.4+deb13-amd64 in QEMU, with nohz_full=1-3. Of
//! cpuinfo, the configuration and available_filter_functions only the part is kept that is read.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const STATE: &str = "sys/kernel/deferred_flush/state";
const SUMMARY: &str = "sys/kernel/debug/deferred_flush/summary";

/// A copy of the recorded machine, to be changed by one test.
struct Machine(PathBuf);

impl Machine {
    fn recorded(test: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        // Of the last run.
        let _ = fs::remove_dir_all(&root);
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/on"),
            &root,
        );
        Self(root)
    }

    fn without_module(test: &str) -> Self {
        let machine = Self::recorded(test);
        machine.remove("sys/module/deferred_flush");
        machine.remove("sys/kernel/deferred_flush");
        machine.remove("sys/kernel/debug/deferred_flush");
        machine.write("sys/kernel/tracing/enabled_functions", "");
        machine
    }

    fn remove(&self, name: &str) {
        let path = self.0.join(name);
        let result = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        result.expect("removed");
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.join(name)).expect("read");
        assert!(text.contains(from), "{from} is not in {name}");
        self.write(name, &text.replace(from, to));
    }

    fn run(&self, arguments: &[&str]) -> Output {
        dflush()
            .args(arguments)
            .arg("--root")
            .arg(&self.0)
            .output()
            .expect("started")
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn dflush() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dflush"))
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// In one line, as the list wraps.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

#[test]
fn status_shows_what_the_module_shows() {
    let output = Machine::recorded("status").run(&["status"]);
    let shown = text(&output);
    assert_eq!(code(&output), 0, "{}", error(&output));
    for line in [
        "module   0.1.0 for kernel 7.3.4+deb13-amd64",
        "state    on",
        "policy   flushes of vmalloc's lazy purge are deferred for CPUs 1-3 in user mode, without a bound in time",
        "deferred               29  interrupts spared",
        "cpu  now   pending  deferred  on entry  by NMI  by IPI  not quiet  raced",
        "  3  idle  -               5         5       0       7          7      0",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}:\n{shown}");
    }
}

#[test]
fn status_in_json_has_the_same() {
    let output = Machine::recorded("status-json").run(&["status", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["control"]["mode"], "on");
    assert_eq!(value["control"]["cpus"], serde_json::json!([1, 2, 3]));
    assert_eq!(value["summary"]["counters"]["ipi_not_quiet"], 7);
    assert_eq!(value["cpus"][2]["mode"], "idle");
}

#[test]
fn a_degraded_module_is_a_finding() {
    let machine = Machine::recorded("degraded");
    machine.write(
        STATE,
        "degraded: a hook could not be removed, every interrupt is sent\n",
    );
    assert_eq!(code(&machine.run(&["status"])), 1);
    assert_eq!(code(&machine.run(&["check", "--no-build"])), 1);
}

#[test]
fn errors_say_what_to_do() {
    let machine = Machine::without_module("not-loaded");
    for command in [&["status"][..], &["watch", "--plain"]] {
        let output = machine.run(command);
        assert_eq!(code(&output), 2);
        assert!(
            error(&output).contains("modprobe deferred_flush"),
            "{}",
            error(&output)
        );
    }
    let machine = Machine::recorded("no-debugfs");
    machine.remove("sys/kernel/debug");
    let output = machine.run(&["status"]);
    assert_eq!(code(&output), 2);
    assert!(
        error(&output).contains("mount -t debugfs"),
        "{}",
        error(&output)
    );

    let machine = Machine::recorded("older");
    machine.replace(SUMMARY, "expired: 0\n", "");
    assert_eq!(code(&machine.run(&["status"])), 2);
    machine.remove(SUMMARY);
    let output = machine.run(&["status"]);
    assert!(
        error(&output).contains("of the same version"),
        "{}",
        error(&output)
    );

    assert_eq!(code(&dflush().arg("nothing").output().expect("started")), 2);
}

#[test]
fn the_recorded_machine_passes_the_check() {
    let output = Machine::recorded("check").run(&["check", "--no-build"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(!text(&output).contains("FAIL"));
    let output = Machine::without_module("check-unloaded").run(&["check", "--no-build", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(code(&output), 0, "{value}");
    assert!(value["items"].as_array().expect("a list").len() > 15);
}

/// A line of the check that has to fail: what is changed for it, and what its remedy says.
type Failure = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const CONFIG: &str = "lib/modules/7.3.4+deb13-amd64/config";

/// Name, file, its text (or what to replace by nothing, after a minus), what was found, remedy.
const FAILURES: [Failure; 18] = [
    (
        "architecture",
        "proc/sys/kernel/arch",
        "aarch64",
        "aarch64",
        "x86-64 only",
    ),
    (
        "rust",
        CONFIG,
        "-CONFIG_RUST=y",
        "CONFIG_RUST is off",
        "use a kernel",
    ),
    (
        "context_tracking",
        CONFIG,
        "-CONFIG_NO_HZ_FULL=y",
        "CONFIG_NO_HZ_FULL is off",
        "use a kernel",
    ),
    (
        "ftrace",
        CONFIG,
        "-CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y",
        "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS is off",
        "use a kernel",
    ),
    (
        "kprobes",
        CONFIG,
        "-CONFIG_KPROBES=y",
        "CONFIG_KPROBES is off",
        "use a kernel",
    ),
    (
        "rcu_trace",
        CONFIG,
        "CONFIG_RCU_TRACE=y",
        "tracepoint",
        "without it",
    ),
    (
        "nohz_full",
        "sys/devices/system/cpu/nohz_full",
        "(null)",
        "no CPU",
        "boot with nohz_full=1-3",
    ),
    (
        "amd_family_10h",
        "proc/cpuinfo",
        "vendor_id\t: AuthenticAMD\ncpu family\t: 16\n",
        "machine-check",
        "another machine",
    ),
    (
        "encrypted_guest",
        "proc/cpuinfo",
        "flags\t: fpu tdx_guest\n",
        "TDX",
        "ordinary guest",
    ),
    (
        "encrypted_guest",
        "sys/devices/system/cpu/sev/vmpl",
        "0\n",
        "SEV-SNP",
        "ordinary guest",
    ),
    (
        "ftrace_enabled",
        "proc/sys/kernel/ftrace_enabled",
        "0",
        "is 0",
        "sysctl",
    ),
    (
        "hook_places",
        "sys/kernel/tracing/available_filter_functions",
        "-vtime_user_exit",
        "vtime_user_exit cannot be hooked",
        "another kernel",
    ),
    (
        "other_hooks",
        "sys/kernel/tracing/enabled_functions",
        "vtime_user_exit (1)         M \ttramp: 0xffffffffc0651000 (function_trace_call+0x0/0x160)\n",
        "a tracer or kprobe on vtime_user_exit",
        "end that tracer",
    ),
    (
        "other_hooks",
        "sys/kernel/tracing/enabled_functions",
        "flush_tlb_kernel_range (1) R I     M \ttramp: 0xffffffffc0651000 (klp_ftrace_handler+0x0/0x160)\n",
        "a livepatch or BPF program on flush_tlb_kernel_range",
        "unload that livepatch",
    ),
    (
        "other_kprobes",
        "sys/kernel/debug/kprobes/list",
        "ffffffffaf65c3e4  k  __rcu_read_lock+0x4    [FTRACE]\n",
        "__rcu_read_lock+0x4",
        "perf probe",
    ),
    (
        "signature",
        "sys/module/module/parameters/sig_enforce",
        "Y\n",
        "sig_enforce",
        "mokutil",
    ),
    (
        "signature",
        "sys/kernel/security/lockdown",
        "none [integrity] confidentiality\n",
        "asked for by lockdown",
        "mokutil",
    ),
    (
        "modules_disabled",
        "proc/sys/kernel/modules_disabled",
        "1\n",
        "no module",
        "reboot",
    ),
];

#[test]
fn each_line_of_the_check_can_fail_and_has_its_remedy() {
    for (name, file, change, found, remedy) in FAILURES {
        let machine = Machine::without_module("check-failure");
        match change.strip_prefix('-') {
            Some(gone) => machine.replace(file, gone, ""),
            None => machine.write(file, change),
        }
        if file == CONFIG && !change.starts_with('-') {
            // Besides what was there.
            let recorded = Machine::recorded("check-config");
            let before = fs::read_to_string(recorded.0.join(CONFIG)).expect("read");
            machine.write(CONFIG, &(before + change + "\n"));
        }
        let output = machine.run(&["check", "--no-build", "--json"]);
        assert_eq!(code(&output), 1, "{name}: {}", text(&output));
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let items = value["items"].as_array().expect("a list");
        let failed: Vec<_> = items
            .iter()
            .filter(|item| item["verdict"] == "fail")
            .collect();
        assert_eq!(failed.len(), 1, "{name}: {failed:?}");
        assert_eq!(failed[0]["name"], name);
        let text = |field: &str| failed[0][field].as_str().expect("text").to_owned();
        assert!(text("found").contains(found), "{name}: {}", text("found"));
        assert!(
            text("remedy").contains(remedy),
            "{name}: {}",
            text("remedy")
        );
        // The same for people.
        let shown = String::from_utf8(machine.run(&["check", "--no-build"]).stdout).expect("text");
        assert!(words(&shown).contains(&format!("FAIL {name}")), "{shown}");
        assert!(words(&shown).contains(&words(&text("remedy"))), "{shown}");
    }
}

#[test]
fn a_paravirtual_guest_of_xen_fails() {
    let machine = Machine::without_module("check-xen");
    machine.write("sys/hypervisor/type", "xen\n");
    machine.write("sys/hypervisor/guest_type", "PVH\n");
    assert_eq!(code(&machine.run(&["check", "--no-build"])), 0);
    machine.write("sys/hypervisor/guest_type", "PV\n");
    let output = machine.run(&["check", "--no-build"]);
    assert_eq!(code(&output), 1);
    assert!(words(&text(&output)).contains("make it a PVH or HVM guest"));
}

#[test]
fn a_signed_module_is_no_failure() {
    let machine = Machine::without_module("check-signed");
    let directory = "lib/modules/7.3.4+deb13-amd64";
    machine.write("sys/module/module/parameters/sig_enforce", "Y\n");
    machine.write(
        &format!("{directory}/modules.dep"),
        "updates/dkms/deferred_flush.ko:\n",
    );
    let file = format!("{directory}/updates/dkms/deferred_flush.ko");
    machine.write(&file, "ELF, and so on, but without the mark at its end");
    assert_eq!(code(&machine.run(&["check", "--no-build"])), 1);
    machine.write(&file, "ELF~Module signature appended~\n");
    assert_eq!(code(&machine.run(&["check", "--no-build"])), 0);
}

#[test]
fn what_building_needs_is_checked_too() {
    let machine = Machine::without_module("check-build");
    let output = machine.run(&["check"]);
    let shown = words(&text(&output));
    assert_eq!(code(&output), 1);
    assert!(shown.contains("FAIL headers"), "{shown}");
    assert!(
        shown.contains("apt install linux-headers-7.3.4+deb13-amd64"),
        "{shown}"
    );
    assert!(shown.contains("FAIL rust_metadata"), "{shown}");
    for file in ["Makefile", ".config", "Module.symvers"] {
        machine.write(&format!("usr/src/tree/{file}"), "");
    }
    for file in ["libcore.rmeta", "libkernel.rmeta", "libmacros.so"] {
        machine.write(&format!("usr/src/tree/rust/{file}"), "");
    }
    let shown = words(&text(&machine.run(&["check", "--kdir", "/usr/src/tree"])));
    assert!(shown.contains("ok headers"), "{shown}");
    assert!(shown.contains("ok rust_metadata"), "{shown}");
    // A recorded machine has no compiler to ask.
    assert!(
        shown.contains("the kernel was built by 'rustc 1.85.1"),
        "{shown}"
    );
}

#[test]
fn the_export_is_as_reviewed() {
    let machine = Machine::recorded("export");
    let output = machine.run(&["export", "--prometheus"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/export.prom");
    assert_eq!(text(&output), fs::read_to_string(golden).expect("read"));
}

#[test]
fn every_metric_has_a_type_and_a_name_by_the_conventions() {
    let exported = text(&Machine::recorded("export-names").run(&["export", "--prometheus"]));
    let mut family = ("", "");
    let mut samples = 0;
    for line in exported.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').expect("a type");
            assert_eq!(
                family.1 == "counter",
                family.0.ends_with("_total"),
                "{line}"
            );
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(name.split('{').next(), Some(family.0), "{line}");
            assert!(name.starts_with("deferred_flush_"), "{line}");
            value.parse::<f64>().expect("a number");
            samples += 1;
        }
    }
    assert!(samples > 40, "{samples}");
}

#[test]
fn an_exported_file_is_replaced_as_a_whole() {
    let machine = Machine::without_module("export-file");
    let directory = machine.0.join("textfile");
    fs::create_dir(&directory).expect("made");
    let file = directory.join("deferred_flush.prom");
    fs::write(&file, "old").expect("written");
    let path = file.to_str().expect("text");
    let output = machine.run(&["export", "--prometheus", "--output", path]);
    assert_eq!(
        (code(&output), text(&output)),
        (0, String::new()),
        "{}",
        error(&output)
    );
    let exported = fs::read_to_string(&file).expect("read");
    assert!(
        exported.ends_with("\ndeferred_flush_loaded 0\n"),
        "{exported}"
    );
    assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1);

    let output = machine.run(&["export", "--prometheus", "--output", "/nowhere/a.prom"]);
    assert_eq!(code(&output), 2);
    assert!(
        error(&output).contains("is its directory there"),
        "{}",
        error(&output)
    );
}

#[test]
fn watch_prints_a_line_a_look() {
    let machine = Machine::recorded("watch");
    let output = machine.run(&["watch", "--plain", "--interval", "0.05", "--count", "2"]);
    let shown = text(&output);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[0].contains("deferred/s"));
    assert!(
        lines[1].contains("  on  ") && lines[1].ends_with("   2      0"),
        "{shown}"
    );

    let arguments = ["watch", "--interval", "0.05", "--count", "2", "--json"];
    let shown = text(&machine.run(&arguments));
    let values: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(values.len(), 2);
    assert_eq!(values[1]["rates"]["deferred"], 0.0);
    assert_eq!(values[1]["snapshot"]["summary"]["counters"]["deferred"], 29);
}

#[test]
fn manual_pages_and_completions_are_generated() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man");
    fs::create_dir_all(&directory).expect("made");
    let output = dflush()
        .args(["man", "--output"])
        .arg(&directory)
        .output()
        .expect("started");
    assert_eq!(code(&output), 0, "{}", error(&output));
    let page = fs::read_to_string(directory.join("dflush.1")).expect("a page");
    assert!(
        page.starts_with(".ie") && page.contains("Exit codes"),
        "{page}"
    );
    for command in ["audit", "check", "status", "watch", "export"] {
        assert!(
            page.contains(&format!("dflush\\-{command}")),
            "{command}: {page}"
        );
        assert!(
            directory.join(format!("dflush-{command}.1")).exists(),
            "{command}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = text(
            &dflush()
                .args(["completions", shell])
                .output()
                .expect("started"),
        );
        assert!(script.contains("prometheus"), "{shell}: {script}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = dflush()
        .args(["watch", "--plain", "--interval", "0.05", "--root"])
        .arg(&Machine::recorded("pipe").0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!((code(&output), error(&output)), (0, String::new()));
}
