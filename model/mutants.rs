// SPDX-License-Identifier: GPL-2.0

//! The mutants of `ctx_tracking.rs`. Used by the build script, which makes them, and by the program.

#![expect(dead_code, reason = "each of the two reads a part of it")]

/// A change of the protocol's source.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// What it does, for the table.
    pub(crate) what: &'static str,
    /// Exact texts of the source, each there once, and what stands there instead.
    pub(crate) replacements: &'static [(&'static str, &'static str)],
    /// The scenarios each of which has to catch it. One with none is no bug: what it takes away is
    /// an optimisation, or is there twice.
    pub(crate) caught_in: &'static [&'static str],
}

const FIRST_BARRIER: &str = "pub(crate) fn sender_barrier() {
    fence(SeqCst);
}";
const FIRST_LOOK: &str = "    if !is_quiet() {
        return Verdict::NotQuiet;
    }
";
const SET: &str = "    if word.0.load(Relaxed) & PENDING == 0 {
        word.0.fetch_or(PENDING, SeqCst);
    }
";
const SECOND_BARRIER: &str = "    fence(SeqCst);
    #[cfg(any(variant = \"no_first_check\"";
const SECOND_LOOK: &str =
    "    if is_quiet() && (cfg!(variant = \"no_block_recheck\") || !blocked.is_blocked()) {";
const RECEIVE: &str = "            self.0.swap(FLUSHING, SeqCst);
            #[cfg(variant = \"no_first_check\")]";
const FLUSH: &str = "            test::long_delay();
            flush();
";
const CLEAR: &str = "        self.0.fetch_and(!FLUSHING, SeqCst);";

