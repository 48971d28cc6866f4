// SPDX-License-Identifier: GPL-2.0
/*
 * A tracer is being put on watched code: what may happen between the watch's
 * look at it and the first byte. The watch has blocked and drained by then, so
 * nothing may be deferred until that tracer has gone. Both tests hold whoever
 * patches at this point; the tracer reads the pages.
 *
 * sender: A sender found the isolated CPU in user mode before the block, and
 * sets its bit after the drain. Its second look has to see the block. An NMI
 * holds the sender; between its looks only if something else makes them last.
 *
 * resume: Deferral is asked to go on, and all bytes are as they should be, still.
 *
 * off: The same as sender with the module's own patching, when it goes off. The
 * isolated CPU goes to sleep in the kernel before the bit is set, and sleeps until
 * all is off, so it never passes the receiver: nothing may be left then.
 *
 * Usage: patching sender|resume|off [MEETINGS]
 *
 * Ends when something stale was read. The line '# meetings=...' is for the
 * negative controls.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define WATCHED "vtime_user_exit"

/* So long deferral gets to go on where it must not. */
#define RESUME_SECONDS 0.3

static void watch(enum dflush_watch kind, const char *symbol)
{
	struct dflush_request about = { .watch = kind };
	int error;

	snprintf(about.symbol, sizeof(about.symbol), "%s", symbol);
	error = try_request(DFLUSH_NR_WATCH, &about);
	if (error)
		fail("cannot trace %s: %s", symbol, strerror(-error));
}

static void unwatch(enum dflush_watch kind)
{
	struct dflush_request about = { .watch = kind };

	request(DFLUSH_NR_UNWATCH, &about);
}

static enum dflush_stage set_stage(enum dflush_stage stage)
{
	struct dflush_request about = { .stage = stage };

	request(DFLUSH_NR_MEET, &about);
	return about.stage;
}

static void write_mode(const char *mode)
{
	int file = open(MODE_FILE, O_WRONLY | O_CLOEXEC);
	bool written = file >= 0 && write(file, mode, strlen(mode)) > 0;

	/* Refused or not is seen in the state. */
	(void)written;
	close(file);
}

static pid_t start_child(int cpu)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("cannot fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin_to(cpu);
	}
	return pid;
}

/* Puts the tracer on watched code; returns when the patching is done. */
static void patch(int sender_plus_one)
{
	struct dflush_request about = {
		.count = sender_plus_one, .address = find_symbol(WATCHED), .symbol = WATCHED,
	};

	_exit(try_request(DFLUSH_NR_TRACE_AT_MEETING, &about) ? 1 : 0);
}

static void wait_for_resume(void)
{
	double limit = now() + RESUME_SECONDS;

	while (!is_on() && now() < limit)
		usleep(1000);
}

/* Returns whether the patching was held until the pages had been swapped. */
static bool meet(struct spinner *spinner, int patcher_cpu, bool is_sender)
{
	pid_t patcher, resumer = 0;
	double limit = now() + PATIENCE;
	int status;

	set_stage(DFLUSH_STAGE_IDLE);
	/* Translations of the present pages, and nothing pending. */
	obey(spinner, ORDER_READ, 0);
	arm(spinner->cpu);
	patcher = start_child(patcher_cpu);
	if (!patcher)
		patch(is_sender ? housekeeping_cpu() + 1 : 0);
	while (report(spinner->cpu).stage != DFLUSH_STAGE_WAITS && now() < limit)
		;
	if (!is_sender) {
		resumer = start_child(housekeeping_cpu());
		if (!resumer) {
			write_mode("on");
			_exit(0);
		}
		wait_for_resume();
	}
	swap_area(1);
	if (waitpid(patcher, &status, 0) != patcher || status)
		fail("cannot trace %s", WATCHED);
	if (resumer)
		waitpid(resumer, NULL, 0);
	return set_stage(DFLUSH_STAGE_IDLE) == DFLUSH_STAGE_SWAPPED;
}

/* Switches off while a sender is held between its looks. */
static void switch_off(struct spinner *spinner)
{
	struct dflush_request about = {
		.count = housekeeping_cpu() + 1, .address = find_symbol("flush_tlb_kernel_range"),
	};

	if (try_request(DFLUSH_NR_TRACE_AT_MEETING, &about))
		_exit(1);
	give_order(spinner, ORDER_SLEEP, 0);
	/* It sleeps before the patching lets the sender go on. */
	pause_microseconds(1000);
	write_mode("off");
	_exit(0);
}

