#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Machines on which the module does not load. The boot decides what is refused:
#
# Usage: unsupported.sh ERRNO NAME...

. "$(dirname "$0")/functions.sh"

errno=$1
shift
begin 2
before=$(fingerprint)
mark_log
status=$(load_status "")
errors=$(count_errors)
note "errno $status:" "$(log_since_mark | grep 'deferred_flush: ' || true)"
check "refusal: $*" test "$status" -eq "$errno" -a "$errors" -eq 1
check "refusal: $*, nothing left behind" left_nothing "$before"
ktap_finished
