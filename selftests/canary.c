// SPDX-License-Identifier: GPL-2.0
/*
 * Checkers on the isolated CPUs: mostly in user mode, they enter the kernel in
 * every way there is, and look there at pages that are swapped behind their backs.
 *
 * Usage: canary [-n] [-s] [-x] SECONDS
 *
 * It ends after SECONDS, or at SIGTERM, and says then what was read.
 *
 *   -n  NMIs fall onto the checkers, too
 *   -s  the checkers send many flushes themselves
 *   -x  end at the first stale page
 *
 * Whatever else happens to the machine, they go on: a checker whose CPU goes
 * offline waits and comes back, and the module may be loaded and unloaded.
 * A page that an entry finds in an old generation, whose replacement was
 * published before, was read through a stale translation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 16
#define SETS 64

/* Ways in, each as often as it stands in `ways`. */
enum way {
	WAY_SYSCALL, WAY_READ, WAY_READ_FOR, WAY_INT80, WAY_BREAKPOINT, WAY_STEP,
	WAY_FAULT, WAY_INTERRUPT, WAY_TIMER, WAY_FLUSH, WAY_SWAP, WAY_SLEEP,
	WAYS,
};

static const char *const way_names[WAYS] = {
	"syscall", "read", "read_for", "int80", "breakpoint", "step",
	"fault", "interrupt", "timer", "flush", "swap",
	"sleep",
};

static const enum way ways[] = {
	WAY_SYSCALL, WAY_SYSCALL, WAY_SYSCALL, WAY_SYSCALL, WAY_SYSCALL, WAY_SYSCALL,
	WAY_READ, WAY_READ, WAY_READ, WAY_READ, WAY_READ, WAY_READ, WAY_READ, WAY_READ,
	WAY_READ_FOR, WAY_READ_FOR, WAY_READ_FOR, WAY_INT80, WAY_INT80, WAY_BREAKPOINT,
	WAY_BREAKPOINT, WAY_STEP, WAY_STEP, WAY_FAULT, WAY_FAULT, WAY_INTERRUPT, WAY_INTERRUPT,
	WAY_INTERRUPT, WAY_TIMER, WAY_FLUSH, WAY_SWAP, WAY_SWAP,
	WAY_SLEEP, WAY_SLEEP, WAY_SLEEP, WAY_SLEEP, WAY_SLEEP, WAY_SLEEP,
};

struct checker {
	_Alignas(64) int cpu;
	int error;
	pid_t pid;
	unsigned long long entries[WAYS];
	unsigned long long reads;	/* by system calls and by the probe at user_exit */
	unsigned long long stale;
	unsigned long long absent;
	unsigned long long nmis;
	unsigned long long away;	/* how often its CPU had gone offline */
};

struct shared {
	int stop;
	int senders;
	struct checker checkers[DFLUSH_TEST_MAX_CPUS];
};

static struct shared *shared;
static volatile sig_atomic_t terminated;

static void terminate(int signal)
{
	(void)signal;
	terminated = 1;
}

static bool has_to_stop(void)
{
	return __atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE);
}

/* Back to the CPU as soon as it is there; nothing to do if it never left. */
static void be_on(struct checker *checker)
{
	cpu_set_t set;

	if (sched_getcpu() == checker->cpu)
		return;
	checker->away++;
	CPU_ZERO(&set);
	CPU_SET(checker->cpu, &set);
	while (sched_setaffinity(0, sizeof(set), &set) && !has_to_stop())
		usleep(20000);
}

static void add(struct checker *checker, const struct dflush_request *reading)
{
	checker->reads += reading->reads;
	checker->stale += reading->stale;
	checker->absent += reading->absent;
}

/* What the probe and NMIs saw since ARM. A probe looks at all pages. */
static void add_report(struct checker *checker)
{
	struct dflush_request seen = report(checker->cpu);

	checker->reads += (seen.probe_hits + seen.nmi_hits) * PAGES;
	checker->stale += seen.probe_stale + seen.nmi_stale;
	checker->nmis += seen.nmi_hits;
}

/* Mostly short, sometimes long enough for several swaps. */
static unsigned int some_microseconds(void)
{
	return random_number() % (10u << random_number() % 11);
}

