// SPDX-License-Identifier: GPL-2.0
/*
 * The 32-bit spinner: enters the kernel as 32-bit programs do, by the vDSO's
 * __kernel_vsyscall (SYSENTER or SYSCALL, as the CPU has it) or by int $0x80.
 * It has no C library and gets the shared memory as its standard input.
 */
#include "spinner.h"

enum { NR_EXIT = 1, NR_GETPPID = 64, NR_MLOCKALL = 152, NR_MMAP2 = 192 };
enum { AT_END = 0, AT_SYSINFO_ENTRY = 32 };

/* mmap2 takes its sixth argument in %ebp. */
asm(".globl _start\n"
    "_start:\n\t"
    "xorl %ebp, %ebp\n\t"
    "movl %esp, %eax\n\t"
    "andl $-16, %esp\n\t"
    "subl $12, %esp\n\t"
    "pushl %eax\n\t"
    "call start_here\n\t"
    "hlt\n"
    ".globl map_standard_input\n"
    "map_standard_input:\n\t"
    "pushl %ebp\n\t"
    "pushl %ebx\n\t"
    "pushl %esi\n\t"
    "pushl %edi\n\t"
    "movl $192, %eax\n\t"	/* mmap2 */
    "xorl %ebx, %ebx\n\t"	/* anywhere */
    "movl $4096, %ecx\n\t"
    "movl $3, %edx\n\t"		/* PROT_READ | PROT_WRITE */
    "movl $1, %esi\n\t"		/* MAP_SHARED */
    "xorl %edi, %edi\n\t"	/* standard input */
    "xorl %ebp, %ebp\n\t"	/* offset */
    "int $0x80\n\t"
    "popl %edi\n\t"
    "popl %esi\n\t"
    "popl %ebx\n\t"
    "popl %ebp\n\t"
    "ret");

struct spinner_line *map_standard_input(void);

static int int80(int number, int argument)
{
	int result;

	asm volatile("int $0x80" : "=a" (result) : "a" (number), "b" (argument) : "memory");
	return result;
}

static int vsyscall(unsigned long entry, int number)
{
	int result;

	asm volatile("call *%2" : "=a" (result) : "a" (number), "r" (entry)
		     : "memory", "ecx", "edx");
	return result;
}

/* The auxiliary vector follows arguments and environment. */
static unsigned long find_entry(unsigned long *stack)
{
	unsigned long *word = stack + 1 + *stack + 1;

	while (*word)
		word++;
	for (word++; *word != AT_END; word += 2)
		if (*word == AT_SYSINFO_ENTRY)
			return word[1];
	return 0;
}

void __attribute__((noreturn, used)) start_here(unsigned long *stack)
{
	unsigned long entry = find_entry(stack);
	struct spinner_line *line = map_standard_input();
	unsigned int number = 0;

	if ((unsigned long)line > -4096UL || int80(NR_MLOCKALL, 3))
		goto quit;
	for (;;) {
		__atomic_store_n(&line->done_number, number + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(&line->order_number, __ATOMIC_ACQUIRE) == number)
			asm volatile("pause");
		number++;
		switch (line->order) {
		case ORDER_COMPAT:
			if (!entry || vsyscall(entry, NR_GETPPID) <= 0)
				line->error = -5;
			break;
		case ORDER_INT80:
			if (int80(NR_GETPPID, 0) <= 0)
				line->error = -5;
			break;
		case ORDER_QUIT:
			goto quit;
		default:
			line->error = -22;
		}
	}
quit:
	int80(NR_EXIT, 0);
	__builtin_unreachable();
}
