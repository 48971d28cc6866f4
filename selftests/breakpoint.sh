#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A CPU on which a hardware breakpoint is set is interrupted as ever: a handler may
# run before the receiver, and no kernel text is written.

. "$(dirname "$0")/functions.sh"

FIRST=${NOHZ_FULL%%[-,]*}
LOG=$(mktemp)

set_breakpoint() {
	: >"$LOG"
	exec {PIPE}> >(exec "$DFLUSH_BIN/breakpoint" "$@" >"$LOG" 2>&1)
	HOLDER=$!
	local tries
	for tries in {1..100}; do
		if grep -q ready "$LOG"; then
			return 0
		fi
		sleep 0.1
	done
	note "no breakpoint after $tries looks: $(cat "$LOG")"
	return 1
}

clear_breakpoint() {
	exec {PIPE}>&-
	wait "$HOLDER"
}

# Flushes deferred for the first isolated CPU, and for all others, of ten each.
deferrals() {
	local rows
	rows=$(dflush rounds "$NOHZ_FULL" 10)
	note "cpu deferred ipi_not_quiet stale:" "${rows//$'\n'/; }"
	ON_FIRST=$(awk -v cpu="$FIRST" '$1 == cpu { print $2 }' <<<"$rows")
	ON_OTHERS=$(awk -v cpu="$FIRST" '$1 != cpu && (least == "" || $2 < least) { least = $2 } END { print least == "" ? 10 : least }' <<<"$rows")
	[ "$(sum_column 4 "$rows")" -eq 0 ]
}

is_left_alone() {
	deferrals && [ "$ON_FIRST" -eq 0 ] && [ "$ON_OTHERS" -gt 5 ]
}

# The breakpoint goes with its last reference, some time after the program.
is_deferred_again() {
	local tries
	for tries in 1 2 3; do
		if deferrals && [ "$ON_FIRST" -gt 5 ]; then
			return 0
		fi
	done
	note "not after $tries looks"
	return 1
}

# interrupts KIND [SYMBOL]: three tests
interrupts() {
	check "breakpoint: $* is set" set_breakpoint "$@" "$FIRST"
	check "breakpoint: $*, nothing is deferred for its CPU alone" is_left_alone
	clear_breakpoint
	check "breakpoint: $*, deferral goes on when it has gone" is_deferred_again
}

begin 10
load_module
interrupts execute vtime_user_exit
interrupts write jiffies
interrupts user
check "breakpoint: counters add up" counters_add_up
unload_module
rm -f "$LOG"
ktap_finished
