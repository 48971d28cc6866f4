// SPDX-License-Identifier: GPL-2.0
/*
 * Every kind of tracer on every function that runs before the receiver or the
 * NMI handler, put there and taken away while flushes are deferred.
 *
 * Each has to suspend deferral, once, before the first byte of the function is
 * changed, and has to find no CPU that owes a flush. Nothing stale is read while
 * it is there; two of the kinds read the swapped pages themselves. When it has
 * gone, deferral goes on by itself.
 *
 * Usage: tracers [-r ROUNDS] [-f FUNCTION] [-k KIND]
 *
 * Without options every kind goes on vtime_user_exit and on half of the others,
 * with -r on all of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define TRACING "/sys/kernel/tracing/"
#define PROBES "/sys/kernel/debug/kprobes/list"

/* Where an instruction may begin in the middle of a function differs. */
#define FIRST_OFFSET 5
#define LAST_OFFSET 40

/* So long the kernel gets to optimise a kprobe. */
#define OPTIMISE_SECONDS 3

/* Whatever can be instrumented, as hooks/symbols.rs finds it on the stock image. */
static const char *const functions[] = {
	"vtime_user_exit", "nmi_handle.part.0", "__rcu_read_lock", "__rcu_read_unlock",
	"___ratelimit", "sched_clock",
};

#define FUNCTIONS (int)(sizeof(functions) / sizeof(functions[0]))

/* Whether a tracer was put there; why not is another matter. */
enum attached { YES, NO };

