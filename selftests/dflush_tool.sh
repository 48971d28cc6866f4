#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The command-line tool of tools/dflush on a real machine: what it says agrees with the
# module's files, and it disturbs nobody. (The dflush of these tests is another program.)
#
# DFLUSH_TOOL  the tool

. "$(dirname "$0")/functions.sh"

: "${DFLUSH_TOOL:?is the tool to test}"
if [ ! -x "$DFLUSH_TOOL" ]; then
	echo "Bail out! $DFLUSH_TOOL is missing: build it with scripts/test, or with cargo in tools/"
	exit 1
fi

# An isolated CPU.
FIRST=${NOHZ_FULL%%[-,]*}
KEYS="calls kept_range kept_caller kept_blocked redirected deferred would_defer ipi_not_quiet
	ipi_raced flush_entry flush_nmi flush_ipi drained suspensions expired"

tool() {
	"$DFLUSH_TOOL" "$@"
}

# ends_with STATUS TEXT ARGUMENT...: the tool ends with that status and says that, wherever
# it breaks its lines.
ends_with() {
	local expected=$1 text=$2 output status=0
	shift 2
	output=$(tool "$@" 2>&1) || status=$?
	if [ "$status" -ne "$expected" ] || [[ $(tr -s '[:space:]' ' ' <<<"$output") != *"$text"* ]]; then
		note "status $status: ${output//$'\n'/$'\n'#   }"
		return 1
	fi
}

# between BEFORE VALUE AFTER: each a number.
between() {
	[ "$1" -le "$2" ] && [ "$2" -le "$3" ]
}

# Somebody else may flush meanwhile, so each value has to lie between the module's own
# before and after.
status_agrees() {
	local before status after key values result=0
	before=$(cat "$VIEWS/summary")
	status=$(tool status)
	after=$(cat "$VIEWS/summary")
	for key in $KEYS; do
		values=$(sed -n "s/^$key: //p" <<<"$before"; awk -v key="$key" '$1 == key { print $2 }' <<<"$status"
			sed -n "s/^$key: //p" <<<"$after")
		# Three words.
		# shellcheck disable=SC2086
		between $values || {
			note "$key:" "${values//$'\n'/ }"
			result=1
		}
	done
	grep -q "^state  *$(state_of)\$" <<<"$status" && [ "$result" -eq 0 ] && [ "$(sed -n 's/^deferred: //p' <<<"$before")" -gt 0 ]
}

status_lists_cpus() {
	local expected shown
	expected=$(awk 'NR > 1 { print $1 }' "$VIEWS/cpus")
	shown=$(tool status | awk '$1 == "cpu" { on = 1; next } on && !NF { exit } on { print $1 }')
	[ -n "$shown" ] && [ "$shown" = "$expected" ]
}

# Written as a whole into a directory like the collector's; every line is one of the format,
# and the sum over the CPUs is what the module says.
export_agrees() {
	local directory before after sum
	directory=$(mktemp -d)
	before=$(summary deferred)
	tool export --prometheus --output "$directory/deferred_flush.prom"
	after=$(summary deferred)
	[ "$(ls -A "$directory")" = deferred_flush.prom ] || return 1
	if grep -Evn '^# (HELP|TYPE) deferred_flush_[a-z_]+ |^deferred_flush_[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.]+$' "$directory/deferred_flush.prom"; then
		return 1
	fi
	sum=$(awk '/^deferred_flush_deferred_interrupts_total{/ { sum += $2 } END { print sum + 0 }' "$directory/deferred_flush.prom")
	rm -r "$directory"
	note "deferred: $before, exported $sum, then $after"
	between "$before" "$sum" "$after"
}

# Flushes between two looks, the first of which is over when there is a line.
watch_sees_rates() {
	local lines tries pid
	lines=$(mktemp)
	tool watch --plain --interval 0.5 --count 4 >"$lines" &
	pid=$!
	for tries in {1..100}; do
		[ ! -s "$lines" ] || break
		sleep 0.1
	done
	dflush flush aliases 10 >/dev/null
	wait "$pid" || return 1
	note "after $tries tries:"
	sed 's/^/# /' "$lines"
	[ "$(wc -l <"$lines")" -eq 5 ] && awk 'NR > 1 && $4 > 0 { seen = 1 } END { exit !seen }' "$lines"
}

# allowed_after COMMAND...: where a command may run that was started on the first isolated CPU:
# what it is after five seconds, or as soon as it is something else.
allowed_after() {
	local pid list='' tries
	taskset -c "$FIRST" "$@" >/dev/null &
	pid=$!
	for tries in {1..50}; do
		sleep 0.1
		list=$(sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$pid/status")
		# taskset itself begins where this script may run.
		[ "$tries" -lt 5 ] || [ "$list" = "$FIRST" ] || break
	done
	kill "$pid"
	wait "$pid" 2>/dev/null || true
	echo "$list"
}

runs_on_housekeeping_cpus() {
	local control list
	control=$(allowed_after sleep 60)
	list=$(allowed_after "$DFLUSH_TOOL" watch --plain --interval 0.2)
	note "started on CPU $FIRST: sleep may run on $control, dflush watch on $list"
	[ "$control" = "$FIRST" ] && [ "$list" = 0 ]
}

# All isolated CPUs in user mode; other work of this machine may interrupt one now and then.
watch_interrupts_nobody() {
	local before after
	before=$(call_interrupts "$FIRST")
	tool watch --plain --interval 0.1 --count 10 >/dev/null
	after=$(call_interrupts "$FIRST")
	note "CPU $FIRST got $((after - before)) function-call interrupts in 10 looks"
	[ $((after - before)) -le 2 ]
}

# with_tracer FUNCTION COMMAND...
with_tracer() {
	local function=$1 status=0
	shift
	dflush watch ftrace "$function" || return 1
	"$@" || status=$?
	dflush unwatch ftrace
	return "$status"
}

if ! [[ $NOHZ_FULL =~ ^[0-9] ]]; then
	begin 2
	check "tool: check fails without nohz_full, with the remedy" \
		ends_with 1 "boot with nohz_full=1" check --no-build
	check "tool: status says that the module is not loaded" ends_with 2 "modprobe deferred_flush" status
	ktap_finished
fi

begin 12
check "tool: status says that the module is not loaded" ends_with 2 "modprobe deferred_flush" status
check "tool: check passes before the module is loaded, for building too" \
	ends_with 0 "ok nohz_full" check --kdir "/usr/src/linux-$(uname -r)"
check "tool: check fails while watched code is traced" with_tracer vtime_user_exit \
	ends_with 1 "a tracer or kprobe on vtime_user_exit" check --no-build
check "tool: export says that the module is not loaded" ends_with 0 "deferred_flush_loaded 0" export --prometheus
load_module
hold_cpus "$NOHZ_FULL"
dflush flush aliases 10
check "tool: status agrees with summary" status_agrees
check "tool: status has a line for each CPU" status_lists_cpus
check "tool: check takes the module's hooks for its own" ends_with 0 "loaded, state on" check --no-build
check "tool: export agrees with summary, and every line parses" export_agrees
check "tool: watch prints rates" watch_sees_rates
check "tool: watch moves to housekeeping CPUs" runs_on_housekeeping_cpus
check "tool: watch interrupts no isolated CPU" watch_interrupts_nobody
release_cpus
unload_module
check "tool: check passes after the module is unloaded" ends_with 0 "takes modules without a signature" check --no-build
ktap_finished
