#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# max_stale_ms: a CPU that stays in user mode is interrupted once when it has owed
# a flush for that long, and not at all without a bound.

. "$(dirname "$0")/functions.sh"

LIMIT=$CONTROL/max_stale_ms

set_limit() {
	echo "$1" >"$LIMIT"
}

# How many CPUs owe a flush.
owing() {
	awk 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "word") column = i; next }
		$column { owing++ } END { print owing + 0 }' "$VIEWS/cpus"
}

milliseconds() {
	echo $(($(date +%s%N) / 1000000))
}

# owe_for SECONDS [BOUND]: all CPUs owe a flush, and still do after that time. Something
# else may interrupt one, so try a few times. A busy host may let more time pass than
# the BOUND in milliseconds that is set; then a longer one is, up to 40 s.
owe_for() {
	local tries start owing interrupted
	bound=${2:-0}
	for tries in {1..8}; do
		EXPIRED=$(summary expired)
		start=$(milliseconds)
		dflush flush aliases 3
		sleep "$1"
		owing=$(owing)
		interrupted=$(($(summary expired) - EXPIRED))
		if [ "$bound" -ne 0 ] && [ $(($(milliseconds) - start)) -ge "$bound" ]; then
			note "too late at try $tries: after $(($(milliseconds) - start)) ms of $bound"
			# What is owed from this try on must not be older than the next one.
			until [ "$(owing)" -eq 0 ]; do
				sleep 0.1
			done
			[ "$bound" -ge 40000 ] || bound=$((bound * 2))
			set_limit "$bound"
			continue
		fi
		if [ "$interrupted" -ne 0 ]; then
			note "$interrupted CPUs were interrupted before their time"
			return 1
		fi
		if [ "$owing" -eq "$CPUS" ]; then
			note "all of $CPUS CPUs owe a flush after $1 s, at try $tries"
			return 0
		fi
	done
	note "$owing of $CPUS CPUs owe a flush after $1 s"
	return 1
}

# all_are_interrupted SECONDS: each CPU is, within that time and a little more.
all_are_interrupted() {
	local tries looks=$(($1 * 10 + 30))
	for ((tries = 1; tries <= looks; tries++)); do
		if [ "$(owing)" -eq 0 ] && once_each; then
			note "after $tries looks at intervals of 0.1 s"
			return 0
		fi
		sleep 0.1
	done
	note "$(owing) CPUs owe a flush, $(($(summary expired) - EXPIRED)) were interrupted"
	return 1
}

# they_expire BOUND: all CPUs owe a flush, and each is interrupted, once. Something else
# may make one flush before, so try a few times.
they_expire() {
	local tries
	bound=$1
	for tries in {1..4}; do
		if all_are_interrupted $((bound / 1000)); then
			return 0
		fi
		[ $(($(summary expired) - EXPIRED)) -le "$CPUS" ] || return 1
		note "again, after try $tries"
		owe_for 0 "$bound" || return 1
	done
	return 1
}

once_each() {
	[ $(($(summary expired) - EXPIRED)) -eq "$CPUS" ]
}

# Even if the sender runs on an isolated CPU, neither the timer nor the work is
# put there.
stays_on_housekeeping() {
	local first=${NOHZ_FULL%%[-,]*} timers works event
	for event in timer/timer_start workqueue/workqueue_execute_start; do
		echo 1 >"$TRACING/events/$event/enable"
	done
	echo >"$TRACING/trace"
	taskset -c "$first" "$DFLUSH_BIN/dflush" flush aliases 3
	sleep 1
	for event in timer/timer_start workqueue/workqueue_execute_start; do
		echo 0 >"$TRACING/events/$event/enable"
	done
	timers=$(sed -n 's/.*timer_start: .*function=delayed_work_timer_fn .* cpu=\([0-9]*\) .*/\1/p' "$TRACING/trace" | sort -u | xargs)
	works=$(sed -n 's/.*\[0*\([0-9]\+\)\].*workqueue_execute_start: .*on_time.*/\1/p' "$TRACING/trace" | sort -u | xargs)
	note "timers on CPUs '$timers', work on CPUs '$works'"
	# Numbers are separate words.
	# shellcheck disable=SC2086
	[ -n "$timers" ] && [ -n "$works" ] && is_housekeeping $timers $works
}

is_housekeeping() {
	local cpu
	for cpu in "$@"; do
		if (echo "$cpu" | grep -qxE "$ISOLATED"); then
			return 1
		fi
	done
}

# The work that resumes deferral runs, and then again that of the limit.
keeps_limit_after_suspension() {
	local tries
	echo vtime_user_exit >"$TRACING/set_ftrace_filter"
	echo function >"$TRACING/current_tracer"
	note "state '$(state_of)'"
	echo nop >"$TRACING/current_tracer"
	echo >"$TRACING/set_ftrace_filter"
	for tries in {1..200}; do
		[ "$(state_of)" != on ] || break
		sleep 0.1
	done
	set_limit 2000
	owe_for 0 2000 && they_expire "$bound"
}

begin 10
load_module
CPUS=$(awk 'NR > 1' "$VIEWS/cpus" | wc -l)
ISOLATED=$(awk 'NR > 1 { printf "%s%s", separator, $1; separator = "|" }' "$VIEWS/cpus")
check "stale limit: none by default" test "$(cat "$LIMIT")" = 0
hold_cpus "$NOHZ_FULL"
check "stale limit: without one a CPU goes on owing its flush" owe_for 1
set_limit 500
check "stale limit: one that is set later counts what is owed already" they_expire 500
set_limit 5000
check "stale limit: not before its time" owe_for 1 5000
check "stale limit: CPUs are interrupted when it passes" they_expire "$bound"
sleep $((bound / 1000 + 1))
check "stale limit: once each, and not again" once_each
check "stale limit: kept after a suspension" keeps_limit_after_suspension
set_limit 300
check "stale limit: timer and work stay on housekeeping CPUs" stays_on_housekeeping
set_limit 0
check "stale limit: taken back" owe_for 1
release_cpus
unload_module
load_module
check "stale limit: none after loading again" test "$(cat "$LIMIT")" = 0
unload_module
ktap_finished
