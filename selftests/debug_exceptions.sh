#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Debug exceptions that a user provokes in the entry code, before the receiver:
# the kernel's own selftests of single steps into system calls, of MOV SS before
# INT and SYSCALL with a data breakpoint, and of the LDT, on an isolated CPU in a
# storm of flushes. They end as they do without the module (an emulator fails some
# of them), the machine survives, and nothing stale is read.

. "$(dirname "$0")/functions.sh"

FIRST=${NOHZ_FULL%%[-,]*}

# result_of PROGRAM: its exit status on the isolated CPU.
result_of() {
	local status=0
	timeout 60 taskset -c "$FIRST" "$DFLUSH_BIN/$1" >/dev/null 2>&1 || status=$?
	echo "$status"
}

# in_storm PROGRAM: twice, while flushes are sent; it ends as without the module.
in_storm() {
	local storm deferred first second
	deferred=$(summary deferred)
	"$DFLUSH_BIN/dflush" storm "$HOUSEKEEPING" >/dev/null &
	storm=$!
	first=$(result_of "$1") second=$(result_of "$1")
	kill "$storm"
	wait "$storm" || true
	note "$1: status $first and $second, without the module ${without[$1]}," \
		"deferred rose by $(($(summary deferred) - deferred))"
	[ "$first $second" = "${without[$1]} ${without[$1]}" ] && [ "$(summary deferred)" -gt "$deferred" ]
}

HOUSEKEEPING=0
declare -A without
for program in single_step_syscall mov_ss_trap ldt_gdt; do
	without[$program]=$(result_of "$program")
done
begin 4
load_module
check "debug exceptions: single steps into system calls" in_storm single_step_syscall
check "debug exceptions: MOV SS before INT and SYSCALL" in_storm mov_ss_trap
check "debug exceptions: segments of an LDT" in_storm ldt_gdt
check "debug exceptions: nothing stale afterwards" defers "$NOHZ_FULL"
unload_module
ktap_finished
