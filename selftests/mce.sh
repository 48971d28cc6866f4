#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A machine-check event that is reported to the kernel's decode chain drains every
# CPU. The event is made by the kernel's mce-inject, below the hardware: it is
# logged as if a machine check had been handled.
#
# Then a real exception, from the emulator: one that finds its CPU in user mode is
# an entry like others, and flushes.

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

# Uncorrected, deferred by the hardware, at an address that is no memory: the
# handler may return. QEMU has no other that a kernel on AMD survives.
EXCEPTION=0xbc00100000000000

# Machine-check exceptions of a CPU.
exceptions() {
	awk -v column="$(($1 + 2))" '$1 == "MCE:" { print $column }' /proc/interrupts
}

exception_came() {
	[ "$(exceptions "$1")" -gt "$2" ]
}

# flushed_on_entry CPU
flushed_on_entry() {
	awk -v cpu="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "flush_entry") column = i }
		$1 == cpu { print $column }' "$VIEWS/cpus"
}

flushes_on_exception() {
	local cpu=${NOHZ_FULL%%[-,]*} before flushed
	before=$(exceptions "$cpu")
	dflush flush aliases 3
	flushed=$(flushed_on_entry "$cpu")
	awk -v cpu="$cpu" '$1 == cpu && $3 % 2 { owes = 1 } END { exit !owes }' "$VIEWS/cpus" || return 1
	monitor "mce $cpu 1 $EXCEPTION 5 0x7ffffffff000 0x8c"
	wait_until exception_came "$cpu" "$before" || return 1
	flushed=$(($(flushed_on_entry "$cpu") - flushed))
	note "exceptions: $(($(exceptions "$cpu") - before)), flushed on entry: $flushed"
	[ "$flushed" -ge 1 ] && wait_until words_are_zero
}

begin 3
load_module
if ! modprobe mce-inject || [ ! -d $INJECT ]; then
	ktap_test_skip "mce: a reported event drains: no mce-inject here"
	ktap_test_skip "mce: an exception flushes on entry: no mce-inject here"
	ktap_test_skip "mce: deferral goes on: no mce-inject here"
	unload_module
	ktap_finished
fi
hold_cpus "$NOHZ_FULL"
check "mce: a reported event drains" is_drained
if monitor_port >/dev/null; then
	check "mce: an exception flushes on entry" flushes_on_exception
else
	ktap_test_skip "mce: an exception flushes on entry: no monitor, see scripts/vm --hotplug"
fi
release_cpus
check "mce: deferral goes on" defers "$NOHZ_FULL"
unload_module
rmmod mce-inject
ktap_finished
