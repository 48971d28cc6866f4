#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A machine-check event that is reported to the kernel's decode chain drains every
# CPU. The event is made by the kernel's mce-inject, below the hardware: it is
# logged as if a machine check had been handled.

. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/monitor.sh"

INJECT=/sys/kernel/debug/mce-inject
# Valid, address valid, a memory read error in channel 0; corrected.
STATUS=0x8400000000000090

inject() {
	echo sw >$INJECT/flags &&
		echo 0 >$INJECT/cpu &&
		echo $STATUS >$INJECT/status &&
		echo 0x12345000 >$INJECT/addr &&
		echo 1 >$INJECT/bank
}

# Every CPU that is held owes a flush before, and none does soon afterwards.
is_drained() {
	local drained owing
	dflush flush aliases 3
	owing=$(awk 'NR > 1 && $3 % 2' "$VIEWS/cpus" | wc -l)
	drained=$(summary drained)
	inject || return 1
	wait_until words_are_zero || note "something is still owed"
	drained=$(($(summary drained) - drained))
	note "CPUs that owed a flush: $owing, drained: $drained"
	[ "$owing" -ge 1 ] && [ "$drained" -ge "$owing" ] && words_are_zero
}

begin 2
load_module
if ! modprobe mce-inject || [ ! -d $INJECT ]; then
	ktap_test_skip "mce: a reported event drains: no mce-inject here"
	ktap_test_skip "mce: deferral goes on: no mce-inject here"
	unload_module
	ktap_finished
fi
hold_cpus "$NOHZ_FULL"
check "mce: a reported event drains" is_drained
release_cpus
check "mce: deferral goes on" defers "$NOHZ_FULL"
unload_module
rmmod mce-inject
ktap_finished
