// SPDX-License-Identifier: GPL-2.0
/*
 * The measuring program of `make bench`: prints one line of raw counts for each
 * call, for bench-report. A count is a difference of the time-stamp counter,
 * which under -icount shift=0 advances by one with each instruction that any
 * CPU of the machine executes.
 *
 *	measure calibrate		loops of known length
 *	measure getppid CPU		batches of ITERATIONS round trips, on CPU
 *	measure owe CPU BITS		the same for FLUSH_BENCH_OWE
 *	measure empty|direct|purge CPU	single calls in the kernel, on CPU
 *	measure deferred CPU CPULIST	pairs of single purges on CPU: the first after
 *					CPULIST was written to the module's file cpus,
 *					which drains every CPU
 *	measure spin CPU		counts nothing; stays in user mode until killed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "flush_bench.h"

#define ITERATIONS 1000
#define BATCHES 61
#define CALLS 61
/* Counts thrown away at the start of each series: caches of the kernel fill, the tick stops. */
#define WARM_UP 20

static void die(const char *what)
{
	fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fprintf(stderr, "measure: wrong arguments; see the head of measure.c\n");
	exit(2);
}

static inline uint64_t counter(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Two instructions an iteration. Not inlined, so that there is only one. */
static __attribute__((noinline)) uint64_t known_loop(uint64_t iterations)
{
	uint64_t start = counter();

	asm volatile("1: dec %0; jnz 1b" : "+r"(iterations) : : "cc");
	return counter() - start;
}

/*
 * By the C library's syscall(), as an application would: 19 instructions an
 * iteration in user mode, of which 4 would do.
 */
static uint64_t round_trips(long number, long a, long b, long c)
{
	uint64_t start = counter();

	for (int i = 0; i < ITERATIONS; i++)
		syscall(number, a, b, c);
	return counter() - start;
}

static void series_of_round_trips(long number, long a, long b, long c)
{
	uint64_t count[WARM_UP + BATCHES];

	for (int i = 0; i < WARM_UP + BATCHES; i++)
		count[i] = round_trips(number, a, b, c);
	for (int i = WARM_UP; i < WARM_UP + BATCHES; i++)
		printf(" %lu", count[i]);
}

static uint64_t call(int device, enum flush_bench_command command)
{
	long count = syscall(SYS_ioctl, device, command, 0);

	if (count < 0)
		die("a call of flush_bench");
	return count;
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);

	if (file < 0 || write(file, text, strlen(text)) < 0)
		die(path);
	close(file);
}

/*
 * Lets the other CPUs go back to where they were. Never for the same time, or
 * the timer interrupt could fall into every sample.
 */
static void settle(void)
{
	static unsigned int calls;

	usleep(150 + calls++ * 73 % 400);
}

static void series_of_calls(int device, enum flush_bench_command command)
{
	for (int i = 0; i < WARM_UP + CALLS; i++) {
		uint64_t count = call(device, command);

		if (i >= WARM_UP)
			printf(" %lu", count);
		settle();
	}
}

static void series_of_pairs(int device, const char *cpus)
{
	for (int i = 0; i < WARM_UP + CALLS; i++) {
		uint64_t first, pending;

		write_file("/sys/kernel/deferred_flush/cpus", cpus);
		settle();
		first = call(device, FLUSH_BENCH_PURGE);
		settle();
		pending = call(device, FLUSH_BENCH_PURGE);
		if (i >= WARM_UP)
			printf(" %lu %lu", first, pending);
	}
}

static int open_device(void)
{
	int device = open(FLUSH_BENCH_DEVICE, O_RDWR);

	if (device < 0)
		die(FLUSH_BENCH_DEVICE);
	return device;
}

static void run_on(const char *text)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(atoi(text), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

int main(int argc, char **argv)
{
	static char buffer[1 << 16];

	if (argc < 2)
		usage();
	/* Nothing is written, and no page faults, before the end. */
	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	if (argc > 2)
		run_on(argv[2]);

	if (!strcmp(argv[1], "calibrate") && argc == 2) {
		known_loop(1000);
		printf(" %lu %lu", known_loop(1000), known_loop(3000));
	} else if (!strcmp(argv[1], "getppid") && argc == 3) {
		series_of_round_trips(SYS_getppid, 0, 0, 0);
	} else if (!strcmp(argv[1], "owe") && argc == 4) {
		int device = open_device();

		if (ioctl(device, FLUSH_BENCH_OWE, 0L))
			die("FLUSH_BENCH_OWE");
		series_of_round_trips(SYS_ioctl, device, FLUSH_BENCH_OWE, atol(argv[3]));
	} else if (!strcmp(argv[1], "empty") && argc == 3) {
		series_of_calls(open_device(), FLUSH_BENCH_EMPTY);
	} else if (!strcmp(argv[1], "direct") && argc == 3) {
		series_of_calls(open_device(), FLUSH_BENCH_DIRECT);
	} else if (!strcmp(argv[1], "purge") && argc == 3) {
		series_of_calls(open_device(), FLUSH_BENCH_PURGE);
	} else if (!strcmp(argv[1], "deferred") && argc == 4) {
		series_of_pairs(open_device(), argv[3]);
	} else if (!strcmp(argv[1], "spin") && argc == 3) {
		for (;;)
			asm volatile("");
	} else {
		usage();
	}
	printf("\n");
	return 0;
}
