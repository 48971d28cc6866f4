// SPDX-License-Identifier: GPL-2.0

//! Explores the deferral protocol under loom.
//!
//! Usage: deferred-flush-model SCHEDULES [NAME]...
//!
//! Explores every scenario with the module's own `ctx_tracking.rs`, which has to hold, and with each
//! mutant of it and each fault of the machine around it, each of which has to be caught. Prints one
//! line for each, as fields with a `|` between them, and writes into the directory SCHEDULES what
//! happened in the execution that caught each mutant. With names, only those scenarios, mutants and
//! faults. Exit status 1 if one is not as expected.

mod atomics;
mod explore;
mod machine;
#[path = "../mutants.rs"]
mod mutants;
mod protocol;
mod scenario;
mod trace;

use explore::{explore, Outcome};
use mutants::MUTANTS;
use protocol::instance;
use scenario::{Fault, Scenario, Tried};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

include!(concat!(env!("OUT_DIR"), "/instances.rs"));

/// What is expected of a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Holds,
    Caught,
}

/// One line of the result.
struct Job {
    kind: &'static str,
    name: String,
    what: &'static str,
    instance: &'static str,
    fault: Option<Fault>,
    /// The one scenario to explore; all those for mutants if there is none.
    scenario: Option<usize>,
    expected: Expected,
}

fn jobs(scenarios: &[Scenario]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (i, scenario) in scenarios.iter().enumerate() {
        jobs.push(Job {
            kind: "scenario",
            name: scenario.name.into(),
            what: "",
            instance: "original",
            fault: None,
            scenario: Some(i),
            expected: Expected::Holds,
        });
    }
    for mutant in MUTANTS {
        jobs.push(Job {
            kind: if mutant.is_bug {
                "mutant"
            } else {
                "equivalent"
            },
            name: mutant.name.into(),
            what: mutant.what,
            instance: mutant.name,
            fault: None,
            scenario: None,
            expected: if mutant.is_bug {
                Expected::Caught
            } else {
                Expected::Holds
            },
        });
    }
    for (fault, what) in Fault::ALL {
        jobs.push(Job {
            kind: "fault",
            name: format!("{fault:?}"),
            what,
            instance: "original",
            fault: Some(*fault),
            scenario: None,
            expected: Expected::Caught,
        });
    }
    jobs
}

/// Explores what a job asks for, up to the first failure.
fn run(job: &Job, scenarios: &[Scenario]) -> (Outcome, &'static str) {
    let chosen: Vec<&Scenario> = match job.scenario {
        Some(i) => vec![&scenarios[i]],
        None if job.expected == Expected::Caught => scenarios
            .iter()
            .filter(|scenario| scenario.tried != Tried::Original)
            .collect(),
        None => scenarios
            .iter()
            .filter(|scenario| scenario.tried == Tried::All)
            .collect(),
    };
    let mut executions = 0;
    for scenario in chosen {
        let scenario = scenario.with_fault(job.fault);
        let mut outcome = run_instance(job.instance, &scenario);
        executions += outcome.executions;
        if outcome.failure.is_some() {
            outcome.executions = executions;
            return (outcome, scenario.name);
        }
    }
    let holds = Outcome {
        executions,
        failure: None,
    };
    (holds, "")
}

/// The line of a job, and whether it went as expected.
fn report(job: &Job, scenarios: &[Scenario], schedules: &Path) -> (String, bool) {
    let (outcome, scenario) = run(job, scenarios);
    let bound = job.scenario.map_or(String::new(), |i| {
        let bound = scenarios[i].setup.bound;
        bound.map_or("none".into(), |bound| bound.to_string())
    });
    let message = outcome.failure.as_ref().map_or("", |f| &f.message);
    let line = format!(
        "{}|{}|{}|{bound}|{}|{}|{scenario}|{message}",
        job.kind,
        job.name,
        job.what,
        outcome.executions,
        if message.is_empty() {
            "holds"
        } else {
            "caught"
        },
    );
    if let Some(failure) = &outcome.failure {
        let mut text = failure.schedule.join("\n");
        text.push_str(&format!("\n=> {}\n", failure.message));
        std::fs::write(schedules.join(&job.name), text).expect("cannot write a schedule");
    }
    let is_expected = message.is_empty() == (job.expected == Expected::Holds);
    (line, is_expected)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: deferred-flush-model SCHEDULES [NAME]...");
        return ExitCode::from(2);
    };
    let names: Vec<String> = arguments.collect();
    let schedules = Path::new(&directory);
    std::fs::create_dir_all(schedules).expect("cannot make the directory");
    // A failing execution panics, which is what most of this waits for.
    std::panic::set_hook(Box::new(|_| {}));

    let scenarios = scenario::all();
    let mut jobs = jobs(&scenarios);
    jobs.retain(|job| names.is_empty() || names.contains(&job.name));
    let next = Mutex::new((0..jobs.len()).rev().collect::<Vec<_>>());
    let results = Mutex::new(vec![None; jobs.len()]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| loop {
                let Some(i) = next.lock().unwrap().pop() else {
                    break;
                };
                let result = report(&jobs[i], &scenarios, schedules);
                eprintln!("{}", result.0);
                results.lock().unwrap()[i] = Some(result);
            });
        }
    });
    let mut status = ExitCode::SUCCESS;
    for result in results.into_inner().unwrap() {
        let (line, is_expected) = result.expect("a worker died");
        println!("{line}|{}", if is_expected { "ok" } else { "WRONG" });
        if !is_expected {
            status = ExitCode::FAILURE;
        }
    }
    status
}
