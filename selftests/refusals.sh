#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Each refusal that this machine can provoke: the errno, one line of error, and
# nothing left behind. (Machines without nohz_full or of AMD family 10h have
# their own boot: unsupported.sh. INVLPGB and Xen PV are what the kernel is made to
# believe, as no emulator has them.)

. "$(dirname "$0")/functions.sh"

# is_refused_cleanly ERRNO [PARAMETERS]
is_refused_cleanly() {
	local before status errors
	before=$(fingerprint)
	mark_log
	status=$(load_status "${2:-}")
	errors=$(count_errors)
	note "errno $status, $errors error lines:" "$(log_since_mark | grep 'deferred_flush: ' || true)"
	if is_loaded; then
		unload_module
		return 1
	fi
	[ "$status" -eq "$1" ] && [ "$errors" -eq 1 ] && left_nothing "$before"
}

# with_watcher KIND SYMBOL OFFSET COMMAND...
with_watcher() {
	local kind=$1 status=0
	dflush watch "$kind" "$2" "$3" || return 1
	shift 3
	"$@" || status=$?
	dflush unwatch "$kind"
	return "$status"
}

# Where a kprobe fits into the middle of __rcu_read_lock.
probe_offset() {
	local offset
	for offset in {5..32}; do
		if dflush watch kprobe __rcu_read_lock "$offset"; then
			dflush unwatch kprobe
			echo "$offset"
			return
		fi
	done
	return 1
}

# with_feature NAME COMMAND...: the kernel believes that its CPU has it.
with_feature() {
	local name=$1 status=0
	dflush feature "$name" 1 || return 1
	shift
	"$@" || status=$?
	dflush feature "$name" 0
	return "$status"
}

EINVAL=22 EBUSY=16 EOPNOTSUPP=95

# Tracers that time NMIs, which not every kernel has.
times_nmis() {
	grep -qE ' trace_(hwlat|osnoise)_callback$' /proc/kallsyms
}

if times_nmis; then
	begin 18
else
	begin 17
fi
check "refusal: parameter out of range" is_refused_cleanly $EINVAL mode=3
check "refusal: INVLPGB" with_feature invlpgb is_refused_cleanly $EOPNOTSUPP
check "refusal: Xen PV" with_feature xenpv is_refused_cleanly $EOPNOTSUPP
check "refusal: another IPMODIFY user of flush_tlb_kernel_range" \
	with_watcher ipmodify flush_tlb_kernel_range 0 is_refused_cleanly $EBUSY
check "refusal: another direct call of vtime_user_exit" \
	with_watcher direct vtime_user_exit 0 is_refused_cleanly $EBUSY
check "refusal: a tracer on vtime_user_exit" \
	with_watcher ftrace vtime_user_exit 0 is_refused_cleanly $EBUSY
check "refusal: a tracer on __rcu_read_lock" \
	with_watcher ftrace __rcu_read_lock 0 is_refused_cleanly $EBUSY
check "refusal: a kprobe on __rcu_read_lock" \
	with_watcher kprobe __rcu_read_lock 0 is_refused_cleanly $EBUSY
check "refusal: a kprobe inside __rcu_read_lock" \
	with_watcher kprobe __rcu_read_lock "$(probe_offset)" is_refused_cleanly $EBUSY
# It runs before the first NMI handler and cannot be traced, but probed.
check "refusal: a kprobe on sched_clock" \
	with_watcher kprobe sched_clock 0 is_refused_cleanly $EBUSY
if times_nmis; then
	check "refusal: a kprobe on trace_clock_local" \
		with_watcher kprobe trace_clock_local 0 is_refused_cleanly $EBUSY
fi

# A tracer elsewhere is nobody's business, and afterwards everything works.
loads_and_unloads() {
	local before status
	before=$(fingerprint)
	status=$(load_status "")
	[ "$status" -eq 0 ] && [ "$(state_of)" = on ] && unload_module && left_nothing "$before"
}
check "refusal: none with a tracer on unwatched code" \
	with_watcher ftrace vfs_read 0 loads_and_unloads
check "refusal: none after all that" loads_and_unloads

# The other way round: who comes later than the module is refused by the kernel,
# and deferral goes on.
kernel_refuses() {
	local status=0
	dflush watch "$1" "$2" || status=$?
	[ "$status" -ne 0 ] || dflush unwatch "$1"
	note "$1 on $2: errno $status, state $(state_of)"
	[ "$status" -eq "$EBUSY" ] && [ "$(state_of)" = on ]
}

# Other errors than EOPNOTSUPP would mean something else went wrong.
ftrace_stays_enabled() {
	refused_with "Operation not supported" /proc/sys/kernel/ftrace_enabled 0 &&
		[ "$(cat /proc/sys/kernel/ftrace_enabled)" -eq 1 ] && defers "$NOHZ_FULL"
}

load_module
check "refusal: while on, of a direct call of vtime_user_exit, as of BPF fentry" \
	kernel_refuses direct vtime_user_exit
check "refusal: while on, of an IPMODIFY user of vtime_user_exit, as of a livepatch" \
	kernel_refuses ipmodify vtime_user_exit
check "refusal: while on, of an IPMODIFY user of flush_tlb_kernel_range" \
	kernel_refuses ipmodify flush_tlb_kernel_range
check "refusal: while on, of a direct call of flush_tlb_kernel_range" \
	kernel_refuses direct flush_tlb_kernel_range
check "refusal: while on, of kernel.ftrace_enabled=0" ftrace_stays_enabled
unload_module
ktap_finished
