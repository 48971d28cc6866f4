#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's log at the end of a boot: no warning, no oops, no lost NMI.

. "$(dirname "$0")/functions.sh"

is_quiet() {
	local found
	# What sysrq-l prints looks like a trace, too.
	found=$(dmesg | sed '/dflush: backtraces on request/,/dflush: end of backtraces/d' | grep -E 'WARNING:|BUG:|Oops|Call Trace:|Uhhuh|NMI received for unknown|ftrace.*failed|rcu:.*stall' || true)
	if [ -n "$found" ]; then
		note "${found//$'\n'/$'\n# '}"
		return 1
	fi
}

# Bit 9 is W, a warning; bit 7 is D, an oops.
is_not_tainted() {
	local tainted
	tainted=$(cat /proc/sys/kernel/tainted)
	note "tainted: $tainted"
	[ $((tainted & (1 << 9 | 1 << 7))) -eq 0 ]
}

begin 2
check "quiet: no warning in the kernel's log" is_quiet
check "quiet: the kernel is not tainted by one" is_not_tainted
ktap_finished
