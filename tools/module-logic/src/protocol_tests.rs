// SPDX-License-Identifier: GPL-2.0

//! The protocol, one step after the other. (Interleavings are the verification's job.)

use crate::ctx_tracking::{
    offer, sender_barrier, Blocked, Reason, StateLayout, Verdict, Word, FLUSHING, PENDING,
};
use std::cell::{Cell, RefCell};

/// What `quiet()` answers, one look after the other.
fn looks(answers: &[bool]) -> impl Fn() -> bool + '_ {
    let next = Cell::new(0);
    move || {
        let answer = answers[next.get()];
        next.set(next.get() + 1);
        answer
    }
}

fn open() -> Blocked {
    let blocked = Blocked::new();
    blocked.unblock(Reason::Mode);
    blocked
}

#[test]
fn only_user_mode_with_rcu_not_watching_is_quiet() {
    // Two state bits, then the watching counter, as on 7.3.
    let layout = StateLayout {
        mask: 0b111,
        user: 2,
    };
    for counter in [0u32, 1, 2, 1000] {
        let base = counter << 3;
        assert!(layout.is_quiet(base | 2), "user");
        assert!(!layout.is_quiet(base | 2 | 4), "NMI from user");
        assert!(!layout.is_quiet(base), "kernel, extended quiescent state");
        assert!(!layout.is_quiet(base | 4), "kernel");
        assert!(!layout.is_quiet(base | 1), "idle");
        assert!(!layout.is_quiet(base | 3), "guest");
    }
}

#[test]
fn a_quiet_cpu_owes_the_flush() {
    let (word, blocked) = (Word::new(), open());
    sender_barrier();
    assert_eq!(
        offer(&word, &blocked, looks(&[true, true])),
        Verdict::Deferred
    );
    assert_eq!(word.value(), PENDING);
}

#[test]
fn a_busy_cpu_is_interrupted_and_owes_nothing() {
    let (word, blocked) = (Word::new(), open());
    assert_eq!(offer(&word, &blocked, looks(&[false])), Verdict::NotQuiet);
    assert!(word.is_clear());
}

#[test]
fn a_cpu_that_leaves_user_mode_meanwhile_is_interrupted() {
    let (word, blocked) = (Word::new(), open());
    assert_eq!(
        offer(&word, &blocked, looks(&[true, false])),
        Verdict::Raced
    );
}

#[test]
fn a_bit_that_is_set_already_does_not_spare_the_second_look() {
    let (word, blocked) = (Word::new(), open());
    assert_eq!(
        offer(&word, &blocked, looks(&[true, true])),
        Verdict::Deferred
    );
    assert_eq!(
        offer(&word, &blocked, looks(&[true, true])),
        Verdict::Deferred
    );
    assert_eq!(
        offer(&word, &blocked, looks(&[true, false])),
        Verdict::Raced
    );
}

#[test]
fn each_reason_blocks() {
    for reason in [Reason::Mode, Reason::Tracer, Reason::MemoryOffline] {
        let (word, blocked) = (Word::new(), open());
        assert!(blocked.block(reason), "new");
        assert!(!blocked.block(reason), "not new");
        assert!(blocked.has(reason));
        assert_eq!(offer(&word, &blocked, looks(&[true, true])), Verdict::Raced);
        blocked.unblock(reason);
        assert!(!blocked.is_blocked());
    }
}

#[test]
fn a_block_between_the_looks_is_seen() {
    let (word, blocked) = (Word::new(), open());
    let first = Cell::new(true);
    let verdict = offer(&word, &blocked, || {
        if !first.replace(false) {
            blocked.block(Reason::Tracer);
        }
        true
    });
    assert_eq!(verdict, Verdict::Raced);
}

#[test]
fn starts_blocked() {
    assert!(Blocked::new().is_blocked());
}

#[test]
fn the_receiver_takes_the_bit_flushes_and_is_done() {
    let (word, blocked) = (Word::new(), open());
    offer(&word, &blocked, || true);
    let seen = RefCell::new(Vec::new());
    word.receive(|| seen.borrow_mut().push(word.value()));
    assert_eq!(
        *seen.borrow(),
        [FLUSHING],
        "an NMI there has to see that the flush is due"
    );
    assert!(word.is_clear());
}

#[test]
fn a_bit_set_during_the_flush_survives_it() {
    let (word, blocked) = (Word::new(), open());
    offer(&word, &blocked, || true);
    word.receive(|| {
        offer(&word, &blocked, || true);
    });
    assert_eq!(word.value(), PENDING, "the later change is still owed");
}

#[test]
fn resuming_fails_after_another_write() {
    let blocked = open();
    assert!(blocked.block_for_write());
    let generation = blocked.generation();
    assert!(!blocked.block_for_write());
    assert!(!blocked.resume(generation), "a write came in between");
    assert!(blocked.has(Reason::Tracer));
    assert!(blocked.resume(blocked.generation()));
    assert!(!blocked.is_blocked());
}

#[test]
fn resuming_leaves_the_other_reasons() {
    let blocked = open();
    blocked.block_for_write();
    blocked.block(Reason::MemoryOffline);
    assert!(blocked.resume(blocked.generation()));
    assert!(!blocked.has(Reason::Tracer));
    assert!(blocked.has(Reason::MemoryOffline));
}

#[test]
fn an_offline_cpu_s_debt_is_forgotten() {
    let (word, blocked) = (Word::new(), open());
    offer(&word, &blocked, || true);
    word.reset_offline();
    assert!(word.is_clear());
}
