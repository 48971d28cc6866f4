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
 * generation, so an old table is recognised by what is read, or by the fault if
 * its pages have become something else.
 *
 * What makes old tables visible is that a new one comes to lie where an old one
 * was, on other pages. vmalloc hands out first what was purged last. So each old
 * table is waited for, which the kernel frees by a worker, nothing else of its size
 * is allocated, and the test counts how often it worked. Its page is held.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
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
/* For the swapped area; those of the table are 16. */
#define OTHER_SIZE 24

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

/* The segment is not there any more: no table of ours, and no way on for this thread. */
static void on_fault(int number)
{
	(void)number;
	stale++;
	syscall(SYS_exit, 0);
}

/* Where the present table is; absent: whether the one at old has been freed. */
static struct dflush_request look_at_table(unsigned long old)
{
	struct dflush_request about = { .address = old };

	request(DFLUSH_NR_LDT, &about);
	return about;
}

/* Until the thread has read again: then it is in user mode. */
static void wait_for_reads(double limit)
{
	unsigned long before = reads;

	while (reads < before + 2 && !stale && now() < limit)
		usleep(20);
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
	long changes = argc > 1 ? atol(argv[1]) : 100;
	struct cpu_row before, after;
	double limit = now() + PATIENCE;
	unsigned long table, old, older = 0, reused = 0;
	pthread_t user;
	int error;

	ksft_print_header();
	ksft_set_plan(1);
	cpu = nohz_full_cpus().cpu[0];
	pin_to(housekeeping_cpu());
	setup_area(OTHER_SIZE, 4);
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
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
	table = look_at_table(0).address;
	for (long i = 2; i < changes + 2 && !stale; i++) {
		old = table;
		if (change_entry(i))
			fail("modify_ldt: %s", strerror(errno));
		published = i;
		table = look_at_table(0).address;
		reused += table == older;
		older = old;
		while (!look_at_table(old).absent && now() < limit)
			usleep(100);
		wait_for_reads(limit);
		/* Purges the old table, too. */
		swap_area(1);
	}
	after = cpu_row(cpu);
	stop = 1;
	pthread_join(user, NULL);
	ksft_print_msg("changes=%ld reused=%lu deferred=%lld flush_entry=%lld reads=%lu stale=%lu\n",
		       changes, reused, after.deferred - before.deferred,
		       after.flush_entry - before.flush_entry, reads, stale);
	ksft_test_result(!stale && reads && after.deferred - before.deferred >= changes / 2 &&
			 (long)reused >= changes / 2,
			 "ldt: a table in vmalloc is never an old one, %ld changes\n", changes);
	ksft_finished();
}