#[rustfmt::skip]
pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no_first_barrier",
        what: "sender_barrier() is no barrier",
        replacements: &[(FIRST_BARRIER, "pub(crate) fn sender_barrier() {}")],
        caught_in: &["1x1+twice", "2x1"],
    },
    Mutant {
        name: "no_second_barrier",
        what: "no barrier between the bit and the second look",
        replacements: &[(SECOND_BARRIER, "    #[cfg(any(variant = \"no_first_check\"")],
        caught_in: &["2x1+deep"],
    },
    Mutant {
        name: "barrier_before_bit",
        what: "the second barrier stands before the bit, which is set without one",
        replacements: &[
            (SECOND_BARRIER, "    #[cfg(any(variant = \"no_first_check\""),
            (SET, "    fence(SeqCst);\n    word.0.fetch_or(PENDING, Relaxed);\n"),
        ],
        caught_in: &["1x1"],
    },
    Mutant {
        name: "no_second_look",
        what: "the second look at the state is left out",
        replacements: &[(SECOND_LOOK, "    if !blocked.is_blocked() {")],
        caught_in: &["1x1", "2x1+irq"],
    },
    Mutant {
        name: "look_before_bit",
        what: "the second look comes before the bit",
        replacements: &[
            (SET, "    let again = is_quiet();\n    word.0.fetch_or(PENDING, SeqCst);\n"),
            (SECOND_LOOK, "    if again && !blocked.is_blocked() {"),
        ],
        caught_in: &["1x1"],
    },
    Mutant {
        name: "no_block_look",
        what: "the sender does not look whether deferral is blocked",
        replacements: &[(SECOND_LOOK, "    if is_quiet() {")],
        caught_in: &["1x1+mode", "1x1+memory", "1x1+tracer", "1x1+irq+mode", "1x1+twice+mode"],
    },
    Mutant {
        name: "block_look_before_bit",
        what: "the sender looks at the block before it sets the bit",
        replacements: &[
            (SET, "    let open = !blocked.is_blocked();\n    word.0.fetch_or(PENDING, SeqCst);\n"),
            (SECOND_LOOK, "    if is_quiet() && open {"),
        ],
        caught_in: &["1x1+mode", "1x1+memory", "1x1+tracer"],
    },
    Mutant {
        name: "bit_not_set_no_first_look",
        what: "the bit is not set while the CPU is flushing, and there is no first look",
        replacements: &[(FIRST_LOOK, ""), (SET, "    if word.0.load(Relaxed) == 0 {\n        word.0.fetch_or(PENDING, SeqCst);\n    }\n")],
        caught_in: &["1x1+twice"],
    },
    Mutant {
        name: "flush_before_exchange_no_first_look",
        what: "the receiver flushes, then exchanges, and there is no first look",
        replacements: &[(FIRST_LOOK, ""), 
            (RECEIVE, "            flush();\n            self.0.swap(FLUSHING, SeqCst);\n            #[cfg(variant = \"no_first_check\")]"),
            (FLUSH, "            test::long_delay();\n"),
        ],
        caught_in: &["1x1+twice"],
    },
    Mutant {
        name: "flush_after_clear",
        what: "the receiver clears FLUSHING, then flushes",
        replacements: &[
            (FLUSH, "            test::long_delay();\n"),
            (CLEAR, "        self.0.fetch_and(!FLUSHING, SeqCst);\n        flush();"),
        ],
        caught_in: &["1x1+nmi", "1x1+tracer+nmi", "1x1+mode+nmi"],
    },
    Mutant {
        name: "no_flushing_bit",
        what: "the exchange leaves 0, not FLUSHING",
        replacements: &[(RECEIVE, "            self.0.swap(0, SeqCst);\n            #[cfg(variant = \"no_first_check\")]")],
        caught_in: &["1x1+nmi", "1x1+tracer+nmi", "1x1+mode+nmi"],
    },
    Mutant {
        name: "relaxed_exchange_no_first_look",
        what: "the exchange is no barrier, and there is no first look",
        replacements: &[(FIRST_LOOK, ""), (RECEIVE, "            self.0.swap(FLUSHING, Relaxed);\n            #[cfg(variant = \"no_first_check\")]")],
        caught_in: &["1x1+twice"],
    },
    Mutant {
        name: "clear_everything_no_first_look",
        what: "the receiver clears the whole word after the flush, and there is no first look",
        replacements: &[(FIRST_LOOK, ""), (CLEAR, "        self.0.store(0, SeqCst);")],
        caught_in: &["1x1+twice"],
    },
    Mutant {
        name: "nmi_is_quiet",
        what: "is_quiet() ignores the watching bit",
        replacements: &[("        state & self.mask == self.user", "        state & 3 == self.user")],
        caught_in: &["1x1+nmi", "1x1+tracer+nmi", "1x1+mode+nmi"],
    },
    Mutant {
        name: "relaxed_block",
        what: "no barrier between the block and the drain",
        replacements: &[(
            "        let old = self.0.fetch_or(reason as u64, SeqCst);\n        fence(SeqCst);\n",
            "        let old = self.0.fetch_or(reason as u64, Relaxed);\n",
        )],
        caught_in: &["1x1+mode", "1x1+memory", "1x1+tracer", "1x1+irq+mode", "1x1+twice+mode"],
    },
    Mutant {
        name: "write_not_counted",
        what: "a write to watched code does not count as a generation",
        replacements: &[("        self.0.fetch_add(GENERATION, SeqCst);\n", "")],
        caught_in: &["1x1+resume"],
    },
    Mutant {
        name: "resume_ignores_generation",
        what: "resume() does not compare the generation",
        replacements: &[(
            "            if old / GENERATION != generation && cfg!(not(variant = \"hasty_resume\")) {",
            "            if false {",
        )],
        caught_in: &["1x1+resume"],
    },
    Mutant {
        name: "resume_without_exchange",
        what: "resume() looks at the generation, then clears the reason",
        replacements: &[(
            "            match self.0.compare_exchange(old, new, SeqCst, SeqCst) {",
            "            self.0.fetch_and(!(Reason::Tracer as u64), SeqCst);\n            \
             match Ok::<u64, u64>(new) {",
        )],
        caught_in: &["1x1+resume"],
    },
    Mutant {
        name: "no_first_look",
        what: "the first look at the state is left out",
        replacements: &[(FIRST_LOOK, "")],
        caught_in: &[],
    },
    Mutant {
        name: "always_set",
        what: "the bit is set even if it is set",
        replacements: &[(SET, "    word.0.fetch_or(PENDING, SeqCst);\n")],
        caught_in: &[],
    },
    Mutant {
        name: "relaxed_set",
        what: "the bit is set without a barrier of its own: the fence follows",
        replacements: &[(SET, "    if word.0.load(Relaxed) & PENDING == 0 {\n        word.0.fetch_or(PENDING, Relaxed);\n    }\n")],
        caught_in: &[],
    },
    Mutant {
        name: "one_block_barrier",
        what: "block() without its fence: the locked instruction is one",
        replacements: &[(
            "        let old = self.0.fetch_or(reason as u64, SeqCst);\n        fence(SeqCst);\n",
            "        let old = self.0.fetch_or(reason as u64, SeqCst);\n",
        )],
        caught_in: &[],
    },
    Mutant {
        name: "bit_not_set",
        what: "the bit is not set while the CPU is flushing (the first look is there)",
        replacements: &[(SET, "    if word.0.load(Relaxed) == 0 {\n        word.0.fetch_or(PENDING, SeqCst);\n    }\n")],
        caught_in: &[],
    },
    Mutant {
        name: "flush_before_exchange",
        what: "the receiver flushes, then exchanges (the first look is there)",
        replacements: &[
            (RECEIVE, "            flush();\n            self.0.swap(FLUSHING, SeqCst);\n            #[cfg(variant = \"no_first_check\")]"),
            (FLUSH, "            test::long_delay();\n"),
        ],
        caught_in: &[],
    },
    Mutant {
        name: "relaxed_exchange",
        what: "the exchange is no barrier (the first look is there)",
        replacements: &[(RECEIVE, "            self.0.swap(FLUSHING, Relaxed);\n            #[cfg(variant = \"no_first_check\")]")],
        caught_in: &[],
    },
    Mutant {
        name: "clear_everything",
        what: "the receiver clears the whole word after the flush (the first look is there)",
        replacements: &[(CLEAR, "        self.0.store(0, SeqCst);")],
        caught_in: &[],
    },
];

