// SPDX-License-Identifier: GPL-2.0
/*
 * A local descriptor table of 64 KiB, which lies in vmalloc: the processor reads
 * it in user mode, while flushes are deferred for that CPU.
 *
 * Usage: ldt [CHANGES]
 *
 * One thread, on an isolated CPU, loads a segment register from the table and
 * reads through it, and makes no system call. Another one writes the entry anew,
 * for which the kernel makes a new table and frees the old one, and swaps pages
 * behind the first one's back. Each entry leads to a word with the number of its
 * generation, so an old table is recognised by what is read.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

/* The last one, so the table is as large as it can be. */
#define ENTRY 8191
#define SELECTOR (ENTRY << 3 | 7)
#define SLOTS 512

static unsigned int *slots;
static int cpu;
static volatile unsigned long published, reads, stale;
static volatile int stop, ready;

static int change_entry(unsigned long generation)
{
	struct user_desc entry = {
		.entry_number = ENTRY,
		.base_addr = (unsigned int)(unsigned long)&slots[generation % SLOTS],
		.limit = 3,
		.seg_32bit = 1,
		.useable = 1,
	};

	slots[generation % SLOTS] = generation;
	return syscall(SYS_modify_ldt, 1, &entry, sizeof(entry));
}

/* Between the two lines of asm the table is used by the processor alone. */
static void *use_table(void *nothing)
{
	pin_to(cpu);
	lock_memory();
	ready = 1;
	while (!stop) {
		unsigned long before = published;
		unsigned int found;

		asm volatile("mov %1, %%gs\n\t"
			     "mov %%gs:0, %0" : "=r" (found) : "r" (SELECTOR) : "memory");
		reads++;
		stale += found < before;
	}
	return nothing;
}

int main(int argc, char **argv)
{
	long changes = argc > 1 ? atol(argv[1]) : 300;
	struct cpu_row before, after;
	double limit = now() + PATIENCE;
	pthread_t user;
	int error;

	ksft_print_header();
	ksft_set_plan(1);
	cpu = nohz_full_cpus().cpu[0];
	pin_to(housekeeping_cpu());
	setup_area(16, 4);
	slots = mmap(NULL, SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (slots == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	if (change_entry(1))
		fail("modify_ldt: %s", strerror(errno));
	published = 1;
	error = pthread_create(&user, NULL, use_table, NULL);
	if (error)
		fail("pthread_create: %s", strerror(error));
	while (!ready && now() < limit)
		usleep(1000);
	before = cpu_row(cpu);
	for (long i = 2; i < changes + 2 && !stale; i++) {
		if (change_entry(i))
			fail("modify_ldt: %s", strerror(errno));
		published = i;
		/* Purges the old table, too. */
		swap_area(1);
		pause_microseconds(50);
	}
	after = cpu_row(cpu);
	stop = 1;
	pthread_join(user, NULL);
	ksft_print_msg("changes=%ld deferred=%lld flush_entry=%lld reads=%lu stale=%lu\n", changes,
		       after.deferred - before.deferred, after.flush_entry - before.flush_entry,
		       reads, stale);
	ksft_test_result(!stale && reads && after.deferred - before.deferred >= changes / 2,
			 "ldt: a table in vmalloc is never an old one, %ld changes\n", changes);
	ksft_finished();
}
