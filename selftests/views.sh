#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The files: names, permissions, contents; an open view pins the module.

. "$(dirname "$0")/functions.sh"

has_mode() {
	[ "$(stat -c %a "$2")" = "$1" ]
}

debugfs_is_private() {
	has_mode 400 "$VIEWS/summary" && has_mode 400 "$VIEWS/cpus" && has_mode 400 "$VIEWS/recent"
}

is_unloaded() {
	! is_loaded
}

has_all_keys() {
	local key
	for key in version kernel mode state flush_method cpus calls kept_range kept_caller \
		kept_blocked redirected deferred would_defer ipi_not_quiet ipi_raced flush_entry \
		flush_nmi flush_ipi drained suspensions expired; do
		[ "$(grep -c "^$key: ." "$VIEWS/summary")" -eq 1 ] || {
			note "the summary lacks '$key: VALUE'"
			return 1
		}
	done
	[ "$(summary kernel)" = "$(uname -r)" ]
}

has_all_columns() {
	[ "$(head -n 1 "$VIEWS/cpus" | xargs)" = \
		"cpu mode word deferred flush_entry flush_nmi flush_ipi ipi_not_quiet ipi_raced" ] &&
		[ "$(awk 'NR > 1 && NF != 9' "$VIEWS/cpus" | wc -l)" -eq 0 ] &&
		[ "$(awk 'NR > 1' "$VIEWS/cpus" | wc -l)" -eq "$(list_length "$NOHZ_FULL")" ]
}

# How many CPUs a list like 1-3,5 has.
list_length() {
	local part sum=0
	for part in ${1//,/ }; do
		sum=$((sum + ${part##*-} - ${part%%-*} + 1))
	done
	echo "$sum"
}

# An open file has to keep the module in memory, or closing it is an oops.
pins() {
	local view=$VIEWS/$1 result=0
	load_module
	exec {held}<"$view"
	echo off >"$CONTROL/mode"
	rmmod_is_refused || result=1
	cat <&"$held" >/dev/null || result=1
	exec {held}<&-
	rmmod deferred_flush || result=1
	return "$result"
}

begin 11
load_module
check "views: permissions of mode" has_mode 644 "$CONTROL/mode"
check "views: permissions of cpus" has_mode 644 "$CONTROL/cpus"
check "views: permissions of max_stale_ms" has_mode 644 "$CONTROL/max_stale_ms"
check "views: permissions of state" has_mode 444 "$CONTROL/state"
check "views: permissions in debugfs" debugfs_is_private
check "views: every key of the summary" has_all_keys
check "views: every column of cpus" has_all_columns
unload_module
check "views: an open summary pins the module" pins summary
check "views: an open cpus view pins the module" pins cpus
check "views: an open view of recent flushes pins the module" pins recent
check "views: unloaded" is_unloaded
ktap_finished
