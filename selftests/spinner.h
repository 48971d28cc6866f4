/* SPDX-License-Identifier: GPL-2.0 */
/* What a test and its spinner say to each other, of 64 bits or of 32. */
#ifndef DFLUSH_SPINNER_H
#define DFLUSH_SPINNER_H

/* What a spinner does between two rests in user mode. */
enum order {
	ORDER_NONE,
	ORDER_READ,		/* read the pages by a system call */
	ORDER_SYSCALL,
	ORDER_COMPAT,		/* only of 32 bits: SYSENTER or SYSCALL, as the CPU has it */
	ORDER_INT80,
	ORDER_DROP,		/* prepare the page that ORDER_FAULT touches */
	ORDER_FAULT,
	ORDER_BREAKPOINT,
	ORDER_STEP,
	ORDER_TIMER,		/* start a timer, be at rest before it ends */
	ORDER_BUSY,		/* read in kernel mode for argument microseconds */
	ORDER_SLEEP,		/* until told to stop by wake_spinner(); the CPU is idle */
	ORDER_MEET,		/* READ_AT_MEETING; argument: the CPU, sender's CPU << 32 */
	ORDER_MIX,		/* enter and leave at random until told to stop */
	ORDER_QUIT,
};

/* Shared memory. Each side writes its own cache line; same layout for both. */
struct spinner_line {
	/* written by the test */
	_Alignas(64) unsigned int order_number;
	unsigned int order;
	unsigned long long argument;
	unsigned int stop;
	/* written by the spinner */
	_Alignas(64) unsigned int done_number;
	int error;
	unsigned long long reads;
	unsigned long long stale;
	unsigned long long absent;
	unsigned long long entries;
};

_Static_assert(sizeof(struct spinner_line) == 128, "the same for 32 and 64 bits");

#endif /* DFLUSH_SPINNER_H */
