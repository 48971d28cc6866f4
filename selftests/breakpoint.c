// SPDX-License-Identifier: GPL-2.0
/*
 * Holds a hardware breakpoint, as perf and debuggers set them, until standard
 * input ends. Prints "ready" when it is set.
 *
 *   breakpoint execute SYMBOL CPU    on the first byte of a kernel function
 *   breakpoint write SYMBOL CPU      on a kernel variable
 *   breakpoint user CPU              on a variable of its own
 *
 * Exit status 0, or 1 with a reason on standard error.
 */
#include <errno.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

static int variable;

int main(int argc, char **argv)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(attr),
		.bp_type = HW_BREAKPOINT_W,
		.bp_len = HW_BREAKPOINT_LEN_4,
		.bp_addr = (unsigned long)&variable,
	};
	char byte;

	if (argc == 4) {
		attr.bp_addr = find_symbol(argv[2]);
		if (!strcmp(argv[1], "execute")) {
			attr.bp_type = HW_BREAKPOINT_X;
			attr.bp_len = sizeof(long);
		}
	} else if (argc != 3) {
		fprintf(stderr, "breakpoint: see the head of breakpoint.c for its use\n");
		return 1;
	}
	if (syscall(SYS_perf_event_open, &attr, -1, atoi(argv[argc - 1]), -1, 0) < 0) {
		fprintf(stderr, "breakpoint: perf_event_open: %s\n", strerror(errno));
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}
