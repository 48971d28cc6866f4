# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts share: where things lie, how to fail, how to run a command
# inside the build root. Source it; it runs nothing.

# Paths inside the build root, the same on every machine.
# The checkout is mounted on $INNER_SOURCE.
# shellcheck disable=SC2034
INNER_SOURCE=/src/deferred_flush

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${DEFERRED_FLUSH_CACHE:-${HOME:-/root}/.cache/deferred-flush}
# shellcheck disable=SC2034
BUILDROOT=$CACHE/buildroot
# shellcheck disable=SC2034
PROOFROOT=$CACHE/proof-root

# What the checks of the debug kernels write to the log: warnings (of lockdep and
# RCU, too), KASAN's and UBSAN's reports, kmemleak's, poisoned pages, stalls.
# shellcheck disable=SC2034
SPLATS='WARNING: |KASAN: |UBSAN: |ODEBUG: |kmemleak: [0-9]+ new|pagealloc: |refcount_t: |noinstr|corruption|INFO: (trying|task|rcu|lockdep)|suspicious RCU|locking correctness validator'

# What selftests/stress.sh wants of scripts/vm. The emulator's CPUs share few real
# ones, so a CPU may be late for long without being stuck: the detectors of that get
# longer times. hung_task and stuck workers have their own limits.
# shellcheck disable=SC2034
STRESS_MACHINE='--memory 3G --append log_buf_len=16M --append rcupdate.rcu_cpu_stall_timeout=300'
STRESS_MACHINE+=' --append watchdog_thresh=60 --append sysctl.kernel.hung_task_timeout_secs=300'

say() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
	say "error: $*"
	exit 1
}

# Run "$@" as root of a mount namespace of its own (and of a user namespace
# where the caller is not root), so that no mount outlives the command.
with_namespace() {
	if [ "$(id -u)" -eq 0 ]; then
		unshare --mount --propagation private -- "$@"
	else
		unshare --map-root-user --map-auto --mount --propagation private -- "$@"
	fi
}

# Run a shell command line inside the build root: in_buildroot [VAR=VALUE]... -- COMMAND ARG...
# The checkout is visible, and writable, under $INNER_SOURCE, which is also
# the working directory.
in_buildroot() {
	local -a environment=()
	while [ "$1" != -- ]; do
		environment+=("$1")
		shift
	done
	shift
	[ -f "$BUILDROOT/.deferred-flush-stamp" ] ||
		die "there is no build root in $BUILDROOT; run scripts/buildroot first"
	# shellcheck disable=SC2016
	with_namespace bash -c '
		set -e
		root=$1 source=$2 inner=$3
		shift 3
		for directory in proc sys dev; do
			mount --rbind "/$directory" "$root/$directory"
		done
		mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
		mkdir -p "$root$inner"
		mount --bind "$source" "$root$inner"
		exec chroot "$root" /usr/bin/env -i --chdir="$inner" \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			HOME=/root LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" "$@"
	' in_buildroot "$BUILDROOT" "$SOURCE" "$INNER_SOURCE" \
		"${environment[@]}" "$@"
}
