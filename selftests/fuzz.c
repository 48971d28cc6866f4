// SPDX-License-Identifier: GPL-2.0
/*
 * Bad input for the module's control files.
 *
 * Usage: fuzz [-n WRITES | -d SECONDS] [-j WRITERS] [-s SEED] [-g] [-a]
 *
 *   -n  writes of each writer, default 2000
 *   -d  so long instead, or until SIGTERM
 *   -j  writers at the same time, default 1
 *   -s  seed of the random numbers, default by time; it is printed
 *   -g  good values now and then, too; only for one writer
 *   -a  others change mode and values meanwhile, and unload the module
 *
 * What is bad is so by construction, never by a parser of its own. Each such
 * write has to end with an errno that says so, and what is read back has to be
 * what it was (unless others change it). Every good one has to be accepted. A
 * refused write leaves no memory behind: that shows after some thousand of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define ROOM 9000
#define COMPLAINTS 10
#define LEAK_KIB 1024

enum { MODE, CPUS, MAX_STALE, FILES };

static const char *const paths[FILES] = {
	"/sys/kernel/deferred_flush/mode",
	"/sys/kernel/deferred_flush/cpus",
	"/sys/kernel/deferred_flush/max_stale_ms",
};

static struct {
	long writes, refused, accepted, absent, wrong;
	long errors[256];
	long by_file[FILES];
	volatile int stop;
} *sum;

static bool others, good_too;
static uint64_t state;
static char nohz_full[256];

static unsigned int below(unsigned int limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % limit;
}

struct text {
	char bytes[ROOM];
	size_t length;
};

static void put(struct text *text, const char *string)
{
	size_t length = strlen(string);

	memcpy(text->bytes + text->length, string, length);
	text->length += length;
}

static void put_number(struct text *text, unsigned long long number)
{
	text->length += sprintf(text->bytes + text->length, "%llu", number);
}

static void put_bytes(struct text *text, size_t count)
{
	while (count--)
		text->bytes[text->length++] = below(256);
}

/* A byte at a random place, which makes any text a bad one. */
static void spoil(struct text *text, char byte)
{
	size_t at = below(text->length + 1);

	memmove(text->bytes + at + 1, text->bytes + at, text->length - at);
	text->bytes[at] = byte;
	text->length++;
}

/* What is good for a file. */
static void put_good(struct text *text, int file, const char *current)
{
	switch (file) {
	case MODE:
		put(text, current);
		break;
	case CPUS:
		put(text, nohz_full);
		break;
	default:
		put_number(text, below(4) ? below(1000) : 0);
	}
}

static bool is_mode(const struct text *text)
{
	static const char *const modes[] = { "off", "shadow", "on", "off\n", "shadow\n", "on\n" };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (text->length == strlen(modes[i]) &&
		    !memcmp(text->bytes, modes[i], text->length))
			return true;
	return false;
}

static const char *const bad_cpus[] = {
	"0", "0-1", "4096", "8191", "8192", "65536", "1-8192", "2-1", "-1", "1-", "1--2", "1,-2",
	"4294967295", "4294967296", "4294967297", "18446744073709551617", "1-4294967297", "0x1",
	"1-2:", "1-2:0/0", "1-2:3/2", "all", "none", "1.5", "1;2", "1-x", "cpu1", "", " ", "\t", ",",
	"1-99999999999999999999999999999999999999999999",
};

static const char *const bad_numbers[] = {
	"-1", "-0x1", "--1", "4294967296", "18446744073709551616", "18446744073709551617",
	"99999999999999999999999999999999999999999999", "0x10", "1e3", "1.5", "1 2", "1,2", "ten",
	"", " ", "1ms", "off", "1\n2", "\n1", "- 1", "NaN", "1_000",
};

static const char *const bad_modes[] = {
	"", " ", "0", "1", "2", "-1", "On", "ON", "oN", "on ", " on", "onn", "on on", "on\n\n", "on\r\n",
	"\non", "off,", "offf", "shado", "shadows", "sh", "o", "none", "degraded", "suspended", "2147483648",
};

