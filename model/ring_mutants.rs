// SPDX-License-Identifier: GPL-2.0

//! The mutants of `ring.rs`. Used by the build script, which makes them, and by the program. Each has
//! to be caught.

/// Name; what it does; exact text of the source, there once; what stands there instead.
pub(crate) const RING_MUTANTS: &[(&str, &str, &str, &str)] = &[
    (
        "no_claim",
        "a writer does not ask whether the slot is free",
        "        old & CLAIMED == 0
            && old < claimed
            && self
                .sequence
                .compare_exchange(old, claimed, Acquire, Relaxed)
                .is_ok()",
        "        self.sequence.swap(claimed, Acquire);
        old < claimed",
    ),
    (
        "claim_in_two_steps",
        "the slot is claimed by a load and a store",
        "            && self
                .sequence
                .compare_exchange(old, claimed, Acquire, Relaxed)
                .is_ok()",
        "            && {
                self.sequence.store(claimed, Relaxed);
                true
            }",
    ),
    (
        "no_release_fence",
        "words may be seen before the claim",
        "        fence(Release);
",
        "",
    ),
    (
        "relaxed_publication",
        "the publication may be seen before the words",
        "store(Self::published(ticket), Release)",
        "store(Self::published(ticket), Relaxed)",
    ),
    (
        "relaxed_first_look",
        "words may be read before the sequence",
        "let before = self.sequence.load(Acquire);",
        "let before = self.sequence.load(Relaxed);",
    ),
    (
        "no_acquire_fence",
        "words may be read after the second look",
        "        fence(Acquire);
",
        "",
    ),
    (
        "no_second_look",
        "the sequence is not looked at again",
        "self.sequence.load(Relaxed) == before",
        "before != 0",
    ),
    (
        "reads_claimed_slots",
        "a claimed slot is read like any other",
        "before == 0 || before & CLAIMED != 0",
        "before == 0",
    ),
];
