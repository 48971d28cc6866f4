/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What the test module dflush_test offers to the test programs, by ioctl() on
 * /dev/dflush_test. C sees this file as it is, Rust through bindgen.
 *
 * There is one area of swapped pages. Each page holds a tag with the number of
 * the generation in which it was mapped, so whoever reads an old generation
 * has used a stale translation.
 */
#ifndef DFLUSH_TEST_H
#define DFLUSH_TEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DFLUSH_TEST_DEVICE "/dev/dflush_test"
#define DFLUSH_TEST_MAX_CPUS 64

/* Same layout for 32-bit and 64-bit callers. */
struct dflush_request {
	/* in */
	__u32 cpu;
	__u32 vector;		/* SEND_IPI: 2 is NMI, 0xfd reschedule */
	__u64 pages;		/* SETUP; CALL_FLUSH */
	__u64 sets;		/* SETUP: how many sets of pages take turns */
	__u64 count;		/* SWAP: how many swaps; FLUSH: enum dflush_flush */
	__u64 microseconds;	/* READ_FOR, TIMER */
	__u64 address;		/* SET_WORD: address of the per-CPU symbol; WATCH: offset;
				 * out of SETUP and SWAP: of the first page */
	__u32 watch;		/* WATCH, UNWATCH: enum dflush_watch */
	__u32 stage;		/* MEET, in and out: enum dflush_stage */
	char symbol[48];	/* WATCH */

	/* out */
	__u64 generation;	/* SWAP, READ */
	__u64 reads;		/* READ, READ_FOR: pages read */
	__u64 stale;		/* pages that held a generation that was already replaced */
	__u64 absent;		/* pages that were not mapped, or held no tag */
	__u64 moved;		/* SWAP: how often the address could not be had again */

	/* out of REPORT, about one CPU since ARM */
	__u64 probe_hits;	/* tracepoint user_exit */
	__u64 probe_pending;	/* of these: the word was still PENDING */
	__u64 probe_stale;
	__u64 nmi_hits;
	__u64 nmi_stale;
	__u64 watch_hits;
	__u64 watch_stale;
	__u64 timer_hits;

	/* out of MEMORY: how often memory was going offline, and CPUs that owed a flush */
	__u64 windows;
	__u64 owed_before;	/* after a swap just before */
	__u64 owed_at_start;	/* when the module had been told */
	__u64 owed_inside;	/* after a swap then */
	__u64 owed_after;	/* after a swap at its end */
};

enum dflush_look {
	DFLUSH_LOOK_REPORT,
	DFLUSH_LOOK_ON,		/* zero the report, look from now on */
	DFLUSH_LOOK_REFUSE,	/* the same, and let the memory stay online */
	DFLUSH_LOOK_OFF,
};

enum dflush_command {
	DFLUSH_NR_SETUP = 1,
	DFLUSH_NR_TEARDOWN,
	DFLUSH_NR_SWAP,
	DFLUSH_NR_READ,		/* strict: everything but the newest generation is stale */
	DFLUSH_NR_READ_FOR,	/* while others swap: older than published is stale */
	DFLUSH_NR_READ_ON,	/* READ on another CPU, by an interrupt */
	DFLUSH_NR_SET_WORD,
	DFLUSH_NR_ARM,		/* zero the report of a CPU, let its probe read pages */
	DFLUSH_NR_DISARM,
	DFLUSH_NR_REPORT,
	DFLUSH_NR_SEND_IPI,
	DFLUSH_NR_TIMER,	/* a timer interrupt on the calling CPU */
	DFLUSH_NR_FLUSH,
	DFLUSH_NR_WATCH,	/* a tracer that is there gets one more function */
	DFLUSH_NR_UNWATCH,
	DFLUSH_NR_READ_AT_MEETING,	/* READ_ON when a sender has looked at the CPU */
	DFLUSH_NR_OWE,		/* set PENDING for a CPU that is offline */
	DFLUSH_NR_MEMORY,	/* look when memory goes offline; count: enum dflush_look */
	DFLUSH_NR_MEET,		/* set the stage for a CPU; returns the old one */
	DFLUSH_NR_TRACE_AT_MEETING,	/* the tracer gets one more function, see below */
	DFLUSH_NR_CALL,		/* a function of the kernel; count: enum dflush_call */
	DFLUSH_NR_LDT,		/* where the caller's LDT of 64 KiB is, see ldt.c; absent: address
				 * is not mapped now */
	DFLUSH_NR_CHUNK,	/* chunks of per-CPU memory; count: enum dflush_chunk */
};

