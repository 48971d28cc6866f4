#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# 'dflush measure' of tools/dflush: its counts are those of trace-cmd in the same run, it
# sees the module at work, it says when the module was not, and it leaves nothing behind.
#
# DFLUSH_TOOL  the tool

. "$(dirname "$0")/functions.sh"

: "${DFLUSH_TOOL:?is the tool to test}"
if [ ! -x "$DFLUSH_TOOL" ]; then
	echo "Bail out! $DFLUSH_TOOL is missing: build it with scripts/test, or with cargo in tools/"
	exit 1
fi

ROUNDS=60
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

# The gaps of an emulator are no concern of this test.
measure() {
	"$DFLUSH_TOOL" measure --threshold-ns 100000 "$@"
}

load() {
	echo "-- $DFLUSH_BIN/dflush flush aliases $ROUNDS"
}

show() {
	sed 's/^/#   /' "$SCRATCH/text"
}

# number KEY: of the JSON, where that key comes first.
number() {
	sed -n "s/^ *\"$1\": \([0-9]*\),\{0,1\}$/\1/p;T;q" "$SCRATCH/json"
}

# What trace-cmd recorded in the tool's window, as 'NUMBER CPU' with the tool's CPUs.
# It prints a mask as a list of CPUs. $1: the events to look at.
recorded() {
	trace-cmd report -t -i "$SCRATCH/trace.dat" 2>/dev/null |
		awk -v start="$(number start_ns)" -v end="$(number end_ns)" -v events="^($1):\$" '
			{
				for (i = 2; i < NF && $i !~ events; i++)
					;
				time = $(i - 1)
				if ($i !~ events || time !~ /^[0-9]+\.[0-9]+:$/)
					next
				sub(/\./, "", time)
				if (time + 0 < start + 0 || time + 0 >= end + 0)
					next
				for (i++; i < NF && $i !~ /^cpu(mask)?=/; i++)
					;
				parts = split(substr($i, index($i, "=") + 1), part, ",")
				for (p = 1; p <= parts; p++) {
					ends = split(part[p], bound, "-")
					for (cpu = bound[1] + 0; cpu <= bound[ends] + 0; cpu++)
						if (cpu > 0)
							sent[cpu]++
				}
			}
			END { for (cpu in sent) print sent[cpu], cpu }' | sort -k 2n
}

# The tool's sums, likewise: the CPUs are 1, 2 and so on.
counted() {
	awk '$1 == "sum" { gsub(",", ""); for (i = 2; i < NF; i++) if ($i > 0) print $i, i - 1 }' "$SCRATCH/text"
}

run_with_trace_cmd() {
	# Words.
	# shellcheck disable=SC2046
	trace-cmd record -q -C mono -b 4096 -o "$SCRATCH/trace.dat" -e ipi_send_cpumask -e ipi_send_cpu \
		"$DFLUSH_TOOL" measure --threshold-ns 100000 --json="$SCRATCH/json" $(load) >"$SCRATCH/text" 2>&1 || show
	recorded 'ipi_send_cpumask|ipi_send_cpu' >"$SCRATCH/recorded"
	counted >"$SCRATCH/counted"
}

agrees() {
	[ -s "$SCRATCH/counted" ] && diff "$SCRATCH/recorded" "$SCRATCH/counted" | sed 's/^/# /'
	[ -s "$SCRATCH/counted" ] && cmp -s "$SCRATCH/recorded" "$SCRATCH/counted"
}

# The comparison is able to fail.
differs_if_masks_are_left_out() {
	recorded ipi_send_cpu >"$SCRATCH/partly"
	! cmp -s "$SCRATCH/partly" "$SCRATCH/counted"
}

# flushes WHICH: how many of the load's reached the first CPU in that window of the comparison.
flushes() {
	awk -v which="$1" '/^[a-z]/ { window = $1 } index(window, which) == 1 && /vm_unmap_aliases\(\)/ {
		gsub(",", ""); print $5; exit }' "$SCRATCH/text"
}

compares() {
	local before after
	# shellcheck disable=SC2046
	measure --compare --module "$DFLUSH_MODULE" --html "$SCRATCH/page.html" $(load) >"$SCRATCH/text" 2>&1 || {
		show
		return 1
	}
	before=$(flushes before) after=$(flushes after)
	note "the first CPU got ${before:-0} flushes before, ${after:-0} after"
	[ "${before:-0}" -ge $((ROUNDS * 8 / 10)) ] && [ "${after:-0}" -le $((ROUNDS / 10)) ] && ! is_loaded &&
		grep -q 'spared its CPUs' "$SCRATCH/text" && grep -q '<svg role' "$SCRATCH/page.html"
}

tells_what_shadow_mode_would_spare() {
	load_with mode=1
	# shellcheck disable=SC2046
	measure $(load) >"$SCRATCH/text" 2>&1 || show
	unload_module
	grep -qE "would have spared at least one CPU in each of ($((ROUNDS - 2))|$((ROUNDS - 1))|$ROUNDS|$((ROUNDS + 1))) flushes" \
		"$SCRATCH/text" || {
		show
		return 1
	}
}

# A tracer on watched code: the figures would not show the module at work.
tells_a_suspension() {
	local status=0
	load_module
	dflush watch ftrace vtime_user_exit
	# shellcheck disable=SC2046
	measure $(load) >"$SCRATCH/text" 2>&1 || status=$?
	dflush unwatch ftrace
	unload_module
	[ "$status" -eq 1 ] && grep -q 'WARNING:.*suspended' "$SCRATCH/text"
}

leaves_nothing() {
	[ -z "$(ls "$TRACING/instances")" ] && [ -z "$(pgrep -f 'measure --spinner' || true)" ]
}

puts_back_what_a_signal_ends() {
	local pid status=0
	load_with mode=1
	measure --compare --seconds 60 >"$SCRATCH/text" 2>&1 &
	pid=$!
	for _ in $(seq 100); do
		[ -z "$(ls "$TRACING/instances")" ] || break
		sleep 0.1
	done
	sleep 2
	kill -INT "$pid"
	wait "$pid" || status=$?
	leaves_nothing && [ "$status" -eq 2 ] && [ "$(cat "$CONTROL/mode")" = shadow ] || return 1
	unload_module
}

begin 8
run_with_trace_cmd
check "measure: the counts of trace-cmd" agrees
check "measure: which are more than the single sends" differs_if_masks_are_left_out
check "measure: before and after in one go" compares
check "measure: shadow mode, what would be spared" tells_what_shadow_mode_would_spare
check "measure: a suspension is told" tells_a_suspension
check "measure: nothing is left behind" leaves_nothing
check "measure: a signal ends it, and all is as before" puts_back_what_a_signal_ends
unload_module
check "measure: nothing is left behind by a signal" leaves_nothing
ktap_finished
