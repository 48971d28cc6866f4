// SPDX-License-Identifier: GPL-2.0
/*
 * Tracers and kprobes on code that runs before the receiver.
 *
 * A tracer on vtime_user_exit that reads the swapped pages is put there while
 * an isolated CPU has a flush pending. The interrupts of that very patching let
 * the CPU run the tracer before the receiver, so the CPU has to be drained
 * before the first byte is written. The same for a kprobe in the middle of
 * __rcu_read_lock, which an NMI from user mode passes before the handler.
 *
 * Usage: watched [drain]	only the first of the two
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define ATTEMPTS 30

/* Where an instruction may begin in the middle of __rcu_read_lock differs. */
#define LAST_OFFSET 32

static int watch(int kind, const char *symbol, unsigned long offset)
{
	struct dflush_request about = { .watch = kind, .address = offset };

	snprintf(about.symbol, sizeof(about.symbol), "%s", symbol);
	return try_request(DFLUSH_NR_WATCH, &about);
}

static void unwatch(int kind)
{
	struct dflush_request about = { .watch = kind };

	request(DFLUSH_NR_UNWATCH, &about);
}

/* Leaves the CPU in user mode with a flush pending and old pages in its TLB. */
static bool make_pending(struct spinner *spinner)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		struct cpu_row before;

		obey(spinner, ORDER_READ, 0);
		before = cpu_row(spinner->cpu);
		arm(spinner->cpu);
		swap_area(1);
		if (cpu_row(spinner->cpu).deferred > before.deferred &&
		    cpu_row(spinner->cpu).word & 1)
			return true;
	}
	return false;
}

static void test_tracer(struct spinner *spinner)
{
	static const char *const names[] = {
		"watched: drained before a tracer is written into vtime_user_exit",
		"watched: deferral is suspended while the tracer is there",
		"watched: nothing stale is read by the tracer",
	};
	struct dflush_request first, later;
	struct cpu_row row;
	long long deferred;
	bool suspended;

	/*
	 * Making a tracer interrupts every CPU, and the interrupts would drain
	 * it. So it is made on a function that nobody calls, and put on the
	 * other one later: then the first interrupt is that of the patching.
	 */
	if (watch(DFLUSH_WATCH_FTRACE, "ksys_sync", 0))
		fail("cannot trace ksys_sync");
	if (!is_on() || !make_pending(spinner)) {
		for (int i = 0; i < 3; i++)
			ksft_test_result_fail("%s\n", names[i]);
		unwatch(DFLUSH_WATCH_FTRACE);
		return;
	}
	if (watch(DFLUSH_WATCH_FTRACE, "vtime_user_exit", 0))
		fail("cannot trace vtime_user_exit");
	first = report(spinner->cpu);
	row = cpu_row(spinner->cpu);
	suspended = !is_on();
	/* From now on everything is sent. */
	deferred = summary("deferred");
	obey(spinner, ORDER_READ, 0);
	arm(spinner->cpu);
	swap_area(3);
	obey(spinner, ORDER_READ, 0);
	later = report(spinner->cpu);
	deferred = summary("deferred") - deferred;
	ksft_print_msg("tracer: first hits=%llu stale=%llu word=%lld, later hits=%llu stale=%llu deferred=%lld\n",
		       (unsigned long long)first.watch_hits, (unsigned long long)first.watch_stale,
		       row.word, (unsigned long long)later.watch_hits,
		       (unsigned long long)later.watch_stale, deferred);
	ksft_test_result(first.watch_hits && !first.watch_stale && !row.word, "%s\n", names[0]);
	ksft_test_result(suspended && !deferred, "%s\n", names[1]);
	ksft_test_result(later.watch_hits && !later.watch_stale, "%s\n", names[2]);
	disarm(spinner->cpu);
	unwatch(DFLUSH_WATCH_FTRACE);
}

static void test_kprobe(struct spinner *spinner)
{
	static const char *const names[] = {
		"watched: a kprobe inside __rcu_read_lock suspends",
		"watched: an NMI reads nothing stale through that kprobe",
	};
	struct dflush_request seen;
	bool suspended;
	unsigned long offset;

	if (!is_on() || !make_pending(spinner)) {
		for (int i = 0; i < 2; i++)
			ksft_test_result_fail("%s\n", names[i]);
		return;
	}
	for (offset = 5; offset <= LAST_OFFSET; offset++)
		if (!watch(DFLUSH_WATCH_KPROBE, "__rcu_read_lock", offset))
			break;
	if (offset > LAST_OFFSET)
		fail("no kprobe can be put inside __rcu_read_lock");
	suspended = !is_on();
	obey(spinner, ORDER_READ, 0);
	swap_area(1);
	arm(spinner->cpu);
	send_ipi(spinner->cpu, NMI_VECTOR);
	for (int i = 0; i < PATIENCE * 1000 && !report(spinner->cpu).nmi_hits; i++)
		usleep(1000);
	seen = report(spinner->cpu);
	ksft_print_msg("kprobe at +%lu: hits=%llu stale=%llu nmi stale=%llu\n", offset,
		       (unsigned long long)seen.watch_hits, (unsigned long long)seen.watch_stale,
		       (unsigned long long)seen.nmi_stale);
	ksft_test_result(suspended, "%s\n", names[0]);
	ksft_test_result(seen.nmi_hits && seen.watch_hits && !seen.watch_stale && !seen.nmi_stale,
			 "%s\n", names[1]);
	disarm(spinner->cpu);
	unwatch(DFLUSH_WATCH_KPROBE);
}

int main(int argc, char **argv)
{
	bool only_drain = argc > 1 && !strcmp(argv[1], "drain");
	struct cpu_list cpus = nohz_full_cpus();
	struct spinner spinner;

	ksft_print_header();
	ksft_set_plan(only_drain ? 3 : 7);
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 8);
	spinner = start_spinner(cpus.cpu[0]);
	test_tracer(&spinner);
	if (!only_drain) {
		ksft_test_result(comes_on_again(), "watched: deferral resumes after the tracer has gone\n");
		test_kprobe(&spinner);
		ksft_test_result(comes_on_again(), "watched: deferral resumes after the kprobe has gone\n");
	}
	stop_spinner(&spinner);
	ksft_finished();
}
