# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The workers of stress.sh: each does one kind of thing again and again until the
# time is over. Every success is counted, and every failure is either one that
# was to be expected or goes to the file `unexpected`, which fails a test.
#
# WORK  directory: ops/KIND, totals, unexpected, stop
# END   when to stop, in $SECONDS

# Both are used by stress.sh.
# shellcheck disable=SC2034
WORKERS=(module tracing perf cpus memory loads modules netns flushes sysrq fuzz)

# What has to have happened at least once, and what only in a longer run.
# shellcheck disable=SC2034
KINDS=("module: loads" "module: unloads" "module: on" "tracing: watched code" "tracing: other code"
	"cpu: offline" "cpu: online" "flushes: aliases" "flushes: vrealloc" "flushes: huge" "NMI: sysrq-l"
	"load: fork" "netns: made and removed" "other modules: dummy" "fuzz: bad writes")
# shellcheck disable=SC2034
SLOW_KINDS=("module: off" "module: shadow" "module: some CPUs" "tracing: kprobe on watched code"
	"tracing: kprobe on other code" "memory: offline" "memory: online" "load: vm" "load: mmap"
	"load: seccomp" "load: unshare" "other modules: test_bpf")

# One CPU does all the work here, and the hostile things have to come to their turn.
declare -A NICE=([module]=-5 [tracing]=-2 [cpus]=-2 [memory]=-2 [loads]=5 [fuzz]=10)

MEMORY=/sys/devices/system/memory

running() {
	[ "$SECONDS" -lt "$END" ] && [ ! -e "$WORK/stop" ]
}

# In steps, so that the end is not slept over; and without a process for each, as
# an emulator needs long to make one: nothing ever comes out of this pipe.
exec {NOTHING}<> <(:)

pause() {
	local steps
	for ((steps = 0; steps < $1 * 2; steps++)); do
		running || return 0
		read -rt 0.5 -u "$NOTHING" || true
	done
}

# What each worker is at, for those that go through a list.
STEP=0

# The module is loaded before the machine gets busy.
run_worker() {
	set +e
	[ "$1" = module ] || sleep 3
	renice -n "${NICE[$1]:-5}" "$BASHPID" >/dev/null
	while running; do
		"worker_$1"
	done
}

# count KIND [NUMBER]. Each kind belongs to one worker.
count() {
	local file=$WORK/ops/$1 number=0
	[ ! -e "$file" ] || read -r number <"$file"
	echo $((number + ${2:-1})) >"$file"
}

operations() {
	cat "$WORK/ops/$1" 2>/dev/null || echo 0
}

# attempt KIND EXCUSES COMMAND...: EXCUSES is an extended regular expression for
# the errors that are no surprise.
attempt() {
	local kind=$1 excuses=$2 output
	shift 2
	if output=$("$@" 2>&1); then
		count "$kind"
		return 0
	elif [[ -n $excuses && $output =~ $excuses ]]; then
		count "$kind (refused)"
	else
		echo "$kind: $*: $output" >>"$WORK/unexpected"
	fi
	return 1
}

put() {
	echo "$2" >"$1"
}

# The module. A tracer on watched code makes it busy.

worker_module() {
	local status ticks
	status=$(load_status "")
	case $status in
	0) count "module: loads" ;;
	16)
		count "module: loads (refused)"
		pause 1
		return
		;;
	*)
		echo "loading: errno $status" >>"$WORK/unexpected"
		pause 1
		return
		;;
	esac
	for ((ticks = RANDOM % 10 + 4; ticks > 0; ticks--)); do
		running || break
		change_something
		pause 1
	done
	unload_it
}

change_something() {
	local busy='Device or resource busy'
	case $((RANDOM % 10)) in
	0 | 1)
		attempt "module: off" "" put "$CONTROL/mode" off
		attempt "module: on" "$busy" put "$CONTROL/mode" on
		;;
	2)
		attempt "module: shadow" "$busy" put "$CONTROL/mode" shadow
		attempt "module: on" "$busy" put "$CONTROL/mode" on
		;;
	3)
		attempt "module: some CPUs" "" put "$CONTROL/cpus" "${NOHZ_FULL##*[-,]}"
		attempt "module: all CPUs" "" put "$CONTROL/cpus" "$NOHZ_FULL"
		;;
	4)
		[ ! -e "$CONTROL/max_stale_ms" ] ||
			attempt "module: max_stale_ms" "" put "$CONTROL/max_stale_ms" $((RANDOM % 3 * 20))
		;;
	*) attempt "module: on" "$busy" put "$CONTROL/mode" on ;;
	esac
}

