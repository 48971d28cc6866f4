#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Ends the machine while every isolated CPU is in user mode and owes a flush:
# nobody gets to switch the module off before.
#
# Usage: ending.sh reboot|kexec
#
# It does not come back. What tells success is the last thing that the machine
# says: of a reboot the kernel's own line, which comes after all other CPUs have
# been stopped; of a kexec "second kernel is up", by the second kernel's init.

. "$(dirname "$0")/functions.sh"

die() {
	echo "# $*"
	exit 1
}

# All that the second kernel runs.
make_initramfs() {
	mkdir -p "$1/bin" "$1/dev"
	cp /bin/busybox "$1/bin"
	cat >"$1/init" <<-'END'
		#!/bin/busybox sh
		/bin/busybox mount -t devtmpfs dev /dev
		echo "second kernel is up" >/dev/kmsg
		/bin/busybox sleep 1
		/bin/busybox poweroff -f
	END
	chmod +x "$1/init"
	(cd "$1" && find . | cpio --quiet -o -H newc) >"$2"
}

load_second_kernel() {
	local work
	work=$(mktemp -d)
	make_initramfs "$work/root" "$work/initramfs"
	kexec --kexec-file-syscall --load "/boot/vmlinuz-$(uname -r)" --initrd="$work/initramfs" \
		--command-line="$(tr ' ' '\n' </proc/cmdline | grep -vE '^(init|vm_run|virtme.*)=' | paste -sd' ')"
	rm -rf "$work"
}

owing() {
	awk 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "word") column = i; next }
		$column !~ /^(0x)?0+$/ { owing++ }
		END { print owing + 0 }' "$VIEWS/cpus"
}

case ${1:-} in
reboot) end=(reboot -f) ;;
kexec)
	load_second_kernel || die "the second kernel cannot be loaded"
	end=(kexec --exec)
	;;
*) die "Usage: ending.sh reboot|kexec" ;;
esac

load_module
hold_cpus "$NOHZ_FULL"
dflush flush aliases 3
wanted=$(($(nproc --all) - 1))
count=$(owing)
note "$count CPUs owe a flush"
[ "$count" -eq "$wanted" ] || die "there should be $wanted"
sync
"${end[@]}"
die "the machine went on"
