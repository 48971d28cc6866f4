#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What the modules left allocated and lost, in this boot, by the kernel's kmemleak.
# It has to come before lockdown, under which its file cannot be used.

. "$(dirname "$0")/functions.sh"

KMEMLEAK=/sys/kernel/debug/kmemleak

# A report counts once two scans agree, and an object once it is five seconds old.
# Addresses of a module that is gone have no name: the module's area counts, too.
names_a_module() {
	grep -E '\[(deferred_flush|dflush_test)\]|\] 0xffffffff[c-f]' <<<"$REPORT"
}

scan() {
	local scan
	for scan in 1 2; do
		sleep 6
		note "scan $scan"
		echo scan >"$KMEMLEAK"
	done
	REPORT=$(cat "$KMEMLEAK")
	[ -z "$REPORT" ] || note "${REPORT//$'\n'/$'\n# '}"
}

nothing_is_ours() {
	! names_a_module
}

begin 2
if [ ! -w "$KMEMLEAK" ]; then
	ktap_test_skip "kmemleak: nothing of the module's: this kernel has no kmemleak"
	ktap_test_skip "kmemleak: nothing at all: this kernel has no kmemleak"
	ktap_finished
fi
scan
check "kmemleak: nothing of the module's" nothing_is_ours
check "kmemleak: nothing at all" test -z "$REPORT"
ktap_finished
