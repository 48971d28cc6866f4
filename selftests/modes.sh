#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Modes off, shadow and on; the module's reference on itself; bad writes.

. "$(dirname "$0")/functions.sh"

is_in() {
	local mode state
	mode=$(mode_of)
	state=$(state_of)
	if [ "$mode $state" != "$1 $1" ]; then
		note "mode '$mode', state '$state'"
		return 1
	fi
}

loads_in() {
	load_with "$1"
	is_in "$2" || return 1
	unload_module
}

set_mode() {
	echo "$1" >"$CONTROL/mode" && is_in "$1"
}

# Each CPU has a flush pending when the mode is written. The interrupts of the
# module's own patching would drain them, too: that is not to be relied on. On a busy
# host all of them may have run by then, so try a few times.
drains() {
	local tries drained result=0
	for tries in {1..5}; do
		hold_cpus "$NOHZ_FULL"
		dflush flush aliases 3
		drained=$(summary drained)
		if ! { set_mode "$1" && words_are_zero; }; then
			result=1
		fi
		note "try $tries: drained $drained, then $(summary drained)"
		release_cpus
		[ "$result" -eq 0 ] || return 1
		[ "$(summary drained)" -le "$drained" ] || return 0
		mark_log
		set_mode on || return 1
	done
	return 1
}

refuses_bad_words() {
	local bad
	for bad in 3 ON onn "on off" "" offf; do
		refused_with "Invalid argument" "$CONTROL/mode" "$bad" || return 1
	done
	is_in on
}

# sets_and_defers MODE
sets_and_defers() {
	set_mode "$1" && defers "$NOHZ_FULL"
}

off_twice() {
	set_mode off && set_mode off
}

# Every interrupt is sent as before, and counted as one that could be spared.
is_shadow() {
	local cpu=${NOHZ_FULL%%[-,]*} before after
	before=$(call_interrupts "$cpu")
	rises would_defer 5 sends_all "$NOHZ_FULL" || return 1
	after=$(call_interrupts "$cpu")
	note "CAL of CPU $cpu rose by $((after - before))"
	[ $((after - before)) -ge 10 ]
}

begin 22
clean=$(fingerprint)
check "modes: parameter mode=0" loads_in mode=0 off
check "modes: parameter mode=1" loads_in mode=1 shadow
check "modes: parameter mode=2" loads_in mode=2 on
check "modes: nothing left behind" left_nothing "$clean"

mark_log
load_module
check "modes: on by default" is_in on
check "modes: one line of log when on" test "$(count_log .)" -eq 1
check "modes: flushes are deferred" defers "$NOHZ_FULL"
check "modes: counters add up" counters_add_up
check "modes: rmmod is refused while on" rmmod_is_refused
check "modes: off drains" drains off
check "modes: off restores every byte and hook" hooks_are "$clean"
check "modes: one line of log when off" test "$(count_log .)" -eq 2
check "modes: nothing is deferred when off" sends_all "$NOHZ_FULL"
check "modes: on again defers" sets_and_defers on
check "modes: shadow drains" drains shadow
check "modes: shadow sends everything and counts" is_shadow
check "modes: counters add up in shadow" counters_add_up
check "modes: from shadow to on defers" sets_and_defers on
check "modes: on twice is no error" set_mode on
check "modes: a bad word is refused" refuses_bad_words
check "modes: off twice is no error" off_twice
unload_module
check "modes: nothing left behind at the end" left_nothing "$clean"
ktap_finished
