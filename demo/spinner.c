// SPDX-License-Identifier: GPL-2.0
/*
 * Sit in user mode on some CPUs and note when the time-stamp counter jumps.
 *
 * Usage: spinner THRESHOLD_US CPU...
 *
 * One process per CPU reads the counter in a loop, with all its memory locked
 * and without system calls. A step longer than the threshold is a gap. Whether
 * the kernel was entered, or only an emulator or hypervisor paused the CPU, the
 * ES register tells: it holds a null selector with a privilege level, which
 * IRET to user mode sets to zero. The parent takes commands on its standard
 * input and answers each with one or more lines, the last being "ok":
 *   begin NAME   count into a new window
 *   end          stop counting, and print the window's figures, a line per CPU
 * End of file ends everything.
 */
#define _GNU_SOURCE
#include <err.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define MAX_CPUS 1024
#define CLASSES 40 /* gaps by power of two of their length in nanoseconds */

struct gaps {
	uint64_t number, ticks, longest;
};

/* Written by one spinner each, read by the parent while they stand still. */
struct figures {
	uint64_t steps;
	uint64_t entries; /* steps during which the kernel was entered */
	struct gaps all, kernel; /* kernel: those with an entry */
	uint64_t class[CLASSES];
};

struct spinner {
	_Alignas(4096) _Atomic unsigned int window_seen;
	struct figures figures;
	int cpu;
	pid_t pid;
	unsigned long faults, switches; /* when the window began */
};

/* Even: stand still. Odd: count. */
static _Alignas(4096) struct shared {
	_Atomic unsigned int window;
	uint64_t threshold_ticks;
	double ns_per_tick;
} *shared;
static struct spinner *spinners;
static int nr_spinners;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static double measure_ns_per_tick(void)
{
	uint64_t ns = now_ns(), ticks = __rdtsc();

	usleep(300000);
	return (double)(now_ns() - ns) / (double)(__rdtsc() - ticks);
}

static void add_gap(struct gaps *gaps, uint64_t ticks)
{
	gaps->number++;
	gaps->ticks += ticks;
	if (ticks > gaps->longest)
		gaps->longest = ticks;
}

static void note_gap(struct figures *f, uint64_t ticks, int entered)
{
	uint64_t ns = ticks * shared->ns_per_tick;
	int class = 63 - __builtin_clzll(ns | 1);

	add_gap(&f->all, ticks);
	if (entered)
		add_gap(&f->kernel, ticks);
	f->class[class < CLASSES ? class : CLASSES - 1]++;
}

static void arm_entry_mark(void)
{
	asm volatile("mov %w0, %%es" : : "r"(1));
}

static int kernel_was_entered(void)
{
	unsigned int es;

	asm volatile("mov %%es, %0" : "=r"(es));
	return !(es & 0xffff);
}

static void spin(struct spinner *me)
{
	uint64_t threshold = shared->threshold_ticks;

	for (;;) {
		unsigned int window = atomic_load(&shared->window);
		uint64_t last, tick, steps = 0;
		int entered, owed = 0; /* owed: an entry whose gap has not shown yet */

		if (atomic_load(&me->window_seen) == window)
			continue;
		if (!(window & 1)) {
			atomic_store(&me->window_seen, window);
			continue;
		}
		memset(&me->figures, 0, sizeof(me->figures));
		atomic_store(&me->window_seen, window);
		arm_entry_mark();
		last = __rdtsc();
		while (atomic_load_explicit(&shared->window, memory_order_relaxed) == window) {
			tick = __rdtsc();
			entered = kernel_was_entered();
			/* An entry between the two above shows as a gap in the next step. */
			if (tick - last > threshold) {
				note_gap(&me->figures, tick - last, entered || owed);
				owed = 0;
			} else {
				owed = entered;
			}
			if (entered) {
				me->figures.entries++;
				arm_entry_mark();
			}
			last = tick;
			steps++;
		}
		me->figures.steps = steps;
	}
}

