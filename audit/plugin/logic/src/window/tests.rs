// SPDX-License-Identifier: GPL-2.0

use super::*;

const SYSCALL: u64 = 0xffff_ffff_8100_0080;
const NMI: u64 = 0xffff_ffff_8100_1df0;
const USER_CODE: u64 = 0x40_1000;
const LOAD: Access = Access {
    pc: 1,
    class: Class::PerCpu,
    is_store: false,
};

fn in_user_mode() -> Cpu {
    let mut cpu = Cpu::default();
    assert!(cpu.state_changed(true, 7));
    cpu.user(USER_CODE);
    cpu
}

fn count(cpu: &Cpu, way: Way, kind: u64, closed: Closed) -> u64 {
    cpu.windows.get(&(way, kind, closed)).copied().unwrap_or(0)
}

#[test]
fn a_system_call_ends_at_the_receiver() {
    let mut cpu = in_user_mode();
    assert_eq!(cpu.left(), 7);
    assert!(cpu.entry_code(SYSCALL, true));
    cpu.access(LOAD, 0, Past::Unchanged);
    assert!(!cpu.state_changed(false, 8));
    cpu.read_word(0, true);
    assert!(!cpu.is_open());
    cpu.left_user_exit();
    assert_eq!(count(&cpu, Way::In, SYSCALL, Closed::ReceiverClear), 1);
    assert_eq!(count(&cpu, Way::Out, RESUMED, Closed::UserMode), 1);
    assert_eq!(cpu.windows.len(), 2);
    assert_eq!(cpu.seen.values().sum::<u64>(), 1);
}

#[test]
fn a_word_that_is_set_wants_a_flush() {
    let mut cpu = in_user_mode();
    cpu.entry_code(SYSCALL, true);
    cpu.read_word(1, true);
    cpu.left_user_exit();
    assert!(cpu.is_open(), "the flush was left out");
    cpu.access(LOAD, 0x1000, Past::Remapped(8));
    cpu.flushed();
    assert!(!cpu.is_open());
    assert_eq!(count(&cpu, Way::In, SYSCALL, Closed::Flushed), 1);
    assert_eq!(cpu.violations.values().next(), Some(&(0x1000, 1)));
}

#[test]
fn without_a_receiver_it_ends_with_the_function() {
    let mut cpu = in_user_mode();
    cpu.entry_code(SYSCALL, true);
    cpu.state_changed(false, 7);
    cpu.left_user_exit();
    assert_eq!(count(&cpu, Way::In, SYSCALL, Closed::NoReceiver), 1);
}

#[test]
fn without_a_receiver_it_does_not_end_if_a_flush_is_owed() {
    for (is_owed, word) in [(true, None), (true, Some(0)), (false, Some(1))] {
        let mut cpu = in_user_mode();
        cpu.entry_code(SYSCALL, true);
        (cpu.is_owed, cpu.word) = (is_owed, word);
        cpu.left_user_exit();
        assert!(cpu.is_open(), "{is_owed} {word:?}");
        cpu.access(LOAD, 0x1000, Past::Remapped(8));
        cpu.flushed();
        assert_eq!(cpu.violations.values().next(), Some(&(0x1000, 1)));
    }
}

#[test]
fn judged_is_what_lies_before_a_receiver_or_is_owed() {
    for (is_owed, word, judged) in [
        (false, None, 0),
        (false, Some(0), 0),
        (true, None, 1),
        // A bit that was set already: nobody was seen to set it.
        (false, Some(1), 1),
    ] {
        let mut cpu = in_user_mode();
        (cpu.is_owed, cpu.word) = (is_owed, word);
        cpu.entry_code(NMI, true);
        cpu.traced();
        cpu.access(LOAD, 0x1000, Past::Remapped(8));
        cpu.state_changed(true, 8);
        assert_eq!(cpu.violations.len(), judged);
        assert_eq!(cpu.not_judged, 1 - judged as u64);
        assert_eq!((cpu.traced, cpu.traced_and_owed), (1, judged as u64));
    }
}

