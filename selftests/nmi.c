// SPDX-License-Identifier: GPL-2.0
/*
 * NMIs that find a CPU in user mode with a flush pending.
 *
 * Usage: nmi [ROUNDS [SECONDS]]	SECONDS is the length of the storm
 *
 * The module's handler has to be the first and has to flush: another handler
 * reads the pages after it. While an NMI from user mode runs, a flush must not be
 * deferred: the NMI holds its CPU until a sender has swapped the pages, or for a
 * while, as a sender that interrupts the CPU waits for the end of the NMI.
 */
#include <fcntl.h>
#include <glob.h>
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
#define STORM_PAGES 4
#define STORM_SETS 256
#define ATTEMPTS 50

static bool wait_nmi(int cpu)
{
	double limit = now() + PATIENCE;

	while (now() < limit) {
		if (report(cpu).nmi_hits)
			return true;
		usleep(200);
	}
	return false;
}

/* Whether the CPUs all owe a flush for what they have read before. */
static bool make_pending(struct spinner *spinners, int count)
{
	bool pending = true;

	for (int i = 0; i < count; i++)
		obey(&spinners[i], ORDER_READ, 0);
	for (int i = 0; i < count; i++)
		arm(spinners[i].cpu);
	swap_area(1);
	for (int i = 0; i < count; i++)
		pending = pending && (cpu_row(spinners[i].cpu).word & 1);
	return pending;
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text))
		fail("cannot write to %s", path);
	close(file);
}

static void send_one(struct spinner *spinners, int count)
{
	for (int i = 0; i < count; i++)
		send_ipi(spinners[i].cpu, NMI_VECTOR);
}

/* selftests/quiet.sh leaves out what stands between the two lines. */
static void ask_for_backtraces(struct spinner *spinners, int count)
{
	(void)spinners;
	(void)count;
	write_file("/dev/kmsg", "dflush: backtraces on request\n");
	write_file("/proc/sysrq-trigger", "l");
	write_file("/dev/kmsg", "dflush: end of backtraces\n");
}

/* QEMU's monitor on a port of ours, and every CPU listens: apic_extnmi=all. */
static const char *find_monitor(void)
{
	static char device[300];
	const char *found = NULL;
	char line[4096] = "";
	glob_t names;
	FILE *file = fopen("/proc/cmdline", "re");

	if (!file || !fgets(line, sizeof(line), file))
		fail("/proc/cmdline cannot be read");
	fclose(file);
	if (!strstr(line, "apic_extnmi=all") ||
	    glob("/sys/class/virtio-ports/*/name", 0, NULL, &names))
		return NULL;
	for (size_t i = 0; i < names.gl_pathc && !found; i++) {
		file = fopen(names.gl_pathv[i], "re");
		if (file && fgets(line, sizeof(line), file) && !strcmp(line, "monitor\n")) {
			*strrchr(names.gl_pathv[i], '/') = 0;
			snprintf(device, sizeof(device), "/dev%s",
				 strrchr(names.gl_pathv[i], '/'));
			found = device;
		}
		if (file)
			fclose(file);
	}
	globfree(&names);
	return found;
}

static void inject(struct spinner *spinners, int count)
{
	(void)spinners;
	(void)count;
	write_file(find_monitor(), "nmi\n");
}

static void test_flush(const char *name, void (*provoke)(struct spinner *, int),
		       struct spinner *spinners, int count, int rounds)
{
	unsigned long long stale = 0, afterwards = 0;
	long long flushes = 0, hits = 0;
	int good = 0;

