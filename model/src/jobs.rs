// SPDX-License-Identifier: GPL-2.0

//! What there is to explore: scenarios, mutants and faults, and what is expected of each.

use crate::mutants::MUTANTS;
use crate::scenario::{Fault, Scenario};

/// One exploration.
pub(crate) struct Job {
    /// Which table it belongs to.
    kind: &'static str,
    pub(crate) name: String,
    /// What it is; of a scenario, whether it is tried with changes that are no bugs.
    what: &'static str,
    /// The mutant or the fault, or `original`.
    pub(crate) instance: String,
    pub(crate) scenario: &'static str,
    bound: Option<usize>,
    pub(crate) is_to_be_caught: bool,
    /// The larger, the longer it takes.
    pub(crate) weight: usize,
}

/// What came out of a job.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) executions: usize,
    /// What failed, if anything did.
    pub(crate) message: String,
    pub(crate) is_expected: bool,
}

impl Job {
    /// The line of the results.
    pub(crate) fn line(&self, outcome: &Outcome) -> String {
        let bound = self
            .bound
            .map_or("none".into(), |bound: usize| bound.to_string());
        let (result, scenario) = if outcome.message.is_empty() {
            ("holds", "")
        } else {
            ("caught", self.scenario)
        };
        format!(
            "{}|{}|{}|{bound}|{}|{result}|{scenario}|{}|{}",
            self.kind,
            self.name,
            self.what,
            outcome.executions,
            outcome.message,
            if outcome.is_expected { "ok" } else { "WRONG" }
        )
    }
}

/// Every job, in the order of the tables.
pub(crate) fn jobs(scenarios: &[Scenario]) -> Vec<Job> {
    let job = |kind, instance: &str, what, scenario: &str, is_to_be_caught| {
        let place = scenarios.iter().position(|found| found.name == scenario);
        let place = place.unwrap_or_else(|| panic!("there is no scenario {scenario}"));
        let scenario = &scenarios[place];
        let is_scenario = kind == "scenario";
        Job {
            kind,
            name: if is_scenario { scenario.name } else { instance }.into(),
            what,
            instance: instance.into(),
            scenario: scenario.name,
            bound: scenario.setup.bound,
            is_to_be_caught,
            // They are in the order of their size, and what is caught ends early.
            weight: if is_to_be_caught { 0 } else { place },
        }
    };
    let mut jobs = Vec::new();
    for scenario in scenarios {
        let what = if scenario.is_large { "no" } else { "yes" };
        jobs.push(job("scenario", "original", what, scenario.name, false));
    }
    for mutant in MUTANTS {
        for scenario in mutant.caught_in {
            jobs.push(job("mutant", mutant.name, mutant.what, scenario, true));
        }
        if mutant.caught_in.is_empty() {
            for scenario in scenarios.iter().filter(|scenario| !scenario.is_large) {
                let name = scenario.name;
                jobs.push(job("equivalent", mutant.name, mutant.what, name, false));
            }
        }
    }
    for (fault, what, caught_in) in Fault::ALL {
        for scenario in *caught_in {
            jobs.push(job("fault", &format!("{fault:?}"), what, scenario, true));
        }
    }
    jobs
}

/// The jobs with their outcomes; those of one change that is no bug in one: up to the first that
/// failed, if one did.
pub(crate) fn merged<'a>(jobs: &'a [Job], outcomes: &[Outcome]) -> Vec<(&'a Job, Outcome)> {
    let mut merged: Vec<(&Job, Outcome)> = Vec::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        match merged.last_mut() {
            Some((last, sum)) if job.kind == "equivalent" && job.name == last.name => {
                if sum.is_expected {
                    *last = job;
                    let executions = sum.executions;
                    *sum = outcome.clone();
                    sum.executions += executions;
                }
            }
            _ => merged.push((job, outcome.clone())),
        }
    }
    merged
}
