// SPDX-License-Identifier: GPL-2.0
/* What the test programs share: see common.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

#include "common.h"

#define TRAP_FLAG 0x100

static int device = -1;
/* Ticks of the TSC in a microsecond: measured once, before anybody spins. */
static uint64_t ticks;

void fail(const char *format, ...)
{
	va_list arguments;

	printf("Bail out! ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

int try_request(unsigned int number, struct dflush_request *request)
{
	if (device < 0) {
		device = open(DFLUSH_TEST_DEVICE, O_RDWR | O_CLOEXEC);
		if (device < 0)
			fail("%s: %s; load dflush_test.ko", DFLUSH_TEST_DEVICE, strerror(errno));
	}
	return ioctl(device, DFLUSH_IOCTL(number), request) ? -errno : 0;
}

void request(unsigned int number, struct dflush_request *request)
{
	int error = try_request(number, request);

	if (error)
		fail("ioctl %u of the test module: %s", number, strerror(-error));
}

void setup_area(unsigned long pages, unsigned long sets)
{
	struct dflush_request setup = { .pages = pages, .sets = sets };

	request(DFLUSH_NR_SETUP, &setup);
}

unsigned long swap_area(unsigned long count)
{
	struct dflush_request swap = { .count = count };

	request(DFLUSH_NR_SWAP, &swap);
	return swap.moved;
}

struct dflush_request read_on(int cpu)
{
	struct dflush_request reading = { .cpu = cpu };

	request(DFLUSH_NR_READ_ON, &reading);
	return reading;
}

static char *read_file(const char *path)
{
	static char buffer[16384];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length, sum = 0;

	if (file < 0)
		fail("%s: %s", path, strerror(errno));
	while ((length = read(file, buffer + sum, sizeof(buffer) - 1 - sum)) > 0)
		sum += length;
	if (length < 0)
		fail("%s: %s", path, strerror(errno));
	close(file);
	buffer[sum] = 0;
	return buffer;
}

long long summary(const char *key)
{
	char *line = strtok(read_file(SUMMARY_FILE), "\n");
	size_t length = strlen(key);

	for (; line; line = strtok(NULL, "\n"))
		if (!strncmp(line, key, length) && line[length] == ':')
			return strtoll(line + length + 1, NULL, 0);
	fail("%s has no line '%s:'", SUMMARY_FILE, key);
}

static long long column(char *header, char *row, const char *name)
{
	char *header_state, *row_state;
	char *key = strtok_r(header, " \t", &header_state);
	char *value = strtok_r(row, " \t", &row_state);

	while (key && value) {
		if (!strcmp(key, name))
			return strtoll(value, NULL, 0);
		key = strtok_r(NULL, " \t", &header_state);
		value = strtok_r(NULL, " \t", &row_state);
	}
	fail("%s has no column '%s'", CPUS_FILE, name);
}

struct cpu_row cpu_row(int cpu)
{
	static const char *const names[] = {
		"word", "deferred", "flush_entry", "flush_nmi",
		"flush_ipi", "ipi_not_quiet", "ipi_raced",
	};
	long long values[7];
	char header[256], copy[256], row[256];
	char *state, *line = strtok_r(read_file(CPUS_FILE), "\n", &state);

	if (!line)
		fail("%s is empty", CPUS_FILE);
	snprintf(header, sizeof(header), "%s", line);
	while ((line = strtok_r(NULL, "\n", &state)))
		if (atoi(line) == cpu)
			break;
	if (!line)
		fail("%s has no line for CPU %d", CPUS_FILE, cpu);
	for (int i = 0; i < 7; i++) {
		snprintf(copy, sizeof(copy), "%s", header);
		snprintf(row, sizeof(row), "%s", line);
		values[i] = column(copy, row, names[i]);
	}
	return (struct cpu_row) {
		values[0], values[1], values[2], values[3], values[4], values[5], values[6],
	};
}

bool is_on(void)
{
	return !strcmp(read_file(STATE_FILE), "on\n");
}

bool comes_on_again(void)
{
	double limit = now() + PATIENCE;

	while (!is_on()) {
		if (now() > limit)
			return false;
		usleep(20000);
	}
	return true;
}

void arm(int cpu)
{
	struct dflush_request about = { .cpu = cpu };

	request(DFLUSH_NR_ARM, &about);
}

void disarm(int cpu)
{
	struct dflush_request about = { .cpu = cpu };

	request(DFLUSH_NR_DISARM, &about);
}

struct dflush_request report(int cpu)
{
	struct dflush_request about = { .cpu = cpu };

	request(DFLUSH_NR_REPORT, &about);
	return about;
}

void send_ipi(int cpu, int vector)
{
	struct dflush_request about = { .cpu = cpu, .vector = vector };

	request(DFLUSH_NR_SEND_IPI, &about);
}

struct cpu_list parse_cpus(const char *text)
{
	struct cpu_list list = { 0 };

	while (*text && *text != '\n') {
		char *end;
		long first = strtol(text, &end, 10), last = first;

		if (end == text)
			fail("'%s' is no list of CPUs", text);
		if (*end == '-')
			last = strtol(end + 1, &end, 10);
		for (long cpu = first; cpu <= last && list.count < DFLUSH_TEST_MAX_CPUS; cpu++)
			list.cpu[list.count++] = cpu;
		text = *end == ',' ? end + 1 : end;
	}
	return list;
}

struct cpu_list nohz_full_cpus(void)
{
	char *text = read_file("/sys/devices/system/cpu/nohz_full");

	if (*text < '0' || *text > '9')
		fail("no nohz_full CPU; boot with nohz_full=1-");
	return parse_cpus(text);
}

/* The lowest CPU that is not isolated. */
int housekeeping_cpu(void)
{
	struct cpu_list isolated = nohz_full_cpus();
	int cpu = 0;

	for (int i = 0; i < isolated.count; i++)
		if (isolated.cpu[i] == cpu)
			cpu++;
	return cpu;
}

void pin_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("cannot run on CPU %d: %s", cpu, strerror(errno));
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void measure_ticks(void)
{
	double start = now(), end;
	uint64_t first = __rdtsc();

	while ((end = now()) < start + 0.02)
		;
	ticks = (__rdtsc() - first) / ((end - start) * 1e6) + 1;
}

/* Stays in user mode. */
void pause_microseconds(unsigned int microseconds)
{
	uint64_t end;

	if (!ticks)
		measure_ticks();
	end = __rdtsc() + microseconds * ticks;
	while (__rdtsc() < end)
		_mm_pause();
}

void lock_memory(void)
{
	volatile char stack[65536];

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		fail("mlockall: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(stack); i += 4096)
		stack[i] = 0;
}

/* The spinner. */

static volatile sig_atomic_t trapped;

static void on_trap(int signal, siginfo_t *info, void *context)
{
	ucontext_t *user = context;

	(void)signal;
	(void)info;
	user->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	trapped = 1;
}

void catch_traps(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };

	sigaction(SIGTRAP, &action, NULL);
}

/* The page that ORDER_FAULT will touch is the only one that is not locked. */
int drop_page(char *page)
{
	return munlock(page, 4096) || madvise(page, 4096, MADV_DONTNEED) ? -errno : 0;
}

int provoke_breakpoint(void)
{
	trapped = 0;
	asm volatile("int3" ::: "memory");
	return trapped ? 0 : -EIO;
}

int provoke_step(void)
{
	trapped = 0;
	asm volatile("sub $256, %%rsp\n\t"
		     "pushfq\n\t"
		     "orq %0, (%%rsp)\n\t"
		     "popfq\n\t"
		     "nop\n\t"
		     "nop\n\t"
		     "add $256, %%rsp"
		     :: "i" (TRAP_FLAG) : "memory", "cc");
	return trapped ? 0 : -EIO;
}

int provoke_int80(void)
{
	long result = 64; /* getppid of the 32-bit table */

	asm volatile("int $0x80" : "+a" (result) :: "memory", "r8", "r9", "r10", "r11");
	return result > 0 ? 0 : (int)result;
}

static void add_reading(struct spinner_line *line, const struct dflush_request *reading)
{
	line->reads += reading->reads;
	line->stale += reading->stale;
	line->absent += reading->absent;
}

uint64_t random_number(void)
{
	static uint64_t state;

	if (!state)
		state = __rdtsc() | 1;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Enters and leaves, with short and long stays on either side. */
static int mix(struct spinner_line *line)
{
	while (!__atomic_load_n(&line->stop, __ATOMIC_ACQUIRE)) {
		struct dflush_request reading = { .microseconds = random_number() % 400 };
		int error = 0;

		pause_microseconds(random_number() % 400);
		switch (random_number() % 4) {
		case 0:
		case 1:
			syscall(SYS_getppid);
			break;
		case 2:
			error = try_request(DFLUSH_NR_READ, &reading);
			break;
		default:
			error = try_request(DFLUSH_NR_READ_FOR, &reading);
		}
		if (error)
			return error;
		add_reading(line, &reading);
		line->entries++;
	}
	return 0;
}

static int carry_out(struct spinner_line *line, enum order order, uint64_t argument, char *page)
{
	struct dflush_request reading = { .microseconds = argument };
	int error = 0;

	switch (order) {
	case ORDER_READ:
	case ORDER_BUSY:
		error = try_request(order == ORDER_READ ? DFLUSH_NR_READ : DFLUSH_NR_READ_FOR,
				    &reading);
		add_reading(line, &reading);
		return error;
	case ORDER_SLEEP:
		/* One system call: whoever comes back on the way passes the receiver. */
		if (!__atomic_load_n(&line->stop, __ATOMIC_ACQUIRE))
			syscall(SYS_futex, &line->stop, FUTEX_WAIT, 0, NULL, NULL, 0);
		return 0;
	case ORDER_SYSCALL:
		syscall(SYS_getppid);
		return 0;
	case ORDER_INT80:
		return provoke_int80();
	case ORDER_DROP:
		return drop_page(page);
	case ORDER_FAULT:
		*(volatile char *)page = 1;
		return 0;
	case ORDER_BREAKPOINT:
		return provoke_breakpoint();
	case ORDER_STEP:
		return provoke_step();
	case ORDER_TIMER:
		return try_request(DFLUSH_NR_TIMER, &reading);
	case ORDER_MEET:
		reading.cpu = (uint32_t)argument;
		reading.count = argument >> 32;
		error = try_request(DFLUSH_NR_READ_AT_MEETING, &reading);
		add_reading(line, &reading);
		return error;
	case ORDER_MIX:
		return mix(line);
	default:
		return -EINVAL;
	}
}

static void __attribute__((noreturn)) spin(struct spinner_line *line, int cpu)
{
	unsigned int number = 0;
	char *page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	lock_memory();
	catch_traps();
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		_exit(3);
	pause_microseconds(1);
	for (;;) {
		enum order order;
		int error;

		/* At rest: no system call from here to the next order. */
		__atomic_store_n(&line->done_number, number + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(&line->order_number, __ATOMIC_ACQUIRE) == number)
			_mm_pause();
		number++;
		order = line->order;
		if (order == ORDER_QUIT)
			_exit(0);
		error = carry_out(line, order, line->argument, page);
		if (error)
			line->error = error;
	}
}

static void open_device(void)
{
	struct dflush_request nothing = { 0 };

	request(DFLUSH_NR_REPORT, &nothing);
}

static void wait_number(struct spinner *spinner, unsigned int number)
{
	double limit = now() + PATIENCE;

	for (unsigned int i = 0; ; i++) {
		if (__atomic_load_n(&spinner->line->done_number, __ATOMIC_ACQUIRE) == number)
			break;
		_mm_pause();
		if (i < 500)
			continue;
		usleep(50);
		if (waitpid(spinner->pid, NULL, WNOHANG) == spinner->pid)
			fail("the spinner on CPU %d died", spinner->cpu);
		if (now() > limit)
			fail("the spinner on CPU %d does not answer", spinner->cpu);
	}
}

struct spinner start_spinner(int cpu)
{
	struct spinner spinner = { .cpu = cpu };

	/* Before the fork, so that the child has it. */
	open_device();
	if (!ticks)
		measure_ticks();
	spinner.line = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (spinner.line == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	lock_memory();
	fflush(stdout);
	spinner.pid = fork();
	if (spinner.pid < 0)
		fail("fork: %s", strerror(errno));
	if (!spinner.pid)
		spin(spinner.line, cpu);
	wait_number(&spinner, 1);
	return spinner;
}

struct spinner start_spinner32(int cpu)
{
	struct spinner spinner = { .cpu = cpu };
	char path[512];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof("entry32"));
	int memory = memfd_create("spinner", 0);

	if (length < 0 || memory < 0 || ftruncate(memory, 4096))
		fail("cannot prepare the 32-bit spinner: %s", strerror(errno));
	path[length] = 0;
	strcpy(strrchr(path, '/') + 1, "entry32");
	spinner.line = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (spinner.line == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	fflush(stdout);
	spinner.pid = fork();
	if (spinner.pid < 0)
		fail("fork: %s", strerror(errno));
	if (!spinner.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin_to(cpu);
		/* The program takes the memory from its standard input. */
		if (dup2(memory, 0) == 0)
			execl(path, path, NULL);
		_exit(3);
	}
	close(memory);
	wait_number(&spinner, 1);
	return spinner;
}

void give_order(struct spinner *spinner, enum order order, uint64_t argument)
{
	spinner->line->order = order;
	spinner->line->argument = argument;
	spinner->line->stop = 0;
	__atomic_fetch_add(&spinner->line->order_number, 1, __ATOMIC_RELEASE);
}

void wait_done(struct spinner *spinner)
{
	wait_number(spinner, spinner->line->order_number + 1);
	if (spinner->line->error)
		fail("the spinner on CPU %d failed: %s", spinner->cpu,
		     strerror(-spinner->line->error));
}

void wake_spinner(struct spinner *spinner)
{
	__atomic_store_n(&spinner->line->stop, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &spinner->line->stop, FUTEX_WAKE, 1, NULL, NULL, 0);
	wait_done(spinner);
}

void obey(struct spinner *spinner, enum order order, uint64_t argument)
{
	give_order(spinner, order, argument);
	wait_done(spinner);
}

void stop_spinner(struct spinner *spinner)
{
	give_order(spinner, ORDER_QUIT, 0);
	if (waitpid(spinner->pid, NULL, 0) != spinner->pid)
		fail("waitpid: %s", strerror(errno));
	munmap(spinner->line, 4096);
}