static int enter(struct checker *checker, enum way way, char *page)
{
	struct dflush_request about = { .microseconds = random_number() % 400 };
	int error = 0;

	switch (way) {
	case WAY_SYSCALL:
		syscall(SYS_getppid);
		return 0;
	case WAY_READ:
	case WAY_READ_FOR:
		error = try_request(way == WAY_READ ? DFLUSH_NR_READ : DFLUSH_NR_READ_FOR, &about);
		add(checker, &about);
		return error;
	case WAY_INT80:
		return provoke_int80();
	case WAY_BREAKPOINT:
		return provoke_breakpoint();
	case WAY_STEP:
		return provoke_step();
	case WAY_FAULT:
		*(volatile char *)page = 1;
		return 0;
	case WAY_INTERRUPT:
	case WAY_TIMER:
		pause_microseconds(2000);
		return 0;
	case WAY_FLUSH:
		about.count = random_number() % 8 ? DFLUSH_FLUSH_ALIASES : DFLUSH_FLUSH_VREALLOC;
		return try_request(DFLUSH_NR_FLUSH, &about);
	case WAY_SWAP:
		about.count = 1;
		return try_request(DFLUSH_NR_SWAP, &about);
	case WAY_SLEEP:
		/* Idle for a while; under an emulator others get on meanwhile. */
		usleep(random_number() % 12000);
		return 0;
	default:
		return -EINVAL;
	}
}

/* What has to be prepared by a system call before the CPU is left alone. */
static int prepare(enum way way, char *page)
{
	struct dflush_request about = { .microseconds = 100 + random_number() % 1500 };

	if (way == WAY_FAULT)
		return drop_page(page);
	if (way == WAY_TIMER)
		return try_request(DFLUSH_NR_TIMER, &about);
	return 0;
}

static void check(struct checker *checker, char *page)
{
	struct dflush_request reading = { 0 };
	enum way way = ways[random_number() % ARRAY_SIZE(ways)];

	if (shared->senders && random_number() % 3 == 0)
		way = random_number() % 2 ? WAY_FLUSH : WAY_SWAP;
	be_on(checker);
	checker->error = prepare(way, page);
	/* Fills the TLB, and from here on the first entry is looked at. */
	if (!checker->error)
		checker->error = try_request(DFLUSH_NR_READ, &reading);
	add(checker, &reading);
	arm(checker->cpu);
	pause_microseconds(some_microseconds());
	if (!checker->error)
		checker->error = enter(checker, way, page);
	add_report(checker);
	checker->entries[way]++;
}

static void __attribute__((noreturn)) run_checker(struct checker *checker)
{
	char *page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	lock_memory();
	catch_traps();
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		_exit(3);
	be_on(checker);
	checker->away = 0;
	while (!has_to_stop() && !checker->error)
		check(checker, page);
	_exit(checker->error ? 4 : 0);
}

/* NMIs at random CPUs, in bursts. A CPU that is offline gets none. */
static void __attribute__((noreturn)) send_nmis(const struct cpu_list *cpus)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		struct dflush_request about = {
			.cpu = cpus->cpu[random_number() % cpus->count],
			.vector = NMI_VECTOR,
		};

		for (int i = random_number() % 4; i >= 0; i--)
			if (try_request(DFLUSH_NR_SEND_IPI, &about))
				break;
		usleep(random_number() % 3000);
	}
}

static pid_t start(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	return pid;
}

static bool is_stale(int count)
{
	for (int i = 0; i < count; i++)
		if (__atomic_load_n(&shared->checkers[i].stale, __ATOMIC_RELAXED))
			return true;
	return false;
}

static bool one_died(int count)
{
	for (int i = 0; i < count; i++) {
		struct checker *checker = &shared->checkers[i];

		if (waitpid(checker->pid, NULL, WNOHANG) != checker->pid)
			continue;
		checker->error = checker->error ? checker->error : -ECHILD;
		return true;
	}
	return false;
}

