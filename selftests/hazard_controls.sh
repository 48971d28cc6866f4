# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The negative controls of the hazards that are provoked by real operations. Part
# of controls.sh, whose functions they use.

# Run by controls.sh.
# shellcheck disable=SC2034
hazard_controls=(any_caller any_range no_nmi_flush nmi_not_first nmi_is_quiet nmi_pending_only
	slow_exchange no_memory_block no_mce_drain no_offline_reset guest_is_quiet
	no_second_drain kgdb_waits ldt_without_flush no_forced_off ownerless_views late_files
	open_to_all any_machine no_tracer_check)

# A page table is freed while a CPU in user mode may still have it cached.
any_caller() {
	with_variant any_caller pagetables.sh
	fails_with 'pagetables: interrupted before pmd_free_pte_page frees' &&
		fails_with 'pagetables: interrupted before pud_free_pmd_page frees' &&
		fails_with 'pagetables: interrupted before a livepatched copy frees'
}

# What reaches outside vmalloc is deferred too.
any_range() {
	with_variant any_range ranges.sh module bpf
	fails_with 'ranges: a module is unloaded' && fails_with 'ranges: BPF programs are freed'
}

# Another NMI handler reads what was replaced.
no_nmi_flush() {
	with_variant no_nmi_flush nmi 2 0
	fails_with 'nmi: flushed before another handler reads, interrupts' &&
		has_line '^# interrupts: .* flushes=0 stale=[1-9]' && has_line '^# sysrq-l: .* flushes=0 stale=[1-9]'
}

nmi_not_first() {
	with_variant nmi_not_first nmi 2 0
	fails_with 'nmi: flushed before another handler reads, interrupts' &&
		has_line '^# interrupts: .* flushes=[1-9].* stale=[1-9]'
}

# A sender does not interrupt a CPU on which an NMI runs.
nmi_is_quiet() {
	with_variant nmi_is_quiet nmi 2 0
	fails_with 'nmi: a flush is not deferred while one runs' &&
		has_line '^# during: .* returned=[1-9].* stale=[1-9]'
}

# An NMI between the exchange and the flush sees FLUSHING, no longer PENDING.
nmi_pending_only() {
	with_variant nmi_pending_only overlap receiver 40
	fails_with 'overlap: no stale page when an NMI' && has_line '^# meetings=.* stale=[1-9]'
}

slow_exchange() {
	with_variant slow_exchange overlap receiver 20
	passes && has_line '^# meetings=[1-9]'
}

# Flushes are deferred while memory goes offline.
no_memory_block() {
	with_variant no_memory_block memory.sh brief
	fails_with 'memory: drained at its start' && fails_with 'memory: nothing is deferred meanwhile'
}

# A machine-check event leaves what is owed.
no_mce_drain() {
	with_variant no_mce_drain mce.sh
	fails_with 'mce: a reported event drains' && has_line '^# CPUs that owed a flush: [1-9].*, drained: 0'
}

# Words of CPUs that are offline stay as they are.
no_offline_reset() {
	with_variant no_offline_reset hotplug.sh leftover
	fails_with 'hotplug: what an offline CPU owes is forgotten at off'
}

# A CPU in guest mode comes back without passing the receiver.
guest_is_quiet() {
	with_variant guest_is_quiet kvm.sh
	fails_with 'kvm: a CPU in guest mode is interrupted' && has_line '^# swaps=.* deferred=[1-9]'
}

# A sender's bit stays on a CPU that sleeps while all goes off.
no_second_drain() {
	with_variant no_second_drain patching off 8
	fails_with 'patching: nothing is left pending when a sender meets going off' &&
		has_line '^# meetings=[1-9].* left=[1-9]'
}

# Somebody is waited for with interrupts off.
kgdb_waits() {
	with_script kgdb_waits kgdb.sh
	fails_with 'kgdb: with interrupts off nothing is sent'
}

# The variant no_entry_flush: the processor reads an old table.
ldt_without_flush() {
	with_variant no_entry_flush ldt
	fails_with 'ldt: a table in vmalloc is never an old one' && has_line '^# changes=.* stale=[1-9]'
}

# A module that goes by force leaves its hooks, here until rmmod is killed.
no_forced_off() {
	FORCED_LIMIT=3 with_script no_forced_off forced.sh
	fails_with 'forced: rmmod -f leaves nothing' && has_line '^# > vtime_user_exit'
}

# Views without an owner.
ownerless_views() {
	with_variant ownerless_views views.sh
	fails_with 'views: an open summary pins the module' && fails_with 'views: an open cpus view pins the module' &&
		fails_with 'views: an open view of recent flushes pins the module'
}

# The files are there while the module goes.
late_files() {
	with_variant late_files input.sh going
	fails_with 'input: no write once the module is going' && has_line '^# the module is going'
}

# Anybody may write and read.
open_to_all() {
	with_variant open_to_all nobody
	if ! { fails_with 'nobody: nobody cannot write the control files' &&
		fails_with 'nobody: root of a user namespace cannot write the control files'; }; then
		return 1
	fi
	# What hides the views from others is first of all the directory of debugfs.
	with_variant open_to_all views.sh
	fails_with 'views: permissions of mode' && fails_with 'views: permissions in debugfs'
}

# It does not matter where.
any_machine() {
	ONLY='refusal: INVLPGB' with_script any_machine refusals.sh
	fails_with 'refusal: INVLPGB'
}

# It does not matter who is there.
no_tracer_check() {
	ONLY='refusal: a tracer on vtime_user_exit' with_script no_tracer_check refusals.sh
	fails_with 'refusal: a tracer on vtime_user_exit'
}

# ftrace has died, and nobody takes note: the module would go while it is called. Needs a
# boot of its own, so it is not one of the above.
forgets_stuck() {
	with_variant forgets_stuck ftrace_kill.sh
	fails_with 'ftrace kill: going off is an error' && fails_with 'ftrace kill: the state says so' &&
		fails_with 'ftrace kill: the module stays in memory'
}
