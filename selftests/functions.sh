# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the shell tests share. They run as root inside the virtual machine, with
# dflush_test.ko loaded and deferred_flush.ko not loaded.
#
# DFLUSH_BIN     directory of the test programs and of ktap_helpers.sh
# DFLUSH_MODULE  the deferred_flush.ko to test

set -euo pipefail

: "${DFLUSH_BIN:?is the directory of the test programs}"
: "${DFLUSH_MODULE:?is the module to test}"

# shellcheck source=/dev/null
. "$DFLUSH_BIN/ktap_helpers.sh"

CONTROL=/sys/kernel/deferred_flush
VIEWS=/sys/kernel/debug/deferred_flush
TRACING=/sys/kernel/tracing
# Read by the tests.
# shellcheck disable=SC2034
NOHZ_FULL=$(cat /sys/devices/system/cpu/nohz_full)

dflush() {
	"$DFLUSH_BIN/dflush" "$@"
}

note() {
	echo "# $*"
}

# check NAME COMMAND...: one test; it passes if the command succeeds. With
# STOP_AT_FIRST a failure ends the script, and with ONLY there is but the test of that
# name: controls need no more than that.
check() {
	local name=$1
	shift
	if [ "${ONLY:-$name}" != "$name" ]; then
		ktap_test_skip "$name"
	elif "$@"; then
		ktap_test_pass "$name"
	else
		note "failed: $*"
		ktap_test_fail "$name"
		if [ -n "${STOP_AT_FIRST:-}" ]; then
			ktap_finished
		fi
	fi
}

begin() {
	ktap_print_header
	ktap_set_plan "$1"
}

is_loaded() {
	[ -d /sys/module/deferred_flush ]
}

# load_status PARAMETERS: the errno with which loading ends, 0 if it worked.
load_status() {
	local status=0
	dflush load "$DFLUSH_MODULE" "$1" || status=$?
	echo "$status"
}

load_with() {
	local status
	status=$(load_status "$1")
	if [ "$status" -ne 0 ]; then
		echo "Bail out! loading $DFLUSH_MODULE failed with errno $status"
		exit 1
	fi
}

load_module() {
	load_with ""
}

# ftrace_is_alive: after ftrace_kill() nothing can be unhooked: the module has to stay.
ftrace_is_alive() {
	cat /proc/sys/kernel/ftrace_enabled >/dev/null 2>&1
}

unload_module() {
	if is_loaded && ftrace_is_alive; then
		echo off >"$CONTROL/mode"
		rmmod deferred_flush
	fi
}

# rmmod_is_refused: because somebody has a reference. Where nobody has, it is not even
# tried: the machine might not survive it.
rmmod_is_refused() {
	local references
	references=$(cat /sys/module/deferred_flush/refcnt)
	note "references on the module: $references"
	[ "$references" -gt 0 ] && ! rmmod deferred_flush 2>/dev/null && is_loaded
}

mode_of() {
	cat "$CONTROL/mode"
}

state_of() {
	cat "$CONTROL/state"
}

# write_status FILE VALUE: whether the write is accepted, as a status. The error
# text of the shell's echo goes to standard output, so a test can look at it.
write_status() {
	(echo "$2" >"$1") 2>&1
}

# refused_with TEXT FILE VALUE: the write fails, with that error.
refused_with() {
	local error
	if error=$(write_status "$2" "$3"); then
		note "'$3' was accepted by $2"
		return 1
	fi
	if [[ $error != *"$1"* ]]; then
		note "$error"
		return 1
	fi
}

is_refused() {
	! write_status "$1" "$2" >/dev/null
}

summary() {
	sed -n "s/^$1: *//p" "$VIEWS/summary"
}

