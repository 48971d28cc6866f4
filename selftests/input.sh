#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Bad input: to every writable file and parameter, from several writers, and while
# the module goes. (What users may do who are not root is tested by nobody.)
#
# Usage: input.sh [WRITES]      of the fuzzer's first run
#        input.sh going         the last test alone

. "$(dirname "$0")/functions.sh"

writes=${1:-4000}

# settings: everything that could be changed by a write.
settings() {
	local file
	for file in "$CONTROL"/*; do
		echo "${file##*/}: $(<"$file")"
	done
}

# keeps_settings COMMAND...: it succeeds, and nothing is set otherwise afterwards.
keeps_settings() {
	local before after
	before=$(settings)
	"$@" || return 1
	after=$(settings)
	if [ "$before" != "$after" ]; then
		diff <(echo "$before") <(echo "$after") | sed 's/^/# /'
		return 1
	fi
}

# fuzz ARGUMENT...: its lines become comments, so that its tests are not counted here.
fuzz() {
	local output status=0
	output=$("$DFLUSH_BIN/fuzz" "$@" 2>&1) || status=$?
	note "${output//$'\n'/$'\n#   '}"
	return "$status"
}

# refuses FILE ERRORS VALUE...: each is refused, with one of these errors (an
# extended regular expression).
refuses() {
	local file=$1 errors=$2 value error
	shift 2
	for value in "$@"; do
		if error=$(write_status "$CONTROL/$file" "$value"); then
			note "$file accepted '$value'"
			return 1
		fi
		if ! [[ $error =~ $errors ]]; then
			note "$file, '$value': $error"
			return 1
		fi
	done
}

# A write of nothing does not even reach the module.
empty_changes_nothing() {
	local file
	for file in mode cpus max_stale_ms; do
		[ ! -e "$CONTROL/$file" ] || printf '' >"$CONTROL/$file" || return 1
		is_refused "$CONTROL/$file" "" || return 1
	done
}

# As one write, which the shell's own output would not always be.
writes_bytes() {
	printf '%b' "$2" | dd of="$CONTROL/$1" bs=16384 iflag=fullblock conv=notrunc status=none 2>/dev/null
}

# refuses_bytes FILE BYTES...
refuses_bytes() {
	local file=$1 bytes
	shift
	[ -e "$CONTROL/$file" ] || return 0
	for bytes in "$@"; do
		if writes_bytes "$file" "$bytes"; then
			note "$file accepted '${bytes:0:60}'"
			return 1
		fi
	done
}

# sysfs hands a page on and cuts off the rest: what a page holds of these would be good.
too_long() {
	local zeroes
	zeroes=$(printf '%04096d' 0)
	refuses_bytes mode "on${zeroes//0/\\n}off" &&
		refuses_bytes cpus "$NOHZ_FULL${zeroes//0/,},0" "$NOHZ_FULL${zeroes//0/\\n}" &&
		refuses_bytes max_stale_ms "${zeroes}5"
}

stops_nowhere() {
	refuses_bytes mode 'on\0' 'on\0off' 'on\noff' &&
		refuses_bytes cpus "$NOHZ_FULL"'\0' "$NOHZ_FULL"'\0junk' "$NOHZ_FULL"'\njunk' '\377\376' &&
		refuses_bytes max_stale_ms '5\0' '5\n7' '5\0007'
}

# The views and state cannot be written, even by root.
read_only() {
	local file
	for file in "$CONTROL/state" "$VIEWS/summary" "$VIEWS/cpus"; do
		is_refused "$file" on || return 1
	done
}

# refused_parameters FINGERPRINT: loading fails with EINVAL, and leaves nothing.
refused_parameters() {
	local value status
	for value in -1 3 4294967298 "" 2x; do
		status=$(load_status "mode=$value")
		if [ "$status" -ne 22 ] && [ "$status" -ne 34 ]; then
			note "mode=$value: loading ended with errno $status"
			return 1
		fi
	done
	left_nothing "$1"
}

# Writers that go on while the module is switched off, unloaded and loaded.
writes_while_unloading() {
	local writers status=0
	"$DFLUSH_BIN/fuzz" -a -j 2 -d 120 >"$HOLD_LOG" 2>&1 &
	writers=$!
	sleep 0.5
	unload_module || status=1
	load_module
	sleep 0.3
	kill "$writers"
	wait "$writers" || status=1
	sed 's/^/#   /' "$HOLD_LOG"
	# Somebody had the file open when it went.
	grep -qE ' absent=[1-9]' "$HOLD_LOG" && return "$status"
}

# A write to a file that somebody has open when the module goes comes too late. This
# one begins as soon as the module is going.
refuses_when_going() {
	local mode cpus max_stale unload result=0 state=live
	exec {mode}>"$CONTROL/mode" {cpus}>"$CONTROL/cpus" {max_stale}>"$CONTROL/max_stale_ms"
	echo off >"$CONTROL/mode"
	rmmod deferred_flush &
	unload=$!
	while [ "$state" = live ]; do
		state=gone
		read -r state 2>/dev/null </sys/module/deferred_flush/initstate || true
	done
	note "the module is $state"
	{ echo "$NOHZ_FULL" >&"$cpus"; } 2>/dev/null && note "cpus was written to" && result=1
	{ echo 5 >&"$max_stale"; } 2>/dev/null && note "max_stale_ms was written to" && result=1
	{ echo on >&"$mode"; } 2>/dev/null && note "mode was written to" && result=1
	exec {mode}>&- {cpus}>&- {max_stale}>&-
	wait "$unload" || result=1
	return "$result"
}

if [ "$writes" = going ]; then
	begin 1
	load_module
	check "input: no write once the module is going" refuses_when_going
	ktap_finished
fi
begin 14
clean=$(fingerprint)
check "input: bad values of the parameter mode" refused_parameters "$clean"
load_module
check "input: nothing changed by an empty write" keeps_settings empty_changes_nothing
check "input: nothing changed by more than a page" keeps_settings too_long
check "input: what follows a NUL or the line's end is not ignored" keeps_settings stops_nowhere
check "input: mode" keeps_settings refuses mode "Invalid argument" 0 2 -1 On "on on" offf 18446744073709551616
check "input: cpus that do not exist" keeps_settings refuses cpus "Invalid argument|out of range" 0 0-1 8191 8192 1-8192 all
check "input: cpus that are no numbers" keeps_settings refuses cpus "Invalid argument" -1 1-x 2-1 0x1 1- 1.5 none
check "input: cpus that overflow" keeps_settings refuses cpus "too large" 4294967296 4294967297 99999999999999999999999
if [ -e "$CONTROL/max_stale_ms" ]; then
	check "input: max_stale_ms" keeps_settings refuses max_stale_ms "Invalid argument|out of range|too large" \
		-1 1.5 0x10 ten "1 2" 4294967296 18446744073709551616 99999999999999999999999
else
	ktap_test_skip "input: max_stale_ms: this version has no such file"
fi
check "input: read-only files" keeps_settings read_only
check "input: $writes random writes" fuzz -g -n "$writes"
check "input: several writers" keeps_settings fuzz -j 4 -n $((writes / 4))
check "input: writes while the module goes and comes" writes_while_unloading
check "input: no write once the module is going" refuses_when_going
unload_module
ktap_finished
