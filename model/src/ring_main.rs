// SPDX-License-Identifier: GPL-2.0

//! Explores the rings of the view `recent` under loom.
//!
//! Usage: deferred-flush-ring-model [PREEMPTIONS]
//!
//! Two writers that meet in one slot, as after a preemption, and a reader, with the module's own
//! `ring.rs`, in which every record that is read has to be whole, and with each mutant of it, which has
//! to be caught. A thread is preempted at most PREEMPTIONS times. Prints one line each; exit status 1 if
//! one is not as expected.

mod atomics;
#[path = "../ring_mutants.rs"]
mod ring_mutants;
#[allow(dead_code)]
mod trace;

use ring_mutants::RING_MUTANTS;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

static BOUND: OnceLock<usize> = OnceLock::new();

/// How many executions were explored, and whether one failed.
type Outcome = (usize, bool);

/// Runs all executions of a model, up to the first failure.
fn explore(model: impl Fn() + Sync + Send + 'static) -> Outcome {
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = executions.clone();
    let result = catch_unwind(AssertUnwindSafe(move || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = BOUND.get().copied();
        builder.check(move || {
            counter.fetch_add(1, Relaxed);
            model();
        });
    }));
    (executions.load(Relaxed), result.is_err())
}

macro_rules! ring_instance {
    ($name:ident, $path:literal) => {
        mod $name {
            // What the views use is unused here.
            #[allow(dead_code, unused_imports, unused_variables)]
            #[path = $path]
            mod ring;

            use loom::sync::Arc;
            use loom::thread;
            use ring::{Counts, Decision, Record, Ring, Slot, Tickets};

            /// A record of which every word names the writer.
            fn record(writer: u32) -> Record {
                Record {
                    time: writer.into(),
                    cpu: writer,
                    decision: Decision::Redirected,
                    counts: Counts::from_raw(writer.into()),
                    start: writer as usize,
                    end: writer as usize,
                    caller: writer as usize,
                }
            }

            fn assert_whole(ring: &Ring<'_>) -> usize {
                ring.iter()
                    .inspect(|seen| assert_eq!(*seen, record(seen.cpu), "a torn record"))
                    .count()
            }

            pub(super) fn explore() -> super::Outcome {
                super::explore(|| {
                    let memory = Arc::new((Tickets::new(), [Slot::new()]));
                    // loom's atomics are made by whoever uses them first.
                    Ring::new(&memory.0, &memory.1).add(record(0));
                    let writers: Vec<_> = (1..=2)
                        .map(|writer| {
                            let memory = memory.clone();
                            thread::spawn(move || {
                                Ring::new(&memory.0, &memory.1).add(record(writer));
                            })
                        })
                        .collect();
                    let reader = {
                        let memory = memory.clone();
                        thread::spawn(move || assert_whole(&Ring::new(&memory.0, &memory.1)))
                    };
                    for writer in writers {
                        writer.join().unwrap();
                    }
                    reader.join().unwrap();
                    let ring = Ring::new(&memory.0, &memory.1);
                    assert_eq!(assert_whole(&ring), 1, "nothing is left");
                })
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/ring_instances.rs"));

fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        let Ok(bound) = argument.parse() else {
            eprintln!("usage: deferred-flush-ring-model [PREEMPTIONS]");
            return ExitCode::from(2);
        };
        BOUND.get_or_init(|| bound);
    }
    // A failing execution panics, which is what most of this waits for.
    std::panic::set_hook(Box::new(|_| {}));
    let mut status = ExitCode::SUCCESS;
    let names = std::iter::once(("original", "")).chain(RING_MUTANTS.iter().map(|m| (m.0, m.1)));
    for ((name, what), explore) in names.zip(EXPLORATIONS) {
        let (executions, is_caught) = explore();
        let is_expected = is_caught == (name != "original");
        println!(
            "ring|{name}|{what}|{executions}|{}|{}",
            if is_caught { "caught" } else { "holds" },
            if is_expected { "ok" } else { "WRONG" }
        );
        if !is_expected {
            status = ExitCode::FAILURE;
        }
    }
    status
}
