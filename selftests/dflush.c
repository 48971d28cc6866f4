// SPDX-License-Identifier: GPL-2.0
/*
 * The shell tests' hand on the test module.
 *
 * Usage:
 *   dflush rounds CPUS COUNT     swap COUNT times behind spinners on CPUS; prints
 *                                'cpu deferred ipi_not_quiet stale' for each
 *   dflush flush aliases|vrealloc|huge|lazy|gigabyte COUNT
 *   dflush storm CPU             swap on that CPU until killed
 *   dflush hold CPUS             spin on CPUS, print 'ready', until standard input ends
 *   dflush watch ftrace|kprobe|ipmodify|direct|copy SYMBOL [OFFSET]
 *   dflush unwatch KIND
 *   dflush owe CPU               let an offline CPU owe a flush
 *   dflush memory report|on|refuse|off   look when memory goes offline; prints
 *                                'WINDOWS BEFORE AT_START INSIDE AFTER', see dflush_test.h
 *   dflush load FILE [PARAMETERS]
 *   dflush cycle FILE COUNT      load it, check that it is on, switch it off, unload it
 *   dflush call ftrace_kill      what the test module calls in the kernel
 *   dflush call text_poke_kgdb SYMBOL    ... with the function's first byte, unchanged
 *   dflush feature invlpgb|xenpv 0|1    whether the kernel believes that its CPU has it
 *   dflush bytes SYMBOL...       print the first 16 bytes of each function's code
 *   dflush peek SYMBOL           print the 8 bytes there, as a number
 *   dflush words CPUS            print 'CPU ADDRESS' of their deferred-flush words
 *
 * Fails with the errno as its exit status, so that a test can name it.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"

#define PAGES 96

static int find(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(names[i], name))
			return i;
	fail("unknown name '%s'; see the head of dflush.c", name);
}

static int rounds(struct cpu_list cpus, long count)
{
	struct spinner spinners[DFLUSH_TEST_MAX_CPUS];
	struct cpu_row before[DFLUSH_TEST_MAX_CPUS];

	setup_area(PAGES, 4);
	for (int i = 0; i < cpus.count; i++) {
		spinners[i] = start_spinner(cpus.cpu[i]);
		before[i] = cpu_row(cpus.cpu[i]);
	}
	for (long round = 0; round < count; round++) {
		for (int i = 0; i < cpus.count; i++)
			give_order(&spinners[i], ORDER_READ, 0);
		for (int i = 0; i < cpus.count; i++)
			wait_done(&spinners[i]);
		swap_area(1);
	}
	for (int i = 0; i < cpus.count; i++) {
		struct cpu_row after;

		obey(&spinners[i], ORDER_READ, 0);
		after = cpu_row(cpus.cpu[i]);
		printf("%d %lld %lld %llu\n", cpus.cpu[i],
		       after.deferred - before[i].deferred,
		       after.ipi_not_quiet - before[i].ipi_not_quiet,
		       spinners[i].line->stale + spinners[i].line->absent);
		stop_spinner(&spinners[i]);
	}
	return 0;
}

static int hold(struct cpu_list cpus)
{
	struct spinner spinners[DFLUSH_TEST_MAX_CPUS];

	for (int i = 0; i < cpus.count; i++)
		spinners[i] = start_spinner(cpus.cpu[i]);
	printf("ready\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	for (int i = 0; i < cpus.count; i++)
		stop_spinner(&spinners[i]);
	return 0;
}

static int flush(const char *kind, long count)
{
	static const char *const kinds[] = { "aliases", "vrealloc", "huge", "lazy", "gigabyte" };
	struct dflush_request about = { .count = find(kinds, 5, kind) };

	while (count-- > 0)
		request(DFLUSH_NR_FLUSH, &about);
	return 0;
}

static int watch(int argc, char **argv)
{
	static const char *const kinds[] = { "ftrace", "kprobe", "ipmodify", "direct", "copy" };
	struct dflush_request about = { .watch = find(kinds, 5, argv[2]) };

	if (!strcmp(argv[1], "unwatch"))
		return -try_request(DFLUSH_NR_UNWATCH, &about);
	if (argc < 4)
		fail("watch needs a symbol");
	snprintf(about.symbol, sizeof(about.symbol), "%s", argv[3]);
	if (argc > 4)
		about.address = strtoul(argv[4], NULL, 0);
	return -try_request(DFLUSH_NR_WATCH, &about);
}

static int memory(const char *how)
{
	static const char *const looks[] = { "report", "on", "refuse", "off" };
	struct dflush_request about = { .count = find(looks, 4, how) };

	if (about.count == DFLUSH_LOOK_ON || about.count == DFLUSH_LOOK_REFUSE) {
		setup_area(16, 4);
		find_word();
	}
	request(DFLUSH_NR_MEMORY, &about);
	printf("%llu %llu %llu %llu %llu\n", about.windows, about.owed_before,
	       about.owed_at_start, about.owed_inside, about.owed_after);
	return 0;
}

static void __attribute__((noreturn)) storm(int cpu)
{
	setup_area(16, 4);
	pin_to(cpu);
	for (;;) {
		swap_area(1);
		usleep(500);
	}
}

static int load(const char *path, const char *parameters)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), error;

	if (file < 0)
		fail("%s: %s", path, strerror(errno));
	error = syscall(SYS_finit_module, file, parameters, 0) ? errno : 0;
	close(file);
	return error;
}

static int cycle(const char *path, long count)
{
	for (long i = 1; i <= count; i++) {
		int error = load(path, ""), mode;

		if (error)
			fail("cycle %ld: loading: %s", i, strerror(error));
		if (!is_on())
			fail("cycle %ld: not on after loading", i);
		mode = open(MODE_FILE, O_WRONLY | O_CLOEXEC);
		if (mode < 0 || write(mode, "off\n", 4) != 4 || close(mode))
			fail("cycle %ld: switching off: %s", i, strerror(errno));
		if (syscall(SYS_delete_module, "deferred_flush", O_NONBLOCK))
			fail("cycle %ld: unloading: %s", i, strerror(errno));
		if (i % 20 == 0) {
			printf("# %ld cycles\n", i);
			fflush(stdout);
		}
	}
	return 0;
}

static int call(const char *function, const char *place)
{
	struct dflush_request about = {
		.address = find_symbol(function),
		.count = place ? DFLUSH_CALL_POKE_KGDB : DFLUSH_CALL_FTRACE_KILL,
		.moved = place ? find_symbol(place) : 0,
	};

	return -try_request(DFLUSH_NR_CALL, &about);
}

static int set_feature(const char *feature, bool has)
{
	static const char *const features[] = { "invlpgb", "xenpv" };
	struct dflush_request about = {
		.cpu = find(features, 2, feature), .count = DFLUSH_CALL_FEATURE, .moved = has,
	};

	return -try_request(DFLUSH_NR_CALL, &about);
}

/* The kernel's memory is in /proc/kcore, one program header a range. */
static void read_kernel(unsigned long address, void *buffer, size_t length)
{
	int core = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr header;
	Elf64_Phdr range;

	if (core < 0 || pread(core, &header, sizeof(header), 0) != sizeof(header))
		fail("/proc/kcore: %s", strerror(errno));
	for (int i = 0; i < header.e_phnum; i++) {
		off_t offset = header.e_phoff + i * sizeof(range);

		if (pread(core, &range, sizeof(range), offset) != sizeof(range))
			fail("/proc/kcore: %s", strerror(errno));
		if (range.p_type != PT_LOAD || address < range.p_vaddr ||
		    address - range.p_vaddr >= range.p_memsz)
			continue;
		offset = range.p_offset + (address - range.p_vaddr);
		if (pread(core, buffer, length, offset) != (ssize_t)length)
			fail("/proc/kcore: %s", strerror(errno));
		close(core);
		return;
	}
	fail("/proc/kcore has no range for %lx", address);
}

