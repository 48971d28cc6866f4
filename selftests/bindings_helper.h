/* SPDX-License-Identifier: GPL-2.0 */
/* What the test module needs and kernel::bindings lacks; read by bindgen. */
#include <linux/kprobes.h>
#include <linux/memory.h>
#include <linux/vmalloc.h>
#include <asm/apic.h>
#include <asm/nmi.h>
#include <asm/pgtable.h>

#include "dflush_test.h"

/* bindgen evaluates nothing above the largest signed number: the top bit apart. */
static const unsigned long DFLUSH_PAGE_KERNEL_LOW = __PAGE_KERNEL & ~_PAGE_NX;
static const unsigned int DFLUSH_PAGE_BIT_NX = _PAGE_BIT_NX;

static const unsigned int DFLUSH_MEM_GOING_OFFLINE = MEM_GOING_OFFLINE;
static const unsigned int DFLUSH_MEM_OFFLINE = MEM_OFFLINE;
static const unsigned int DFLUSH_MEM_CANCEL_OFFLINE = MEM_CANCEL_OFFLINE;