/* Ways to flush_tlb_kernel_range(). */
enum dflush_flush {
	DFLUSH_FLUSH_ALIASES,	/* vfree() and vm_unmap_aliases(): may be deferred */
	DFLUSH_FLUSH_VREALLOC,	/* vrealloc() that shrinks: frees the pages right after */
	DFLUSH_FLUSH_HUGE,	/* huge mapping over an old page table, which is freed */
	DFLUSH_FLUSH_LAZY,	/* vfree() alone: none now, a part of the next purge */
	DFLUSH_FLUSH_GIGABYTE,	/* 1 GiB over a page of 2 MiB entries, which is freed */
};

/*
 * A meeting: an NMI that finds its CPU in kernel mode with a word that is not
 * zero, so inside the receiver, reads the pages and waits there until a sender
 * has cleared its page-table entries and is about to look at the word. In
 * READ_AT_MEETING it is the caller who waits for the sender, and then holds it
 * by an NMI until CPU cpu has entered the kernel. count is the sender's CPU.
 * ARMED_IN_USER is for an NMI that finds its CPU in user mode: it waits for the
 * sender, and then a while for the sender's flush to return, and reads again.
 */
enum dflush_stage {
	DFLUSH_STAGE_IDLE,
	DFLUSH_STAGE_ARMED,
	DFLUSH_STAGE_ARMED_IN_USER,
	DFLUSH_STAGE_WAITS,		/* no more NMIs are sent */
	DFLUSH_STAGE_SENDER_CAME,
	DFLUSH_STAGE_ENTERED,		/* READ_AT_MEETING: the CPU is in the kernel */
	DFLUSH_STAGE_RETURNED,		/* ARMED_IN_USER: the flush, before the NMI */
	DFLUSH_STAGE_SWAPPED,		/* TRACE_AT_MEETING: before the write */
};

/*
 * TRACE_AT_MEETING puts the tracer on one more function, too, and lets whoever
 * writes to the code there, up to address + 16, wait just before the first byte
 * until the pages were swapped: so there has to be a DFLUSH_WATCH_PATCHER, made
 * before the module's own watch. With count it waits for a sender on CPU
 * count - 1, and holds that by an NMI until the write is about to happen. Without
 * a symbol it returns at once, and the caller makes somebody write.
 */

enum dflush_watch {
	DFLUSH_WATCH_FTRACE,	/* a function tracer that reads the pages */
	DFLUSH_WATCH_KPROBE,	/* a kprobe that reads the pages */
	DFLUSH_WATCH_IPMODIFY,	/* an IPMODIFY user, as a livepatch is one */
	DFLUSH_WATCH_DIRECT,	/* a direct call, as BPF fentry makes one */
	DFLUSH_WATCH_COPY,	/* a livepatched copy of pmd_free_pte_page() */
	DFLUSH_WATCH_PATCHER,	/* looks at __text_poke for TRACE_AT_MEETING */
	DFLUSH_WATCH_KINDS,
};

/*
 * One round with a chunk of per-CPU memory, see chunk.rs. PREPARE and RECREATE
 * return its address. What is created next, a cgroup, has its data there.
 */
enum dflush_chunk {
	DFLUSH_CHUNK_PREPARE,
	DFLUSH_CHUNK_TAKE,	/* reads: areas in it; holds the pages of CPU cpu */
	DFLUSH_CHUNK_DESTROY,	/* when these areas were freed: purges, poisons the pages */
	DFLUSH_CHUNK_RECREATE,
	DFLUSH_CHUNK_CHECK,	/* reads, absent: areas at addresses of held pages, elsewhere;
				 * stale: words of the held pages that were written to;
				 * generation: the largest rise of a number in the areas */
	DFLUSH_CHUNK_RELEASE,
};

/*
 * Calls what the kernel does not export, at address. As it may lack an ENDBR that
 * was removed at boot, never where indirect branches are tracked.
 */
enum dflush_call {
	DFLUSH_CALL_FTRACE_KILL,
	DFLUSH_CALL_POKE_KGDB,	/* with interrupts off, moved is the place: same byte */
	DFLUSH_CALL_FLUSH,	/* flush_tlb_kernel_range(): pages from address moved on */
	DFLUSH_CALL_FEATURE,	/* no function: the CPU gets or loses a feature in the kernel's
				 * eyes; cpu: enum dflush_feature, moved: 1 or 0 */
};

enum dflush_feature {
	DFLUSH_FEATURE_INVLPGB,
	DFLUSH_FEATURE_XENPV,
};

#define DFLUSH_IOCTL(nr) _IOWR('d', nr, struct dflush_request)

#endif /* DFLUSH_TEST_H */
