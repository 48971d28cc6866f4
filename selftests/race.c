// SPDX-License-Identifier: GPL-2.0
/*
 * A CPU that enters and leaves the kernel all the time, NMIs that fall
 * everywhere, and a sender that swaps pages meanwhile.
 *
 * Usage: race [SECONDS [STAGE]]
 *
 * A swap is published after its flush has returned. Who is in kernel mode, has
 * read the published generation and then reads a page of an earlier one has
 * used a stale translation. It ends at the first one found. The lines
 * '# stage=...' are for the negative controls.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 8
#define SETS 256

static unsigned long long random_state = 88172645463325252ULL;

static unsigned int random_below(unsigned int limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % limit;
}

/* Interrupts CPU `victim` by NMIs from CPU `cpu` until it is killed. */
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
		pause_microseconds(20 + random_below(100));
	}
}

struct outcome {
	long swaps;
	unsigned long long reads;
	unsigned long long stale;
	unsigned long long nmis;
	long long deferred;
	long long raced;
};

static struct outcome stress(int cpu, int nmi_cpu, double seconds)
{
	struct spinner spinner = start_spinner(cpu);
	struct cpu_row before = cpu_row(cpu), after;
	struct outcome outcome = { 0 };
	struct dflush_request seen;
	pid_t nmi_sender = 0;
	double limit;

	arm(cpu);
	if (nmi_cpu >= 0)
		nmi_sender = start_nmi_sender(nmi_cpu, cpu);
	give_order(&spinner, ORDER_MIX, 0);
	for (limit = now() + seconds; now() < limit; outcome.swaps++) {
		if (__atomic_load_n(&spinner.line->stale, __ATOMIC_RELAXED))
			break;
		swap_area(1);
		pause_microseconds(random_below(400));
	}
	__atomic_store_n(&spinner.line->stop, 1, __ATOMIC_RELEASE);
	if (nmi_sender) {
		kill(nmi_sender, SIGKILL);
		waitpid(nmi_sender, NULL, 0);
	}
	wait_done(&spinner);
	seen = report(cpu);
	disarm(cpu);
	after = cpu_row(cpu);
	outcome.reads = spinner.line->reads;
	outcome.stale = spinner.line->stale + seen.nmi_stale;
	outcome.nmis = seen.nmi_hits;
	outcome.deferred = after.deferred - before.deferred;
	outcome.raced = after.ipi_raced - before.ipi_raced;
	stop_spinner(&spinner);
	return outcome;
}

static void run_stage(const char *name, int cpu, int nmi_cpu, double seconds)
{
	struct outcome outcome = stress(cpu, nmi_cpu, seconds);

	ksft_print_msg("stage=%s swaps=%ld reads=%llu stale=%llu nmis=%llu deferred=%lld raced=%lld\n",
		       name, outcome.swaps, outcome.reads, outcome.stale, outcome.nmis,
		       outcome.deferred, outcome.raced);
	if (!outcome.deferred || !outcome.reads || (nmi_cpu >= 0 && !outcome.nmis)) {
		ksft_test_result_fail("race: no stale page, %s\n", name);
		return;
	}
	ksft_test_result(!outcome.stale, "race: no stale page, %s\n", name);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	const char *only = argc > 2 ? argv[2] : NULL;
	struct cpu_list cpus = nohz_full_cpus();

	ksft_print_header();
	ksft_set_plan(only ? 1 : 2);
	pin_to(housekeeping_cpu());
	setup_area(PAGES, SETS);
	if (!only || !strcmp(only, "entries"))
		run_stage("entries", cpus.cpu[0], -1, seconds);
	if (!only || !strcmp(only, "nmis")) {
		if (cpus.count < 2)
			ksft_test_result_skip("race: no stale page, nmis: needs two isolated CPUs\n");
		else
			run_stage("nmis", cpus.cpu[0], cpus.cpu[1], seconds);
	}
	ksft_finished();
}
