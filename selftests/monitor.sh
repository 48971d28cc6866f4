# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# QEMU's monitor, which scripts/vm --hotplug puts on a port of the guest. Sourced
# after functions.sh.

# monitor_port: its device; fails if this machine has none.
monitor_port() {
	local name
	for name in /sys/class/virtio-ports/*/name; do
		if [ "$(cat "$name" 2>/dev/null)" = monitor ]; then
			name=${name%/name}
			echo "/dev/${name##*/}"
			return 0
		fi
	done
	return 1
}

# monitor LINE
monitor() {
	echo "$1" >"$(monitor_port)"
}

# What QEMU needs to plug the last CPU in again: TYPE,id=NAME,...
last_cpu_device() {
	sed -n 's/.*vm_last_cpu=\([^ ]*\).*/\1/p' /proc/cmdline
}

# wait_until COMMAND...: whether it succeeds within some seconds.
wait_until() {
	local tries
	for tries in {1..150}; do
		if "$@"; then
			return 0
		fi
		sleep 0.1
	done
	note "not after $tries looks: $*"
	return 1
}
