#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The file cpus: deferral only for the CPUs in it.

. "$(dirname "$0")/functions.sh"

# honours CPU: of all isolated CPUs only this one is deferred.
honours() {
	local rows
	rows=$(dflush rounds "$NOHZ_FULL" 10)
	note "cpu deferred ipi_not_quiet stale:" "${rows//$'\n'/; }"
	[ "$(sum_column 4 "$rows")" -eq 0 ] &&
		awk -v cpu="$1" '$1 == cpu { good = $2 > 5 } $1 != cpu && $2 { bad = 1 }
			END { exit !good || bad }' <<<"$rows"
}

reads_back() {
	[ "$(cat "$CONTROL/cpus")" = "$1" ]
}

last=${NOHZ_FULL##*[-,]}

begin 8
load_module
check "subset: all isolated CPUs by default" reads_back "$NOHZ_FULL"
check "subset: one CPU is accepted" write_status "$CONTROL/cpus" "$last"
check "subset: reads back" reads_back "$last"
check "subset: is honoured" honours "$last"
check "subset: a CPU outside nohz_full is refused" refused_with "Invalid argument" "$CONTROL/cpus" 0
check "subset: what is no list is refused" refused_with "Invalid argument" "$CONTROL/cpus" "1-x"
check "subset: a refused write changes nothing" reads_back "$last"
write_status "$CONTROL/cpus" "$NOHZ_FULL"
check "subset: all again" defers "$NOHZ_FULL"
unload_module
ktap_finished
