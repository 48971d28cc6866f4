#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The system goes to sleep, as far as a virtual machine can (pm_test), while
# flushes are pending: nothing is left behind, and deferral goes on afterwards.

. "$(dirname "$0")/functions.sh"

POWER=/sys/power

# sleep_and_wake STATE LEVEL
sleep_and_wake() {
	local error
	echo "$2" >"$POWER/pm_test"
	mark_log
	if ! error=$(write_status "$POWER/state" "$1"); then
		note "$error"
		log_since_mark | tail -n 5 | sed 's/^/# /'
		return 1
	fi
	[ "$(log_since_mark | grep -cE 'PM: (suspend|hibernation)|Freezing user space')" -gt 0 ]
}

# test_sleep STATE LEVEL: three tests
test_sleep() {
	local name="sleep: $1 up to $2"
	if ! grep -qw "$1" "$POWER/state" || ! grep -qw "$2" "$POWER/pm_test"; then
		ktap_test_skip "$name"
		ktap_test_skip "$name leaves nothing pending"
		ktap_test_skip "$name, then flushes are deferred"
		return
	fi
	hold_cpus "$NOHZ_FULL"
	dflush flush aliases 3
	if words_are_zero; then
		note "nothing was pending before"
	fi
	check "$name" sleep_and_wake "$1" "$2"
	# They were frozen, so they have been in the kernel.
	check "$name leaves nothing pending" words_are_zero
	release_cpus
	check "$name, then flushes are deferred" is_on_and_defers
}

is_on_and_defers() {
	[ "$(state_of)" = on ] && defers "$NOHZ_FULL"
}

# Deeper levels stop virtio devices, and the kernel's 9p, on which this machine's
# root lies, does not start again. CPUs that go are the matter of hotplug.sh.
levels=("freeze freezer" "mem freezer" "disk freezer")
begin $((${#levels[@]} * 3))
# Seconds that each test lasts.
delay=/sys/module/suspend/parameters/pm_test_delay
[ ! -e "$delay" ] || echo 1 >"$delay"
load_module
for level in "${levels[@]}"; do
	# Two words.
	# shellcheck disable=SC2086
	test_sleep $level
done
echo none >"$POWER/pm_test"
unload_module
ktap_finished