/// Texts of the module that `machine.rs` does the same as, each of them there once.
#[rustfmt::skip]
pub(crate) const ANCHORS: &[(&str, &str)] = &[
    // The state is acquired, and looked at again on each call.
    ("percpu.rs", "unsafe { AtomicU32::from_ptr(counter.cast()) }.load(Acquire)"),
    ("percpu.rs", "        STATE.is_quiet(state) && self.is_active() && !self.has_breakpoint()"),
    // The sender.
    ("hooks/wrapper.rs", "    ctx_tracking::sender_barrier();"),
    ("hooks/wrapper.rs", "    match ctx_tracking::offer(&local.word, &BLOCKED, || context.is_quiet()) {"),
    ("hooks/wrapper.rs", "            Some(must_interrupt),\n            Some(flush_this_cpu),\n            (&raw mut order).cast(),\n            true,\n            &raw const bindings::__cpu_online_mask,"),
    // Going off: the fields are dropped in this order.
    ("control.rs", "    _deferring: Deferring,\n    _wrapper: Wrapper,\n    _stale_limit: StaleLimit,\n    _memory_failure: MemoryFailureNotifier,\n    _memory: MemoryNotifier,\n    _receiver: Receiver,\n    _nmi: NmiHandler,\n    watch: TextWatch,\n}"),
    // The wrapper goes after the first drain. The model takes receiver and NMI handler out then, which is
    // sooner than the module does it: after the senders have left, and a second drain.
    ("hooks/wrapper.rs", "        self.hook = None;\n        // A task may be preempted in the wrapper, which it does not leave by sleeping.\n        // SAFETY: process context; sleeps.\n        unsafe { bindings::synchronize_rcu_tasks() };\n        #[cfg(not(any(variant = \"no_off_drain\", variant = \"no_second_drain\")))]\n        if self.kind == Kind::Deferring {\n            // A sender that saw the block may have left its bit behind.\n            drain_all();"),
    // The receiver: a look at the word, then all of it.
    ("hooks/receiver.rs", "        \"cmp dword ptr gs:[rip + DEFERRED_FLUSH_CPU], 0; jne 2f\""),
    ("hooks/receiver.rs", "    local.word.receive(|| unsafe {\n        #[cfg(not(variant = \"no_entry_flush\"))]\n        flush::flush_all();\n    });"),
    // The NMI handler asks for any bit and leaves the word alone.
    ("hooks/nmi.rs", "    let owes_flush = !local.word.is_clear();"),
    ("hooks/nmi.rs", "    if owes_flush {\n        // SAFETY: no interrupt arrives during an NMI.\n        unsafe { flush::flush_all() };"),
    // The drain. Like the sender it waits.
    ("hooks/drain.rs", "            Some(owes_flush),\n            Some(flush_if_owed),\n            core::ptr::null_mut(),\n            true,\n            &raw const bindings::__cpu_online_mask,"),
    ("hooks/drain.rs", "    let owes = percpu::of(cpu as u32).is_some_and(|local| !local.word.is_clear());"),
    ("hooks/drain.rs", "    if local.word.is_clear() {\n        return;\n    }\n    // SAFETY: cross-CPU functions run with interrupts off.\n    local.word.receive(|| unsafe { flush::flush_all() });"),
    // The blockers.
    ("hooks/drain.rs", "        BLOCKED.block(Reason::Mode);\n        #[cfg(not(variant = \"no_off_drain\"))]\n        drain_all();"),
    ("hooks/memory.rs", "            BLOCKED.block(Reason::MemoryOffline);\n            // The caller holds the hotplug lock, so offline CPUs stay so, and flush at bring-up.\n            drain_online();"),
    ("hooks/text_watch.rs", "    let is_first = BLOCKED.block_for_write();"),
    ("hooks/text_watch.rs", "    if interrupts_are_on() {\n        // The receiver's own removal comes by here, too.\n        if cfg!(not(variant = \"no_second_drain\")) || !is_turned_off {\n            drain_online();"),
    // The resume.
    ("hooks/text_watch.rs", "    let generation = BLOCKED.generation();\n    #[cfg(not(variant = \"hasty_resume\"))]\n    // SAFETY: process context; sleeps.\n    unsafe {\n        bindings::synchronize_rcu_tasks()\n    };\n    generation"),
    ("hooks/text_watch.rs", "        let generation = settled_generation();\n        for expected in self.expected.iter() {"),
    ("control.rs", "            Look::Unchanged(generation) if BLOCKED.resume(generation) => {"),
];