unload_it() {
	local tries
	attempt "module: off" "" put "$CONTROL/mode" off || return
	add_totals
	for tries in {1..50}; do
		# Somebody may have a view open.
		if rmmod deferred_flush 2>/dev/null; then
			count "module: unloads"
			return
		fi
		read -rt 0.1 -u "$NOTHING"
	done
	echo "unloading failed $tries times" >>"$WORK/unexpected"
}

# The counters of a load are gone with it, so they are summed up before.
add_totals() {
	local key value
	while IFS=': ' read -r key value; do
		case $value in
		'' | *[!0-9]*) ;;
		*) echo "$key $value" >>"$WORK/totals" ;;
		esac
	done <"$VIEWS/summary"
}

# total KEY: over all loads.
total() {
	awk -v key="$1" '$1 == key { sum += $2 } END { print sum + 0 }' "$WORK/totals" 2>/dev/null || echo 0
}

# Tracers, on code that the module watches and on other code.

worker_tracing() {
	case $((STEP++ % 7)) in
	0) trace_functions "tracing: other code" function 'vfs_*' ;;
	1) trace_functions "tracing: watched code" function vtime_user_exit ;;
	2) probe "tracing: kprobe on other code" do_sys_openat2 ;;
	3) trace_functions "tracing: watched code" function_graph __rcu_read_lock ;;
	4) trace_functions "tracing: other code" function_graph 'tick_*' ;;
	5) probe "tracing: kprobe on watched code" __rcu_read_lock ;;
	*) trace_functions "tracing: watched code" function_graph vtime_user_exit ;;
	esac
	stop_tracing
	pause $((RANDOM % 6 + 2))
}

# A trimmed kernel may lack some of what follows.
trace_functions() {
	grep -qw "$2" "$TRACING/available_tracers" || return
	attempt "tracing: filters" "" put "$TRACING/set_ftrace_filter" "$3" || return
	attempt "$1" 'Device or resource busy' put "$TRACING/current_tracer" "$2"
	pause 1
}

probe() {
	[ -e "$TRACING/kprobe_events" ] || return
	attempt "tracing: kprobes" "" put "$TRACING/kprobe_events" "p:dflush/stress $2" || return
	attempt "$1" "" put "$TRACING/events/dflush/stress/enable" 1
	pause 1
}

stop_tracing() {
	if [ "$(cat "$TRACING/current_tracer")" != nop ]; then
		echo nop >"$TRACING/current_tracer"
		echo >"$TRACING/set_ftrace_filter"
	fi
	if [ -e "$TRACING/events/dflush/stress/enable" ]; then
		echo 0 >"$TRACING/events/dflush/stress/enable"
		echo >"$TRACING/kprobe_events"
	fi
}

worker_perf() {
	local program=(perf stat -a -e 'sched:sched_switch,irq_vectors:local_timer_entry' -- sleep 1)
	if ! command -v perf >/dev/null; then
		pause 1000
		return
	fi
	[ $((STEP++ % 2)) -eq 0 ] ||
		program=(perf record -q -a -e cpu-clock -F 199 -o "$WORK/perf.data" -- sleep 1)
	# A CPU may go offline between being listed and being opened.
	attempt "perf: ${program[1]}" 'No such device|Invalid argument|failed to (mmap|open)' "${program[@]}"
	pause $((RANDOM % 5 + 5))
}

# Hotplug.

