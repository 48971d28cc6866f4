#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# ftrace switches itself off for good (ftrace_kill(), as after a fault of its
# own) while the module is on. Its sites stay patched and nothing can be unhooked
# any more. Needs a boot of its own: nothing that patches works afterwards.

. "$(dirname "$0")/functions.sh"

is_off_for_good() {
	note "state '$(state_of)'"
	[[ $(state_of) == "degraded: "* ]] && grep -q '^state: *degraded' "$VIEWS/summary"
}

traces_nothing() {
	local status=0 ENODEV=19
	dflush watch ftrace vfs_read || status=$?
	note "errno $status"
	[ "$status" -eq "$ENODEV" ]
}

# Whoever enters the kernel still passes the patched site, so that still flushes.
flushes_on_entry() {
	local before after
	before=$(summary flush_entry)
	defers "$NOHZ_FULL" || return 1
	after=$(summary flush_entry)
	note "flush_entry rose by $((after - before))"
	[ $((after - before)) -gt 5 ]
}

begin 10
load_module
check "ftrace kill: flushes are deferred before" defers "$NOHZ_FULL"
hold_cpus "$NOHZ_FULL"
dflush flush aliases 3
dflush call ftrace_kill
check "ftrace kill: nobody can trace any more" traces_nothing
release_cpus
check "ftrace kill: what is hooked goes on as before" flushes_on_entry
hold_cpus "$NOHZ_FULL"
dflush flush aliases 3
check "ftrace kill: going off is an error" refused_with "Input/output error" "$CONTROL/mode" off
check "ftrace kill: nothing stays pending" words_are_zero
release_cpus
check "ftrace kill: the state says so" is_off_for_good
check "ftrace kill: every interrupt is sent" sends_all "$NOHZ_FULL"
check "ftrace kill: going on again is an error" refused_with "Input/output error" "$CONTROL/mode" on
check "ftrace kill: the module stays in memory" rmmod_is_refused
check "ftrace kill: nothing stale is read, and the machine goes on" sends_all "$NOHZ_FULL"
ktap_finished
