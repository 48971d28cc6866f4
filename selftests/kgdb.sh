#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Patching as a kernel debugger does it: text_poke_kgdb() with interrupts off, on
# watched code. Nobody can be waited for then, so deferral is blocked and nothing
# is sent; what is pending by then is flushed as ever.

. "$(dirname "$0")/functions.sh"

blocks() {
	note "state '$(state_of)', suspensions $(summary suspensions)"
	[[ $(state_of) == "suspended: "* ]] && [ "$(summary suspensions)" -eq $((suspensions + 1)) ]
}

sends_nothing() {
	note "drained $drained, then $(summary drained)"
	[ "$(summary drained)" -eq "$drained" ] && ! words_are_zero
}

goes_on() {
	local error tries
	for tries in {1..20}; do
		if error=$(write_status "$CONTROL/mode" on) && [ "$(state_of)" = on ]; then
			defers "$NOHZ_FULL"
			return
		fi
		sleep 0.1
	done
	note "after $tries tries: $error"
	return 1
}

is_kept_out() {
	dflush call text_poke_kgdb vfs_read && [ "$(state_of)" = on ]
}

begin 6
if [ "$(dmesg | grep -c 'Indirect Branch Tracking enabled')" -gt 0 ]; then
	for name in unwatched blocks sends pending everything resumes; do
		ktap_test_skip "kgdb: $name: an indirect call of what is not exported faults here"
	done
	ktap_finished
fi
load_module
check "kgdb: on unwatched code it changes nothing" is_kept_out
hold_cpus "$NOHZ_FULL"
dflush flush aliases 3
drained=$(summary drained) suspensions=$(summary suspensions)
dflush call text_poke_kgdb __rcu_read_lock
check "kgdb: on watched code it blocks" blocks
check "kgdb: with interrupts off nothing is sent" sends_nothing
release_cpus
check "kgdb: what was pending was flushed" words_are_zero
check "kgdb: everything is sent from then on" sends_all "$NOHZ_FULL"
check "kgdb: deferral goes on when mode is written" goes_on
unload_module
ktap_finished
