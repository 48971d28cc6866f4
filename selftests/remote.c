// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs that are not in user mode on the isolated set are flushed before the
 * flush returns: idle ones, those in kernel mode, and housekeeping CPUs.
 *
 * The pages are read by a function-call interrupt. An idle CPU takes it without
 * passing the receiver, so only the flush's own interrupt helps there.
 */
#include <stdio.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define ROUNDS 30

static void test_idle(int cpu)
{
	struct cpu_row before, after;
	unsigned long long stale = 0;

	usleep(20000);
	before = cpu_row(cpu);
	for (int i = 0; i < ROUNDS; i++) {
		struct dflush_request reading;

		read_on(cpu);
		swap_area(1);
		reading = read_on(cpu);
		stale += reading.stale + reading.absent;
	}
	after = cpu_row(cpu);
	ksft_print_msg("idle: stale=%llu deferred=%lld ipi_not_quiet=%lld\n", stale,
		       after.deferred - before.deferred,
		       after.ipi_not_quiet - before.ipi_not_quiet);
	ksft_test_result(!stale, "remote: an idle CPU reads nothing stale\n");
	ksft_test_result(after.deferred == before.deferred &&
			 after.ipi_not_quiet >= before.ipi_not_quiet + ROUNDS,
			 "remote: an idle CPU is interrupted, never deferred\n");
}

static void test_kernel_mode(int cpu)
{
	struct spinner spinner = start_spinner(cpu);
	struct cpu_row before, after;
	long swaps = 0;

	before = cpu_row(cpu);
	give_order(&spinner, ORDER_BUSY, 2000000);
	/* Not before it is in there: it leaves user mode a moment after the order. */
	usleep(100000);
	before = cpu_row(cpu);
	while (spinner.line->done_number != spinner.line->order_number + 1 && swaps < ROUNDS) {
		swap_area(1);
		swaps++;
	}
	after = cpu_row(cpu);
	wait_done(&spinner);
	ksft_print_msg("kernel mode: swaps=%ld reads=%llu stale=%llu deferred=%lld\n", swaps,
		       spinner.line->reads, spinner.line->stale,
		       after.deferred - before.deferred);
	/* The last of the swaps may have met it on its way out. */
	ksft_test_result(swaps && !spinner.line->stale &&
			 after.deferred - before.deferred <= (swaps < ROUNDS),
			 "remote: a CPU in kernel mode is interrupted and reads nothing stale\n");
	stop_spinner(&spinner);
}

static void test_housekeeping(int sender, int cpu)
{
	struct spinner spinner = start_spinner(cpu);
	unsigned long long stale = 0, deferred;

	pin_to(sender);
	usleep(20000);
	deferred = summary("deferred");
	for (int i = 0; i < ROUNDS; i++) {
		struct dflush_request reading;

		read_on(cpu);
		swap_area(1);
		reading = read_on(cpu);
		stale += reading.stale + reading.absent;
	}
	deferred = summary("deferred") - deferred;
	pin_to(cpu);
	ksft_print_msg("housekeeping: stale=%llu deferred=%llu\n", stale, deferred);
	ksft_test_result(!stale && !deferred,
			 "remote: a housekeeping CPU in user mode is interrupted and reads nothing stale\n");
	stop_spinner(&spinner);
}

int main(void)
{
	struct cpu_list cpus = nohz_full_cpus();
	int housekeeping = housekeeping_cpu();

	ksft_print_header();
	ksft_set_plan(4);
	pin_to(housekeeping);
	setup_area(PAGES, 4);
	test_idle(cpus.cpu[cpus.count - 1]);
	test_kernel_mode(cpus.cpu[0]);
	test_housekeeping(cpus.cpu[0], housekeeping);
	ksft_finished();
}
