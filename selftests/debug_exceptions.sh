#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Debug exceptions that a user provokes in the entry code, before the receiver:
# the kernel's own selftests of single steps into system calls, of MOV SS before
# INT and SYSCALL with a data breakpoint, and of the LDT, on an isolated CPU in a
# storm of flushes. They and the machine survive, and nothing stale is read.

. "$(dirname "$0")/functions.sh"

FIRST=${NOHZ_FULL%%[-,]*}

# in_storm PROGRAM: several times, while flushes are sent.
in_storm() {
	local storm pass deferred output status=0
	deferred=$(summary deferred)
	"$DFLUSH_BIN/dflush" storm "$HOUSEKEEPING" >/dev/null &
	storm=$!
	for pass in 1 2 3; do
		output=$(timeout 60 taskset -c "$FIRST" "$DFLUSH_BIN/$1" 2>&1) || status=$?
		if [ "$status" -ne 0 ]; then
			note "$1 ended with status $status: ${output//$'\n'/$'\n#   '}"
			break
		fi
	done
	kill "$storm"
	wait "$storm" || true
	note "$1: $pass passes, status $status, deferred rose by $(($(summary deferred) - deferred))"
	[ "$status" -eq 0 ] && [ "$(summary deferred)" -gt "$deferred" ]
}

HOUSEKEEPING=0
begin 4
load_module
# Of three CPUs at least one has to stay in user mode for anything to be deferred.
check "debug exceptions: single steps into system calls" in_storm single_step_syscall
check "debug exceptions: MOV SS before INT and SYSCALL" in_storm mov_ss_trap
check "debug exceptions: segments of an LDT" in_storm ldt_gdt
check "debug exceptions: nothing stale afterwards" defers "$NOHZ_FULL"
unload_module
ktap_finished
