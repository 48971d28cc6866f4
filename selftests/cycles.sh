#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Load and unload again and again under a flush storm, with a spinner in user
# mode on an isolated CPU. (One, because an emulator's CPUs share few real ones.)
#
# Usage: cycles.sh [CYCLES]

. "$(dirname "$0")/functions.sh"

cycles=${1:-200}

# The storm has to have met the module: with it on, flushes are deferred.
storm_is_deferred() {
	local before tries
	load_module
	before=$(summary deferred)
	for tries in {1..100}; do
		if [ "$(summary deferred)" -gt $((before + 20)) ]; then
			note "deferred rose after $tries looks"
			unload_module
			return 0
		fi
		sleep 0.1
	done
	unload_module
	return 1
}

begin 4
clean=$(fingerprint)
hold_cpus "${NOHZ_FULL%%[-,]*}"
# On another isolated CPU if there is one: it is in kernel mode then, and leaves
# the housekeeping CPU to the loading.
storm_cpu=${NOHZ_FULL##*[-,]}
if [ "$storm_cpu" = "$NOHZ_FULL" ]; then
	storm_cpu=0
fi
"$DFLUSH_BIN/dflush" storm "$storm_cpu" &
storm=$!
check "cycles: the storm is deferred" storm_is_deferred
check "cycles: $cycles times load and unload under the storm" dflush cycle "$DFLUSH_MODULE" "$cycles"
check "cycles: the storm goes on" kill -0 "$storm"
kill "$storm"
wait "$storm" 2>/dev/null || true
release_cpus
unload_module
check "cycles: nothing left behind" left_nothing "$clean"
ktap_finished
