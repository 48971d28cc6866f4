// SPDX-License-Identifier: GPL-2.0
/*
 * No stale translation: pages are swapped behind spinners in user mode, which
 * read them back.
 *
 * Usage: stale [-c CPUS] [-p PAGES] [-s SWAPS,SWAPS...] [-r ROUNDS]
 *
 * Without options on all isolated CPUs at once, 96 pages, with 1, 3 and 100
 * swaps a round. The lines '# swaps=...' are for the negative controls: they
 * say in how many of the rounds with a deferred flush something stale was read.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

struct sums {
	long rounds;		/* rounds times CPUs */
	long deferred;		/* of these: the last flush was deferred */
	long stale_rounds;	/* of these: something stale, or long gone, was read */
	long calm;		/* of the deferred: nothing else ran on the CPU */
	long calm_stale;	/* of the calm: something stale, or long gone, was read */
	unsigned long long reads;
	unsigned long long stale;
	unsigned long long absent;
	unsigned long moved;
};

/* Another task on the CPU replaces the translations of the spinner. */
static unsigned long switches(pid_t pid)
{
	unsigned long sum = 0, value;
	char path[32], line[128];
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = fopen(path, "re");
	if (!status)
		fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), status))
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &value) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &value) == 1)
			sum += value;
	fclose(status);
	return sum;
}

static void one_round(struct spinner *spinners, int count, unsigned long swaps, struct sums *sums)
{
	long long deferred[DFLUSH_TEST_MAX_CPUS];
	unsigned long before[DFLUSH_TEST_MAX_CPUS];

	for (int i = 0; i < count; i++)
		before[i] = switches(spinners[i].pid);
	/* Translations of the present generation into every TLB. */
	for (int i = 0; i < count; i++)
		give_order(&spinners[i], ORDER_READ, 0);
	for (int i = 0; i < count; i++)
		wait_done(&spinners[i]);
	for (int i = 0; i < count; i++) {
		spinners[i].line->stale = 0;
		spinners[i].line->absent = 0;
		spinners[i].line->reads = 0;
		deferred[i] = cpu_row(spinners[i].cpu).deferred;
	}
	sums->moved += swap_area(swaps);
	for (int i = 0; i < count; i++)
		deferred[i] = cpu_row(spinners[i].cpu).deferred - deferred[i];
	for (int i = 0; i < count; i++)
		give_order(&spinners[i], ORDER_READ, 0);
	for (int i = 0; i < count; i++)
		wait_done(&spinners[i]);
	for (int i = 0; i < count; i++) {
		struct spinner_line *line = spinners[i].line;

		sums->rounds++;
		sums->reads += line->reads;
		sums->stale += line->stale;
		sums->absent += line->absent;
		if (deferred[i] >= (long long)swaps) {
			bool is_stale = line->stale || line->absent;
			bool is_calm = switches(spinners[i].pid) == before[i];

			sums->deferred++;
			sums->stale_rounds += is_stale;
			sums->calm += is_calm;
			sums->calm_stale += is_calm && is_stale;
		}
	}
}

static void test_swaps(struct spinner *spinners, int count, unsigned long pages,
		       unsigned long swaps, long rounds)
{
	struct sums sums = { 0 };

	setup_area(pages, swaps + 2);
	for (long i = 0; i < rounds; i++)
		one_round(spinners, count, swaps, &sums);
	ksft_print_msg("swaps=%lu rounds=%ld deferred=%ld stale_rounds=%ld reads=%llu stale=%llu absent=%llu moved=%lu calm=%ld calm_stale=%ld\n",
		       swaps, sums.rounds, sums.deferred, sums.stale_rounds,
		       sums.reads, sums.stale, sums.absent, sums.moved, sums.calm, sums.calm_stale);
	ksft_test_result(!sums.stale && !sums.absent && sums.reads == pages * sums.rounds,
			 "stale: no stale page after %lu swaps on %d CPUs\n", swaps, count);
	/* A CPU may be in the kernel for once, but a test of nothing proves nothing. */
	ksft_test_result(sums.deferred * 2 > sums.rounds,
			 "stale: flushes were deferred, %lu swaps on %d CPUs\n", swaps, count);
}

int main(int argc, char **argv)
{
	struct spinner spinners[DFLUSH_TEST_MAX_CPUS];
	struct cpu_list cpus = nohz_full_cpus();
	unsigned long pages = 96, swaps[8] = { 1, 3, 100 };
	long rounds = 20;
	int option, kinds = 3;

	while ((option = getopt(argc, argv, "c:p:s:r:")) != -1) {
		switch (option) {
		case 'c':
			cpus = parse_cpus(optarg);
			break;
		case 'p':
			pages = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			rounds = strtol(optarg, NULL, 10);
			break;
		case 's':
			kinds = 0;
			for (char *part = strtok(optarg, ","); part && kinds < 8;
			     part = strtok(NULL, ","))
				swaps[kinds++] = strtoul(part, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	ksft_print_header();
	ksft_set_plan(2 * kinds);
	pin_to(housekeeping_cpu());
	setup_area(pages, 2);
	for (int i = 0; i < cpus.count; i++)
		spinners[i] = start_spinner(cpus.cpu[i]);
	for (int i = 0; i < kinds; i++)
		test_swaps(spinners, cpus.count, pages, swaps[i], rounds);
	for (int i = 0; i < cpus.count; i++)
		stop_spinner(&spinners[i]);
	ksft_finished();
}
