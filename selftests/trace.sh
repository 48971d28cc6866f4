# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Who flushes which kernel range, and what the isolated CPUs owe at that moment:
# by probes of the kernel's own tracer. Sourced after functions.sh.

# trace_flushes [FUNCTION...]: from now on record each flush of a kernel range and
# each call of the FUNCTIONs, with the words of the isolated CPUs. Needs the
# module loaded.
trace_flushes() {
	local function words
	words=$(dflush words "$NOHZ_FULL" | sed 's/\(.*\) \(.*\)/word\1=@\2:x32/' | paste -sd' ')
	echo "p:dflush/flush flush_tlb_kernel_range start=%di:x64 end=%si:x64 caller=\$stack0:symbol $words" \
		>>"$TRACING/kprobe_events"
	for function; do
		echo "p:dflush/$function $function $words" >>"$TRACING/kprobe_events"
	done
	echo 8192 >"$TRACING/buffer_size_kb"
	echo 1 >"$TRACING/events/dflush/enable"
	clear_trace
}

clear_trace() {
	echo >"$TRACING/trace"
}

# The events so far, one a line: NAME KEY=VALUE...
traced() {
	echo 0 >"$TRACING/tracing_on"
	sed -n '/^#/d; s/.*: \([a-z_0-9]*\): ([^)]*) */\1 /p' "$TRACING/trace"
	echo 1 >"$TRACING/tracing_on"
}

stop_tracing() {
	echo 0 >"$TRACING/events/dflush/enable"
	: >"$TRACING/kprobe_events"
	clear_trace
}

# settled_before CALLER FUNCTION: in the trace, each flush by CALLER that found
# CPUs owing one had interrupted them all when FUNCTION was called; and there was
# at least one such.
settled_before() {
	local result
	result=$(traced | awk -v caller="$1" -v next_one="$2" '
		function owing(   sum, i, part) {
			for (i = 2; i <= NF; i++)
				if (split($i, part, "=") == 2 && part[1] ~ /^word/ && part[2] !~ /^0x0+$/)
					sum++
			return sum + 0
		}
		$1 == "flush" { from = $0 ~ "caller=" caller ? owing() : 0 }
		$1 == next_one && from { seen++; if (owing()) bad++; from = 0 }
		END { print seen + 0, bad + 0 }')
	note "flushes by $1 that found a flush owed: ${result% *};" \
		"of these with one still owed at $2: ${result#* }"
	[ "${result% *}" -ge 1 ] && [ "${result#* }" -eq 0 ]
}
