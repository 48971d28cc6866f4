#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Negative controls: modules with one thing left out or done wrong. Each has to
# be caught by a named test, in the way that is to be expected; where the damage
# is made visible by a delay, a good twin with the same delay has to pass it.
#
# DFLUSH_VARIANTS  the directory of the variants
# Usage: controls.sh [VARIANT...]

. "$(dirname "$0")/functions.sh"
: "${DFLUSH_VARIANTS:?is the directory of the variants}"

# with_variant VARIANT PROGRAM ARGUMENT...: output of that test against the
# variant in $OUTPUT, its status in $STATUS. A script loads the module itself.
with_variant() {
	local variant=$1 program=$2
	local module=$DFLUSH_VARIANTS/$variant/deferred_flush.ko
	shift 2
	STATUS=0
	if [[ $program == *.sh ]]; then
		OUTPUT=$(DFLUSH_MODULE=$module timeout 600 bash "$(dirname "$0")/$program" "$@") || STATUS=$?
	else
		DFLUSH_MODULE=$module load_module
		OUTPUT=$(timeout 600 "$DFLUSH_BIN/$program" "$@") || STATUS=$?
	fi
	unload_module
	note "${OUTPUT//$'\n'/$'\n#   '}"
	note "$program ended with status $STATUS"
}

# with_script VARIANT SCRIPT: the same with a test that loads the module itself,
# up to its first failure.
with_script() {
	STATUS=0
	OUTPUT=$(STOP_AT_FIRST=yes DFLUSH_MODULE=$DFLUSH_VARIANTS/$1/deferred_flush.ko timeout 600 bash "$(dirname "$0")/$2") || STATUS=$?
	unload_module
	note "${OUTPUT//$'\n'/$'\n#   '}"
	note "$2 ended with status $STATUS"
}

has_line() {
	grep -qE "$1" <<<"$OUTPUT"
}

# fails_with PATTERN: the test of that name failed. The program has to have got
# to its end: a broken test would be no proof.
fails_with() {
	[ "$STATUS" -eq 1 ] && has_line "^not ok .*$1" && has_line '^# Totals:' && ! has_line '^Bail out'
}

passes() {
	[ "$STATUS" -eq 0 ] && has_line '^# Totals:'
}

# The receiver clears the word and does not flush: stale pages in every round
# in which the flush was deferred and nothing else ran on the CPU, as a busy host
# makes it happen now and then. (A Bochs machine forgets translations by
# itself, so there it only has to happen: CONTROL_STALE_SHARE, in percent.)
no_entry_flush() {
	local swaps
	for swaps in 1 3; do
		with_variant no_entry_flush stale -s "$swaps" -r 20
		fails_with "stale: no stale page after $swaps swaps" || return 1
		awk -v share="${CONTROL_STALE_SHARE:-100}" '/^# swaps=/ { lines++
			split($10, calm, "="); split($11, stale, "=")
			if (calm[2] < 10 || stale[2] * 100 < calm[2] * share) bad = 1 }
			END { exit bad || lines != 1 }' <<<"$OUTPUT" || return 1
	done
}

# The receiver comes after code that may use what was remapped.
receiver_on_tracepoint() {
	local kind
	with_variant receiver_on_tracepoint entry 2
	if ! { fails_with 'entry: 64-bit system call drains' &&
		has_line '^# the word was PENDING at tracepoint user_exit'; }; then
		return 1
	fi
	# What it costs: writes to pages that percpu gave back.
	for kind in rstat cpuacct; do
		with_variant receiver_on_tracepoint window "$kind"
		if ! { fails_with "window: pages that percpu gave back are not written to, $kind" &&
			has_line "^# $kind: rounds=[1-9].* spoilt=[1-9]"; }; then
			return 1
		fi
	done
}

# An interrupt or system call between the sender's look and its bit is missed.
no_recheck() {
	with_variant no_recheck overlap sender 500
	fails_with 'overlap: no stale page when a CPU enters' && has_line '^# meetings=[1-9].* stale=[1-9]'
}

slow_sender() {
	with_variant slow_sender overlap sender 40
	if ! { passes && has_line '^# meetings=[1-9]'; }; then
		return 1
	fi
	with_variant slow_sender patching sender
	passes && has_line '^# meetings=[1-9]'
}

# A sender that looked before the block sets its bit after the drain.
no_block_recheck() {
	with_variant no_block_recheck patching sender 20
	fails_with 'patching: the tracer reads nothing stale when a sender' && has_line '^# meetings=[1-9].* stale=[1-9]'
}

