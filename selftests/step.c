// SPDX-License-Identifier: GPL-2.0
/*
 * A 32-bit program is single-stepped through system calls, in a storm of flushes.
 *
 * Usage: step [CALLS]
 *
 * On Intel's processors its way in is SYSENTER, which leaves the trap flag set:
 * the debug exception hits the kernel's first instruction, before the receiver.
 * (SYSCALL clears the flag.) The program and the machine survive, and nothing
 * stale is read afterwards.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 16
#define STEPS_A_CALL 20000

static pid_t start_storm(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		swap_area(1);
		usleep(200);
	}
}

/* Whether the program stopped again, for a step. */
static bool step(pid_t pid)
{
	int status;

	if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0))
		return false;
	return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) &&
	       WSTOPSIG(status) == SIGTRAP;
}

static long step_through(struct spinner *spinner, long calls)
{
	long done = 0, status;
	int stopped;

	if (ptrace(PTRACE_SEIZE, spinner->pid, 0, 0) ||
	    ptrace(PTRACE_INTERRUPT, spinner->pid, 0, 0) ||
	    waitpid(spinner->pid, &stopped, 0) != spinner->pid)
		fail("ptrace: %s", strerror(errno));
	for (done = 0; done < calls; done++) {
		long steps = 0;

		give_order(spinner, ORDER_COMPAT, 0);
		while (__atomic_load_n(&spinner->line->done_number, __ATOMIC_ACQUIRE) !=
		       spinner->line->order_number + 1)
			if (steps++ == STEPS_A_CALL || !step(spinner->pid))
				return done;
	}
	status = ptrace(PTRACE_DETACH, spinner->pid, 0, 0);
	if (status)
		fail("PTRACE_DETACH: %s", strerror(errno));
	return done;
}

int main(int argc, char **argv)
{
	long calls = argc > 1 ? atol(argv[1]) : 100, done;
	struct spinner stepped, reader;
	int cpu = nohz_full_cpus().cpu[0];
	long long deferred;
	pid_t storm;

	ksft_print_header();
	ksft_set_plan(2);
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 4);
	deferred = cpu_row(cpu).deferred;
	stepped = start_spinner32(cpu);
	storm = start_storm();
	usleep(20000);
	done = step_through(&stepped, calls);
	kill(storm, SIGKILL);
	waitpid(storm, NULL, 0);
	deferred = cpu_row(cpu).deferred - deferred;
	ksft_print_msg("calls=%ld deferred=%lld\n", done, deferred);
	ksft_test_result(done == calls && deferred,
			 "step: a 32-bit program survives single steps into %ld system calls\n",
			 calls);
	stop_spinner(&stepped);
	reader = start_spinner(cpu);
	obey(&reader, ORDER_READ, 0);
	swap_area(1);
	reader.line->stale = 0;
	obey(&reader, ORDER_READ, 0);
	ksft_test_result(!reader.line->stale && reader.line->reads == 2 * PAGES,
			 "step: nothing stale afterwards\n");
	stop_spinner(&reader);
	ksft_finished();
}