/* Bad for this file, whatever the machine. */
static void put_bad(struct text *text, int file)
{
	static const char *const *const words[FILES] = { bad_modes, bad_cpus, bad_numbers };
	static const size_t counts[FILES] = {
		ARRAY_SIZE(bad_modes), ARRAY_SIZE(bad_cpus), ARRAY_SIZE(bad_numbers),
	};

	switch (below(10)) {
	case 0:
	case 1:
	case 2:
		put(text, words[file][below(counts[file])]);
		if (below(2))
			put(text, "\n");
		return;
	case 3:	/* junk; one byte of it is bad for sure */
		put_bytes(text, below(40));
		spoil(text, below(2) ? '!' : (char)(0xc0 + below(64)));
		return;
	case 4:	/* something good, spoiled */
		put_good(text, file, "on");
		spoil(text, "!/;xyz\x7f\x01"[below(8)]);
		return;
	case 5:	/* what follows a NUL must not be ignored */
		put_good(text, file, "on");
		text->bytes[text->length++] = 0;
		put_bytes(text, below(20));
		return;
	case 6:	/* a page and more */
		put_good(text, file, "on");
		while (text->length < 4096 + below(4096))
			text->bytes[text->length++] = file == MODE ? 'n' : '!';
		return;
	case 7: /* good, but for being longer than what sysfs passes on */
		put_good(text, file, "on");
		if (file == MAX_STALE) {
			memset(text->bytes, '0', 4096);
			text->length = 4096;
			put_number(text, below(100));
			return;
		}
		while (text->length < 4096 + below(100))
			text->bytes[text->length++] = file == MODE ? '\n' : ',';
		return;
	case 8:	/* what follows the end of the line must not be ignored either */
		put_good(text, file, "on");
		put(text, "\n");
		put(text, below(2) ? "!" : "\n1");
		put_bytes(text, below(20));
		return;
	default: /* too large, whatever the type that it is kept in */
		put_number(text, file == CPUS ? 8192 + below(1u << 31) : (1ULL << 63) + below(1u << 31));
		put_number(text, below(1u << 31) + (1u << 30));
		put_number(text, below(1u << 31) + (1u << 30));
		return;
	}
}

static void complain(int file, const struct text *text, const char *what)
{
	char shown[121];
	size_t length = 0;

	if (__atomic_add_fetch(&sum->wrong, 1, __ATOMIC_RELAXED) > COMPLAINTS)
		return;
	for (size_t i = 0; i < text->length && length < sizeof(shown) - 5; i++) {
		unsigned char byte = text->bytes[i];

		length += sprintf(shown + length, byte < ' ' || byte > '~' ? "\\%03o" : "%c", byte);
	}
	shown[length] = 0;
	ksft_print_msg("%s: %zu bytes '%s': %s\n", paths[file], text->length, shown, what);
}

/* -1 while the file is not there. */
static int open_control(int file)
{
	int descriptor = open(paths[file], O_RDWR | O_CLOEXEC);

	if (descriptor < 0 && errno != ENOENT && errno != ENODEV)
		fail("%s: %s", paths[file], strerror(errno));
	return descriptor;
}

static ssize_t read_back(int descriptor, char *buffer, size_t room)
{
	ssize_t length = pread(descriptor, buffer, room - 1, 0);

	buffer[length < 0 ? 0 : length] = 0;
	return length;
}

static bool says_bad(int error)
{
	return error == EINVAL || error == ERANGE || error == EOVERFLOW || error == E2BIG;
}

