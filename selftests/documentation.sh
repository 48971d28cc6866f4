#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs every command of the documentation, in the order of each page, as root.
#
# Usage: documentation.sh [slow]
#
# documentation.awk takes the blocks out of a page. Each page has a shell of its
# own, each block begins in a directory that looks like a built checkout, and each
# command has to succeed. A command is one line, or several that end in a backslash
# or stand within single quotes. Those that are marked as not to be run are counted,
# those marked as slow run with "slow" only, and then nothing else does.
#
# The tool dflush is that of out/tools/, which scripts/test builds.
#
# 'make TARGET' is not run: continuous integration does that. The target has to
# exist. A 'sleep' takes a moment only, but with "slow".

. "$(dirname "$0")/functions.sh"

here=$(cd "$(dirname "$0")" && pwd)
source_tree=$(cd "$here/.." && pwd)
slow=${1:-no}
work=$(mktemp -d)
scratch=$work/checkout
trap 'rm -rf "$work" "$HOLD_LOG"' EXIT

# They load and unload the module themselves.
loading_pages=(README.md Documentation/admin-guide.rst)
# For the others it is loaded, and they must not suspend it. (Not here: design.rst and
# proof-tables.rst have no commands, those of entry-audit.rst are make audit's.)
pages=(CONTRIBUTING.md Documentation/{tuning,watching,troubleshooting,faq,security,testing}.rst)
[ "$slow" = no ] || loading_pages=() pages=(Documentation/watching.rst)

# A checkout after make: links to what is there.
make_scratch() {
	mkdir -p "$scratch/out"
	ln -s "$(dirname "$DFLUSH_MODULE")" "$scratch/out/module"
	# Not the selftests' own program of that name.
	mkdir -p "$work/bin"
	ln -s "${DFLUSH_TOOL:-$source_tree/out/tools/release/dflush}" "$work/bin/dflush"
	local file
	for file in Documentation README.md Makefile scripts tools selftests; do
		ln -s "$source_tree/$file" "$scratch/$file"
	done
}

# The module where modprobe finds it, and nothing else there, as depmod of all the
# kernel's modules takes a minute under emulation.
install_module() {
	local release
	release=$(uname -r)
	mkdir -p "$work/modules/updates"
	cp "$DFLUSH_MODULE" "$work/modules/updates/deferred_flush.ko"
	cp "/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$work/modules/"
	mount --bind "$work/modules" "/lib/modules/$release"
	depmod "$release"
}

uninstall_module() {
	umount "/lib/modules/$(uname -r)"
	rm -rf "$work/modules"
}

# Whether each target of a 'make ...' is there.
is_make_of_targets() {
	local word target
	set -f
	# Without the comment, as words.
	# shellcheck disable=SC2086
	set -- ${1%%#*}
	set +f
	shift
	[ $# -gt 0 ] || set -- all
	for word; do
		case $word in
		*=*) continue ;;
		esac
		target=$word
		grep -qE "^([a-z-]+ )*$target( [a-z-]+)*:" "$source_tree/Makefile" || return 1
	done
}

# run_command COMMAND
run_command() {
	case $1 in
	make | "make "*)
		targets=$((targets + 1))
		is_make_of_targets "$1"
		;;
	*)
		commands=$((commands + 1))
		eval "$1" </dev/null >>"$work/output" 2>&1
		;;
	esac
}

