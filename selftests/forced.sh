#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# rmmod -f while the module is on, CPUs owe flushes, and more are sent: everything
# is unhooked as if it had been switched off before.

. "$(dirname "$0")/functions.sh"

# left_by_force FINGERPRINT: unloaded in a storm, with nothing left.
left_by_force() {
	local storm status=0
	"$DFLUSH_BIN/dflush" storm 0 >/dev/null &
	storm=$!
	hold_cpus "$NOHZ_FULL"
	sleep 0.5
	note "words before:" "$(awk 'NR > 1 { print $3 }' "$VIEWS/cpus" | paste -sd' ')"
	rmmod -f deferred_flush || status=$?
	sleep 0.2
	kill "$storm"
	wait "$storm" || true
	release_cpus
	[ "$status" -eq 0 ] && left_nothing "$1"
}

is_refused_by_rmmod() {
	! rmmod deferred_flush 2>/dev/null && is_loaded
}

begin 3
before=$(fingerprint)
load_module
check "forced: rmmod without force is refused" is_refused_by_rmmod
check "forced: rmmod -f leaves nothing" left_by_force "$before"
load_module
check "forced: loaded again, nothing stale" defers "$NOHZ_FULL"
unload_module
ktap_finished