# calls has to be the sum of its parts whenever nothing runs; another CPU may
# be between two counters, so look a few times.
counters_add_up() {
	local tries sum
	for tries in 1 2 3 4 5; do
		if sum=$(awk -F': *' '
			$1 ~ /^(kept_range|kept_caller|kept_blocked|redirected)$/ { sum += $2; seen++ }
			$1 == "calls" { calls = $2; seen++ }
			END { print calls " is not " sum; exit !(seen == 5 && calls == sum) }
		' "$VIEWS/summary"); then
			return 0
		fi
		sleep 0.1
	done
	note "after $tries looks: calls $sum"
	return 1
}

# rises KEY AT_LEAST COMMAND...: that counter of the summary rises meanwhile.
rises() {
	local key=$1 least=$2 before after
	shift 2
	before=$(summary "$key")
	"$@"
	after=$(summary "$key")
	note "$key rose by $((after - before))"
	[ $((after - before)) -ge "$least" ]
}

# Sum of a column of `dflush rounds CPUS COUNT`: 2 deferred, 3 ipi_not_quiet, 4 stale.
sum_column() {
	awk -v column="$1" '{ sum += $column } END { print sum + 0 }' <<<"$2"
}

# defers CPUS: with swaps behind spinners there, most flushes are deferred, and
# nothing stale is read.
defers() {
	local rows count
	rows=$(dflush rounds "$1" 10)
	note "cpu deferred ipi_not_quiet stale:" "${rows//$'\n'/; }"
	count=$(wc -l <<<"$rows")
	[ "$(sum_column 2 "$rows")" -gt $((count * 5)) ] && [ "$(sum_column 4 "$rows")" -eq 0 ]
}

# sends_all CPUS: nothing is deferred, and nothing stale is read.
sends_all() {
	local rows
	rows=$(dflush rounds "$1" 10)
	note "cpu deferred ipi_not_quiet stale:" "${rows//$'\n'/; }"
	[ "$(sum_column 2 "$rows")" -eq 0 ] && [ "$(sum_column 4 "$rows")" -eq 0 ]
}

words_are_zero() {
	awk 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "word") column = i; next }
		$column !~ /^(0x)?0+$/ { bad = 1 }
		END { exit bad || !column }' "$VIEWS/cpus"
}

# Function-call interrupts of a CPU, from /proc/interrupts.
call_interrupts() {
	awk -v column="$(($1 + 2))" '$1 == "CAL:" { print $column }' /proc/interrupts
}

# A mark in the kernel's log, and what came after it.
mark_log() {
	MARK="dflush-mark-$RANDOM-$RANDOM"
	echo "<7>$MARK" >/dev/kmsg
}

log_since_mark() {
	dmesg | sed "1,/$MARK/d"
}

# Lines of the module since the mark that match a pattern.
count_log() {
	log_since_mark | grep 'deferred_flush: ' | grep -c -e "$1" || true
}

# Errors of the module since the mark. dmesg -l err leaves out the mark, so the
# levels are asked for with -x.
count_errors() {
	dmesg -x | sed "1,/$MARK/d" | grep 'deferred_flush: ' | grep -c ': *err *:' || true
}

# What the module changes in the kernel; taken before it is loaded. One line
# for each hooked function, kprobe and the first bytes of what it patches.
fingerprint() {
	cut -d' ' -f1 "$TRACING/enabled_functions" | sort
	cut -d' ' -f3- /sys/kernel/debug/kprobes/list | sort
	dflush bytes flush_tlb_kernel_range vtime_user_exit __text_poke
}

# left_nothing FINGERPRINT: after unloading or a failed load.
left_nothing() {
	if is_loaded || [ -e "$CONTROL" ] || [ -e "$VIEWS" ]; then
		note "the module or one of its directories is still there"
		return 1
	fi
	hooks_are "$1"
}

# hooks_are FINGERPRINT: the kernel's code and hooks are as they were then.
hooks_are() {
	local after
	after=$(fingerprint)
	if [ "$after" != "$1" ]; then
		diff <(echo "$1") <(echo "$after") | sed 's/^/# /'
		return 1
	fi
}

# Spinners on CPUs until release_cpus; what they hold stays in user mode.
hold_cpus() {
	: >"$HOLD_LOG"
	exec {HOLD_PIPE}> >(exec "$DFLUSH_BIN/dflush" hold "$1" >"$HOLD_LOG")
	HOLD_PID=$!
	local tries
	for tries in {1..300}; do
		if grep -q ready "$HOLD_LOG"; then
			return 0
		fi
		sleep 0.1
	done
	echo "Bail out! spinners on $1 did not start in $tries looks"
	exit 1
}

release_cpus() {
	exec {HOLD_PIPE}>&-
	wait "$HOLD_PID" || true
}

HOLD_LOG=$(mktemp)
trap 'rm -f "$HOLD_LOG"' EXIT
