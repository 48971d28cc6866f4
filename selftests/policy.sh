#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Only the lazy purge of vmalloc is deferred. Callers outside the allowlist, and
# ranges that reach outside vmalloc, are left to the kernel.

. "$(dirname "$0")/functions.sh"

# kept KEY COMMAND...: the counter rises, and deferred no further than the
# redirected flushes that came in between can explain.
kept() {
	local key=$1 cpus deferred redirected kept
	shift
	cpus=$(awk 'NR > 1' "$VIEWS/cpus" | wc -l)
	deferred=$(summary deferred) redirected=$(summary redirected) kept=$(summary "$key")
	"$@"
	deferred=$(($(summary deferred) - deferred))
	redirected=$(($(summary redirected) - redirected))
	kept=$(($(summary "$key") - kept))
	note "$key rose by $kept, redirected by $redirected, deferred by $deferred"
	[ "$kept" -ge 1 ] && [ "$deferred" -le $((redirected * cpus)) ]
}

unload_dummy() {
	modprobe dummy
	rmmod dummy
}

# A range from vmalloc to the modules tells where vmalloc begins.
shows_no_distance() {
	awk '$3 == "kept_range" { seen++; if ($9 != "-") bad++ }
		END { print "# lines of that kind: " seen + 0 ", with a size: " bad + 0; exit !seen || bad }' "$VIEWS/recent"
}

begin 8
load_module
hold_cpus "$NOHZ_FULL"
check "policy: the lazy purge is redirected" rises redirected 10 dflush flush aliases 10
check "policy: the lazy purge is deferred" rises deferred 10 dflush flush aliases 10
check "policy: vrealloc that shrinks is kept (caller)" kept kept_caller dflush flush vrealloc 10
check "policy: a freed page table is kept (caller)" kept kept_caller dflush flush huge 5
check "policy: a purge that spans module space is kept (range)" kept kept_range unload_dummy
check "policy: ... and does not show how far" shows_no_distance
release_cpus
check "policy: counters add up" counters_add_up
check "policy: nothing stale afterwards" defers "$NOHZ_FULL"
unload_module
ktap_finished
