#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Everything at once, for minutes: checkers on the isolated CPUs (canary), and
# meanwhile loads of all kinds, tracers, perf, hotplug of CPUs and memory, NMIs,
# and the module going off and on and away and back.
#
# Usage: stress.sh [--control] [MINUTES]
#
# The first half of MINUTES (default 10) is the storm of all that; then come
# 100,000 bad writes to the control files, and the rest are unloads while every
# other CPU flushes: as many of 1,000 as there is time for. Under an emulator each
# takes three to eight seconds, most of it waiting for tasks and CPUs: so 1,000 of
# them want two hours or more, and CYCLES=1000 does that many whatever the time.
# The storm's own unloads count, too.
#
# --control: the module of DFLUSH_MODULE is known to be bad. The storm ends when
# a checker finds the first stale page, and the test fails if none does.
#
# Boot with log_buf_len=16M, and on an emulator with rcupdate.rcu_cpu_stall_timeout=300
# and watchdog_thresh=60: CPUs that share few real ones are late without being
# stuck. What is really stuck is still found: a worker that does not end fails a test.

export DFLUSH_BIN=${DFLUSH_BIN:-$(dirname "$0")/../out/amd64/selftests}
export DFLUSH_MODULE=${DFLUSH_MODULE:-$(dirname "$0")/../out/amd64/module/deferred_flush.ko}
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/stress_workers.sh"

control=no
if [ "${1:-}" = --control ]; then
	control=yes
	shift
fi
minutes=${1:-10}
seconds=$((minutes * 60))
bad_writes=100000
wanted_cycles=1000

# Patterns of everything in the kernel's log that says that something is wrong. A
# backtrace alone does not: sysrq-l asks for some.
WARNINGS='WARNING:|BUG:|kernel BUG|Oops|general protection fault|nable to handle|Kernel panic'
WARNINGS+='|INFO: possible|possible (circular|recursive|irq lock)|inconsistent lock state|suspicious RCU usage'
WARNINGS+='|trying to register non-static key|sleeping function called|scheduling while atomic|Invalid wait context'
WARNINGS+='|detected stalls?|self-detected stall|soft lockup|hard LOCKUP|blocked for more than|rcu_tasks.*stall'
WARNINGS+='|KASAN:|KCSAN:|KFENCE:|UBSAN:|ODEBUG:|DEBUG_LOCKS_WARN|refcount_t:|list_(add|del) corruption'
WARNINGS+='|Bad page (state|map)|bad page|nonexistent vm area|use-after-free|double free|unreferenced object'
WARNINGS+='|Uhhuh|NMI received for unknown|ftrace (bug|failed)|failed to modify|unexpected static_call'

start_log() {
	dmesg --clear
	dmesg --follow >"$WORK/dmesg" &
	log=$!
}

warnings_in_log() {
	grep -aE "$WARNINGS" "$WORK/dmesg" || true
}

# What has to go on however hard the memory is pressed.
spare_me() {
	echo -900 >"/proc/self/oom_score_adj"
}

# start_canary ARGUMENT...
start_canary() {
	"$DFLUSH_BIN/canary" "$@" >"$WORK/canary.$1" 2>&1 &
	canary=$!
}

canary_says() {
	awk -v key="$1" '/^# sum / { for (i = 3; i <= NF; i++) { split($i, part, "=")
		if (part[1] == key) sum += part[2] } } END { print sum + 0 }' "$WORK"/canary.*
}

canary_test_passed() {
	local file
	for file in "$WORK"/canary.*; do
		grep -q "^ok .*canary: $1" "$file" || return 1
	done
}

# All workers at once until $END; then those that do not end are a failure.
storm() {
	local worker name pids=() limit
	END=$((SECONDS + $1))
	for worker in "${WORKERS[@]}"; do
		(run_worker "$worker") >"$WORK/log.$worker" 2>&1 &
		pids+=("$!:$worker")
	done
	wait "$canary" || true
	: >"$WORK/stop"
	limit=$((SECONDS + 180))
	late=()
	for worker in "${pids[@]}"; do
		name=${worker#*:}
		while kill -0 "${worker%%:*}" 2>/dev/null && [ "$SECONDS" -lt "$limit" ]; do
			sleep 0.2
		done
		if kill -0 "${worker%%:*}" 2>/dev/null; then
			late+=("$name")
			kill -KILL "${worker%%:*}" 2>/dev/null || true
		fi
	done
	stop_tracing
	all_cpus_online
	all_memory_online
	rm -f "$WORK/stop"
}

# Load, check that it is on, switch off, unload: until there are $wanted_cycles of
# them or the time is over, but once at least.
unloads() {
	local batch
	while [ "$cycles" -lt "$wanted_cycles" ]; do
		[ "$cycles" -eq 0 ] || [ "$limit" -eq 0 ] || [ "$SECONDS" -lt "$limit" ] || break
		batch=$((wanted_cycles - cycles < 5 ? wanted_cycles - cycles : 5))
		dflush cycle "$DFLUSH_MODULE" "$batch" || return 1
		cycles=$((cycles + batch))
	done
}

# The counters of these loads are seen only in the line that switching off logs.
deferred_in_unloads() {
	sed '1,/stress: unloads begin/d' "$WORK/dmesg" |
		awk 'match($0, /deferred_flush: off: [0-9]+/) { split(substr($0, RSTART, RLENGTH), part, " ")
			sum += part[3] } END { print sum + 0 }'
}

row() {
	printf '# %-44s %12s\n' "$1" "$2"
}

