// SPDX-License-Identifier: GPL-2.0
/*
 * The view of recent flushes: that what happened is in it, and that each of its
 * lines is one record, whatever goes on meanwhile.
 *
 * Usage: recent [SECONDS]
 *
 * For the latter every CPU flushes ranges whose size, whose sender and whose
 * number follow from their start, so that a line put together from two records
 * shows; ranges outside of vmalloc, by a caller that is not allowed, so that
 * every flush is kept. The line '# reads=...' is for the negative controls.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
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

#define RECENT_FILE "/sys/kernel/debug/deferred_flush/recent"
#define KPTR_FILE "/proc/sys/kernel/kptr_restrict"
#define HEADER \
	"# time cpu decision deferred ipi_not_quiet ipi_raced ipi_not_allowed start size caller\n"
#define PURGER "__purge_vmap_area_lazy"
#define MOST 256
#define PAGE 4096UL
#define PAGES 24
/* A range that is neither vmalloc's nor one of the writers'. */
#define ELSEWHERE 0xffffc12345678000
#define WRITERS_PER_CPU 2
#define READERS 2

struct line {
	double time;
	int cpu;
	char decision[16];
	/* deferred, ipi_not_quiet, ipi_raced, ipi_not_allowed; -1 for '-' */
	long counts[4];
	/* 0 for '-' */
	unsigned long start;
	/* -1 for '-' */
	long size;
	char caller[400];
};

struct view {
	int count;
	/* Lines that make no sense, or are out of order. */
	int bad;
	struct line line[MOST];
};

static unsigned long flush_function;

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text) || close(file))
		fail("%s: cannot write '%s': %s", path, text, strerror(errno));
}

static bool parse_count(const char *text, long *count)
{
	char *end;

	*count = -1;
	if (!strcmp(text, "-"))
		return true;
	*count = strtol(text, &end, 10);
	return end != text && !*end && *count >= 0;
}

static bool parse_line(const char *text, struct line *line)
{
	char counts[4][16], start[32], size[24];
	int used = 0;

	if (sscanf(text, "%lf %d %15s %15s %15s %15s %15s %31s %23s %399s%n", &line->time, &line->cpu,
		   line->decision, counts[0], counts[1], counts[2], counts[3], start, size,
		   line->caller, &used) != 10 || strcmp(text + used, "\n"))
		return false;
	line->start = strcmp(start, "-") ? strtoul(start, NULL, 16) : 0;
	for (int i = 0; i < 4; i++)
		if (!parse_count(counts[i], &line->counts[i]))
			return false;
	return parse_count(size, &line->size) && (!line->start || !strncmp(start, "0x", 2));
}

static void read_view(struct view *view)
{
	char text[1024];
	double last = 0;
	FILE *file = fopen(RECENT_FILE, "re");

	if (!file || !fgets(text, sizeof(text), file))
		fail(RECENT_FILE ": %s", strerror(errno));
	view->count = 0;
	view->bad = strcmp(text, HEADER) != 0;
	while (fgets(text, sizeof(text), file)) {
		struct line *line = &view->line[view->count];

		if (view->count == MOST || !parse_line(text, line) || line->time < last) {
			view->bad++;
			ksft_print_msg("bad line: %s", text);
			continue;
		}
		last = line->time;
		view->count++;
	}
	if (ferror(file))
		fail(RECENT_FILE ": cannot be read");
	fclose(file);
}

/* flush_tlb_kernel_range(), called by the test module. */
static void flush_pages(unsigned long start, unsigned long pages)
{
	struct dflush_request about = {
		.address = flush_function, .count = DFLUSH_CALL_FLUSH, .moved = start, .pages = pages,
	};

	request(DFLUSH_NR_CALL, &about);
}

/*
 * The newest line since `since` by this caller, of this CPU, that covers the
 * pages (any if there are none); NULL if there is none.
 */
static struct line *find_line(struct view *view, double since, const char *decision,
			      const char *caller, unsigned long start, unsigned long pages)
{
	int cpu = housekeeping_cpu();

	read_view(view);
	for (int i = view->count - 1; i >= 0; i--) {
		struct line *line = &view->line[i];

		if (line->time >= since && line->time <= now() && line->cpu == cpu &&
		    !strcmp(line->decision, decision) && strstr(line->caller, caller) == line->caller &&
		    (!pages || (line->start <= start &&
				start + pages * PAGE <= line->start + line->size)))
			return line;
	}
	ksft_print_msg("no line '%s' by %s that covers %#lx among %d\n", decision, caller, start,
		       view->count);
	return NULL;
}

static void show(const struct line *line)
{
	ksft_print_msg("%s %ld %ld %ld %ld %#lx %ld %s\n", line->decision, line->counts[0],
		       line->counts[1], line->counts[2], line->counts[3], line->start, line->size,
		       line->caller);
}