# run_block FILE: its commands; says which of them failed.
run_block() {
	local line command='' quotes number
	number=$(basename "$1" .cmd)
	cd "$scratch" || return
	while IFS= read -r line || [ -n "$line" ]; do
		command+=${command:+$'\n'}$line
		# Those of a comment do not count.
		quotes=${command%%[[:space:]]#*}
		quotes=${quotes//[^\']/}
		if [ $((${#quotes} % 2)) -eq 1 ] || [ "${line%\\}" != "$line" ]; then
			continue
		fi
		if [ -n "${command%%#*}" ]; then
			: >"$work/output"
			if ! run_command "$command"; then
				printf 'failed: line %d and after: %s\n' "$((10#$number))" "$command"
				tail -n 5 "$work/output" | sed 's/^/  /'
			fi
		fi
		command=''
	done <"$1"
	[ -z "$command" ] || echo "failed: not a whole command: $command"
}

# run_page FILE: prints what failed, and at last what was counted.
run_page() {
	local block blocks=$work/blocks commands=0 targets=0 marked=0 start=$SECONDS
	rm -rf "$blocks"
	mkdir "$blocks"
	awk -v format="${1##*.}" -v directory="$blocks" -f "$here/documentation.awk" "$1"
	[ ! -s "$blocks/errors" ] || sed 's/^/failed: /' "$blocks/errors"
	# Like the shell of whoever types this in.
	set +eu
	unset -f dflush
	PATH=$work/bin:$PATH
	if [ "$slow" = no ]; then
		# Called by the pages.
		# shellcheck disable=SC2317
		sleep() { command sleep 0.2; }
	fi
	for block in "$blocks"/*.cmd; do
		[ -e "$block" ] || continue
		if [ -e "${block%.cmd}.not-run" ] || { [ "$slow" = no ] && [ -e "${block%.cmd}.slow" ]; }; then
			marked=$((marked + 1))
			sed "s/^/not run: line $((10#$(basename "$block" .cmd))): /" "${block%.cmd}".{not-run,slow} 2>/dev/null
		elif [ "$slow" = no ] || [ -e "${block%.cmd}.slow" ]; then
			run_block "$block"
		fi
	done
	echo "commands run: $commands, make targets: $targets, blocks not run: $marked"
	echo "in $((SECONDS - start)) s"
}

# page_works FILE: every command of it.
page_works() {
	local output result=0
	output=$(run_page "$1" 2>&1) || result=1
	note "${output//$'\n'/$'\n# '}"
	[ "$result" -eq 0 ] && ! grep -q '^failed' <<<"$output" && ! grep -q '^commands run: 0, make targets: 0,' <<<"$output"
}

# keeps_deferring FILE: likewise, and deferral was not suspended meanwhile.
keeps_deferring() {
	local before
	before=$(summary suspensions)
	page_works "$1" || return 1
	note "suspensions: $before before, $(summary suspensions) after; state '$(state_of)'"
	[ "$(summary suspensions)" -eq "$before" ] && [[ $(state_of) != suspended* ]]
}

# A page with four mistakes: each is noticed, and nothing else.
bad_page() {
	cat <<-'END'
		Good ones, in two blocks that follow each other.

		::

		  true   # with a comment that doesn't matter
		  echo 'a word
		  and another' | grep -q another
		  make test MINUTES=3

		.. code-block:: text

		  this is no command

		Bad ones::

		  echo on >/sys/kernel/deferred_flush/no_such_file
		  make no-such-target

		.. not run: no

		::

		  false

		.. not run: it would take all day, and the night

		::

		  false

		.. not run: and nothing comes after this mark

		The end.
	END
}

mistakes_are_noticed() {
	local output
	bad_page >"$work/bad.rst"
	output=$(run_page "$work/bad.rst" 2>&1)
	note "${output//$'\n'/$'\n# '}"
	[ "$(grep -c '^failed' <<<"$output")" -eq 4 ] &&
		grep -q '^failed: .*no_such_file$' <<<"$output" &&
		grep -q '^failed: .*make no-such-target$' <<<"$output" &&
		grep -q '^failed: .*a mark without a reason' <<<"$output" &&
		grep -q '^failed: .*a mark that no block follows' <<<"$output" &&
		grep -q '^commands run: 3, make targets: 2, blocks not run: 2$' <<<"$output" &&
		! page_works "$work/bad.rst" >/dev/null
}

suspending_page() {
	cat <<-'END'
		::

		  cd /sys/kernel/tracing
		  echo 1 >events/nmi/nmi_handler/enable
		  echo 0 >events/nmi/nmi_handler/enable
	END
}

suspension_is_noticed() {
	suspending_page >"$work/suspending.rst"
	page_works "$work/suspending.rst" && ! keeps_deferring "$work/suspending.rst"
}

make_scratch
begin $((2 + ${#loading_pages[@]} + ${#pages[@]}))
if [ ${#loading_pages[@]} -gt 0 ]; then
	install_module
	for page in "${loading_pages[@]}"; do
		check "documentation: $page" page_works "$source_tree/$page"
		unload_module
	done
	uninstall_module
fi
load_module
for page in "${pages[@]}"; do
	[ "$(state_of)" = on ] || echo on >"$CONTROL/mode"
	check "documentation: $page" keeps_deferring "$source_tree/$page"
done
slow=no
check "documentation: mistakes in a page are noticed" mistakes_are_noticed
check "documentation: a recipe that suspends is noticed" suspension_is_noticed
unload_module
ktap_finished