table() {
	local file
	note
	row "OPERATIONS" ""
	for file in "$WORK"/ops/*; do
		[ ! -e "$file" ] || row "$(basename "$file")" "$(cat "$file")"
	done
	note
	row "RESULT" ""
	row "unloads in the storm" "$(operations "module: unloads")"
	row "unloads while every other CPU flushes" "$cycles"
	row "random writes, nearly all bad" "$fuzzed"
	row "calls of flush_tlb_kernel_range" "$(total calls)"
	row "flushes deferred" "$(total deferred)"
	row "flushes deferred between the unloads" "$deferred"
	row "flushes run on entry" "$(total flush_entry)"
	row "flushes run in an NMI" "$(total flush_nmi)"
	row "flushes run in an interrupt" "$(total flush_ipi)"
	row "flushes run as max_stale_ms was over" "$(total expired)"
	row "CPUs drained" "$(total drained)"
	row "suspensions by tracers" "$(total suspensions)"
	row "swaps of canaries" "$(canary_says swaps)"
	row "canary entries" "$(canary_says entries)"
	row "canary NMIs" "$(canary_says nmis)"
	row "canary reads" "$(canary_says reads)"
	row "stale reads" "$(canary_says stale)"
	row "warnings in the kernel's log" "$warnings"
	note
}

every_kind_happened() {
	local kind good=0
	[ "$minutes" -lt 20 ] || KINDS+=("${SLOW_KINDS[@]}")
	for kind in "${KINDS[@]}"; do
		if [ "$(operations "$kind")" -eq 0 ]; then
			note "none of '$kind'"
			good=1
		fi
	done
	return "$good"
}

no_unexpected_error() {
	local errors
	errors=$(cat "$WORK"/unexpected 2>/dev/null) || true
	[ -z "$errors" ] || note "${errors//$'\n'/$'\n# '}"
	[ -z "$errors" ]
}

# Bit 9 is a warning, 7 an oops, 5 a bad page, 14 a soft lockup.
is_not_tainted() {
	local tainted
	tainted=$(cat /proc/sys/kernel/tainted)
	note "tainted: $tainted"
	[ $((tainted & (1 << 9 | 1 << 7 | 1 << 5 | 1 << 14))) -eq 0 ]
}

no_warning() {
	if [ "$warnings" -ne 0 ]; then
		warnings_in_log | head -n 20 | sed 's/^/# /'
		return 1
	fi
	is_not_tainted
}

# On a slow machine a few minutes are too short for some of it.
flushes_are_run() {
	[ "$(total deferred)" -gt 0 ] && [ "$(total flush_entry)" -gt 0 ] || return 1
	[ "$minutes" -lt 5 ] || [ "$(total flush_nmi)" -gt 0 ] || return 1
	[ "$cycles" -lt 20 ] || [ "$deferred" -gt 0 ]
}

fuzz_writes() {
	local result=0
	load_module
	"$DFLUSH_BIN/fuzz" -g -n "$bad_writes" >"$WORK/fuzz" 2>&1 || result=1
	fuzzed=$(sed -n 's/.* writes=\([0-9]*\).*/\1/p' "$WORK/fuzz")
	sed 's/^/#   /' "$WORK/fuzz"
	unload_module
	return "$result"
}

prepare() {
	WORK=$(mktemp -d)
	mkdir "$WORK/ops"
	[ -d /sys/module/dflush_test ] || dflush load "$DFLUSH_BIN/dflush_test.ko" >/dev/null
	spare_me
	start_log
	cycles=0 fuzzed=0 warnings=0 deferred=0
	late=()
}

cleanup() {
	[ -z "${log:-}" ] || kill "$log" 2>/dev/null || true
	rm -rf "$WORK" "$HOLD_LOG"
}

run_control() {
	local share
	begin 2
	start_canary -nx "$seconds"
	storm "$seconds"
	unload_module
	share=$(canary_says stale)
	grep -ahE '^# (sum|checker)|^(not )?ok' "$WORK"/canary.* | sed 's/^/# /'
	row "canary reads" "$(canary_says reads)"
	row "stale reads" "$share"
	check "stress: the checkers went on" canary_test_passed "every checker went on"
	check "stress: control is caught: stale pages were read" test "$share" -gt 0
	ktap_finished
}

prepare
trap cleanup EXIT
started=$SECONDS
if [ "$control" = yes ]; then
	run_control
fi
begin 10
clean=$(fingerprint)
note "storm of $((seconds / 2)) s on CPUs $NOHZ_FULL; $(uname -r)"
start_canary -n $((seconds / 2))
storm $((seconds / 2))
unload_module
check "stress: every worker ended" test "${#late[@]}" -eq 0
if [ "$minutes" -lt 5 ]; then
	ktap_test_skip "stress: every kind of operation happened: not in so short a time"
else
	check "stress: every kind of operation happened" every_kind_happened
fi
check "stress: refused only what was to be refused" no_unexpected_error

check "stress: $bad_writes bad writes" fuzz_writes

limit=$((started + seconds))
[ -z "${CYCLES:-}" ] || wanted_cycles=$CYCLES limit=0
wanted_cycles=$((wanted_cycles - $(operations "module: unloads")))
[ "$wanted_cycles" -gt 0 ] || wanted_cycles=1
echo "<6>stress: unloads begin" >/dev/kmsg
start_canary -s 100000
check "stress: unloads while every other CPU flushes" unloads
kill "$canary"
wait "$canary" || true
unload_module

warnings=$(warnings_in_log | wc -l)
deferred=$(deferred_in_unloads)
check "stress: flushes were deferred, and run on entry and in NMIs" flushes_are_run
check "stress: the checkers went on and read" canary_test_passed "every checker went on"
check "stress: no stale page was read" test "$(canary_says stale)" -eq 0 -a "$(canary_says reads)" -gt 0
check "stress: no warning in the kernel's log" no_warning
check "stress: nothing left behind" left_nothing "$clean"
table
ktap_finished
