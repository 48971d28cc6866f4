#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The program kvm, with the kernel's KVM loaded.

. "$(dirname "$0")/functions.sh"

modprobe kvm-amd 2>/dev/null || modprobe kvm-intel 2>/dev/null || true
load_module
status=0
"$DFLUSH_BIN/kvm" || status=$?
unload_module
modprobe -r kvm-amd kvm-intel 2>/dev/null || true
exit "$status"