static int write_text(const char *path, int flags, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int write_text(const char *path, int flags, const char *format, ...)
{
	char text[256];
	int file = open(path, O_WRONLY | O_CLOEXEC | flags), error = 0;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (file < 0 || write(file, text, length) != length)
		error = -errno;
	if (file >= 0)
		close(file);
	return error;
}

/* tracefs: the function tracers. */

static enum attached start_tracer(const char *tracer, const char *function)
{
	if (write_text(TRACING "set_ftrace_filter", O_TRUNC, "%s\n", function))
		return NO;
	if (write_text(TRACING "current_tracer", O_TRUNC, "%s", tracer))
		fail("no tracer %s", tracer);
	return YES;
}

static enum attached start_function(const char *function)
{
	return start_tracer("function", function);
}

static enum attached start_graph(const char *function)
{
	return start_tracer("function_graph", function);
}

static void stop_tracer(void)
{
	write_text(TRACING "current_tracer", O_TRUNC, "nop");
	write_text(TRACING "set_ftrace_filter", O_TRUNC, "\n");
}

/* tracefs: events made of an fprobe or a kprobe. */

static enum attached start_event(char type, const char *function, int offset)
{
	char place[64];

	snprintf(place, sizeof(place), offset ? "%s+%d" : "%s", function, offset);
	if (write_text(TRACING "dynamic_events", O_APPEND, "%c:dflush/event %s", type, place))
		return NO;
	if (write_text(TRACING "events/dflush/event/enable", O_TRUNC, "1")) {
		write_text(TRACING "dynamic_events", O_APPEND, "-:dflush/event");
		return NO;
	}
	return YES;
}

static void stop_event(void)
{
	write_text(TRACING "events/dflush/event/enable", O_TRUNC, "0");
	write_text(TRACING "dynamic_events", O_APPEND, "-:dflush/event");
}

static enum attached start_fprobe(const char *function)
{
	return start_event('f', function, 0);
}

static enum attached start_kprobe(const char *function)
{
	return start_event('p', function, 0);
}

static bool is_optimised(const char *function)
{
	FILE *list = fopen(PROBES, "re");
	bool optimised = false;
	char line[512];

	while (list && fgets(line, sizeof(line), list))
		optimised |= strstr(line, function) && strstr(line, "[OPTIMIZED]");
	if (list)
		fclose(list);
	return optimised;
}

static int optimised_probes;

static enum attached start_inside(const char *function)
{
	double limit;

	/* The body runs after the receiver, whose site is all that is watched. */
	if (!strcmp(function, "vtime_user_exit"))
		return NO;
	for (int offset = FIRST_OFFSET; offset <= LAST_OFFSET; offset++) {
		if (start_event('p', function, offset) == NO)
			continue;
		limit = now() + OPTIMISE_SECONDS;
		while (now() < limit && !is_optimised(function))
			usleep(50000);
		optimised_probes += is_optimised(function);
		return YES;
	}
	return NO;
}

/* BPF, which counts in memory of its own that is freshly mapped. */

static int bpf_map = -1, bpf_program = -1, perf_event = -1;
static long long bpf_hits;

static int bpf(int command, union bpf_attr *attributes)
{
	return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

static void load_program(void)
{
	union bpf_attr map = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 512,
		.map_flags = BPF_F_MMAPABLE,	/* vmalloc memory */
	};
	struct bpf_insn code[] = {
		{ BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, 0 },
		{ 0, 0, 0, 0, 0 },
		{ BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0 },
		{ BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_2, BPF_REG_10, 0, 0 },
		{ BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4 },
		{ BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem },
		{ BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 2, 0 },
		{ BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, 0, 0, 1 },
		{ BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_0, BPF_REG_1, 0, BPF_ADD },
		{ BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0 },
		{ BPF_JMP | BPF_EXIT, 0, 0, 0, 0 },
	};
	union bpf_attr program = {
		.prog_type = BPF_PROG_TYPE_KPROBE, .insns = (uint64_t)code,
		.insn_cnt = sizeof(code) / sizeof(code[0]), .license = (uint64_t)"GPL",
	};

	bpf_map = bpf(BPF_MAP_CREATE, &map);
	if (bpf_map < 0)
		fail("BPF map: %s", strerror(errno));
	code[0].imm = bpf_map;
	bpf_program = bpf(BPF_PROG_LOAD, &program);
	if (bpf_program < 0)
		fail("BPF program: %s", strerror(errno));
}

static void stop_bpf(void)
{
	uint32_t key = 0;
	uint64_t value = 0;
	union bpf_attr look = {
		.map_fd = bpf_map, .key = (uint64_t)&key, .value = (uint64_t)&value,
	};

	if (!bpf(BPF_MAP_LOOKUP_ELEM, &look))
		bpf_hits += value;
	close(perf_event);
	close(bpf_program);
	close(bpf_map);
}

static enum attached start_bpf(const char *function)
{
	struct perf_event_attr event = { .size = sizeof(event), .kprobe_func = (uint64_t)function };
	FILE *type = fopen("/sys/bus/event_source/devices/kprobe/type", "re");

	if (!type || fscanf(type, "%u", &event.type) != 1)
		fail("no performance events of kprobes");
	fclose(type);
	load_program();
	perf_event = syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (perf_event < 0) {
		close(bpf_program);
		close(bpf_map);
		return NO;
	}
	if (ioctl(perf_event, PERF_EVENT_IOC_SET_BPF, bpf_program) ||
	    ioctl(perf_event, PERF_EVENT_IOC_ENABLE, 0))
		fail("BPF on %s: %s", function, strerror(errno));
	return YES;
}

/* The test module's own, which read the pages. */

static enum attached start_own(enum dflush_watch kind, const char *function)
{
	struct dflush_request about = { .watch = kind };

	snprintf(about.symbol, sizeof(about.symbol), "%s", function);
	return try_request(DFLUSH_NR_WATCH, &about) ? NO : YES;
}

static enum attached start_own_tracer(const char *function)
{
	return start_own(DFLUSH_WATCH_FTRACE, function);
}

static enum attached start_own_kprobe(const char *function)
{
	return start_own(DFLUSH_WATCH_KPROBE, function);
}

static void stop_own(void)
{
	for (int kind = DFLUSH_WATCH_FTRACE; kind <= DFLUSH_WATCH_KPROBE; kind++) {
		struct dflush_request about = { .watch = kind };

		request(DFLUSH_NR_UNWATCH, &about);
	}
}

static const struct kind {
	const char *name;
	enum attached (*start)(const char *function);
	void (*stop)(void);
} kinds[] = {
	{ "function", start_function, stop_tracer },
	{ "function_graph", start_graph, stop_tracer },
	{ "fprobe", start_fprobe, stop_event },
	{ "kprobe", start_kprobe, stop_event },
	{ "inside", start_inside, stop_event },
	{ "bpf", start_bpf, stop_bpf },
	{ "own-tracer", start_own_tracer, stop_own },
	{ "own-kprobe", start_own_kprobe, stop_own },
};

#define KINDS (int)(sizeof(kinds) / sizeof(kinds[0]))

static bool is_chosen(int kind, int function, const char *only)
{
	if (only)
		return !strcmp(only, functions[function]);
	return !function || (kind + function) % 2;
}

static pid_t start_storm(int cpu)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	for (;;) {
		swap_area(1);
		usleep(300);
	}
}

