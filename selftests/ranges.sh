#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Nothing is deferred that is not the lazy purge of vmalloc, and of vmalloc alone:
# the real operations behind which executable memory, the array of pages or the
# direct map change, and what the module counted, compared with a trace.
#
# Usage: ranges.sh [OPERATION...]	module bpf hugetlb secretmem

. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/trace.sh"

# The range that may be deferred: its base, and its size in KiB rounded down.
FIRST=$(dflush peek vmalloc_base)
LAST=$(printf '0x%x' $((FIRST + ($(awk '$1 == "VmallocTotal:" { print $2 }' /proc/meminfo) + 1) * 1024)))
PURGERS='^(__purge_vmap_area_lazy|_vm_unmap_aliases)\+'

# survey: of the traced flushes: how many, how many may be deferred, how many
# reach outside vmalloc, and of these how many also inside. All are addresses of
# 16 digits, so their text can be compared.
survey() {
	traced | awk -v first="$FIRST" -v last="$LAST" -v purgers="$PURGERS" '
		$1 != "flush" { next }
		{ delete of
			for (i = 2; i <= NF; i++)
				if (split($i, part, "="))
					of[part[1]] = part[2] ""
			calls++
			is_inside = of["start"] >= first && of["end"] <= last
			allowed += is_inside && of["caller"] ~ purgers
			foreign += !is_inside
			spanning += !is_inside && of["start"] < last && of["end"] > first }
		END { print calls + 0, allowed + 0, foreign + 0, spanning + 0 }'
}

# Who flushed what, for the log.
show_flushes() {
	traced | awk '$1 == "flush" { sub(/\+0x[0-9a-f]*\/0x[0-9a-f]*/, "", $4)
			seen[$4 " " substr($2, 7, 8) "..-" substr($3, 5, 8) ".."]++ }
		END { for (what in seen) print "#   " seen[what] " x " what }' | sort | head -n 12
}

# only_purges KIND COMMAND...: the command flushes foreign ranges (KIND spanning:
# with all or a part of vmalloc in them), and the module redirects just what it may. A
# purge by somebody else between two looks spoils one try.
only_purges() {
	local kind=$1 calls kept redirected counted allowed foreign spanning try
	shift
	for try in 1 2 3; do
		dflush flush aliases 1
		clear_trace
		calls=$(summary calls) redirected=$(summary redirected) kept=$(summary kept_blocked)
		"$@" || return 1
		read -r counted allowed foreign spanning < <(survey)
		calls=$(($(summary calls) - calls)) redirected=$(($(summary redirected) - redirected))
		kept=$(($(summary kept_blocked) - kept))
		note "try $try: traced $counted, allowed $allowed, foreign $foreign, spanning $spanning;" \
			"counted $calls, redirected $redirected, blocked $kept"
		show_flushes
		[ "$redirected" -le "$allowed" ] || return 1
		if [ "$calls" -eq "$counted" ] && [ $((redirected + kept)) -eq "$allowed" ] && [ "${!kind}" -gt 0 ]; then
			return 0
		fi
	done
	return 1
}

unload_module_dummy() {
	modprobe dummy && dflush flush lazy 1 && rmmod dummy && dflush flush aliases 1
}

free_bpf_programs() {
	"$DFLUSH_BIN/provoke" bpf 90 || return 1
	# They are freed after a grace period, by a work item.
	sleep 1
	dflush flush aliases 1
}

# A page of the pool is prepared together with others, with flush_tlb_all(); one
# beyond the pool by itself, and then its range is flushed.
give_back_hugepage() {
	local status=0
	echo 1 >/proc/sys/vm/hugetlb_optimize_vmemmap
	echo 1 >/proc/sys/vm/nr_overcommit_hugepages
	"$DFLUSH_BIN/provoke" hugetlb || status=$?
	sleep 0.2
	echo 0 >/proc/sys/vm/nr_overcommit_hugepages
	echo 0 >/proc/sys/vm/hugetlb_optimize_vmemmap
	return "$status"
}

[ $# -gt 0 ] || set -- module bpf hugetlb secretmem
begin $(($# + 1))
load_module
hold_cpus "$NOHZ_FULL"
trace_flushes
for operation; do
	case $operation in
	module)
		check "ranges: a module is unloaded: a purge of more than vmalloc" \
			only_purges spanning unload_module_dummy
		;;
	bpf)
		check "ranges: BPF programs are freed: a purge of more than vmalloc" \
			only_purges spanning free_bpf_programs
		;;
	hugetlb)
		check "ranges: a huge page without all of its page descriptions" \
			only_purges foreign give_back_hugepage
		;;
	secretmem)
		check "ranges: secret memory, out of the direct map" \
			only_purges foreign "$DFLUSH_BIN/provoke" secretmem
		;;
	esac
done
stop_tracing
release_cpus
check "ranges: nothing stale afterwards" defers "$NOHZ_FULL"
unload_module
ktap_finished
