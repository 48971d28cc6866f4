// SPDX-License-Identifier: GPL-2.0

//! Why an interrupt was sent, told from the sender's stack and the function to be run.

use std::fmt;

use crate::trace::{Send, symbol};

/// The cause of an interrupt, in the order of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// flush_tlb_kernel_range() from the purge that starts by itself when enough has been freed.
    FlushPurge,
    /// flush_tlb_kernel_range() from vm_unmap_aliases() called for its own sake.
    FlushAliases,
    /// flush_tlb_kernel_range() while a module's memory is freed.
    FlushModule,
    /// flush_tlb_kernel_range() before the attributes of memory change.
    FlushAttributes,
    /// flush_tlb_kernel_range() from anywhere else.
    FlushOther,
    /// Sent by the module itself, other than in place of a flush.
    Drain,
    /// Direct-map and page-attribute changes: set_memory_*().
    Attributes,
    /// Kernel code is being patched.
    TextPatching,
    /// RCU asks a CPU that it has not heard of for a quiescent state.
    RcuResched,
    /// An expedited grace period.
    RcuExpedited,
    /// The watchdog of the clock source visits one CPU after the other.
    ClocksourceWatchdog,
    /// A user address space is flushed.
    UserTlb,
    /// Work that a CPU sends itself, to do it outside the present context.
    IrqWork,
    /// A task is woken there, or the scheduler is asked to look.
    Scheduler,
    /// The function to be run, or the place it was sent from.
    Other(String),
}

/// Looked for in the stack from the top of the table down, when it is no flush of a kernel range.
const BY_FRAME: &[(&[&str], Cause)] = &[
    (
        &[
            "cpa_flush",
            "__cpa_process_fault",
            "__change_page_attr_set_clr",
            "change_page_attr_set_clr",
        ],
        Cause::Attributes,
    ),
    (
        &[
            "smp_text_poke_batch_finish",
            "smp_text_poke_sync_each_cpu",
            "text_poke_sync",
        ],
        Cause::TextPatching,
    ),
    (
        &[
            "sync_rcu_exp_select_cpus",
            "__sync_rcu_exp_select_node_cpus",
        ],
        Cause::RcuExpedited,
    ),
    (&["force_qs_rnp", "rcu_gp_fqs_loop"], Cause::RcuResched),
    (
        &["clocksource_watchdog", "clocksource_verify_percpu"],
        Cause::ClocksourceWatchdog,
    ),
    (
        &["flush_tlb_mm_range", "arch_tlbbatch_flush"],
        Cause::UserTlb,
    ),
    (
        &[
            "irq_work_queue",
            "irq_work_queue_on",
            "__irq_work_queue_local",
        ],
        Cause::IrqWork,
    ),
    (
        &[
            "try_to_wake_up",
            "ttwu_queue_wakelist",
            "__resched_curr",
            "resched_curr",
        ],
        Cause::Scheduler,
    ),
];

/// The marks that a symbol belongs to the module: as the kernel prints it, and as Rust mangles it.
const OWN: [&str; 2] = ["[deferred_flush]", "14deferred_flush"];

impl Cause {
    /// The cause of `send`.
    #[must_use]
    pub fn of(send: &Send) -> Self {
        let callback = send.callback.as_deref().unwrap_or_default();
        let has = |name: &str| {
            symbol(&send.callsite) == name || send.stack.iter().any(|frame| symbol(frame) == name)
        };
        let own = OWN.iter().any(|mark| {
            callback.contains(mark)
                || send.callsite.contains(mark)
                || send.stack.iter().any(|frame| frame.contains(mark))
        });
        let purge = has("__purge_vmap_area_lazy") || has("_vm_unmap_aliases");
        if has("flush_tlb_kernel_range")
            || symbol(callback) == "do_kernel_range_flush"
            || (own && purge)
        {
            return if ["free_module", "do_free_init", "__do_sys_delete_module"]
                .into_iter()
                .any(has)
            {
                Self::FlushModule
            } else if has("change_page_attr_set_clr") {
                Self::FlushAttributes
            } else if has("drain_vmap_area_work") {
                Self::FlushPurge
            } else if has("_vm_unmap_aliases") {
                Self::FlushAliases
            } else {
                Self::FlushOther
            };
        }
        for (frames, cause) in BY_FRAME {
            if frames.iter().any(|frame| has(frame)) {
                return cause.clone();
            }
        }
        if own {
            return Self::Drain;
        }
        Self::Other(if callback.is_empty() {
            symbol(&send.callsite).to_owned()
        } else {
            symbol(callback).to_owned()
        })
    }

    /// Is it a flush of a range of kernel addresses, by the kernel or in its place by the module?
    #[must_use]
    pub fn is_kernel_range_flush(&self) -> bool {
        *self <= Self::Drain
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FlushPurge => "kernel TLB flush: lazy vmalloc purge",
            Self::FlushAliases => "kernel TLB flush: vm_unmap_aliases()",
            Self::FlushModule => "kernel TLB flush: module memory freed",
            Self::FlushAttributes => "kernel TLB flush: before set_memory_*()",
            Self::FlushOther => "kernel TLB flush: other callers",
            Self::Drain => "deferred_flush: drain",
            Self::Attributes => "set_memory_*(): attributes changed",
            Self::TextPatching => "kernel code patched",
            Self::RcuResched => "RCU: asks for a quiescent state",
            Self::RcuExpedited => "RCU: expedited grace period",
            Self::ClocksourceWatchdog => "clock source watchdog",
            Self::UserTlb => "user TLB flush",
            Self::IrqWork => "work sent to itself (irq_work)",
            Self::Scheduler => "scheduler: wake-up or reschedule",
            Self::Other(name) => return f.pad(&format!("other: {name}")),
        })
    }
}