struct outcome {
	int attached;
	int wrong;
	unsigned long long hits;
	unsigned long long stale;
};

static void read_pages(struct spinner *spinner, struct outcome *outcome)
{
	spinner->line->stale = 0;
	obey(spinner, ORDER_READ, 0);
	outcome->stale += spinner->line->stale;
}

static void one_tracer(const struct kind *kind, const char *function, struct spinner *spinner,
		       struct outcome *outcome)
{
	struct dflush_request seen;
	long long deferred, suspensions, word;
	double limit = now() + PATIENCE;
	bool suspended, resumed;

	read_pages(spinner, outcome);
	arm(spinner->cpu);
	suspensions = summary("suspensions");
	deferred = summary("deferred");
	/* The storm goes on, and its flushes wait for the spinner. */
	while (summary("deferred") < deferred + 2 && now() < limit)
		usleep(1000);
	if (kind->start(function) == NO) {
		disarm(spinner->cpu);
		return;
	}
	suspended = !is_on();
	word = cpu_row(spinner->cpu).word;
	deferred = summary("deferred");
	send_ipi(spinner->cpu, NMI_VECTOR);
	for (int i = 0; i < 3; i++)
		read_pages(spinner, outcome);
	deferred = summary("deferred") - deferred;
	suspensions = summary("suspensions") - suspensions;
	seen = report(spinner->cpu);
	disarm(spinner->cpu);
	kind->stop();
	resumed = comes_on_again();
	outcome->attached++;
	outcome->hits += seen.watch_hits;
	outcome->stale += seen.watch_stale + seen.nmi_stale;
	if (!suspended || word || deferred || suspensions != 1 || !resumed) {
		outcome->wrong++;
		ksft_print_msg("%s on %s: suspended=%d word=%lld deferred=%lld suspensions=%lld resumed=%d\n",
			       kind->name, function, suspended, word, deferred, suspensions, resumed);
	}
}

int main(int argc, char **argv)
{
	struct cpu_list cpus = nohz_full_cpus();
	const char *only_function = NULL, *only_kind = NULL;
	struct spinner spinner;
	long rounds = 0;
	pid_t storm;
	int option;

	while ((option = getopt(argc, argv, "r:f:k:")) != -1) {
		if (option == 'r')
			rounds = atol(optarg);
		else if (option == 'f')
			only_function = optarg;
		else if (option == 'k')
			only_kind = optarg;
		else
			return 2;
	}
	ksft_print_header();
	ksft_set_plan(only_kind ? 1 : KINDS);
	pin_to(housekeeping_cpu());
	setup_area(PAGES, 8);
	spinner = start_spinner(cpus.cpu[0]);
	storm = start_storm(cpus.cpu[cpus.count - 1]);
	for (int kind = 0; kind < KINDS; kind++) {
		struct outcome outcome = { 0 };
		double start = now();

		if (only_kind && strcmp(only_kind, kinds[kind].name))
			continue;
		for (long round = 0; round < (rounds ? rounds : 1); round++)
			for (int i = 0; i < FUNCTIONS; i++)
				if ((rounds && !only_function) || is_chosen(kind, i, only_function))
					one_tracer(&kinds[kind], functions[i], &spinner, &outcome);
		ksft_print_msg("%s: attached=%d wrong=%d hits=%llu stale=%llu in %.1f s\n",
			       kinds[kind].name, outcome.attached, outcome.wrong, outcome.hits,
			       outcome.stale, now() - start);
		if (kinds[kind].start == start_inside && !optimised_probes)
			ksft_print_msg("no kprobe was optimised\n");
		ksft_test_result(outcome.attached && !outcome.wrong && !outcome.stale &&
				 (kinds[kind].start != start_inside || optimised_probes) &&
				 (kinds[kind].start != start_bpf || bpf_hits),
				 "tracers: %s suspends, drains, reads nothing stale, and goes\n",
				 kinds[kind].name);
	}
	kill(storm, SIGKILL);
	waitpid(storm, NULL, 0);
	stop_spinner(&spinner);
	ksft_print_msg("optimised=%d bpf hits=%lld\n", optimised_probes, bpf_hits);
	ksft_finished();
}