/* Says whether the file was there. */
static bool write_one(int file, int descriptor, char *current, size_t room)
{
	bool is_good = good_too && below(file == MODE ? 100 : 20) == 0;
	struct text text = { .length = 0 };
	char after[256], what[256];
	ssize_t written;
	int error;

	if (is_good)
		put_good(&text, file, current);
	else
		put_bad(&text, file);
	if (!is_good && file == MODE && is_mode(&text))
		return true;
	written = pwrite(descriptor, text.bytes, text.length, 0);
	error = written < 0 ? errno : 0;
	if (error == ENODEV) {
		__atomic_fetch_add(&sum->absent, 1, __ATOMIC_RELAXED);
		return false;
	}
	__atomic_fetch_add(&sum->writes, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&sum->by_file[file], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&sum->errors[error & 255], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(error ? &sum->refused : &sum->accepted, 1, __ATOMIC_RELAXED);
	if (is_good && error && !(others && error == EBUSY)) {
		snprintf(what, sizeof(what), "good, and refused: %s", strerror(error));
		complain(file, &text, what);
	} else if (!is_good && text.length && !error) {
		complain(file, &text, "bad, and accepted");
	} else if (!is_good && error && !says_bad(error)) {
		snprintf(what, sizeof(what), "refused with %s", strerror(error));
		complain(file, &text, what);
	}
	if (read_back(descriptor, after, sizeof(after)) < 0) {
		if (errno != ENODEV)
			complain(file, &text, "cannot be read back");
		return errno != ENODEV;
	}
	if (is_good && file == MAX_STALE && !others) {
		/* The new value, as a line. */
		text.bytes[text.length] = 0;
		put(&text, "\n");
		if (strncmp(after, text.bytes, text.length))
			complain(file, &text, "reads back as something else");
		snprintf(current, room, "%s", after);
	} else if (!others && strcmp(current, after)) {
		snprintf(what, sizeof(what), "changed '%.60s' to '%.60s'", current, after);
		complain(file, &text, what);
		snprintf(current, room, "%s", after);
	}
	return true;
}

static void stop(int signal)
{
	(void)signal;
	sum->stop = 1;
}

/* `writes` of them, or so long as `seconds` says. */
static void work(long writes, double seconds, bool has_max_stale)
{
	char current[FILES][256];
	int descriptors[FILES] = { -1, -1, -1 };
	double limit = now() + (seconds ? seconds : 10 * PATIENCE);

	while ((seconds || writes > 0) && now() < limit && !sum->stop) {
		int file = below(has_max_stale ? FILES : FILES - 1);

		if (descriptors[file] < 0) {
			descriptors[file] = open_control(file);
			if (descriptors[file] < 0 ||
			    read_back(descriptors[file], current[file], sizeof(current[file])) < 0) {
				if (!others)
					fail("%s is not there", paths[file]);
				if (descriptors[file] >= 0)
					close(descriptors[file]);
				descriptors[file] = -1;
				usleep(2000);
				continue;
			}
		}
		if (write_one(file, descriptors[file], current[file], sizeof(current[file]))) {
			writes--;
		} else {
			if (!others)
				fail("%s has gone", paths[file]);
			close(descriptors[file]);
			descriptors[file] = -1;
		}
	}
	if (!seconds && !sum->stop && writes > 0)
		fail("%ld writes were left when the time was over", writes);
}

/* KASAN keeps what was freed in a quarantine, until its cache is shrunk. */
static void end_quarantine(void)
{
	glob_t files;

	if (!kernel_has("kasan_quarantine_reduce"))
		return;
	if (glob("/sys/kernel/slab/*/shrink", 0, NULL, &files))
		fail("there is no /sys/kernel/slab");
	for (size_t i = 0; i < files.gl_pathc; i++) {
		FILE *file = fopen(files.gl_pathv[i], "we");

		if (!file)
			continue;
		fputs("1\n", file);
		fclose(file);
	}
	globfree(&files);
}

/* All that the kernel holds in slabs, in KiB. */
static long slab(void)
{
	char line[128];
	long size = -1;
	FILE *file;

	end_quarantine();
	file = fopen("/proc/meminfo", "re");
	while (file && size < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "Slab: %ld", &size);
	if (size < 0)
		fail("/proc/meminfo has no line 'Slab:'");
	fclose(file);
	return size;
}

static bool file_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static void print_errors(void)
{
	for (int error = 1; error < 256; error++)
		if (sum->errors[error])
			ksft_print_msg("%ld times %s\n", sum->errors[error], strerror(error));
}

int main(int argc, char **argv)
{
	long writes = 2000, writers = 1, ended = 0, before, after;
	bool has_max_stale = file_exists(paths[MAX_STALE]);
	struct cpu_list cpus = nohz_full_cpus();
	double start = now(), seconds = 0;
	int option, status;

	state = time(NULL);
	while ((option = getopt(argc, argv, "n:d:j:s:ga")) != -1) {
		switch (option) {
		case 'n':
			writes = atol(optarg);
			break;
		case 'd':
			seconds = atof(optarg);
			break;
		case 'j':
			writers = atol(optarg);
			break;
		case 's':
			state = strtoull(optarg, NULL, 0);
			break;
		case 'g':
			good_too = true;
			break;
		case 'a':
			others = true;
			break;
		default:
			fail("unknown option; see the head of fuzz.c");
		}
	}
	if (writers < 1 || writes < 1 || (writers > 1 && good_too))
		fail("-n and -j want a number above 0, and -g one writer");
	sum = mmap(NULL, sizeof(*sum), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sum == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	for (int i = 0; i < cpus.count; i++)
		sprintf(nohz_full + strlen(nohz_full), "%s%d", i ? "," : "", cpus.cpu[i]);

	ksft_print_header();
	ksft_set_plan(4);
	ksft_print_msg("seed %llu, max_stale_ms is %sthere\n", (unsigned long long)state,
		       has_max_stale ? "" : "not ");
	fflush(stdout);
	/* It is of no use where others take memory, and may last: the module would be gone before. */
	before = others ? 0 : slab();
	for (long i = 0; i < writers; i++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork: %s", strerror(errno));
		if (!pid) {
			/* Never 0, which xorshift does not leave. */
			state = (state + i + 1) * 0x9e3779b97f4a7c15ULL | 1;
			work(writes, seconds, has_max_stale);
			fflush(stdout);
			_exit(0);
		}
	}
	signal(SIGTERM, stop);
	for (;;) {
		pid_t pid = wait(&status);

		if (pid > 0)
			ended += status == 0;
		else if (errno != EINTR)
			break;
	}
	after = others ? 0 : slab();
	ksft_print_msg("sum writes=%ld refused=%ld accepted=%ld absent=%ld wrong=%ld seconds=%.1f\n",
		       sum->writes, sum->refused, sum->accepted, sum->absent, sum->wrong,
		       now() - start);
	ksft_print_msg("slab: %ld KiB, then %ld KiB\n", before, after);
	ksft_print_msg("mode=%ld cpus=%ld max_stale_ms=%ld\n", sum->by_file[MODE],
		       sum->by_file[CPUS], sum->by_file[MAX_STALE]);
	print_errors();
	ksft_test_result(ended == writers, "fuzz: every writer got to its end\n");
	ksft_test_result(sum->refused > 0, "fuzz: bad writes came to the module\n");
	ksft_test_result(!sum->wrong, "fuzz: all refused, nothing changed, good ones accepted\n");
	if (others)
		ksft_test_result_skip("fuzz: nothing leaked: others take memory, too\n");
	else
		ksft_test_result(after - before < LEAK_KIB, "fuzz: nothing leaked\n");
	ksft_finished();
}
