// SPDX-License-Identifier: GPL-2.0

//! Runs of bytes that one instruction, or one function, copies or fills.

use super::exec::Executor;
use super::state::{Region, State};
use super::value::{Source, Value};
use iced_x86::{Instruction, Mnemonic as M, Register};

impl Executor<'_> {
    /// REP MOVS and REP STOS.
    pub(super) fn string(i: &Instruction, state: &mut State) {
        let moves = matches!(i.mnemonic(), M::Movsb | M::Movsq);
        let element = i.memory_size().size() as u64;
        let count = state.register(Register::RCX);
        let unknown = Value::unknown(Source::Computed(i.ip()));
        let (rsi, rdi) = (state.register(Register::RSI), state.register(Register::RDI));
        if let Some(length) = count.constant().and_then(|n| n.checked_mul(element)) {
            let length = Value::Const(length);
            Self::copy_or_fill(moves, rdi, rsi, length, state);
            state.set_register(Register::RDI, rdi.add(length));
            if moves {
                state.set_register(Register::RSI, rsi.add(length));
            }
        } else {
            Self::copy_or_fill(moves, rdi, rsi, unknown, state);
            state.set_register(Register::RDI, unknown);
            if moves {
                state.set_register(Register::RSI, unknown);
            }
        }
        state.set_register(Register::RCX, Value::Const(0));
    }

    /// memcpy() or memset() of `length` bytes.
    pub(super) fn copy_or_fill(
        moves: bool,
        to: Value,
        from: Value,
        length: Value,
        state: &mut State,
    ) {
        let Value::Stack { stack, low, high } = to else {
            return;
        };
        let most = length.max().map_or(1 << 20, |n| n.min(1 << 20)) as i64;
        match (to.slot(), from.slot(), length.constant()) {
            (Some(to), Some(from), Some(n)) if moves && n < 1 << 16 => {
                state.copy(to, from, n as i64);
            }
            _ if most > 0 => state.store(
                Region::Stack(stack),
                low,
                high + most,
                1,
                Value::unknown(Source::Stack),
            ),
            _ => {}
        }
    }
}