/* left: whether a flush is pending when all is off. */
static bool meet_going_off(struct spinner *spinner, int patcher_cpu, long *left)
{
	double limit = now() + PATIENCE;
	pid_t patcher;
	int status;

	set_stage(DFLUSH_STAGE_IDLE);
	/* Nothing pending. */
	obey(spinner, ORDER_READ, 0);
	patcher = start_child(patcher_cpu);
	if (!patcher)
		switch_off(spinner);
	while (report(spinner->cpu).stage != DFLUSH_STAGE_WAITS && now() < limit)
		;
	swap_area(1);
	if (waitpid(patcher, &status, 0) != patcher || status)
		fail("cannot switch off");
	*left += !!cpu_row(spinner->cpu).word;
	wake_spinner(spinner);
	return set_stage(DFLUSH_STAGE_IDLE) == DFLUSH_STAGE_SWAPPED;
}

static void test_off(struct spinner *spinner, int patcher_cpu, long wanted)
{
	long meetings = 0, left = 0, rounds;

	watch(DFLUSH_WATCH_FTRACE, "flush_tlb_kernel_range");
	for (rounds = 0; rounds < wanted && !left; rounds++) {
		meetings += meet_going_off(spinner, patcher_cpu, &left);
		write_mode("on");
		if (!is_on())
			fail("cannot be switched on again");
	}
	unwatch(DFLUSH_WATCH_FTRACE);
	ksft_print_msg("meetings=%ld rounds=%ld left=%ld\n", meetings, rounds, left);
	ksft_test_result(meetings, "patching: a sender that meets going off\n");
	ksft_test_result(!left, "patching: nothing is left pending when a sender meets going off\n");
}

int main(int argc, char **argv)
{
	struct cpu_list cpus = nohz_full_cpus();
	bool is_sender = argc > 1 && !strcmp(argv[1], "sender");
	long wanted = argc > 2 ? atol(argv[2]) : 3;
	long rounds, meetings = 0, suspended = 0;
	unsigned long long hits = 0, stale = 0;
	const char *names[] = {
		is_sender ? "patching: a sender that meets it" : "patching: a resume that meets it",
		is_sender ? "patching: the tracer reads nothing stale when a sender meets its patching" :
			    "patching: the tracer reads nothing stale when a resume meets its patching",
		is_sender ? "patching: suspended after a sender met it" :
			    "patching: suspended after a resume met it",
	};
	bool is_off = argc > 1 && !strcmp(argv[1], "off");
	struct spinner spinner;

	ksft_print_header();
	ksft_set_plan(is_off ? 2 : 3);
	if (cpus.count < 2) {
		for (int i = 0; i < (is_off ? 2 : 3); i++)
			ksft_test_result_skip("%s: needs two isolated CPUs\n", names[i]);
		ksft_finished();
	}
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 4);
	/* ftrace calls first who registered last. */
	write_mode("off");
	watch(DFLUSH_WATCH_PATCHER, "__text_poke");
	write_mode("on");
	if (!is_on())
		fail("cannot be switched on again");
	spinner = start_spinner(cpus.cpu[0]);
	if (is_off) {
		test_off(&spinner, cpus.cpu[1], wanted);
		stop_spinner(&spinner);
		unwatch(DFLUSH_WATCH_PATCHER);
		ksft_finished();
	}
	for (rounds = 0; rounds < wanted && !stale; rounds++) {
		struct dflush_request seen;

		watch(DFLUSH_WATCH_FTRACE, "flush_tlb_kernel_range");
		meetings += meet(&spinner, cpus.cpu[1], is_sender);
		seen = report(spinner.cpu);
		hits += seen.watch_hits;
		stale += seen.watch_stale;
		suspended += !is_on();
		disarm(spinner.cpu);
		unwatch(DFLUSH_WATCH_FTRACE);
		if (!comes_on_again())
			fail("still suspended after the tracer has gone");
	}
	stop_spinner(&spinner);
	unwatch(DFLUSH_WATCH_PATCHER);
	ksft_print_msg("meetings=%ld hits=%llu stale=%llu suspended=%ld\n", meetings, hits, stale,
		       suspended);
	ksft_test_result(meetings && hits, "%s\n", names[0]);
	ksft_test_result(hits && !stale, "%s\n", names[1]);
	ksft_test_result(suspended == rounds, "%s\n", names[2]);
	ksft_finished();
}
