// SPDX-License-Identifier: GPL-2.0

//! Who interrupts whom, and why: the kernel's events of inter-processor interrupts, the causes
//! told from them, and `/proc/interrupts`. What the demonstration and `dflush measure` share.

pub mod cause;
pub mod interrupts;
pub mod trace;
