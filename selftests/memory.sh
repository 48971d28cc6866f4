#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Memory going offline: pending CPUs are drained, and deferral goes on afterwards.

. "$(dirname "$0")/functions.sh"

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

begin 4
load_module
hold_cpus "$NOHZ_FULL"
dflush flush aliases 3
if ! block=$(take_offline); then
	release_cpus
	for name in "drains" "deferral goes on" "back online" "counters add up"; do
		ktap_test_skip "memory: $name: no block can go offline here"
	done
	unload_module
	ktap_finished
fi
note "$block is offline"
check "memory: pending CPUs are drained" words_are_zero
release_cpus
check "memory: deferral goes on" is_on
check "memory: back online" write_status "$MEMORY/$block/state" online
check "memory: counters add up" counters_add_up
unload_module
ktap_finished
