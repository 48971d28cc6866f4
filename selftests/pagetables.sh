#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A page-table page is freed only after every CPU was interrupted, those too that
# are in user mode and owe a flush: the trace shows their words before the flush
# of whoever frees the page, and when it frees it.

. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/trace.sh"

ROUNDS=3
# Who frees it: where the kernel leaves that to a work item, whoever queues it.
FREES=pagetable_free_kernel
grep -qx $FREES "$TRACING/available_filter_functions" || FREES=__free_pages

# Each round leaves a deferred flush behind before the page table is freed.
interrupts_before_free() {
	local caller=$1 kind=$2 round
	clear_trace
	for ((round = 0; round < ROUNDS; round++)); do
		dflush flush aliases 1
		dflush flush "$kind" 1
	done
	settled_before "$caller" "$FREES"
}

with_copy() {
	local status=0
	dflush watch copy pmd_free_pte_page || return 1
	"$@" || status=$?
	dflush unwatch copy
	return "$status"
}

begin 4
load_module
hold_cpus "$NOHZ_FULL"
trace_flushes "$FREES"
check "pagetables: interrupted before pmd_free_pte_page frees" \
	interrupts_before_free pmd_free_pte_page huge
check "pagetables: interrupted before pud_free_pmd_page frees" \
	interrupts_before_free pud_free_pmd_page gigabyte
# The copy is that of a kernel that has a work item.
if [ "$FREES" = pagetable_free_kernel ]; then
	check "pagetables: interrupted before a livepatched copy frees" \
		with_copy interrupts_before_free '.*copied_pmd_free_pte_page' huge
else
	ktap_test_skip "pagetables: interrupted before a livepatched copy frees: not this kernel's function"
fi
stop_tracing
release_cpus
check "pagetables: nothing stale afterwards" defers "$NOHZ_FULL"
unload_module
ktap_finished
