// SPDX-License-Identifier: GPL-2.0

//! The protocol's source and its mutants, each compiled as a module of its own, behind one trait.

/// What `ctx_tracking.rs` offers.
pub(crate) trait Protocol: 'static {
    type Word: Send + Sync;
    type Blocked: Send + Sync;

    fn word() -> Self::Word;
    fn is_clear(word: &Self::Word) -> bool;
    fn receive(word: &Self::Word, flush: impl FnOnce());
    /// Whether a CPU in this state is quiet.
    fn is_quiet(state: u32) -> bool;
    fn sender_barrier();
    /// Whether the flush was deferred.
    fn offer(word: &Self::Word, blocked: &Self::Blocked, is_quiet: impl Fn() -> bool) -> bool;
    /// Nothing is blocked.
    fn blocked() -> Self::Blocked;
    fn block_mode(blocked: &Self::Blocked);
    fn block_memory(blocked: &Self::Blocked);
    fn block_for_write(blocked: &Self::Blocked);
    fn generation(blocked: &Self::Blocked) -> u64;
    fn resume(blocked: &Self::Blocked, generation: u64) -> bool;
}

/// Compiles the source file at `$path` as the module `$name`.
macro_rules! instance {
    ($name:ident, $path:literal) => {
        mod $name {
            // What only the module uses is unused here, and a mutant leaves more unused.
            #[allow(unused, clippy::all)]
            #[path = $path]
            mod ctx_tracking;
            use ctx_tracking::{
                offer, sender_barrier, Blocked, Reason, StateLayout, Verdict, Word,
            };

            pub(crate) struct Instance;

            impl crate::protocol::Protocol for Instance {
                type Word = Word;
                type Blocked = Blocked;

                fn word() -> Word {
                    Word::new()
                }
                fn is_clear(word: &Word) -> bool {
                    word.is_clear()
                }
                fn receive(word: &Word, flush: impl FnOnce()) {
                    word.receive(flush);
                }
                fn is_quiet(state: u32) -> bool {
                    // As on 7.3: two bits of state, then the count of which the lowest bit says
                    // that RCU is watching.
                    StateLayout { mask: 7, user: 2 }.is_quiet(state)
                }
                fn sender_barrier() {
                    sender_barrier();
                }
                fn offer(word: &Word, blocked: &Blocked, is_quiet: impl Fn() -> bool) -> bool {
                    offer(word, blocked, is_quiet) == Verdict::Deferred
                }
                fn blocked() -> Blocked {
                    let blocked = Blocked::new();
                    blocked.unblock(Reason::Mode);
                    blocked
                }
                fn block_mode(blocked: &Blocked) {
                    blocked.block(Reason::Mode);
                }
                fn block_memory(blocked: &Blocked) {
                    blocked.block(Reason::MemoryOffline);
                }
                fn block_for_write(blocked: &Blocked) {
                    blocked.block_for_write();
                }
                fn generation(blocked: &Blocked) -> u64 {
                    blocked.generation()
                }
                fn resume(blocked: &Blocked, generation: u64) -> bool {
                    blocked.resume(generation)
                }
            }
        }
    };
}
pub(crate) use instance;
