// SPDX-License-Identifier: GPL-2.0

//! One line a look, for pipes, files and terminals that can do no more.

use super::Change;

/// The names of the columns.
pub const HEADER: &str =
    "    time  state      calls/s  deferred/s  would/s  sent/s  flushes/s  user  owing";

/// The line of one look: rates of all CPUs together, and how many of them are in user mode and owe a
/// flush at this moment.
#[must_use]
pub fn line(change: &Change) -> String {
    format!(
        "{:8.1}  {:<9} {:8.1}  {:10.1} {:8.1}  {:6.1}  {:9.1}  {:4}  {:5}",
        change.time,
        change.short_state(),
        change.rate(&["calls"]),
        change.rate(&["deferred"]),
        change.rate(&["would_defer"]),
        change.rate(&["ipi_not_quiet", "ipi_raced"]),
        change.rate(&["flush_entry", "flush_nmi", "flush_ipi"]),
        change.count_cpus(|cpu| cpu.mode == "user"),
        change.count_cpus(|cpu| cpu.word != 0),
    )
}

#[cfg(test)]
mod tests {
    use super::{HEADER, line};
    use crate::watch::tests::change;

    #[test]
    fn a_line_has_its_values_below_their_names() {
        let line = line(&change());
        assert_eq!(
            line,
            "     2.0  suspended     20.0        20.0      0.0     0.0        0.0     1      1"
        );
        assert_eq!(line.len(), HEADER.len());
        assert_eq!(
            line.split_whitespace().count(),
            HEADER.split_whitespace().count()
        );
    }
}