	for (int attempt = 0; attempt < ATTEMPTS && good < rounds; attempt++) {
		struct cpu_row before[DFLUSH_TEST_MAX_CPUS];

		for (int i = 0; i < count; i++)
			before[i] = cpu_row(spinners[i].cpu);
		if (!make_pending(spinners, count))
			continue;
		provoke(spinners, count);
		good++;
		for (int i = 0; i < count; i++) {
			struct dflush_request seen;

			if (!wait_nmi(spinners[i].cpu))
				fail("no NMI was seen on CPU %d", spinners[i].cpu);
			seen = report(spinners[i].cpu);
			hits++;
			stale += seen.nmi_stale;
			flushes += cpu_row(spinners[i].cpu).flush_nmi > before[i].flush_nmi;
			disarm(spinners[i].cpu);
			spinners[i].line->stale = 0;
			obey(&spinners[i], ORDER_READ, 0);
			afterwards += spinners[i].line->stale;
		}
	}
	ksft_print_msg("%s: rounds=%d nmis=%lld flushes=%lld stale=%llu afterwards=%llu\n", name,
		       good, hits, flushes, stale, afterwards);
	ksft_test_result(good == rounds && flushes == hits && !stale && !afterwards,
			 "nmi: flushed before another handler reads, %s\n", name);
}

static enum dflush_stage set_stage(int cpu, enum dflush_stage stage)
{
	struct dflush_request about = { .cpu = cpu, .stage = stage };

	request(DFLUSH_NR_MEET, &about);
	return about.stage;
}

static void test_during(struct spinner *spinner, int rounds)
{
	struct dflush_request tracer = {
		.watch = DFLUSH_WATCH_FTRACE, .symbol = "flush_tlb_kernel_range",
	};
	unsigned long long stale = 0;
	int meetings = 0, returned = 0, disturbed = 0, cpu = spinner->cpu;

	request(DFLUSH_NR_WATCH, &tracer);
	for (int attempt = 0; attempt < ATTEMPTS && meetings < rounds; attempt++) {
		double limit = now() + PATIENCE;
		enum dflush_stage stage;
		struct cpu_row before, after;

		obey(spinner, ORDER_READ, 0);
		arm(cpu);
		set_stage(cpu, DFLUSH_STAGE_ARMED_IN_USER);
		before = cpu_row(cpu);
		send_ipi(cpu, NMI_VECTOR);
		while (report(cpu).stage != DFLUSH_STAGE_WAITS && now() < limit)
			;
		swap_area(1);
		after = cpu_row(cpu);
		/* Its answer to the next order says that the NMI has ended. */
		obey(spinner, ORDER_READ, 0);
		stage = set_stage(cpu, DFLUSH_STAGE_IDLE);
		stale += report(cpu).nmi_stale;
		disarm(cpu);
		returned += stage == DFLUSH_STAGE_RETURNED;
		/* A sender that is held up may find the NMI at its end. */
		if (stage == DFLUSH_STAGE_RETURNED ||
		    (stage == DFLUSH_STAGE_SENDER_CAME &&
		     after.ipi_not_quiet > before.ipi_not_quiet))
			meetings++;
		else
			disturbed++;
	}
	request(DFLUSH_NR_UNWATCH, &tracer);
	ksft_print_msg("during: meetings=%d disturbed=%d returned=%d stale=%llu\n", meetings,
		       disturbed, returned, stale);
	ksft_test_result(meetings == rounds && !returned && !stale,
			 "nmi: a flush is not deferred while one runs\n");
}

static pid_t start_sender(struct spinner *spinners, int count, int cpu)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	for (;;)
		send_one(spinners, count);
}

struct storm {
	double rate;		/* NMIs a second */
	long swaps;
	long long deferred;
	long long flushes;
	unsigned long long reads;
	unsigned long long stale;
};

static struct storm make_storm(struct spinner *spinners, int count, int cpu, double seconds)
{
	struct storm storm = { 0 };
	unsigned long long nmis = 0;
	double start, length;
	pid_t sender;

