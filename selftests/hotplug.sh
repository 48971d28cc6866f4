#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# An isolated CPU goes offline and comes back: with a flush pending, in a storm of
# flushes, with a bit that a sender has left, and as a device that is unplugged
# and plugged in again.
#
# Usage: hotplug.sh [pending] [storm] [leftover] [device]

. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/monitor.sh"

LAST=${NOHZ_FULL##*[-,]}
OTHERS=$(seq "${NOHZ_FULL%%[-,]*}" $((LAST - 1)) | paste -sd,)
CPUS=/sys/devices/system/cpu

word_of() {
	awk -v cpu="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "word") column = i; next }
		$1 == cpu { print $column }' "$VIEWS/cpus"
}

set_online() {
	echo "$2" >"$CPUS/cpu$1/online"
}

# Goes offline owing a flush, and owes none then.
goes_offline() {
	local before after
	hold_cpus "$LAST"
	dflush flush aliases 3
	before=$(word_of "$LAST")
	set_online "$LAST" 0
	after=$(word_of "$LAST")
	note "word before: $before, when it is offline: $after"
	release_cpus
	[ $((before & 1)) -eq 1 ] && [ $((after)) -eq 0 ]
}

comes_back() {
	set_online "$LAST" 1 && defers "$LAST"
}

survives_storm() {
	local storm pass before
	before=$(summary deferred)
	"$DFLUSH_BIN/dflush" storm 0 >/dev/null &
	storm=$!
	for pass in {1..4}; do
		hold_cpus "$LAST"
		sleep 0.3
		set_online "$LAST" 0
		sleep 0.1
		set_online "$LAST" 1
		release_cpus
	done
	kill "$storm"
	wait "$storm" || true
	note "$pass passes, deferred rose by $(($(summary deferred) - before))"
	[ "$(summary deferred)" -gt "$before" ] && defers "$NOHZ_FULL"
}

# A sender that raced leaves its bit set, here at a CPU that then goes offline:
# off has to end with no word set.
forgets_leftover() {
	local result=0
	set_online "$LAST" 0
	dflush owe "$LAST" || result=1
	note "word of the offline CPU: $(word_of "$LAST")"
	[ $(($(word_of "$LAST") & 1)) -eq 1 ] || result=1
	echo off >"$CONTROL/mode"
	words_are_zero || result=1
	echo on >"$CONTROL/mode"
	set_online "$LAST" 1
	return "$result"
}

is_present() {
	[ -e "$CPUS/cpu$LAST" ]
}

is_absent() {
	! is_present
}

unplug() {
	local device
	device=$(last_cpu_device)
	device=${device#*,id=}
	hold_cpus "$LAST"
	dflush flush aliases 3
	set_online "$LAST" 0
	release_cpus
	monitor "device_del ${device%%,*}"
	wait_until is_absent && defers "$OTHERS" && [ $(($(word_of "$LAST"))) -eq 0 ]
}

plug_in() {
	monitor "device_add $(last_cpu_device)"
	wait_until is_present && comes_back
}

# One test each for what there is to see.
run() {
	case $1 in
	pending)
		check "hotplug: a CPU goes offline with a flush pending" goes_offline
		check "hotplug: flushes are deferred for it when it is back" comes_back
		;;
	storm) check "hotplug: offline and online in a storm of flushes" survives_storm ;;
	leftover)
		check "hotplug: what an offline CPU owes is forgotten at off" forgets_leftover
		check "hotplug: nothing stale when it is back" defers "$LAST"
		;;
	device)
		if [ -n "$(last_cpu_device)" ] && monitor_port >/dev/null; then
			check "hotplug: a CPU is unplugged" unplug
			check "hotplug: flushes are deferred for a CPU that was plugged in" plug_in
		else
			ktap_test_skip "hotplug: a CPU is unplugged: no monitor in this machine"
			ktap_test_skip "hotplug: flushes are deferred for a CPU that was plugged in: no monitor in this machine"
		fi
		;;
	*) note "unknown part '$1'" ;;
	esac
}

[ $# -gt 0 ] || set -- pending storm leftover device
plan=$#
for part; do
	[ "$part" = storm ] || plan=$((plan + 1))
done
begin "$plan"
load_module
for part; do
	run "$part"
done
unload_module
ktap_finished