#[test]
fn an_nmi_before_the_receiver_does_not_end_it_all() {
    let mut cpu = in_user_mode();
    cpu.entry_code(SYSCALL, true);
    assert!(!cpu.entry_code(NMI, true));
    assert_eq!(cpu.nested.get(&NMI), Some(&1));
    assert!(!cpu.state_changed(false, 7));
    cpu.read_word(0, false);
    assert!(!cpu.is_open());
    // Back before the receiver: the state says user mode again.
    assert!(cpu.state_changed(true, 9));
    assert!(cpu.is_open());
    assert!(cpu.state_changed(false, 9));
    cpu.read_word(0, true);
    assert_eq!(count(&cpu, Way::In, SYSCALL, Closed::OtherClear), 1);
    assert_eq!(count(&cpu, Way::Out, RESUMED, Closed::StateChange), 1);
    assert_eq!(count(&cpu, Way::In, RESUMED, Closed::ReceiverClear), 1);
}

#[test]
fn an_nmi_behind_the_place_of_the_receiver_judges_nothing() {
    for (is_past, judged) in [(false, 1), (true, 0)] {
        let mut cpu = in_user_mode();
        cpu.entry_code(SYSCALL, true);
        if is_past {
            cpu.past_receiver();
        }
        cpu.access(LOAD, 0x1000, Past::Remapped(8));
        cpu.read_word(0, false);
        assert_eq!(cpu.violations.len(), judged);
        assert_eq!(
            count(&cpu, Way::In, SYSCALL, Closed::NoReceiver),
            u64::from(is_past)
        );
    }
}

#[test]
fn a_flush_that_was_left_out_stays_owed_until_it_runs() {
    let mut cpu = in_user_mode();
    // An NMI that does not flush.
    cpu.entry_code(NMI, true);
    cpu.word = Some(1);
    assert!(cpu.state_changed(true, 9));
    assert_eq!(cpu.left(), 7);
    cpu.user(USER_CODE);
    // One that does; the word is not its business.
    cpu.entry_code(NMI, true);
    cpu.flushed();
    cpu.state_changed(true, 10);
    assert_eq!(cpu.left(), 10);
    cpu.user(USER_CODE);
    // A sender was late, and interrupted the CPU behind its receiver.
    cpu.entry_code(SYSCALL, true);
    cpu.word = Some(0);
    cpu.read_word(0, true);
    cpu.word = Some(1);
    cpu.state_changed(true, 11);
    assert_eq!(cpu.left(), 11);
}

#[test]
fn a_word_must_not_be_cleared_without_a_flush() {
    let mut cpu = in_user_mode();
    cpu.entry_code(SYSCALL, true);
    cpu.read_word(1, true);
    cpu.changed_word(2);
    cpu.flushed();
    cpu.changed_word(0);
    assert_eq!(cpu.dropped, 0);
    // By the CPU itself, in a window or not.
    cpu.changed_word(2);
    cpu.changed_word(0);
    assert_eq!(cpu.dropped, 1);
    // By somebody else.
    cpu.state_changed(true, 7);
    cpu.user(USER_CODE);
    cpu.entry_code(SYSCALL, true);
    cpu.read_word(1, false);
    cpu.read_word(0, true);
    assert_eq!(cpu.dropped, 2);
}

#[test]
fn a_long_window_keeps_its_suspects() {
    for is_flushed in [true, false] {
        let mut cpu = in_user_mode();
        cpu.entry_code(SYSCALL, true);
        cpu.access(LOAD, 0x1000, Past::Remapped(8));
        for pc in 0..1 << 15 {
            cpu.access(Access { pc, ..LOAD }, 0x2000, Past::Unchanged);
        }
        if is_flushed {
            cpu.flushed();
        } else {
            cpu.finish();
        }
        assert_eq!(cpu.violations.values().next(), Some(&(0x1000, 1)));
    }
}

#[test]
fn ways_that_nobody_knows_are_counted() {
    let mut cpu = Cpu::default();
    cpu.user(USER_CODE);
    assert_eq!((cpu.untracked.len(), cpu.is_user()), (0, false));
    let mut cpu = in_user_mode();
    cpu.entry_code(SYSCALL, true);
    cpu.read_word(0, true);
    cpu.user(USER_CODE);
    assert_eq!(cpu.untracked.get(&USER_CODE), Some(&1));
    assert!(!cpu.is_user());
    let mut cpu = in_user_mode();
    cpu.came_in_unseen(5);
    assert_eq!((cpu.unannounced, cpu.is_open()), (1, true));
    cpu.finish();
    assert_eq!(count(&cpu, Way::In, 5, Closed::Never), 1);
}

#[test]
fn knows_the_quiet_state() {
    assert!(is_quiet(2) && is_quiet(0x1232));
    assert!(!is_quiet(0) && !is_quiet(6) && !is_quiet(1) && !is_quiet(3));
}
