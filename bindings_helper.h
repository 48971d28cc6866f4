/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the module needs of the kernel's headers beyond the kernel crate's own
 * bindings. Kbuild runs bindgen over this file.
 */

#include <linux/context_tracking_state.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/memory.h>
#include <linux/tick.h>
#include <generated/utsrelease.h>
#include <asm/debugreg.h>
#include <asm/mce.h>
#include <asm/nmi.h>
#include <asm/pgtable_64_types.h>

/* Constants that are casts, enums of another width, or expressions in C. */
static const unsigned int DEFERRED_FLUSH_CT_STATE_MASK = CT_STATE_MASK;
static const unsigned int DEFERRED_FLUSH_CT_RCU_WATCHING = CT_RCU_WATCHING;
static const unsigned int DEFERRED_FLUSH_CT_STATE_USER = CT_STATE_USER;
static const unsigned int DEFERRED_FLUSH_CT_STATE_IDLE = CT_STATE_IDLE;
static const unsigned int DEFERRED_FLUSH_CT_STATE_GUEST = CT_STATE_GUEST;
static const unsigned long DEFERRED_FLUSH_VMALLOC_TB_L4 = VMALLOC_SIZE_TB_L4;
static const unsigned long DEFERRED_FLUSH_VMALLOC_TB_L5 = VMALLOC_SIZE_TB_L5;
static const unsigned long DEFERRED_FLUSH_MEM_GOING_OFFLINE = MEM_GOING_OFFLINE;
static const unsigned long DEFERRED_FLUSH_MEM_OFFLINE = MEM_OFFLINE;
static const unsigned long DEFERRED_FLUSH_MEM_CANCEL_OFFLINE = MEM_CANCEL_OFFLINE;
static const unsigned int DEFERRED_FLUSH_KPROBE_DISABLED = KPROBE_FLAG_DISABLED;
static const unsigned int DEFERRED_FLUSH_KPROBE_FTRACE = KPROBE_FLAG_FTRACE;
static const unsigned long DEFERRED_FLUSH_KSYM_SYMBOL_LEN = KSYM_SYMBOL_LEN;
static const unsigned long DEFERRED_FLUSH_NMI_FLAG_FIRST = NMI_FLAG_FIRST;
