/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen has to add to kernel::bindings for flush_rounds.rs. */

#include <linux/pgtable.h>
#include <linux/vmalloc.h>

/*
 * PAGE_KERNEL without its two parts that are known only when the kernel runs.
 * Signed, because bindgen leaves out constants with the top bit set.
 */
static const long FLUSH_ROUNDS_PAGE_KERNEL = __PAGE_KERNEL;
static const unsigned long FLUSH_ROUNDS_VM_MAP = VM_MAP;