static bool is_uncounted(const struct line *line)
{
	for (int i = 0; i < 4; i++)
		if (line->counts[i] != -1)
			return false;
	return true;
}

static struct dflush_request set_up(void)
{
	struct dflush_request about = { .pages = PAGES, .sets = 4 };

	request(DFLUSH_NR_SETUP, &about);
	return about;
}

static bool shows_deferred(struct view *view)
{
	struct spinner spinner = start_spinner(nohz_full_cpus().cpu[0]);
	long online = sysconf(_SC_NPROCESSORS_ONLN), sum = 0;
	unsigned long start = set_up().address;
	struct line *line = NULL;
	double since;

	/* The spinner's CPU may just be in a timer's interrupt. */
	for (int tries = 0; tries < 5 && !(line && line->counts[0] > 0); tries++) {
		since = now();
		swap_area(1);
		line = find_line(view, since, "redirected", PURGER, start, PAGES);
		if (!line)
			break;
		show(line);
		start = set_up().address;
	}
	stop_spinner(&spinner);
	for (int i = 0; line && i < 4; i++)
		sum += line->counts[i];
	return line && line->counts[0] > 0 && sum == online - 1;
}

static bool shows_refused(struct view *view)
{
	struct dflush_request about = { .count = DFLUSH_FLUSH_VREALLOC };
	double since = now();
	struct line *line;

	request(DFLUSH_NR_FLUSH, &about);
	line = find_line(view, since, "kept_caller", "vrealloc_node_align_noprof", 0, 0);
	if (line)
		show(line);
	return line && is_uncounted(line);
}

static bool shows_shadow(struct view *view)
{
	struct spinner spinner = start_spinner(nohz_full_cpus().cpu[0]);
	unsigned long start = set_up().address;
	struct line *line = NULL;
	bool is_right = false;
	double since;

	write_file(MODE_FILE, "shadow\n");
	for (int tries = 0; tries < 5 && !line; tries++) {
		start = set_up().address;
		since = now();
		swap_area(1);
		line = find_line(view, since, "would_defer", PURGER, start, PAGES);
	}
	stop_spinner(&spinner);
	if (line) {
		show(line);
		is_right = line->counts[0] > 0 && line->counts[1] >= 0 && line->counts[2] == -1 &&
			   line->counts[3] == -1;
	}
	start = set_up().address;
	since = now();
	swap_area(1);
	line = find_line(view, since, "kept_blocked", PURGER, start, PAGES);
	write_file(MODE_FILE, "on\n");
	return is_right && line && is_uncounted(line);
}

/* What a reader without CAP_SYSLOG sees as start. */
static unsigned long start_for_others(struct view *view, int position)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	unsigned long *start = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	if (start == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	*start = -1UL;
	pid = fork();
	if (!pid) {
		if (syscall(SYS_capget, &header, data))
			_exit(1);
		data[CAP_TO_INDEX(CAP_SYSLOG)].effective &= ~CAP_TO_MASK(CAP_SYSLOG);
		if (syscall(SYS_capset, &header, data))
			_exit(1);
		read_view(view);
		*start = view->line[position < view->count ? position : 0].start;
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	return *start;
}

/* The kernel's rule for addresses, kernel.kptr_restrict, holds for this file. */
static bool hides_addresses(struct view *view)
{
	const unsigned long start = ELSEWHERE;
	unsigned long seen[3], others = -1UL;
	char number[2] = "0";

	for (int rule = 0; rule < 3; rule++) {
		number[0] = '0' + rule;
		write_file(KPTR_FILE, number);
		flush_pages(start, 1);
		read_view(view);
		seen[rule] = view->count ? view->line[view->count - 1].start : 1;
		if (rule == 1)
			others = start_for_others(view, view->count - 1);
	}
	write_file(KPTR_FILE, "1");
	ksft_print_msg("start by kptr_restrict: 0 %#lx, 1 %#lx, 1 without CAP_SYSLOG %#lx, 2 %#lx\n",
		       seen[0], seen[1], others, seen[2]);
	return seen[0] && seen[0] != start && seen[1] == start && !others && !seen[2];
}

/* Starts of ranges by which a line is checked: who sends, on which CPU, for the which time. */
#define PATTERN 0xffffd00000000000
#define PATTERN_MASK 0xfffff00000000000

static unsigned long pattern(int writer, int cpu, unsigned long number)
{
	return PATTERN | (unsigned long)writer << 40 | (unsigned long)cpu << 32 | number << 12;
}

/* With a prime, or records of one slot, 256 apart, would have the same. */
static unsigned long pattern_pages(unsigned long number)
{
	return 1 + number % 31;
}

static pid_t start_writer(int writer, int cpu)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	for (unsigned long number = 1; number < 1 << 20; number++)
		flush_pages(pattern(writer, cpu, number), pattern_pages(number));
	_exit(0);
}

