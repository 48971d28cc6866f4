// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel operations behind which mappings change, each by the real system call.
 *
 * Usage:
 *   provoke bpf COUNT      load COUNT compiled BPF programs of 28 KiB, free them all
 *   provoke hugetlb        take a huge page beyond the pool, give it back
 *   provoke secretmem      fault in pages that leave the direct map, give them back
 *
 * Fails with the errno as its exit status.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSTRUCTIONS 4000
#define SECRET_PAGES 8

static int failed(const char *what)
{
	int error = errno;

	printf("# %s: %s\n", what, strerror(error));
	return error;
}

static int load_program(const struct bpf_insn *code, unsigned int count)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	attr.insns = (unsigned long)code;
	attr.insn_cnt = count;
	attr.license = (unsigned long)"GPL";
	return syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* One after the other they fill more than one of the kernel's packs of 2 MiB. */
static int bpf(long count)
{
	static struct bpf_insn code[INSTRUCTIONS];
	struct rlimit limit = { count + 64, count + 64 };
	int *programs = calloc(count, sizeof(*programs));

	if (!programs || setrlimit(RLIMIT_NOFILE, &limit))
		return failed("setrlimit");
	code[0] = (struct bpf_insn) { .code = BPF_ALU64 | BPF_MOV | BPF_K };
	for (int i = 1; i < INSTRUCTIONS - 1; i++)
		code[i] = (struct bpf_insn) { .code = BPF_ALU64 | BPF_ADD | BPF_K, .imm = 0x1234567 };
	code[INSTRUCTIONS - 1] = (struct bpf_insn) { .code = BPF_JMP | BPF_EXIT };
	for (long i = 0; i < count; i++) {
		programs[i] = load_program(code, INSTRUCTIONS);
		if (programs[i] < 0)
			return failed("BPF_PROG_LOAD");
	}
	for (long i = 0; i < count; i++)
		close(programs[i]);
	free(programs);
	return 0;
}

static int hugetlb(void)
{
	size_t length = 2 << 20;
	char *page = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (page == MAP_FAILED)
		return failed("mmap of a huge page");
	*page = 1;
	munmap(page, length);
	return 0;
}

static int secretmem(void)
{
	size_t length = SECRET_PAGES * 4096;
	int file = syscall(SYS_memfd_secret, 0);
	char *pages;

	if (file < 0 || ftruncate(file, length))
		return failed("memfd_secret");
	pages = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (pages == MAP_FAILED)
		return failed("mmap");
	memset(pages, 1, length);
	munmap(pages, length);
	close(file);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "bpf") && argc == 3)
		return bpf(atol(argv[2]));
	if (!strcmp(what, "hugetlb") && argc == 2)
		return hugetlb();
	if (!strcmp(what, "secretmem") && argc == 2)
		return secretmem();
	printf("# unknown use; see the head of provoke.c\n");
	return EINVAL;
}
