#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A tracer on watched code suspends deferral before its first byte is written.

. "$(dirname "$0")/functions.sh"

start_tracer() {
	echo "$1" >"$TRACING/set_ftrace_filter"
	echo function >"$TRACING/current_tracer"
}

stop_tracer() {
	echo nop >"$TRACING/current_tracer"
	echo >"$TRACING/set_ftrace_filter"
}

start_kprobe() {
	local offset
	for offset in {5..32}; do
		if (echo "p:dflush/inside $1+$offset" >"$TRACING/kprobe_events") 2>/dev/null; then
			note "kprobe at $1+$offset"
			echo 1 >"$TRACING/events/dflush/inside/enable"
			return
		fi
	done
	return 1
}

stop_kprobe() {
	echo 0 >"$TRACING/events/dflush/inside/enable"
	echo "-:dflush/inside" >>"$TRACING/kprobe_events"
}

is_suspended() {
	note "state '$(state_of)'"
	[ "$(mode_of)" = on ] && [[ $(state_of) == "suspended: "* ]]
}

# By itself. The kernel takes an optimised kprobe apart some time after it was
# given back, and until then its jump is still there.
resumes() {
	local tries
	for tries in {1..200}; do
		if [ "$(state_of)" = on ]; then
			note "on again after $tries looks"
			defers "$NOHZ_FULL"
			return
		fi
		sleep 0.1
	done
	note "after $tries looks: $(state_of)"
	return 1
}

# suspends_by NAME START STOP SYMBOL: eight tests
suspends_by() {
	local name=$1 start=$2 stop=$3 symbol=$4 suspensions
	suspensions=$(summary suspensions)
	hold_cpus "$NOHZ_FULL"
	dflush flush aliases 3
	mark_log
	"$start" "$symbol"
	check "suspend: by $name" is_suspended
	check "suspend: by $name, pending CPUs are drained" words_are_zero
	release_cpus
	check "suspend: by $name, logged and counted once" \
		test "$(count_log suspend)" -eq 1 -a "$(summary suspensions)" -eq $((suspensions + 1))
	check "suspend: by $name, everything is sent" sends_all "$NOHZ_FULL"
	check "suspend: by $name, resuming is refused" \
		refused_with "Device or resource busy" "$CONTROL/mode" on
	check "suspend: by $name, still suspended" is_suspended
	"$stop"
	check "suspend: by $name, resumes by itself" resumes
	check "suspend: by $name, its end is logged once" test "$(count_log resumed)" -eq 1
}

off_while_suspended() {
	start_tracer vtime_user_exit
	local result=0
	echo off >"$CONTROL/mode" || result=1
	[ "$(state_of)" = off ] || result=1
	stop_tracer
	return "$result"
}

leaves_alone() {
	start_tracer vfs_read
	local result=0
	if ! { [ "$(state_of)" = on ] && defers "$NOHZ_FULL"; }; then
		result=1
	fi
	stop_tracer
	return "$result"
}

begin 28
clean=$(fingerprint)
load_module
check "suspend: not by a tracer on unwatched code" leaves_alone
suspends_by "a tracer on vtime_user_exit" start_tracer stop_tracer vtime_user_exit
suspends_by "a tracer on __rcu_read_lock" start_tracer stop_tracer __rcu_read_lock
suspends_by "a kprobe inside __rcu_read_lock" start_kprobe stop_kprobe __rcu_read_lock
check "suspend: counters add up" counters_add_up
check "suspend: off works while suspended" off_while_suspended
unload_module
check "suspend: nothing left behind" left_nothing "$clean"
ktap_finished