struct outcome {
	unsigned long reads;
	unsigned long lines;
	unsigned long torn;
	unsigned long cpus;
};

/* Whether a line of a writer is one of its records; `last` has its number before. */
static bool is_whole(const struct line *line, unsigned long *last)
{
	unsigned long number = (line->start >> 12) & 0xfffff;
	int cpu = (line->start >> 32) & 0xff, writer = (line->start >> 40) & 0xf;
	size_t length = strlen(line->caller), end = strlen("[dflush_test]");

	if (line->cpu != cpu || writer >= WRITERS_PER_CPU || strcmp(line->decision, "kept_caller") ||
	    line->size != (long)(pattern_pages(number) * PAGE) || !is_uncounted(line) || length <= end ||
	    strcmp(line->caller + length - end, "[dflush_test]"))
		return false;
	last += cpu * WRITERS_PER_CPU + writer;
	if (number <= *last)
		return false;
	*last = number;
	return true;
}

static void check_view(struct view *view, struct outcome *outcome)
{
	unsigned long last[DFLUSH_TEST_MAX_CPUS * WRITERS_PER_CPU] = { 0 };

	read_view(view);
	outcome->reads++;
	outcome->torn += view->bad;
	for (int i = 0; i < view->count; i++) {
		struct line *line = &view->line[i];

		if ((line->start & PATTERN_MASK) != PATTERN) {
			/* Somebody else's; but not if it has a part of ours. */
			outcome->torn += strstr(line->caller, "dflush_test") && line->start != ELSEWHERE;
			continue;
		}
		outcome->lines++;
		if (is_whole(line, last)) {
			outcome->cpus |= 1UL << line->cpu;
		} else {
			outcome->torn++;
			if (outcome->torn <= 3)
				show(line);
		}
	}
}

/* Before the writers, of which there are several on each CPU. */
static void run_reader(int cpu, struct outcome *outcome, double seconds)
{
	static struct view view;
	double limit = now() + seconds;

	pin_to(cpu);
	if (setpriority(PRIO_PROCESS, 0, -15))
		fail("setpriority: %s", strerror(errno));
	while (now() < limit)
		check_view(&view, outcome);
}

static bool lines_are_whole(double seconds)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	pid_t writers[DFLUSH_TEST_MAX_CPUS * WRITERS_PER_CPU], reader;
	struct outcome *outcome = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int started = 0;

	if (outcome == MAP_FAILED || online > DFLUSH_TEST_MAX_CPUS)
		fail("cannot run on %ld CPUs: %s", online, strerror(errno));
	for (int cpu = 0; cpu < online; cpu++)
		for (int writer = 0; writer < WRITERS_PER_CPU; writer++)
			writers[started++] = start_writer(writer, cpu);
	fflush(stdout);
	reader = fork();
	if (!reader) {
		run_reader(online - 1, &outcome[1], seconds);
		fflush(stdout);
		_exit(0);
	}
	run_reader(housekeeping_cpu(), &outcome[0], seconds);
	waitpid(reader, NULL, 0);
	while (started--) {
		kill(writers[started], SIGKILL);
		waitpid(writers[started], NULL, 0);
	}
	for (int i = 1; i < READERS; i++) {
		outcome->reads += outcome[i].reads;
		outcome->lines += outcome[i].lines;
		outcome->torn += outcome[i].torn;
		outcome->cpus |= outcome[i].cpus;
	}
	ksft_print_msg("reads=%lu lines=%lu cpus=%d torn=%lu\n", outcome->reads, outcome->lines,
		       __builtin_popcountl(outcome->cpus), outcome->torn);
	return !outcome->torn && outcome->lines >= MOST &&
	       __builtin_popcountl(outcome->cpus) == online;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 5;
	static struct view view;
	char rule[16] = "";
	FILE *file = fopen(KPTR_FILE, "re");

	ksft_print_header();
	ksft_set_plan(6);
	if (!file || !fgets(rule, sizeof(rule), file) || fclose(file))
		fail(KPTR_FILE ": %s", strerror(errno));
	flush_function = find_symbol("flush_tlb_kernel_range");
	pin_to(housekeeping_cpu());
	write_file(KPTR_FILE, "1");
	flush_pages(ELSEWHERE, 1);
	read_view(&view);
	ksft_test_result(view.count > 0 && !view.bad, "recent: a header and lines of ten columns\n");
	ksft_test_result(shows_deferred(&view), "recent: a deferred flush, its range, caller and CPUs\n");
	ksft_test_result(shows_refused(&view), "recent: a caller that is refused\n");
	ksft_test_result(shows_shadow(&view), "recent: shadow mode\n");
	ksft_test_result(hides_addresses(&view), "recent: addresses by the rule of kptr_restrict\n");
	ksft_test_result(lines_are_whole(seconds), "recent: every line is whole while all CPUs send\n");
	write_file(KPTR_FILE, rule);
	ksft_finished();
}