/// Functions that only pass an interrupt on, and so do not say who sent it.
const MACHINERY: [&str; 14] = [
    "smp_call_function_many_cond",
    "smp_call_function_many",
    "smp_call_function",
    "on_each_cpu_cond_mask",
    "__smp_call_single_queue",
    "generic_exec_single",
    "__smp_call_function_single",
    "smp_call_function_single",
    "smp_call_function_single_async",
    "ttwu_queue_wakelist",
    "__irq_work_queue_local",
    "irq_work_queue",
    "__resched_curr",
    "resched_cpu",
];

/// The functions above the common machinery, innermost first: who really sent it.
#[must_use]
pub fn callers(send: &Send) -> Vec<String> {
    let callers: Vec<_> = send
        .stack
        .iter()
        .filter(|f| !f.starts_with("trace_event_raw_event_") && !MACHINERY.contains(&symbol(f)))
        .map(|f| readable(f))
        .collect();
    if callers.is_empty() {
        vec![readable(&send.callsite)]
    } else {
        callers
    }
}

/// A function's name without offset, crate hash and mangling.
#[must_use]
pub fn readable(function: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol(function)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(callback: &str, stack: &str) -> Send {
        Send {
            callback: (!callback.is_empty()).then(|| callback.to_owned()),
            callsite: "somewhere+0x1/0x2".to_owned(),
            stack: stack.split_whitespace().map(str::to_owned).collect(),
            ..Send::default()
        }
    }

    #[test]
    fn every_caller_of_a_kernel_range_flush_is_told_apart() {
        let flush = "smp_call_function_many_cond flush_tlb_kernel_range __purge_vmap_area_lazy";
        for (rest, expected) in [
            ("drain_vmap_area_work process_one_work", Cause::FlushPurge),
            ("_vm_unmap_aliases round vfs_write", Cause::FlushAliases),
            (
                "_vm_unmap_aliases vfree.part.0 free_module",
                Cause::FlushModule,
            ),
            (
                "_vm_unmap_aliases vfree.part.0 do_free_init",
                Cause::FlushModule,
            ),
            (
                "_vm_unmap_aliases change_page_attr_set_clr set_memory_nx",
                Cause::FlushAttributes,
            ),
            ("someone_else", Cause::FlushOther),
        ] {
            let cause = Cause::of(&send("do_flush_tlb_all", &format!("{flush} {rest}")));
            assert_eq!(cause, expected);
            assert!(cause.is_kernel_range_flush());
        }
    }

    #[test]
    fn a_flush_sent_by_the_module_is_a_flush() {
        let purge = "smp_call_function_many_cond on_each_cpu_cond_mask \
            _RNvNtCs1234_14deferred_flush5hooks7wrapper __purge_vmap_area_lazy drain_vmap_area_work";
        assert_eq!(
            Cause::of(&send("flush_one [deferred_flush]", purge)),
            Cause::FlushPurge
        );
        let drain = Cause::of(&send(
            "drain [deferred_flush]",
            "on_each_cpu_cond_mask mode_store",
        ));
        assert_eq!(drain, Cause::Drain);
        assert!(drain.is_kernel_range_flush());
    }

    #[test]
    fn the_rest_is_no_flush_of_a_kernel_range() {
        for (callback, stack, expected) in [
            (
                "do_flush_tlb_all",
                "cpa_flush change_page_attr_set_clr free_module",
                Cause::Attributes,
            ),
            (
                "do_sync_core",
                "smp_text_poke_batch_finish load_module",
                Cause::TextPatching,
            ),
            (
                "",
                "__resched_curr resched_cpu force_qs_rnp rcu_gp_kthread",
                Cause::RcuResched,
            ),
            (
                "rcu_exp_handler",
                "__sync_rcu_exp_select_node_cpus",
                Cause::RcuExpedited,
            ),
            (
                "flush_tlb_func",
                "flush_tlb_mm_range do_munmap",
                Cause::UserTlb,
            ),
            (
                "sched_ttwu_pending",
                "ttwu_queue_wakelist try_to_wake_up",
                Cause::Scheduler,
            ),
            (
                "unheard_of+0x0/0x10",
                "x y",
                Cause::Other("unheard_of".into()),
            ),
            ("", "", Cause::Other("somewhere".into())),
        ] {
            let cause = Cause::of(&send(callback, stack));
            assert_eq!(cause, expected);
            assert!(!cause.is_kernel_range_flush());
        }
    }

    #[test]
    fn names_are_made_readable() {
        let stack = "trace_event_raw_event_ipi_send_cpumask smp_call_function_many_cond \
            _RNvXs2_CsbRcFpuocNvF_12flush_roundsNtB5_5PagesNtNtCsb5MLIFMWygY_6kernel10miscdevice10MiscDevice10write_iter";
        assert_eq!(
            callers(&send("f", stack)),
            ["<flush_rounds::Pages as kernel::miscdevice::MiscDevice>::write_iter"]
        );
        assert_eq!(callers(&send("f", "")), ["somewhere"]);
    }
}