/* Whether all of them ended well, in time. */
static bool stop_checkers(int count)
{
	double limit = now() + 2 * PATIENCE;
	bool good = true;

	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < count; i++) {
		struct checker *checker = &shared->checkers[i];
		int status = 0;

		while (!waitpid(checker->pid, &status, WNOHANG) && now() < limit)
			usleep(10000);
		if (kill(checker->pid, 0) == 0) {
			ksft_print_msg("the checker of CPU %d does not end\n", checker->cpu);
			kill(checker->pid, SIGKILL);
			good = false;
		}
		if (status || checker->error) {
			ksft_print_msg("the checker of CPU %d: status %#x, %s\n", checker->cpu,
				       status, strerror(-checker->error));
			good = false;
		}
	}
	return good;
}

static unsigned long swap_until(double limit, bool until_stale, int count, unsigned long *moved)
{
	unsigned long swaps = 0;

	while (now() < limit && !terminated) {
		if (until_stale && is_stale(count))
			break;
		if (swaps % 64 == 63 && one_died(count))
			break;
		*moved += swap_area(1);
		swaps++;
		/* With so many other senders, this CPU is left to the rest of the test. */
		usleep(random_number() % (shared->senders ? 40000 : 10000));
	}
	return swaps;
}

static void stay_alive(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, "-1000", 5) != 5 || close(file))
		fail("/proc/self/oom_score_adj: %s", strerror(errno));
	if (setpriority(PRIO_PROCESS, 0, -5))
		fail("setpriority: %s", strerror(errno));
}

static void print_checker(const struct checker *checker)
{
	char text[256];
	int length = 0;

	for (int way = 0; way < WAYS; way++)
		length += snprintf(text + length, sizeof(text) - length, " %s=%llu",
				   way_names[way], checker->entries[way]);
	ksft_print_msg("checker cpu=%d reads=%llu stale=%llu absent=%llu nmis=%llu away=%llu%s\n",
		       checker->cpu, checker->reads, checker->stale, checker->absent,
		       checker->nmis, checker->away, text);
}

int main(int argc, char **argv)
{
	struct cpu_list cpus = nohz_full_cpus();
	struct checker sum = { 0 };
	bool nmis = false, until_stale = false, ended, all_read = true;
	unsigned long swaps, moved = 0, entries = 0;
	pid_t pid, nmi_sender = 0;
	double seconds;
	int option;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	while ((option = getopt(argc, argv, "nsx")) != -1) {
		nmis |= option == 'n';
		shared->senders |= option == 's';
		until_stale |= option == 'x';
	}
	seconds = optind < argc ? atof(argv[optind]) : 10;

	ksft_print_header();
	ksft_set_plan(3);
	stay_alive();
	pin_to(housekeeping_cpu());
	setup_area(PAGES, SETS);
	pause_microseconds(1);
	for (int i = 0; i < cpus.count; i++) {
		struct checker *checker = &shared->checkers[i];

		checker->cpu = cpus.cpu[i];
		pid = start();
		if (!pid)
			run_checker(checker);
		checker->pid = pid;
	}
	if (nmis) {
		nmi_sender = start();
		if (!nmi_sender)
			send_nmis(&cpus);
	}
	signal(SIGTERM, terminate);
	swaps = swap_until(now() + seconds, until_stale, cpus.count, &moved);
	if (nmi_sender) {
		kill(nmi_sender, SIGKILL);
		waitpid(nmi_sender, NULL, 0);
	}
	ended = stop_checkers(cpus.count);

	for (int i = 0; i < cpus.count; i++) {
		const struct checker *checker = &shared->checkers[i];

		print_checker(checker);
		sum.reads += checker->reads;
		sum.stale += checker->stale;
		sum.nmis += checker->nmis;
		sum.away += checker->away;
		swaps += checker->entries[WAY_SWAP];
		for (int way = 0; way < WAYS; way++)
			entries += checker->entries[way];
		all_read &= checker->reads > 0;
	}
	ksft_print_msg("sum entries=%lu swaps=%lu moved=%lu reads=%llu stale=%llu nmis=%llu away=%llu\n",
		       entries, swaps, moved, sum.reads, sum.stale, sum.nmis, sum.away);
	ksft_test_result(ended, "canary: every checker went on to the end\n");
	ksft_test_result(all_read, "canary: pages were read on every isolated CPU\n");
	ksft_test_result(!sum.stale, "canary: no stale page\n");
	ksft_finished();
}
