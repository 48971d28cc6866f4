// SPDX-License-Identifier: GPL-2.0
/*
 * The window before the receiver: vtime_user_exit() charges a task's user time
 * to its cgroup, once 4 ms of it have gathered, by writing to dynamic per-CPU
 * memory. What stands there may have been changed while the CPU was in user mode.
 *
 * A task on an isolated CPU is charged in one cgroup, whose per-CPU data lies in
 * a chunk of its own, and goes on in user mode. It is moved away, the cgroup
 * removed, the chunk destroyed, and another one created at its address for
 * another cgroup, to which the task is moved. Then it enters the kernel: what it
 * is charged has to arrive there, and not in pages that percpu gave back.
 *
 * Usage: window rstat|cpuacct [ROUNDS]
 *
 * rstat is charged by __cgroup_account_cputime_field() in the unified hierarchy,
 * cpuacct by cpuacct_account_field() in one of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

/* Others may get in the way of a round. */
#define TRIES_PER_ROUND 3

/* User time is charged once so many nanoseconds have gathered: a tick's. */
#define CHARGE 4000000
#define LOOP_MICROSECONDS 10000

static const char *root = "/sys/fs/cgroup";

struct outcome {
	long rounds;		/* with the chunk at its old address, and a flush pending */
	long spoilt;		/* of these: freed pages were written to */
	long lost;		/* of these: the charge did not arrive */
};

static const char *group_path(const char *group, const char *file)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s%s/%s", root, group, file);
	return path;
}

static void make_group(const char *group)
{
	if (mkdir(group_path(group, ""), 0755))
		fail("%s: %s", group_path(group, ""), strerror(errno));
}

static void remove_group(const char *group)
{
	double limit = now() + PATIENCE;

	/* The task may still be on its way out. */
	while (rmdir(group_path(group, ""))) {
		if (errno != EBUSY || now() > limit)
			fail("removing %s: %s", group_path(group, ""), strerror(errno));
		usleep(1000);
	}
}

static void move_to(const char *group, pid_t pid)
{
	int file = open(group_path(group, "cgroup.procs"), O_WRONLY | O_CLOEXEC);
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", pid);

	if (file < 0 || write(file, text, length) != length)
		fail("%s: %s", group_path(group, "cgroup.procs"), strerror(errno));
	close(file);
}

static int try_chunk(enum dflush_chunk step, int cpu, struct dflush_request *about)
{
	*about = (struct dflush_request) { .cpu = cpu, .count = step };
	return try_request(DFLUSH_NR_CHUNK, about);
}

static struct dflush_request chunk(enum dflush_chunk step, int cpu)
{
	struct dflush_request about;
	int error = try_chunk(step, cpu, &about);

	if (error)
		fail("chunks, step %d: %s", step, strerror(-error));
	return about;
}

/* Whether the chunk came back at its old address, and with it the group's data. */
static bool change_chunk(struct spinner *spinner)
{
	uint64_t address = chunk(DFLUSH_CHUNK_PREPARE, spinner->cpu).address;
	struct dflush_request about;
	uint64_t areas;
	int error;

	make_group("/dflush-old");
	move_to("/dflush-old", spinner->pid);
	usleep(LOOP_MICROSECONDS);
	/* Charged here: the translations are in this CPU's TLB. */
	obey(spinner, ORDER_SYSCALL, 0);
	areas = chunk(DFLUSH_CHUNK_TAKE, spinner->cpu).reads;
	move_to("", spinner->pid);
	remove_group("/dflush-old");
	error = try_chunk(DFLUSH_CHUNK_DESTROY, spinner->cpu, &about);
	if (error) {
		ksft_print_msg("chunk with %llu areas not destroyed: %s\n",
			       (unsigned long long)areas, strerror(-error));
		return false;
	}
	about = chunk(DFLUSH_CHUNK_RECREATE, spinner->cpu);
	if (!areas || about.address != address) {
		ksft_print_msg("chunk with %llu areas moved from %llx to %llx\n",
			       (unsigned long long)areas, (unsigned long long)address,
			       (unsigned long long)about.address);
		return false;
	}
	return true;
}

static void one_round(struct spinner *spinner, struct outcome *outcome)
{
	struct dflush_request before, after;
	bool is_pending;

	if (!change_chunk(spinner))
		return;
	is_pending = cpu_row(spinner->cpu).word & 1;
	make_group("/dflush-new");
	before = chunk(DFLUSH_CHUNK_CHECK, spinner->cpu);
	if (is_pending && before.reads && !before.absent) {
		/* Moving it may interrupt it, which is as good as what follows. */
		move_to("/dflush-new", spinner->pid);
		usleep(LOOP_MICROSECONDS);
		obey(spinner, ORDER_SYSCALL, 0);
		after = chunk(DFLUSH_CHUNK_CHECK, spinner->cpu);
		outcome->rounds++;
		outcome->spoilt += !!after.stale;
		outcome->lost += after.generation < CHARGE;
		move_to("", spinner->pid);
	} else {
		ksft_print_msg("pending=%d areas at old addresses=%llu elsewhere=%llu\n",
			       is_pending, (unsigned long long)before.reads,
			       (unsigned long long)before.absent);
	}
	remove_group("/dflush-new");
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "rstat";
	long wanted = argc > 2 ? atol(argv[2]) : 5;
	struct cpu_list cpus = nohz_full_cpus();
	struct outcome outcome = { 0 };
	struct spinner spinner;

	ksft_print_header();
	ksft_set_plan(3);
	pin_to(housekeeping_cpu());
	if (!strcmp(kind, "cpuacct")) {
		root = "/run/dflush-cpuacct";
		mkdir(root, 0755);
		if (mount("dflush", root, "cgroup", 0, "cpuacct"))
			fail("mounting %s: %s", root, strerror(errno));
	}
	spinner = start_spinner(cpus.cpu[0]);
	for (long i = 0; i < wanted * TRIES_PER_ROUND && outcome.rounds < wanted; i++)
		one_round(&spinner, &outcome);
	stop_spinner(&spinner);
	chunk(DFLUSH_CHUNK_RELEASE, 0);
	if (!strcmp(kind, "cpuacct") && umount(root))
		fail("unmounting %s: %s", root, strerror(errno));
	ksft_print_msg("%s: rounds=%ld spoilt=%ld lost=%ld\n", kind, outcome.rounds,
		       outcome.spoilt, outcome.lost);
	ksft_test_result(outcome.rounds >= wanted,
			 "window: chunks were created again behind a pending flush, %s\n", kind);
	ksft_test_result(outcome.rounds && !outcome.spoilt,
			 "window: pages that percpu gave back are not written to, %s\n", kind);
	ksft_test_result(outcome.rounds && !outcome.lost,
			 "window: every charge arrives, %s\n", kind);
	ksft_finished();
}
