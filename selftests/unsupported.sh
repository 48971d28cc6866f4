#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Machines on which the module does not load. The boot decides what is refused:
#
# Usage: unsupported.sh ERRNO NAME

. "$(dirname "$0")/functions.sh"

begin 2
before=$(fingerprint)
mark_log
status=$(load_status "")
errors=$(count_errors)
note "errno $status:" "$(log_since_mark | grep 'deferred_flush: ' || true)"
check "refusal: $2" test "$status" -eq "$1" -a "$errors" -eq 1
check "refusal: $2, nothing left behind" left_nothing "$before"
ktap_finished
