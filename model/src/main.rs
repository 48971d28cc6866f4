// SPDX-License-Identifier: GPL-2.0

//! Explores the deferral protocol under loom.
//!
//! Usage: deferred-flush-model SCHEDULES [NAME]...
//!        deferred-flush-model --one SCHEDULES NAME SCENARIO
//!
//! Explores every scenario with the module's own `ctx_tracking.rs`, which has to hold, and each
//! mutant of it and each fault of the machine around it in the scenarios that it names, each of which
//! has to catch it. Prints one line for each, as fields with a `|` between them, and writes into the
//! directory SCHEDULES what happened in the execution that caught it. With names, only those
//! scenarios, mutants and faults. Exit status 1 if one is not as expected.
//!
//! `--one` explores any one scenario with any mutant or fault, or with `original`, and prints the
//! number of executions and what failed. Each exploration is such a process of its own: loom maps and
//! unmaps a stack for each thread of each execution, which the threads of one process would do under
//! one lock.

mod atomics;
mod explore;
mod jobs;
mod machine;
#[path = "../mutants.rs"]
mod mutants;
mod protocol;
mod scenario;
mod trace;

use explore::explore;
use jobs::{jobs, Job, Outcome};
use protocol::{instance, Make};
use scenario::Fault;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

include!(concat!(env!("OUT_DIR"), "/instances.rs"));

/// Explores one scenario, and prints the number of executions and what failed.
fn run_one(schedules: &Path, name: &str, scenario: &str) {
    // A failing execution panics, which is what is waited for.
    std::panic::set_hook(Box::new(|_| {}));
    let fault = Fault::ALL
        .iter()
        .map(|(fault, ..)| *fault)
        .find(|fault| format!("{fault:?}") == name);
    let make = if fault.is_some() {
        original::make
    } else {
        instance_named(name)
    };
    let scenarios = scenario::all();
    let Some(scenario) = scenarios.iter().find(|found| found.name == scenario) else {
        eprintln!("there is no scenario {scenario}");
        std::process::exit(2);
    };
    let outcome = explore(&scenario.with_fault(fault), make);
    let message = outcome.failure.as_ref().map_or("", |f| &f.message);
    println!("{}|{message}", outcome.executions);
    if let Some(failure) = &outcome.failure {
        let mut text = failure.schedule.join("\n");
        write!(text, "\n=> {}\n", failure.message).unwrap();
        let file = schedules.join(format!("{name}@{}", scenario.name));
        std::fs::write(file, text).expect("cannot write a schedule");
    }
}

/// Has a process of its own do a job.
fn run(job: &Job, directory: &str) -> Outcome {
    let child = Command::new(std::env::current_exe().expect("this program has gone"))
        .args(["--one", directory, &job.instance, job.scenario])
        .stderr(Stdio::inherit())
        .output()
        .expect("cannot run this program again");
    let text = String::from_utf8_lossy(&child.stdout);
    let fields = text.trim_end().split_once('|');
    match fields.and_then(|(executions, message)| Some((executions.parse().ok()?, message))) {
        Some((executions, message)) if child.status.success() => Outcome {
            executions,
            message: message.into(),
            is_expected: message.is_empty() != job.is_to_be_caught,
        },
        _ => Outcome {
            executions: 0,
            message: format!("the exploration ended with {}", child.status),
            is_expected: false,
        },
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (directory, names) = match arguments[..] {
        ["--one", directory, name, scenario] => {
            run_one(Path::new(directory), name, scenario);
            return ExitCode::SUCCESS;
        }
        [directory, ref names @ ..] if !directory.starts_with('-') => (directory, names),
        _ => {
            eprintln!("usage: deferred-flush-model SCHEDULES [NAME]...");
            return ExitCode::from(2);
        }
    };
    std::fs::create_dir_all(directory).expect("cannot make the directory");

    let mut jobs = jobs(&scenario::all());
    jobs.retain(|job| names.is_empty() || names.contains(&job.name.as_str()));
    // From the end: what takes longest.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&i| jobs[i].weight);
    let next = Mutex::new(order);
    let outcomes = Mutex::new(vec![None; jobs.len()]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| loop {
                let Some(i) = next.lock().unwrap().pop() else {
                    break;
                };
                let outcome = run(&jobs[i], directory);
                eprintln!("{}", jobs[i].line(&outcome));
                outcomes.lock().unwrap()[i] = Some(outcome);
            });
        }
    });
    let mut status = ExitCode::SUCCESS;
    let outcomes = outcomes.into_inner().unwrap().into_iter();
    let outcomes: Vec<Outcome> = outcomes.map(|o| o.expect("a worker died")).collect();
    for (job, outcome) in jobs::merged(&jobs, &outcomes) {
        println!("{}", job.line(&outcome));
        if !outcome.is_expected {
            status = ExitCode::FAILURE;
        }
    }
    status
}
