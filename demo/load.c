// SPDX-License-Identifier: GPL-2.0
/*
 * Everyday kernel work that allocates and frees vmalloc space or patches code.
 *
 * Usage: load KIND COUNT [SIZE]
 *   fork     COUNT processes, one after the other
 *   threads  COUNT threads, SIZE of them alive at a time
 *   bpf      COUNT compiled socket filters of SIZE instructions
 *   netns    COUNT network namespaces
 *   maps     COUNT BPF arrays of SIZE KiB
 *   rings    COUNT io_uring instances of SIZE entries
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void in_child(void (*work)(void))
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		if (work)
			work();
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "a child failed");
}

static void forks(long count, long size)
{
	(void)size;
	while (count--)
		in_child(NULL);
}

static void *wait_for_all(void *barrier)
{
	pthread_barrier_wait(barrier);
	return NULL;
}

static void threads(long count, long alive)
{
	pthread_t *thread = calloc(alive, sizeof(*thread));
	pthread_barrier_t barrier;

	if (!thread || pthread_barrier_init(&barrier, NULL, alive + 1))
		errx(1, "out of memory");
	for (long done = 0; done < count; done += alive) {
		for (long i = 0; i < alive; i++) {
			errno = pthread_create(&thread[i], NULL, wait_for_all, &barrier);
			if (errno)
				err(1, "pthread_create");
		}
		pthread_barrier_wait(&barrier);
		for (long i = 0; i < alive; i++)
			pthread_join(thread[i], NULL);
	}
}

static int bpf(int command, union bpf_attr *attr, unsigned int size)
{
	return syscall(SYS_bpf, command, attr, size);
}

static void filters(long count, long length)
{
	struct bpf_insn *insns = calloc(length + 1, sizeof(*insns));
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (uintptr_t)insns,
		.insn_cnt = length + 1,
		.license = (uintptr_t)"GPL",
	};

	if (!insns)
		errx(1, "out of memory");
	for (long i = 0; i < length; i++)
		insns[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = i };
	insns[length] = (struct bpf_insn){ .code = BPF_JMP | BPF_EXIT };
	while (count--) {
		int fd = bpf(BPF_PROG_LOAD, &attr, sizeof(attr));

		if (fd < 0)
			err(1, "BPF_PROG_LOAD");
		close(fd);
	}
}

static void enter_new_netns(void)
{
	if (unshare(CLONE_NEWNET))
		err(1, "unshare");
}

static void namespaces(long count, long size)
{
	(void)size;
	while (count--)
		in_child(enter_new_netns);
}

static void maps(long count, long kib)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = 1024,
		.max_entries = kib,
	};

	while (count--) {
		int fd = bpf(BPF_MAP_CREATE, &attr, sizeof(attr));

		if (fd < 0)
			err(1, "BPF_MAP_CREATE");
		close(fd);
	}
}

static void rings(long count, long entries)
{
	while (count--) {
		struct io_uring_params params = {};
		int fd = syscall(SYS_io_uring_setup, entries, &params);

		if (fd < 0)
			err(1, "io_uring_setup");
		close(fd);
	}
}

static const struct {
	const char *name;
	void (*run)(long count, long size);
	int sized;
} kinds[] = {
	{ "fork", forks, 0 },	    { "threads", threads, 1 }, { "bpf", filters, 1 },
	{ "netns", namespaces, 0 }, { "maps", maps, 1 },	{ "rings", rings, 1 },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[1], kinds[i].name) || argc != 3 + kinds[i].sized)
			continue;
		kinds[i].run(atol(argv[2]), kinds[i].sized ? atol(argv[3]) : 0);
		return 0;
	}
	errx(2, "usage: load fork|threads|bpf|netns|maps|rings COUNT [SIZE]");
}