# What an NMI reads between the receiver's flush and its clearing of the word stays.
flush_before_exchange() {
	with_variant flush_before_exchange overlap receiver 500
	fails_with 'overlap: no stale page when an NMI' && has_line '^# meetings=[1-9].* stale=[1-9]'
}

no_first_check() {
	with_variant no_first_check overlap receiver 40
	passes && has_line '^# meetings=[1-9]'
}

# The interrupts of a tracer's own patching run it before the receiver.
no_drain() {
	with_variant no_drain watched drain
	fails_with 'watched: drained before a tracer is written' && has_line '^# tracer: first hits=[1-9][0-9]* stale=[1-9]'
}

# Nobody notices the patching.
no_watch() {
	with_variant no_watch watched drain
	if ! { fails_with 'watched: deferral is suspended while the tracer is there' &&
		has_line '^# tracer: first hits=[1-9][0-9]* stale=[1-9]'; }; then
		return 1
	fi
	with_variant no_watch tracers -k own-kprobe -f sched_clock
	fails_with 'tracers: own-kprobe suspends'
}

# The watch sees nothing, not even the receiver's installation: no such file.
blind_watch() {
	[ "$(DFLUSH_MODULE=$DFLUSH_VARIANTS/blind_watch/deferred_flush.ko load_status "")" -eq 2 ] && ! is_loaded
}

# Deferral goes on while the watched code is about to be changed.
hasty_resume() {
	with_variant hasty_resume patching resume 5
	fails_with 'patching: the tracer reads nothing stale when a resume' && has_line '^# meetings=[1-9].* stale=[1-9]'
}

# Nobody is interrupted when going off.
no_off_drain() {
	with_script no_off_drain modes.sh
	fails_with 'modes: off drains'
}

# An idle CPU is woken without passing the receiver.
idle_is_quiet() {
	with_variant idle_is_quiet remote
	fails_with 'remote: an idle CPU reads nothing stale'
}

# A CPU that stays in user mode owes its flush for ever.
no_stale_timer() {
	with_script no_stale_timer stale_limit.sh
	fails_with 'stale limit: one that is set later counts what is owed already'
}

# A breakpoint's handler may run before the receiver while flushes are owed.
no_breakpoint_check() {
	with_script no_breakpoint_check breakpoint.sh
	fails_with 'breakpoint: execute vtime_user_exit, nothing is deferred for its CPU alone'
}

all=(no_entry_flush receiver_on_tracepoint no_recheck slow_sender flush_before_exchange
	no_first_check no_block_recheck no_drain no_watch blind_watch hasty_resume no_off_drain
	idle_is_quiet no_stale_timer
	no_breakpoint_check)

# What follows the end of the text, or of the page, is ignored.
lenient_input() {
	with_variant lenient_input fuzz -n 4000
	fails_with 'fuzz: all refused' && has_line 'cpus: .* bad, and accepted'
}

# Each write to cpus leaves a set of CPUs behind.
leaky_input() {
	with_variant leaky_input fuzz -n 6000
	fails_with 'fuzz: nothing leaked'
}

# Records are written into slots that look finished (with a delay between their words).
torn_recent() {
	with_variant torn_recent recent 8
	fails_with 'recent: every line is whole while all CPUs send' && has_line '^# reads=[1-9].* torn=[1-9]'
}

slow_recent() {
	with_variant slow_recent recent 4
	passes && has_line '^# reads=[1-9].* torn=0'
}

all+=(lenient_input leaky_input torn_recent slow_recent)

. "$(dirname "$0")/hazard_controls.sh"
all+=("${hazard_controls[@]}")
[ $# -gt 0 ] || set -- "${all[@]}"
begin $#
for variant in "$@"; do
	case $variant in
	slow_exchange) check "control: $variant, the good twin of nmi_pending_only, passes" "$variant" ;;
	slow_recent) check "control: $variant, the good twin of torn_recent, passes" "$variant" ;;
	slow_sender) check "control: $variant, the good twin of no_recheck and no_block_recheck, passes" "$variant" ;;
	no_first_check) check "control: $variant, the good twin of flush_before_exchange, passes" "$variant" ;;
	blind_watch) check "control: $variant is not loaded" "$variant" ;;
	*) check "control: $variant is caught" "$variant" ;;
	esac
done
ktap_finished
