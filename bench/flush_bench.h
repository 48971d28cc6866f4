/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Commands of ioctl() on /dev/flush_bench; flush_bench.rs has the same numbers.
 * Those that time something return a difference of the time-stamp counter.
 */
#ifndef FLUSH_BENCH_H
#define FLUSH_BENCH_H

#define FLUSH_BENCH_DEVICE "/dev/flush_bench"

enum flush_bench_command {
	/* Or the argument into this CPU's deferred-flush word. */
	FLUSH_BENCH_OWE = 0xb100,
	/* Time a function that does nothing. */
	FLUSH_BENCH_EMPTY,
	/* Free a page of vmalloc memory, then time flush_tlb_kernel_range() on its range. */
	FLUSH_BENCH_DIRECT,
	/* Free a page of vmalloc memory, then time vm_unmap_aliases(), which flushes its range. */
	FLUSH_BENCH_PURGE,
};

#endif /* FLUSH_BENCH_H */
