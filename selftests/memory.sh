#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Memory going offline: pending CPUs are drained, nothing is deferred meanwhile,
# and deferral goes on afterwards. One block, one that stays online after all, and
# a DIMM that is unplugged.
#
# Usage: memory.sh [brief]	the one block alone

. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/monitor.sh"

MEMORY=/sys/devices/system/memory

# Takes the first block offline that lets itself be taken; the highest first,
# where the kernel itself does not sit.
take_offline() {
	local block
	while read -r block; do
		if (echo offline >"$MEMORY/$block/state") 2>/dev/null; then
			echo "$block"
			return 0
		fi
	done < <(cd "$MEMORY" && printf '%s\n' memory[0-9]* | sort -rV | head -n 12)
	return 1
}

is_on() {
	[ "$(state_of)" = on ] && defers "$NOHZ_FULL"
}

# looks_right: the last look into the window saw CPUs that owed a flush before,
# none from its start to its end, and some afterwards.
looks_right() {
	local windows before at_start inside after
	read -r windows before at_start inside after < <(dflush memory report)
	note "$windows windows; owing before $before, at the start $at_start, inside $inside, after $after"
	case $1 in
	drained) [ "$before" -gt 0 ] && [ "$at_start" -eq 0 ] ;;
	blocked) [ "$windows" -gt 0 ] && [ "$inside" -eq 0 ] ;;
	resumed) [ "$windows" -gt 0 ] && [ "$after" -gt 0 ] ;;
	esac
}

is_cancelled() {
	dflush memory refuse >/dev/null
	! take_offline >/dev/null && looks_right drained && looks_right blocked && looks_right resumed
}

count_blocks() {
	find "$MEMORY" -maxdepth 1 -name 'memory[0-9]*' | wc -l
}

has_blocks() {
	[ "$(count_blocks)" -eq "$1" ]
}

# A DIMM is plugged in, its memory comes online, CPUs owe a flush, and it is
# unplugged, which takes its blocks offline.
dimm_comes_and_goes() {
	local blocks result=0
	blocks=$(count_blocks)
	echo online_movable >"$MEMORY/auto_online_blocks"
	monitor "object_add memory-backend-ram,id=dimm-memory,size=256M"
	monitor "device_add pc-dimm,id=dimm,memdev=dimm-memory"
	wait_until has_blocks $((blocks + 2)) || result=1
	dflush memory on >/dev/null
	dflush flush aliases 3
	monitor "device_del dimm"
	wait_until has_blocks "$blocks" || result=1
	looks_right drained && looks_right blocked && looks_right resumed && return "$result"
}

# A machine whose monitor is at hand has a DIMM to unplug.
names=("drained at its start" "nothing is deferred meanwhile" "deferral resumes at its end")
if [ "${1:-}" != brief ]; then
	names+=("cancelled")
	if monitor_port >/dev/null; then
		names+=("a DIMM is unplugged")
	fi
fi
names+=("nothing owed afterwards" "deferral goes on" "back online" "counters add up")

# is_planned NAME
is_planned() {
	local name
	for name in "${names[@]}"; do
		[ "$name" != "$1" ] || return 0
	done
	return 1
}

begin ${#names[@]}
load_module
hold_cpus "$NOHZ_FULL"
dflush memory on >/dev/null
dflush flush aliases 3
if ! block=$(take_offline); then
	release_cpus
	for name in "${names[@]}"; do
		ktap_test_skip "memory: $name: no block can go offline here"
	done
	unload_module
	ktap_finished
fi
note "$block is offline"
check "memory: drained at its start" looks_right drained
check "memory: nothing is deferred meanwhile" looks_right blocked
check "memory: deferral resumes at its end" looks_right resumed
if is_planned cancelled; then
	check "memory: cancelled" is_cancelled
fi
if is_planned "a DIMM is unplugged"; then
	check "memory: a DIMM is unplugged" dimm_comes_and_goes
fi
dflush memory off >/dev/null
release_cpus
check "memory: nothing owed afterwards" words_are_zero
check "memory: deferral goes on" is_on
check "memory: back online" write_status "$MEMORY/$block/state" online
check "memory: counters add up" counters_add_up
unload_module
ktap_finished
