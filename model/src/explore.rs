// SPDX-License-Identifier: GPL-2.0

//! Runs scenarios under loom.

use crate::machine::Machine;
use crate::protocol::Make;
use crate::scenario::{Blocker, Nmis, Scenario, Setup};
use crate::trace;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

/// What an exploration found.
pub(crate) struct Outcome {
    /// How many executions were explored; the last one failed if one did.
    pub(crate) executions: usize,
    pub(crate) failure: Option<Failure>,
}

/// An execution in which the invariant does not hold.
pub(crate) struct Failure {
    pub(crate) message: String,
    /// What happened, one event after the other.
    pub(crate) schedule: Vec<String>,
}

/// What a thread of the model does.
type Role = Box<dyn FnOnce(&Machine) + Send>;

/// One execution: starts everybody and waits for them.
fn execute(setup: &Setup, make: Make) {
    trace::forget_names();
    let machine = loom::sync::Arc::new(Machine::new(setup, make));
    machine.start();
    trace::start();
    let mut threads = Vec::new();
    let mut spawn = |name: String, run: Role| {
        let machine = machine.clone();
        let builder = loom::thread::Builder::new().name(name);
        threads.push(builder.spawn(move || run(&machine)).unwrap());
    };
    let resumes_first = setup.blocker == Blocker::ResumeThenSend;
    for i in 0..setup.senders {
        let send = move |machine: &Machine| {
            if resumes_first {
                machine.run_resume();
            }
            machine.run_sender(i);
        };
        spawn(format!("sender{i}"), Box::new(send));
    }
    if setup.blocker != Blocker::None {
        spawn("blocker".into(), Box::new(Machine::run_blocker));
    }
    if setup.blocker == Blocker::Resume {
        spawn("resume".into(), Box::new(Machine::run_resume));
    }
    for i in 1..setup.cpus {
        spawn(format!("cpu{i}"), Box::new(move |m| m.run_cpu(i)));
    }
    machine.run_cpu(0);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// All executions of one setup, up to the first that fails.
fn check(setup: &Setup, make: Make) -> (usize, Option<String>) {
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = executions.clone();
    let setup = setup.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = setup.bound;
    builder.max_branches = 10_000;
    let result = catch_unwind(AssertUnwindSafe(move || {
        builder.check(move || {
            counter.fetch_add(1, Relaxed);
            execute(&setup, make);
        });
    }));
    let failure = result.err().map(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "it panicked".into())
    });
    (executions.load(Relaxed), failure)
}

/// Explores one setup. One that fails is explored again, to record what happens.
fn explore_setup(setup: &Setup, make: Make) -> Outcome {
    let (executions, message) = check(setup, make);
    let failure = message.map(|message| {
        trace::enable(true);
        let again = check(setup, make);
        trace::enable(false);
        assert_eq!(again.0, executions, "loom is not deterministic");
        Failure {
            message,
            schedule: trace::events(),
        }
    });
    Outcome {
        executions,
        failure,
    }
}

/// Explores a scenario with all its NMIs.
pub(crate) fn explore(scenario: &Scenario, make: Make) -> Outcome {
    let mut total = 0;
    let mut run = |points: &[usize]| {
        let setup = scenario.setup.nmi(points);
        let mut outcome = explore_setup(&setup, make);
        total += outcome.executions;
        outcome.executions = total;
        (outcome, setup.reached.load(Relaxed))
    };
    if scenario.nmis == Nmis::None {
        return run(&[]).0;
    }
    for first in 0.. {
        let (outcome, reached) = run(&[first]);
        if reached == 0 || outcome.failure.is_some() {
            return outcome;
        }
        if scenario.nmis == Nmis::Pairs {
            for second in first + 1.. {
                let (outcome, reached) = run(&[first, second]);
                if outcome.failure.is_some() {
                    return outcome;
                }
                if reached <= second {
                    break;
                }
            }
        }
    }
    unreachable!()
}
