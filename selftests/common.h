/* SPDX-License-Identifier: GPL-2.0 */
/* What the test programs share: the test module, the views, and spinners. */
#ifndef DFLUSH_COMMON_H
#define DFLUSH_COMMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dflush_test.h"
#include "spinner.h"

#define MODE_FILE "/sys/kernel/deferred_flush/mode"
#define STATE_FILE "/sys/kernel/deferred_flush/state"
#define SUMMARY_FILE "/sys/kernel/debug/deferred_flush/summary"
#define CPUS_FILE "/sys/kernel/debug/deferred_flush/cpus"

#define NMI_VECTOR 2
#define RESCHEDULE_VECTOR 0xfd

/* Seconds after which a machine as slow as an emulator counts as hung. */
#define PATIENCE 60

/* An error that makes the rest of a test meaningless: "Bail out!", status 1. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ioctl() on the test module; fails where an error is not expected. */
void request(unsigned int number, struct dflush_request *request);
int try_request(unsigned int number, struct dflush_request *request);
void setup_area(unsigned long pages, unsigned long sets);
unsigned long swap_area(unsigned long count);
struct dflush_request read_on(int cpu);

/* The views. */
long long summary(const char *key);

struct cpu_row {
	long long word;
	long long deferred;
	long long flush_entry;
	long long flush_nmi;
	long long flush_ipi;
	long long ipi_not_quiet;
	long long ipi_raced;
};

struct cpu_row cpu_row(int cpu);
bool is_on(void);

/* Tell the test module where the words are. */
void find_word(void);

/* Addresses of kernel symbols. */
void find_symbols(const char *const *wanted, unsigned long *found, int count);
unsigned long find_symbol(const char *symbol);
bool kernel_has(const char *symbol);

/* A suspension ends by itself, once its tracer has gone. */
bool comes_on_again(void);

void arm(int cpu);
void disarm(int cpu);
struct dflush_request report(int cpu);
void send_ipi(int cpu, int vector);

/* CPU lists. */
struct cpu_list {
	int count;
	int cpu[DFLUSH_TEST_MAX_CPUS];
};

struct cpu_list parse_cpus(const char *text);
struct cpu_list nohz_full_cpus(void);
void pin_to(int cpu);
int housekeeping_cpu(void);

/* Whole of memory locked and touched, so that no page fault gets in between. */
void lock_memory(void);

/* Ways into the kernel. The first two want catch_traps() before them. */
void catch_traps(void);
int provoke_breakpoint(void);
int provoke_step(void);
int provoke_int80(void);
/* Makes the next access to a page of its own fault. */
int drop_page(char *page);

uint64_t random_number(void);
double now(void);
void pause_microseconds(unsigned int microseconds);

struct spinner {
	int cpu;
	pid_t pid;
	struct spinner_line *line;
};

struct spinner start_spinner(int cpu);
/* The one that runs 32-bit code: the program entry32 beside this one. */
struct spinner start_spinner32(int cpu);
void give_order(struct spinner *spinner, enum order order, uint64_t argument);
void wait_done(struct spinner *spinner);
void obey(struct spinner *spinner, enum order order, uint64_t argument);
/* Ends ORDER_SLEEP. */
void wake_spinner(struct spinner *spinner);
void stop_spinner(struct spinner *spinner);

#endif /* DFLUSH_COMMON_H */