	for (int i = 0; i < count; i++) {
		struct cpu_row row = cpu_row(spinners[i].cpu);

		storm.deferred -= row.deferred;
		storm.flushes -= row.flush_nmi;
		spinners[i].line->stale = 0;
		spinners[i].line->reads = 0;
		arm(spinners[i].cpu);
	}
	/* One enters and leaves, the others stay in user mode. */
	give_order(&spinners[0], ORDER_MIX, 0);
	sender = start_sender(spinners, count, cpu);
	for (start = now(); now() < start + seconds; storm.swaps++) {
		swap_area(1);
		pause_microseconds(200);
	}
	length = now() - start;
	for (int i = 0; i < count; i++)
		nmis += report(spinners[i].cpu).nmi_hits;
	storm.rate = nmis / length;
	kill(sender, SIGKILL);
	waitpid(sender, NULL, 0);
	__atomic_store_n(&spinners[0].line->stop, 1, __ATOMIC_RELEASE);
	wait_done(&spinners[0]);
	for (int i = 0; i < count; i++) {
		struct cpu_row row;

		obey(&spinners[i], ORDER_READ, 0);
		row = cpu_row(spinners[i].cpu);
		storm.deferred += row.deferred;
		storm.flushes += row.flush_nmi;
		storm.stale += spinners[i].line->stale + report(spinners[i].cpu).nmi_stale;
		storm.reads += spinners[i].line->reads;
		disarm(spinners[i].cpu);
	}
	return storm;
}

/* The last CPU sends to all others. A busy host may need several tries. */
static void test_storm(struct spinner *spinners, int count, double seconds)
{
	struct storm storm;
	bool is_good = false;

	stop_spinner(&spinners[--count]);
	setup_area(STORM_PAGES, STORM_SETS);
	for (int try = 0; try < 4; try++) {
		storm = make_storm(spinners, count, spinners[count].cpu, seconds);
		ksft_print_msg("storm: %.0f NMIs a second on %d CPUs, swaps=%ld deferred=%lld flush_nmi=%lld reads=%llu stale=%llu\n",
			       storm.rate, count, storm.swaps, storm.deferred, storm.flushes,
			       storm.reads, storm.stale);
		is_good = storm.rate >= 1000 && storm.deferred && storm.flushes;
		if (is_good || storm.stale)
			break;
	}
	for (int i = 0; i < count; i++)
		stop_spinner(&spinners[i]);
	if (!is_good && !storm.stale)
		ksft_test_result_skip("nmi: no stale page in a storm of 1 kHz and more: this machine is too slow for one\n");
	else
		ksft_test_result(!storm.stale, "nmi: no stale page in a storm of 1 kHz and more\n");
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 5;
	double seconds = argc > 2 ? atof(argv[2]) : 3;
	struct spinner spinners[DFLUSH_TEST_MAX_CPUS];
	struct cpu_list cpus = nohz_full_cpus();

	ksft_print_header();
	ksft_set_plan(seconds > 0 ? 5 : 4);
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 8);
	find_word();
	for (int i = 0; i < cpus.count; i++)
		spinners[i] = start_spinner(cpus.cpu[i]);
	test_flush("interrupts", send_one, spinners, cpus.count, rounds);
	test_flush("sysrq-l", ask_for_backtraces, spinners, cpus.count, 2);
	if (find_monitor()) {
		/* It reaches this CPU, too. */
		send_ipi(housekeeping_cpu(), NMI_VECTOR);
		test_flush("injected by QEMU", inject, spinners, cpus.count, 2);
	} else {
		ksft_test_result_skip("nmi: flushed before another handler reads, injected by QEMU: not on this machine\n");
	}
	test_during(&spinners[0], rounds);
	if (seconds > 0) {
		if (cpus.count < 2)
			ksft_test_result_skip("nmi: no stale page in a storm: needs two isolated CPUs\n");
		else
			test_storm(spinners, cpus.count, seconds);
	} else {
		for (int i = 0; i < cpus.count; i++)
			stop_spinner(&spinners[i]);
	}
	ksft_finished();
}
