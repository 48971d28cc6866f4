# SPDX-License-Identifier: GPL-2.0
#
# Takes the commands out of a page: each literal block of reStructuredText, each
# indented block of Markdown. For documentation.sh.
#
# -v format=rst|md -v directory=WHERE
#
# Block N becomes WHERE/N.cmd. A mark in front of a block says that it is not run
# as others are, and why: a comment of its own, in the form
#   .. not run: REASON        .. slow: REASON         <!-- not run: REASON -->
# It becomes the first line of WHERE/N.not-run or WHERE/N.slow. What is wrong with
# the page goes to WHERE/errors. A code-block of another language than the shell's
# is no command.

function indent(line) {
	match(line, /^[ \t]*/)
	return RLENGTH
}

function error(text) {
	printf "line %d: %s\n", FNR, text >(directory "/errors")
}

function begin(where, commands) {
	in_block = 1
	base = where
	strip = -1
	is_commands = commands
	if (!commands)
		return
	name = sprintf("%s/%04d", directory, FNR)
	printf "" >(name ".cmd")
	if (kind != "")
		print reason >(name "." kind)
	kind = ""
}

function mark(line) {
	if (kind != "")
		error("two marks, one block")
	sub(/^[ ]*(\.\.|<!--) /, "", line)
	sub(/ *-->$/, "", line)
	kind = (line ~ /^slow/) ? "slow" : "not-run"
	reason = line
	sub(/^[a-z ]*: */, "", reason)
	if (length(reason) < 10)
		error("a mark without a reason")
}

in_block && /^[ \t]*$/ {
	was_blank = 1
	next
}

in_block && indent($0) > base {
	if (strip < 0)
		strip = indent($0)
	if (is_commands)
		print substr($0, strip + 1) >(name ".cmd")
	next
}

in_block { in_block = 0 }

/^ *(\.\.|<!--) (not run|slow):/ {
	mark($0)
	next
}

format == "rst" && /^ *\.\. code-block:: *(sh|bash|shell|console) *$/ {
	begin(indent($0), 1)
	next
}

format == "rst" && /^ *\.\. .*::/ {
	begin(indent($0), 0)
	next
}

format == "rst" && /::$/ {
	begin(indent($0), 1)
	next
}

format == "md" && /^    / && was_blank {
	begin(3, 1)
	strip = 4
	print substr($0, 5) >(name ".cmd")
	next
}

/^[ \t]*$/ {
	was_blank = 1
	next
}

{
	was_blank = 0
	if (kind != "") {
		error("a mark that no block follows")
		kind = ""
	}
}

END {
	if (kind != "")
		error("a mark that no block follows")
}
