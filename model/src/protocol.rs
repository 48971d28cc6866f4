// SPDX-License-Identifier: GPL-2.0

//! The protocol's source and its mutants, each compiled as a module of its own, behind one trait.

/// What `ctx_tracking.rs` offers, with the word of each CPU and the global one.
///
/// A trait object, so that machine and exploration are compiled once and not for each mutant.
pub(crate) trait Protocol: Send + Sync {
    fn is_clear(&self, cpu: usize) -> bool;
    fn receive(&self, cpu: usize, flush: &mut dyn FnMut());
    /// Leaves 0 in the word, with one locked instruction.
    fn take(&self, cpu: usize);
    /// Whether a CPU in this state is quiet.
    fn is_quiet(&self, state: u32) -> bool;
    fn sender_barrier(&self);
    /// Whether the flush was deferred.
    fn offer(&self, cpu: usize, is_quiet: &dyn Fn() -> bool) -> bool;
    fn block_mode(&self);
    fn block_memory(&self);
    fn block_for_write(&self);
    fn generation(&self) -> u64;
    fn resume(&self, generation: u64) -> bool;
    /// Where the word of a CPU lies, to give it a name.
    fn word(&self, cpu: usize) -> *const ();
    /// Where the global word lies.
    fn blocked(&self) -> *const ();
}

/// Makes an instance for so many CPUs, with nothing owed and nothing blocked.
pub(crate) type Make = fn(cpus: usize) -> Box<dyn Protocol>;

/// Compiles the source file at `$path` as the module `$name`.
macro_rules! instance {
    ($name:ident, $path:literal) => {
        mod $name {
            #[expect(unused, reason = "the module uses more, and a mutant less")]
            #[path = $path]
            mod ctx_tracking;
            use crate::protocol::Protocol;
            use ctx_tracking::{
                offer, sender_barrier, Blocked, Reason, StateLayout, Verdict, Word,
            };

            struct Instance {
                words: Vec<Word>,
                blocked: Blocked,
            }

            pub(crate) fn make(cpus: usize) -> Box<dyn Protocol> {
                let blocked = Blocked::new();
                blocked.unblock(Reason::Mode);
                Box::new(Instance {
                    words: (0..cpus).map(|_| Word::new()).collect(),
                    blocked,
                })
            }

            impl Protocol for Instance {
                fn is_clear(&self, cpu: usize) -> bool {
                    self.words[cpu].is_clear()
                }
                fn receive(&self, cpu: usize, flush: &mut dyn FnMut()) {
                    self.words[cpu].receive(flush);
                }
                fn take(&self, cpu: usize) {
                    // A sequentially consistent store is an exchange whose result nobody reads.
                    self.words[cpu].reset_offline();
                }
                fn is_quiet(&self, state: u32) -> bool {
                    // As on 7.3: two bits of state, then the count of which the lowest bit says
                    // that RCU is watching.
                    StateLayout { mask: 7, user: 2 }.is_quiet(state)
                }
                fn sender_barrier(&self) {
                    sender_barrier();
                }
                fn offer(&self, cpu: usize, is_quiet: &dyn Fn() -> bool) -> bool {
                    offer(&self.words[cpu], &self.blocked, is_quiet) == Verdict::Deferred
                }
                fn block_mode(&self) {
                    self.blocked.block(Reason::Mode);
                }
                fn block_memory(&self) {
                    self.blocked.block(Reason::MemoryOffline);
                }
                fn block_for_write(&self) {
                    self.blocked.block_for_write();
                }
                fn generation(&self) -> u64 {
                    self.blocked.generation()
                }
                fn resume(&self, generation: u64) -> bool {
                    self.blocked.resume(generation)
                }
                fn word(&self, cpu: usize) -> *const () {
                    (&raw const self.words[cpu]).cast()
                }
                fn blocked(&self) -> *const () {
                    (&raw const self.blocked).cast()
                }
            }
        }
    };
}
pub(crate) use instance;
