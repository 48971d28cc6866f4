# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts that make Debian roots share. Source it after lib.sh, with
# $log set; it runs nothing.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The URI of the host's Debian archive, never that of its security archive.
mirror() {
	# apt replaces these, not the shell.
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(ORIGIN) $(CREATED_BY) $(CODENAME) $(REPO_URI)' |
		awk '$1 == "Debian" && $2 == "Packages" && $3 !~ /security/ { sub(/\/$/, "", $4); print $4; exit }'
}

# Say what went wrong, with the sentence that helps, and leave nothing behind.
fail_with_log() {
	tail -n 15 "$log" >&2
	if grep -qE 'Could not (resolve|connect)|Connection (refused|timed out)|403 |Unable to connect' "$log"; then
		die "$1: the network or the mirror refused; check that 'apt-get update' works on this host (whole log: $log)"
	fi
	die "$1 (whole log: $log)"
}

# check_host GIB: whether a root of that size can be made here.
check_host() {
	command -v apt-get >/dev/null ||
		die "this host has no apt; on a host with the kernel's exact Rust toolchain and a prepared tree, use 'make KDIR=...' instead"
	if [ "$(id -u)" -ne 0 ] && ! unshare --map-root-user --map-auto --mount true 2>/dev/null; then
		die "not root, and user namespaces are not available here; run as root, or allow unprivileged user namespaces (newuidmap, /etc/subuid)"
	fi
	mkdir -p "$CACHE" || die "cannot make $CACHE; set DEFERRED_FLUSH_CACHE to a directory that can be written"
	local free_gib
	free_gib=$(($(df --output=avail -k "$CACHE" | tail -n 1) / 1024 / 1024))
	if [ "$free_gib" -lt "$1" ]; then
		die "only $free_gib GiB are free under $CACHE and $1 are needed; set DEFERRED_FLUSH_CACHE to a larger place"
	fi
}

# Print the URI of the mirror, with apt's lists fetched if need be.
find_mirror() {
	local uri
	uri=$(mirror)
	if [ -z "$uri" ] && [ "$(id -u)" -eq 0 ]; then
		apt-get update >"$log" 2>&1 || fail_with_log "apt has no package lists and cannot fetch them"
		uri=$(mirror)
	fi
	[ -n "$uri" ] || die "apt on this host has no Debian mirror configured; add one to /etc/apt/sources.list and run 'apt-get update'"
	echo "$uri"
}

install_bootstrap_tools() {
	if command -v mmdebstrap >/dev/null && [ -e "$KEYRING" ]; then
		return
	fi
	[ "$(id -u)" -eq 0 ] ||
		die "mmdebstrap or debian-archive-keyring is missing; install them as root with apt-get"
	{ apt-get update && apt-get install -y --no-install-recommends mmdebstrap debian-archive-keyring; } >"$log" 2>&1 ||
		fail_with_log "cannot install mmdebstrap and debian-archive-keyring"
}
