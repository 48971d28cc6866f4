// SPDX-License-Identifier: GPL-2.0
/*
 * A KVM guest on an isolated CPU: a CPU in guest mode is interrupted as before,
 * nothing is deferred for it, and the host reads nothing stale.
 *
 * Usage: kvm
 *
 * The guest is two instructions of real mode in one page: a loop that says
 * nothing and never leaves by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define PAGES 96
#define SWAPS 20
#define GUEST_ADDRESS 0x1000

static void stop_guest(int signal)
{
	(void)signal;
}

static int make_guest(int kvm)
{
	static const unsigned char code[] = { 0x90, 0xeb, 0xfd };	/* nop; jmp -3 */
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = GUEST_ADDRESS, .memory_size = 4096,
	};
	struct kvm_regs registers = { .rip = GUEST_ADDRESS, .rflags = 2 };
	struct kvm_sregs special;
	int machine = ioctl(kvm, KVM_CREATE_VM, 0), cpu;
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (machine < 0 || memory == MAP_FAILED)
		return -1;
	memcpy(memory, code, sizeof(code));
	region.userspace_addr = (unsigned long)memory;
	cpu = ioctl(machine, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) ||
	    ioctl(cpu, KVM_GET_SREGS, &special))
		return -1;
	special.cs.base = 0;
	special.cs.selector = 0;
	if (ioctl(cpu, KVM_SET_SREGS, &special) || ioctl(cpu, KVM_SET_REGS, &registers))
		return -1;
	return cpu;
}

/* Runs the guest on that CPU until a signal comes, then reads the pages. */
static pid_t start_guest(int kvm, int cpu, struct spinner_line *line)
{
	struct sigaction action = { .sa_handler = stop_guest };
	struct dflush_request reading = { 0 };
	pid_t pid;
	int guest;

	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to(cpu);
	sigaction(SIGUSR1, &action, NULL);
	guest = make_guest(kvm);
	request(DFLUSH_NR_READ, &reading);
	__atomic_store_n(&line->done_number, guest < 0 ? 2 : 1, __ATOMIC_RELEASE);
	if (guest < 0)
		_exit(1);
	while (ioctl(guest, KVM_RUN, 0) == 0)
		line->entries++;
	line->error = errno;
	memset(&reading, 0, sizeof(reading));
	request(DFLUSH_NR_READ, &reading);
	line->reads = reading.reads;
	line->stale = reading.stale + reading.absent;
	_exit(0);
}

static bool is_in_guest(int cpu)
{
	char line[256], mode[32];
	bool found = false;
	int number;
	FILE *file = fopen(CPUS_FILE, "re");

	if (!file)
		fail("%s cannot be read", CPUS_FILE);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%d %31s", &number, mode) == 2 && number == cpu)
			found = !strcmp(mode, "guest");
	fclose(file);
	return found;
}

static void skip_all(const char *why)
{
	ksft_test_result_skip("kvm: a CPU in guest mode is interrupted, never deferred: %s\n", why);
	ksft_test_result_skip("kvm: the host reads nothing stale after the guest: %s\n", why);
	ksft_finished();
}

int main(void)
{
	struct cpu_list cpus = nohz_full_cpus();
	struct cpu_row before, after;
	struct spinner_line *line;
	double limit = now() + PATIENCE;
	int kvm, seen = 0, cpu = cpus.cpu[0];
	pid_t pid;

	ksft_print_header();
	ksft_set_plan(2);
	pin_to(housekeeping_cpu());
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		skip_all("no /dev/kvm");
	setup_area(PAGES, 4);
	line = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (line == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	pid = start_guest(kvm, cpu, line);
	while (!__atomic_load_n(&line->done_number, __ATOMIC_ACQUIRE) && now() < limit)
		usleep(1000);
	if (line->done_number != 1)
		fail("the guest cannot be made");
	while (!is_in_guest(cpu)) {
		if (now() > limit || waitpid(pid, NULL, WNOHANG))
			fail("the guest does not run: %s", strerror(line->error));
		usleep(1000);
	}
	before = cpu_row(cpu);
	for (int i = 0; i < SWAPS; i++) {
		swap_area(1);
		seen += is_in_guest(cpu);
	}
	after = cpu_row(cpu);
	kill(pid, SIGUSR1);
	if (waitpid(pid, NULL, 0) != pid)
		fail("waitpid: %s", strerror(errno));
	ksft_print_msg("swaps=%d in_guest=%d deferred=%lld ipi_not_quiet=%lld reads=%llu stale=%llu exit=%s\n",
		       SWAPS, seen, after.deferred - before.deferred,
		       after.ipi_not_quiet - before.ipi_not_quiet, line->reads, line->stale,
		       strerror(line->error));
	ksft_test_result(seen > SWAPS / 2 && after.deferred == before.deferred &&
			 after.ipi_not_quiet >= before.ipi_not_quiet + SWAPS,
			 "kvm: a CPU in guest mode is interrupted, never deferred\n");
	ksft_test_result(line->reads == PAGES && !line->stale,
			 "kvm: the host reads nothing stale after the guest\n");
	ksft_finished();
}