worker_cpus() {
	local list cpu
	list=$(awk -v list="$NOHZ_FULL" 'BEGIN { parts = split(list, part, ","); for (i = 1; i <= parts; i++) {
		ends = split(part[i], bound, "-"); for (c = bound[1] + 0; c <= bound[ends] + 0; c++) print c } }' | shuf -n 1)
	cpu=/sys/devices/system/cpu/cpu$list/online
	attempt "cpu: offline" 'Device or resource busy' put "$cpu" 0
	pause $((RANDOM % 2 + 1))
	attempt "cpu: online" "" put "$cpu" 1
	pause $((RANDOM % 4 + 3))
}

all_cpus_online() {
	local file
	for file in /sys/devices/system/cpu/cpu[0-9]*/online; do
		[ "$(cat "$file")" = 1 ] || echo 1 >"$file"
	done
}

# It goes on trying until a signal comes.
take_offline() {
	# shellcheck disable=SC2016
	timeout 15 bash -c 'echo offline >"$1/state"' offline "$1"
}

worker_memory() {
	local block
	if [ ! -d "$MEMORY" ]; then
		pause 1000
		return
	fi
	block=$(cd "$MEMORY" && printf '%s\n' memory[0-9]* | sort -rV | head -n 6 | shuf -n 1)
	if attempt "memory: offline" 'busy|Interrupted|Invalid|temporarily|^$|Terminated' take_offline "$MEMORY/$block"; then
		pause 1
		attempt "memory: online" "" put "$MEMORY/$block/state" online
	fi
	pause $((RANDOM % 4 + 2))
}

all_memory_online() {
	local file
	for file in "$MEMORY"/memory*/state; do
		[ ! -e "$file" ] || [ "$(cat "$file")" = online ] || echo online >"$file"
	done
}

# Loads.

# Three kinds at a time.
worker_loads() {
	local kinds=("--fork 1 --vm 1 --vm-bytes 64M --unshare 1" "--mmap 1 --mmap-bytes 4M --clone 1 --clone-max 16"
		"--seccomp 1 --aio 1 --io-uring 1" "--pthread 1 --pthread-max 16 --vma 1 --netdev 1")
	local left=$((END - SECONDS)) name number
	# Options are separate words.
	# shellcheck disable=SC2086
	stress-ng --timeout "$((left < 12 ? left + 1 : 12))" --metrics-brief --temp-path "$WORK" \
		${kinds[STEP++ % ${#kinds[@]}]} >"$WORK/stress-ng" 2>&1
	while read -r name number; do
		count "load: $name" "$number"
	done < <(awk '/metrc:/ && $5 ~ /^[0-9]+$/ && $5 > 0 { print $4, $5 }' "$WORK/stress-ng")
}

# Modules come and go; test_bpf compiles, runs and frees BPF programs, too.
worker_modules() {
	local module=dummy
	[ $((STEP++ % 2)) -eq 0 ] || module='test_bpf test_range=0,4'
	if has_module "${module%% *}"; then
		# Parameters are separate words.
		# shellcheck disable=SC2086
		attempt "other modules: ${module%% *}" "" modprobe $module &&
			attempt "other modules: unloaded" "" modprobe -r "${module%% *}"
	fi
	pause $((RANDOM % 6 + 3))
}

has_module() {
	modprobe --dry-run --quiet "$1"
}

worker_netns() {
	if [ -e /proc/self/ns/net ] && attempt "netns: made" "" ip netns add stress; then
		attempt "netns: made and removed" "" ip netns del stress
	fi
	pause 4
}

worker_flushes() {
	attempt "flushes: aliases" "" dflush flush aliases 50
	attempt "flushes: vrealloc" "" dflush flush vrealloc 20
	attempt "flushes: huge" "" dflush flush huge 2
	pause 2
}

worker_sysrq() {
	attempt "NMI: sysrq-l" "" put /proc/sysrq-trigger l
	pause 15
}

# Bad writes, while the files come and go.
worker_fuzz() {
	local output
	output=$("$DFLUSH_BIN/fuzz" -a -d 5)
	count "fuzz: bad writes" "$(sed -n 's/.* refused=\([0-9]*\).*/\1/p' <<<"$output")"
	# That nothing came to the module is no surprise: it may have been away.
	! grep -qE '^not ok [13]' <<<"$output" || echo "fuzz: $output" >>"$WORK/unexpected"
	pause 4
}
