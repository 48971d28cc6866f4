#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# rmmod -f while the module is on, CPUs owe flushes, and more are sent: everything
# is unhooked as if it had been switched off before.

. "$(dirname "$0")/functions.sh"

# left_by_force FINGERPRINT: unloaded in a storm, with every hook removed. Should it
# never end, the hooks are looked at, too.
left_by_force() {
	local storm unload result=0 limit
	"$DFLUSH_BIN/dflush" storm 0 >/dev/null &
	storm=$!
	hold_cpus "$NOHZ_FULL"
	sleep 0.5
	note "words before:" "$(awk 'NR > 1 { print $3 }' "$VIEWS/cpus" | paste -sd' ')"
	rmmod -f deferred_flush &
	unload=$!
	limit=$((SECONDS + ${FORCED_LIMIT:-60}))
	while kill -0 "$unload" 2>/dev/null && [ "$SECONDS" -lt "$limit" ]; do
		sleep 0.1
	done
	hooks_are "$1" || result=1
	kill "$unload" 2>/dev/null || true
	wait "$unload" || result=1
	kill "$storm"
	wait "$storm" || true
	release_cpus
	[ "$result" -eq 0 ] && left_nothing "$1"
}

begin 3
before=$(fingerprint)
load_module
check "forced: rmmod without force is refused" rmmod_is_refused
check "forced: rmmod -f leaves nothing" left_by_force "$before"
load_module
check "forced: loaded again, nothing stale" defers "$NOHZ_FULL"
unload_module
ktap_finished
