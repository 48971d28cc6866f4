#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What tuned calls for the profile deferred-flush: start, stop or verify.

set -euo pipefail

control=/sys/kernel/deferred_flush
variables=${DEFERRED_FLUSH_VARIABLES:-/etc/tuned/deferred-flush-variables.conf}
mode=$(sed -n 's/^deferred_flush_mode=//p' "$variables" 2>/dev/null | tail -n 1)
: "${mode:=shadow}"

die() {
	echo "deferred-flush: $*" >&2
	exit 1
}

case ${1:-} in
start)
	[ -d "$control" ] || modprobe deferred_flush ||
		die "the module cannot be loaded; the kernel's log has the reason"
	echo "$mode" >"$control/mode" || die "mode '$mode' is refused; the kernel's log has the reason"
	;;
stop)
	[ ! -d "$control" ] || echo off >"$control/mode"
	;;
verify)
	[ "$(cat "$control/state")" = "$mode" ] ||
		die "the state is '$(cat "$control/state" 2>&1)', not '$mode'"
	;;
esac