static void start(struct spinner *me, pid_t parent)
{
	cpu_set_t set;

	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid) {
		me->pid = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	prctl(PR_SET_NAME, "spinner/isolated");
	CPU_ZERO(&set);
	CPU_SET(me->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "cannot run on CPU %d", me->cpu);
	/* Locks are not inherited; this also breaks copy-on-write now. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		err(1, "mlockall");
	spin(me);
}

/* Faults and context switches of a spinner so far. */
static void read_usage(const struct spinner *s, unsigned long *faults, unsigned long *switches)
{
	unsigned long minor, major, n;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", s->pid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %lu %*u %lu", &minor, &major) != 2)
		errx(1, "the spinner of CPU %d has ended", s->cpu);
	fclose(f);
	*faults = minor + major;
	snprintf(path, sizeof(path), "/proc/%d/status", s->pid);
	f = fopen(path, "r");
	if (!f)
		errx(1, "the spinner of CPU %d has ended", s->cpu);
	*switches = 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			*switches += n;
	fclose(f);
}

static void wait_for_spinners(void)
{
	unsigned int window = atomic_load(&shared->window);

	for (int i = 0; i < nr_spinners; i++)
		for (int tries = 0; atomic_load(&spinners[i].window_seen) != window; tries++) {
			if (tries > 30000)
				errx(1, "the spinner of CPU %d does not run", spinners[i].cpu);
			usleep(1000);
		}
}

static void next_window(void)
{
	atomic_fetch_add(&shared->window, 1);
	wait_for_spinners();
}

static void print_gaps(const char *prefix, const struct gaps *gaps)
{
	printf(" %sgaps %llu %stotal_ns %.0f %slongest_ns %.0f",
	       prefix, (unsigned long long)gaps->number,
	       prefix, gaps->ticks * shared->ns_per_tick,
	       prefix, gaps->longest * shared->ns_per_tick);
}

static void print_window(const char *name, uint64_t ns)
{
	for (int i = 0; i < nr_spinners; i++) {
		struct spinner *s = &spinners[i];
		const struct figures *f = &s->figures;
		unsigned long faults, switches;

		read_usage(s, &faults, &switches);
		printf("window %s cpu %d elapsed_ns %llu steps %llu entries %llu threshold_ns %.0f"
		       " faults %lu switches %lu",
		       name, s->cpu, (unsigned long long)ns, (unsigned long long)f->steps,
		       (unsigned long long)f->entries, shared->threshold_ticks * shared->ns_per_tick,
		       faults - s->faults, switches - s->switches);
		print_gaps("", &f->all);
		print_gaps("kernel_", &f->kernel);
		printf(" classes");
		for (int class = 0; class < CLASSES; class++)
			if (f->class[class])
				printf(" %d:%llu", class, (unsigned long long)f->class[class]);
		printf("\n");
	}
}

static void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

int main(int argc, char **argv)
{
	char line[256], name[64] = "";
	uint64_t began = 0;
	pid_t me = getpid();

	if (argc < 3 || argc - 2 > MAX_CPUS)
		errx(2, "usage: spinner THRESHOLD_US CPU...");
	shared = shared_memory(sizeof(*shared));
	nr_spinners = argc - 2;
	spinners = shared_memory(nr_spinners * sizeof(*spinners));
	shared->ns_per_tick = measure_ns_per_tick();
	shared->threshold_ticks = atof(argv[1]) * 1000 / shared->ns_per_tick;
	for (int i = 0; i < nr_spinners; i++) {
		spinners[i].cpu = atoi(argv[2 + i]);
		spinners[i].window_seen = -1u; /* not even standing still yet */
		start(&spinners[i], me);
	}
	wait_for_spinners();
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		int counting = atomic_load(&shared->window) & 1;

		if (!counting && sscanf(line, "begin %63s", name) == 1) {
			for (int i = 0; i < nr_spinners; i++)
				read_usage(&spinners[i], &spinners[i].faults, &spinners[i].switches);
			next_window();
			began = now_ns();
		} else if (counting && !strcmp(line, "end\n")) {
			uint64_t ended = now_ns();

			next_window();
			print_window(name, ended - began);
		} else {
			errx(2, "cannot obey '%s'", strtok(line, "\n"));
		}
		puts("ok");
	}
	for (int i = 0; i < nr_spinners; i++)
		kill(spinners[i].pid, SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
