#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Control and views work under lockdown=integrity. There is no way back from
# lockdown, and no unsigned module loads after it: the last test of a boot.

. "$(dirname "$0")/functions.sh"

LOCKDOWN=/sys/kernel/security/lockdown

both_modes_work() {
	echo off >"$CONTROL/mode" && [ "$(state_of)" = off ] &&
		echo on >"$CONTROL/mode" && [ "$(state_of)" = on ]
}

views_are_readable() {
	[ -n "$(summary calls)" ] && [ "$(wc -l <"$VIEWS/cpus")" -gt 1 ]
}

begin 5
load_module
mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security
if ! (echo integrity >"$LOCKDOWN") 2>/dev/null; then
	for name in "is in force" "views" "mode" "deferral" "unloading"; do
		ktap_test_skip "lockdown: $name: this kernel cannot be locked down"
	done
	unload_module
	ktap_finished
fi
check "lockdown: is in force" grep -q '\[integrity\]' "$LOCKDOWN"
check "lockdown: views are readable" views_are_readable
check "lockdown: mode is writable" both_modes_work
check "lockdown: flushes are deferred" defers "$NOHZ_FULL"
check "lockdown: unloads" unload_module
ktap_finished
