// SPDX-License-Identifier: GPL-2.0
/*
 * Two races, made to happen by bringing both sides together.
 *
 * Usage: overlap receiver|sender [MEETINGS]
 *
 * receiver: The receiver takes the word and flushes, in this order. Were it the
 * other way round, what is read in between would stay: an NMI there reads the
 * pages; a sender clears their page-table entries, finds the word already set,
 * and defers; then the receiver takes the word, and the next entry does not
 * flush. In the module itself the two steps are too close for an NMI to fall
 * between often; the variants made for this test have a delay.
 *
 * sender: The sender looks at the CPU's state twice, before and after setting
 * the bit. A CPU that enters the kernel between the two finds no bit, and only
 * the second look tells the sender. An NMI holds the sender between the two, the
 * CPU is interrupted, and reads the pages until the sender has returned.
 *
 * Ends when something stale was read. The line '# meetings=...' is for the
 * negative controls.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96

static enum dflush_stage set_stage(int cpu, enum dflush_stage stage)
{
	struct dflush_request about = { .cpu = cpu, .stage = stage };

	request(DFLUSH_NR_MEET, &about);
	return about.stage;
}

static pid_t start_nmi_sender(int cpu, int victim)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	for (;;) {
		send_ipi(victim, NMI_VECTOR);
		pause_microseconds(20);
	}
}

/* Whether an NMI got between the two steps and the sender came. */
static bool try_to_meet(struct spinner *spinner)
{
	enum dflush_stage stage;
	bool met = false;

	swap_area(1);
	if (!(cpu_row(spinner->cpu).word & 1))
		return false;
	set_stage(spinner->cpu, DFLUSH_STAGE_ARMED);
	give_order(spinner, ORDER_SYSCALL, 0);
	for (;;) {
		struct dflush_request about = { .cpu = spinner->cpu };

		/* REPORT says how far it is without a change. */
		request(DFLUSH_NR_REPORT, &about);
		if (about.stage == DFLUSH_STAGE_WAITS) {
			swap_area(1);
			met = true;
			break;
		}
		if (spinner->line->done_number == spinner->line->order_number + 1)
			break;
	}
	wait_done(spinner);
	stage = set_stage(spinner->cpu, DFLUSH_STAGE_IDLE);
	return met && stage == DFLUSH_STAGE_SENDER_CAME;
}

struct outcome {
	long meetings;
	long tries;
	unsigned long long stale;
};

static struct outcome test_receiver(struct spinner *spinner, int nmi_cpu, long wanted)
{
	struct outcome outcome = { 0 };
	pid_t nmi_sender = start_nmi_sender(nmi_cpu, spinner->cpu);

	arm(spinner->cpu);
	while (outcome.tries++ < wanted * 4 && outcome.meetings < wanted && !outcome.stale) {
		outcome.meetings += try_to_meet(spinner);
		spinner->line->stale = 0;
		obey(spinner, ORDER_READ, 0);
		outcome.stale += spinner->line->stale;
	}
	kill(nmi_sender, SIGKILL);
	waitpid(nmi_sender, NULL, 0);
	outcome.stale += report(spinner->cpu).nmi_stale;
	disarm(spinner->cpu);
	return outcome;
}

static struct outcome test_sender(struct spinner *spinner, int helper_cpu, long wanted)
{
	struct spinner helper = start_spinner(helper_cpu);
	struct outcome outcome = { 0 };

	while (outcome.tries++ < wanted && !outcome.stale) {
		double limit = now() + PATIENCE;

		obey(spinner, ORDER_READ, 0);
		set_stage(spinner->cpu, DFLUSH_STAGE_IDLE);
		give_order(&helper, ORDER_MEET,
			   spinner->cpu | (uint64_t)housekeeping_cpu() << 32);
		while (report(spinner->cpu).stage != DFLUSH_STAGE_WAITS && now() < limit)
			;
		swap_area(1);
		wait_done(&helper);
		outcome.meetings += set_stage(spinner->cpu, DFLUSH_STAGE_IDLE) ==
				    DFLUSH_STAGE_ENTERED;
		outcome.stale += helper.line->stale;
	}
	stop_spinner(&helper);
	return outcome;
}

int main(int argc, char **argv)
{
	struct cpu_list cpus = nohz_full_cpus();
	bool is_sender = argc > 1 && !strcmp(argv[1], "sender");
	long wanted = argc > 2 ? atol(argv[2]) : 30;
	const char *name = is_sender ?
		"overlap: no stale page when a CPU enters between the sender's looks" :
		"overlap: no stale page when an NMI falls between the receiver's steps";
	struct dflush_request tracer = {
		.watch = DFLUSH_WATCH_FTRACE, .symbol = "flush_tlb_kernel_range",
	};
	struct spinner spinner;
	struct outcome outcome;

	ksft_print_header();
	ksft_set_plan(1);
	if (cpus.count < 2) {
		ksft_test_result_skip("%s: needs two isolated CPUs\n", name);
		ksft_finished();
	}
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 8);
	find_word();
	set_stage(cpus.cpu[0], DFLUSH_STAGE_IDLE);
	request(DFLUSH_NR_WATCH, &tracer);
	spinner = start_spinner(cpus.cpu[0]);
	outcome = (is_sender ? test_sender : test_receiver)(&spinner, cpus.cpu[1], wanted);
	stop_spinner(&spinner);
	request(DFLUSH_NR_UNWATCH, &tracer);
	ksft_print_msg("meetings=%ld tries=%ld stale=%llu\n", outcome.meetings, outcome.tries,
		       outcome.stale);
	ksft_test_result(!outcome.stale && (!is_sender || outcome.meetings), "%s\n", name);
	ksft_finished();
}
