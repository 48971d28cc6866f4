#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own ftrace and livepatch selftests, unmodified, with CPUs in user
# mode, once without the module and once with it on: the results have to be the
# same. Whether a test passes is not asked, only whether the module changes that.
#
# Of the ftrace tests only those listed below, which touch what the module touches:
# code that is patched by the function and graph tracers, kprobes, fprobes and
# direct calls. All of them would take an hour and more in an emulator, and those
# of histograms, triggers and the ring buffer patch no code. direct: those of direct
# calls. They go through each of a kernel's tracers, which takes too long on a debug one.
#
# Usage: kselftests.sh [ftrace|direct|livepatch]...
#
# FTRACE_TESTS and LIVEPATCH_TESTS in the environment choose others.

. "$(dirname "$0")/functions.sh"

BASE_DIR=$(cd "$DFLUSH_BIN/../kselftests" 2>/dev/null && pwd) || BASE_DIR=
work=$(mktemp -d)
trap 'rm -rf "$work" "$HOLD_LOG"' EXIT

ftrace_tests=(test.d/00basic/basic{2,4}.tc
	test.d/ftrace/{fgraph-filter,func_event_triggers,func_traceonoff_triggers,func_set_ftrace_file}.tc
	test.d/dynevent/add_remove_{kprobe,fprobe,multiple_fprobe}.tc
	test.d/kprobe/{add_and_remove,busy_check,kprobe_ftrace,kprobe_opt_types,kprobe_insn_boundary}.tc)
[ -z "${FTRACE_TESTS:-}" ] || read -ra ftrace_tests <<<"$FTRACE_TESTS"

# Where a suite is, and how many of its tests have to pass.
directory() {
	case $1 in direct) echo ftrace ;; *) echo "$1" ;; esac
}

least() {
	case $1 in direct) echo 2 ;; *) echo 5 ;; esac
}

# run_suite SUITE LOG: by the kernel's own runner. Prints the results as they come.
run_suite() {
	(
		cd "$BASE_DIR/$(directory "$1")"
		tests=(./ftracetest) cases=("${ftrace_tests[@]}")
		case $1 in
		direct) cases=(test.d/direct) ;;
		livepatch) read -ra tests <<<"${LIVEPATCH_TESTS:-$(echo ./test-*.sh)}" ;;
		esac
		export KSELFTEST_FTRACETEST_ARGS="-K -l $work/logs-$RANDOM ${cases[*]}"
		# The livepatch tests want to see a tree, though their modules are built.
		export KDIR=${KDIR:-/usr/src/linux-$(uname -r)}
		set +eu
		# shellcheck source=/dev/null
		. "$BASE_DIR/kselftest/runner.sh"
		run_many "${tests[@]}"
	) 2>&1 </dev/null | tee "$2" | results | sed -u "s/^/#   /" || true
}

# The results alone, without times.
results() {
	grep --line-buffered -E '^(# )*((not )?ok |TEST: )' | sed -u 's/^\(# \)*//'
}

# CPUs that are in user mode most of the time. A spinner that never enters the
# kernel would hold up each livepatch until it is sent a signal, so there they
# come and go.
keep_busy() {
	while :; do
		sleep 2 | dflush hold "$NOHZ_FULL" >/dev/null
		sleep 1
	done
}

# on_busy_machine SUITE LOG
on_busy_machine() {
	local busy start=$SECONDS
	if [ "$1" = livepatch ]; then
		keep_busy &
		busy=$!
	else
		# One, because an emulator's CPUs share few real ones.
		hold_cpus "${NOHZ_FULL%%[-,]*}"
	fi
	run_suite "$1" "$2"
	if [ "$1" = livepatch ]; then
		kill "$busy"
		wait "$busy" 2>/dev/null || true
	else
		release_cpus
	fi
	note "$1: $((SECONDS - start)) s"
}

with_module() {
	local before after
	load_module
	before=$(summary calls)
	on_busy_machine "$1" "$2"
	after=$(summary calls)
	note "$1: state '$(state_of)', $((after - before)) flushes, $(summary deferred) deferred, $(summary suspensions) suspensions"
	unload_module
}

has_results() {
	[ "$(results <"$1" | grep -c '^ok ')" -ge "$2" ]
}

same_results() {
	local differences
	differences=$(diff <(results <"$work/$1-without") <(results <"$work/$1-with")) && return 0
	note "${differences//$'\n'/$'\n# '}"
	return 1
}

# The tests of direct calls load the kernel's samples by name. The machine's file
# systems forget what is written.
install_samples() {
	mkdir -p "/lib/modules/$(uname -r)/updates"
	cp "$BASE_DIR"/samples/*.ko "/lib/modules/$(uname -r)/updates"
	depmod
}

[ $# -gt 0 ] || set -- ftrace livepatch
begin $((4 * $#))
for suite in "$@"; do
	if [ ! -e "$BASE_DIR/$(directory "$suite")" ]; then
		for name in "runs without the module" "runs with it" "same results" "deferral goes on"; do
			ktap_test_skip "kselftests: $suite: $name: not built for this kernel"
		done
		continue
	fi
	[ "$suite" != direct ] || install_samples
	on_busy_machine "$suite" "$work/$suite-without"
	with_module "$suite" "$work/$suite-with"
	check "kselftests: $suite: runs without the module" has_results "$work/$suite-without" "$(least "$suite")"
	check "kselftests: $suite: runs with it" has_results "$work/$suite-with" "$(least "$suite")"
	check "kselftests: $suite: same results" same_results "$suite"
	load_module
	check "kselftests: $suite: deferral works afterwards" defers "$NOHZ_FULL"
	unload_module
done
ktap_finished
