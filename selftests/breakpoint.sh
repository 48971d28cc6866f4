#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A hardware breakpoint on a kernel address suspends deferral as long as it is
# set: its handler may run before the receiver, and it writes no kernel text.

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

# The breakpoint goes with its last reference, some time after the program.
is_on() {
	local tries
	for tries in {1..30}; do
		if [ "$(state_of)" = on ]; then
			defers "$NOHZ_FULL"
			return
		fi
		sleep 0.1
	done
	note "state '$(state_of)' after $tries looks"
	return 1
}

# suspends KIND SYMBOL: three tests
suspends() {
	local before
	before=$(summary suspensions)
	check "breakpoint: $1 $2 is set" set_breakpoint "$1" "$2" "$FIRST"
	note "state '$(state_of)'"
	check "breakpoint: $1 $2 suspends, counted once" test "$(state_of)" = \
		"suspended: a hardware breakpoint on a kernel address" -a "$(summary suspensions)" -eq $((before + 1))
	check "breakpoint: $1 $2, everything is sent" sends_all "$NOHZ_FULL"
	clear_breakpoint
	check "breakpoint: $1 $2, deferral goes on when it has gone" is_on
}

ignores_user_addresses() {
	set_breakpoint user "$FIRST" && is_on
	clear_breakpoint
}

refuses_on() {
	local result=0
	echo off >"$CONTROL/mode"
	set_breakpoint execute vtime_user_exit "$FIRST" || result=1
	refused_with "Device or resource busy" "$CONTROL/mode" on || result=1
	clear_breakpoint
	[ "$(mode_of)" = off ] && echo on >"$CONTROL/mode" && is_on && return "$result"
}

begin 11
load_module
suspends execute vtime_user_exit
suspends write jiffies
check "breakpoint: one on user memory suspends nothing" ignores_user_addresses
check "breakpoint: on is refused while there is one" refuses_on
check "breakpoint: counters add up" counters_add_up
unload_module
rm -f "$LOG"
ktap_finished
