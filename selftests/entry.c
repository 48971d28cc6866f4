// SPDX-License-Identifier: GPL-2.0
/*
 * Each way into the kernel drains a deferred flush before anything can use a
 * stale translation.
 *
 * Usage: entry [ROUNDS [SKIP]]	SKIP is a word of the names of the kinds to skip
 *
 * A spinner rests in user mode on an isolated CPU. The pages that it has read
 * are swapped behind its back, its word says PENDING, and then it enters the
 * kernel in one way. A probe on the tracepoint user_exit looks at the word and
 * at the pages in that very entry. A round in which the CPU entered the kernel
 * for another reason in between proves nothing and is made again.
 *
 * With KASAN for vmalloc each swap itself interrupts every CPU, and the flush that
 * is owed afterwards is another one (see area.rs). So there nothing can be stale,
 * and what is seen is only that the entry drains.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define ATTEMPTS 50

struct kind {
	const char *name;
	enum order order;	/* ORDER_NONE: an interrupt by vector */
	int vector;
	bool wide;		/* by the 64-bit spinner */
};

static const struct kind kinds[] = {
	{ "64-bit system call", ORDER_SYSCALL, 0, true },
	{ "compat system call", ORDER_COMPAT, 0, false },
	{ "int80 system call of a 32-bit program", ORDER_INT80, 0, false },
	{ "int80 system call of a 64-bit program", ORDER_INT80, 0, true },
	{ "page fault", ORDER_FAULT, 0, true },
	{ "breakpoint", ORDER_BREAKPOINT, 0, true },
	{ "single step", ORDER_STEP, 0, true },
	{ "timer interrupt", ORDER_TIMER, 0, true },
	{ "reschedule interrupt", ORDER_NONE, RESCHEDULE_VECTOR, true },
	{ "NMI", ORDER_NONE, NMI_VECTOR, true },
};

enum verdict { GOOD, BAD, DISTURBED };

static bool swap_interrupts;

static enum verdict bad(const char *what, long long value)
{
	ksft_print_msg("%s: %lld\n", what, value);
	return BAD;
}

/* Waits until the entry shows, by the counter that the kind moves. */
static bool wait_entry(int cpu, const struct kind *kind)
{
	double limit = now() + PATIENCE;

	while (now() < limit) {
		struct dflush_request seen = report(cpu);

		if (kind->vector == NMI_VECTOR ? seen.nmi_hits : seen.probe_hits)
			return true;
		usleep(200);
	}
	return false;
}

static enum verdict check(struct spinner *spinner, const struct kind *kind,
			  const struct cpu_row *before)
{
	bool is_nmi = kind->vector == NMI_VECTOR;
	struct dflush_request seen = report(spinner->cpu);
	struct cpu_row after = cpu_row(spinner->cpu);

	if (is_nmi) {
		if (after.flush_nmi <= before->flush_nmi)
			return bad("flush_nmi did not rise, it is", after.flush_nmi);
		if (seen.nmi_stale)
			return bad("stale pages read by the NMI handler", seen.nmi_stale);
		return GOOD;
	}
	if (seen.probe_pending)
		return bad("the word was PENDING at tracepoint user_exit, hits", seen.probe_pending);
	if (seen.probe_stale)
		return bad("stale pages read at tracepoint user_exit", seen.probe_stale);
	if (after.word)
		return bad("the word after the entry", after.word);
	if (after.flush_entry + after.flush_nmi <= before->flush_entry + before->flush_nmi)
		return bad("neither flush_entry nor flush_nmi rose, flush_entry is",
			   after.flush_entry);
	if (kind->order == ORDER_TIMER && !seen.timer_hits)
		return DISTURBED;
	return GOOD;
}

static enum verdict try_round(struct spinner *spinner, const struct kind *kind, int attempt)
{
	int cpu = spinner->cpu;
	struct cpu_row before, pending;
	enum verdict verdict;

	if (kind->wide)
		obey(spinner, ORDER_READ, 0);
	if (kind->order == ORDER_FAULT)
		obey(spinner, ORDER_DROP, 0);
	if (kind->order == ORDER_TIMER)
		obey(spinner, ORDER_TIMER, 100000 << (attempt % 5));
	if (swap_interrupts)
		swap_area(1);
	before = cpu_row(cpu);
	arm(cpu);
	if (!swap_interrupts)
		swap_area(1);
	pending = cpu_row(cpu);
	if (pending.deferred != before.deferred + !swap_interrupts || !(pending.word & 1) ||
	    report(cpu).probe_hits) {
		disarm(cpu);
		return DISTURBED;
	}
	if (kind->order == ORDER_NONE)
		send_ipi(cpu, kind->vector);
	else if (kind->order != ORDER_TIMER)
		obey(spinner, kind->order, 0);
	if (!wait_entry(cpu, kind)) {
		disarm(cpu);
		return bad("the entry was never seen, attempt", attempt);
	}
	verdict = check(spinner, kind, &before);
	disarm(cpu);
	if (verdict != GOOD || !kind->wide)
		return verdict;
	spinner->line->stale = 0;
	spinner->line->absent = 0;
	obey(spinner, ORDER_READ, 0);
	if (spinner->line->stale || spinner->line->absent)
		return bad("stale or absent pages read afterwards",
			   spinner->line->stale + spinner->line->absent);
	if (cpu_row(cpu).word)
		return bad("the word after a system call", cpu_row(cpu).word);
	return GOOD;
}

static void test_kind(const struct kind *kind, int cpu, int rounds)
{
	struct spinner spinner = kind->wide ? start_spinner(cpu) : start_spinner32(cpu);
	int good = 0, disturbed = 0;
	enum verdict verdict = GOOD;

	for (int attempt = 0; attempt < ATTEMPTS && good < rounds && verdict != BAD; attempt++) {
		verdict = try_round(&spinner, kind, attempt);
		if (verdict == GOOD)
			good++;
		else if (verdict == DISTURBED)
			disturbed++;
	}
	ksft_print_msg("%s: %d good rounds, %d disturbed\n", kind->name, good, disturbed);
	ksft_test_result(good == rounds, "entry: %s drains\n", kind->name);
	stop_spinner(&spinner);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 5;
	const char *skip = argc > 2 ? argv[2] : NULL;
	struct cpu_list cpus = nohz_full_cpus();

	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(kinds));
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 4);
	find_word();
	swap_interrupts = kernel_has("__kasan_release_vmalloc");
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (skip && strstr(kinds[i].name, skip))
			ksft_test_result_skip("entry: %s drains: not on this machine\n",
					      kinds[i].name);
		else
			test_kind(&kinds[i], cpus.cpu[i % cpus.count], rounds);
	}
	ksft_finished();
}