static int bytes(char **symbols, int count)
{
	unsigned char code[16];

	for (int i = 0; i < count; i++) {
		read_kernel(find_symbol(symbols[i]), code, sizeof(code));
		printf("%s ", symbols[i]);
		for (size_t byte = 0; byte < sizeof(code); byte++)
			printf("%02x", code[byte]);
		printf("\n");
	}
	return 0;
}

static unsigned long peek(unsigned long address)
{
	unsigned long value;

	read_kernel(address, &value, sizeof(value));
	return value;
}

static int print_words(struct cpu_list cpus)
{
	static const char *const names[] = { "DEFERRED_FLUSH_CPU", "__per_cpu_offset" };
	unsigned long found[2];

	find_symbols(names, found, 2);
	for (int i = 0; i < cpus.count; i++)
		printf("%d 0x%lx\n", cpus.cpu[i], found[0] + peek(found[1] + 8 * cpus.cpu[i]));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	/* These also run where no CPU is isolated. */
	if (!strcmp(what, "load") && argc >= 3)
		return load(argv[2], argc > 3 ? argv[3] : "");
	if (!strcmp(what, "cycle") && argc == 4)
		return cycle(argv[2], atol(argv[3]));
	if (!strcmp(what, "bytes") && argc >= 3)
		return bytes(argv + 2, argc - 2);
	if (!strcmp(what, "peek") && argc == 3) {
		printf("0x%lx\n", peek(find_symbol(argv[2])));
		return 0;
	}
	if (!strcmp(what, "feature") && argc == 4)
		return set_feature(argv[2], atoi(argv[3]));
	if (!strcmp(what, "words") && argc == 3)
		return print_words(parse_cpus(argv[2]));
	pin_to(housekeeping_cpu());
	if (!strcmp(what, "rounds") && argc == 4)
		return rounds(parse_cpus(argv[2]), atol(argv[3]));
	if (!strcmp(what, "hold") && argc == 3)
		return hold(parse_cpus(argv[2]));
	if (!strcmp(what, "flush") && argc == 4)
		return flush(argv[2], atol(argv[3]));
	if (!strcmp(what, "owe") && argc == 3) {
		struct dflush_request about = { .cpu = atoi(argv[2]) };

		find_word();
		return -try_request(DFLUSH_NR_OWE, &about);
	}
	if (!strcmp(what, "memory") && argc == 3)
		return memory(argv[2]);
	if (!strcmp(what, "call") && argc == 3 && !strcmp(argv[2], "ftrace_kill"))
		return call(argv[2], NULL);
	if (!strcmp(what, "call") && argc == 4 && !strcmp(argv[2], "text_poke_kgdb"))
		return call(argv[2], argv[3]);
	if (!strcmp(what, "storm") && argc == 3)
		storm(atoi(argv[2]));
	if ((!strcmp(what, "watch") || !strcmp(what, "unwatch")) && argc >= 3)
		return watch(argc, argv);
	fail("unknown use; see the head of dflush.c");
}
