#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own lib/test_vmalloc, all of its tests, while flushes are deferred
# for spinning CPUs. Only a kernel that is configured for it has that module.
#
# Some of its tests have a size of their own, tens of thousands of allocations, so
# each worker takes minutes in an emulator on the debug kernel.
#
# Usage: test_vmalloc.sh [LOOPS [WORKERS]]

. "$(dirname "$0")/functions.sh"

loops=${1:-100} workers=${2:-1}

# It never stays loaded: its init function ends with an error by design. Two of
# its tests ask for what cannot be had, and the kernel prints a backtrace then.
run_kernel_test() {
	echo "dflush: backtraces on request" >/dev/kmsg
	modprobe test_vmalloc nr_threads="$workers" run_test_mask=-1 test_repeat_count=1 \
		test_loop_count="$loops" nr_pcpu_objects=2000 2>/dev/null || true
	echo "dflush: end of backtraces" >/dev/kmsg
	LOG=$(log_since_mark | grep -E 'Summary: |All test took')
	note "${LOG//$'\n'/$'\n# '}"
}

count_lines() {
	grep -cE "$1" <<<"$LOG" || true
}

all_workers_ended() {
	[ "$(count_lines 'All test took worker')" -eq "$workers" ]
}

# A test may be expected to fail; the kernel counts these apart.
none_failed() {
	[ "$(count_lines 'Summary: ')" -ge $((10 * workers)) ] &&
		[ "$(count_lines 'Summary: .* failed: 0 ')" -eq "$(count_lines 'Summary: ')" ] &&
		[ "$(count_lines 'Summary: .* passed: 0 failed: 0 xfailed: 0 ')" -eq 0 ]
}

no_warning() {
	! log_since_mark | grep -E 'WARNING: |BUG: |Oops'
}

begin 6
if ! modinfo test_vmalloc >/dev/null 2>&1; then
	for name in "every worker ends" "no test fails" "no warning" "deferred" "counters" "still on"; do
		ktap_test_skip "test_vmalloc: $name: this kernel has no lib/test_vmalloc"
	done
	ktap_finished
fi
load_module
# One spinner, because an emulator's CPUs share few real ones.
hold_cpus "${NOHZ_FULL%%[-,]*}"
mark_log
before=$(summary deferred)
run_kernel_test
after=$(summary deferred)
release_cpus
check "test_vmalloc: every worker ends" all_workers_ended
check "test_vmalloc: no test fails" none_failed
check "test_vmalloc: no warning in the kernel's log" no_warning
note "deferred rose by $((after - before))"
check "test_vmalloc: its flushes were deferred" test "$after" -gt "$before"
check "test_vmalloc: counters add up" counters_add_up
check "test_vmalloc: deferral goes on" defers "$NOHZ_FULL"
unload_module
ktap_finished
