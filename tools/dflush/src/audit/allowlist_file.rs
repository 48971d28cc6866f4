// SPDX-License-Identifier: GPL-2.0

//! The tables of `audit/allowlist.toml`.

use serde::Deserialize;

/// The file as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) protocol: Protocol,
    #[serde(default)]
    pub(super) static_key: Vec<StaticKey>,
    #[serde(default)]
    pub(super) feature: Vec<Feature>,
    #[serde(default)]
    pub(super) memory: Vec<Memory>,
    #[serde(default)]
    pub(super) pointer: Vec<Pointer>,
    #[serde(default)]
    pub(super) summary: Vec<Summary>,
    #[serde(default)]
    pub(super) stop: Vec<Stop>,
    #[serde(default)]
    pub(super) indirect: Vec<Indirect>,
    #[serde(default)]
    pub(super) static_call: Vec<StaticCall>,
    #[serde(default)]
    pub(super) exclude: Vec<Exclude>,
    #[serde(default)]
    pub(super) access: Vec<Access>,
    #[serde(default)]
    pub(super) caller: Vec<Caller>,
    #[serde(default)]
    pub(super) image_pointer: Vec<ImagePointer>,
    #[serde(default)]
    pub(super) cut: Vec<Cut>,
    #[serde(default)]
    pub(super) one_way: Vec<OneWay>,
    #[serde(default)]
    pub(super) remainder: Vec<Remainder>,
}

/// The names of what the protocol stands on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Protocol {
    /// The function at whose entry the receiver runs.
    pub(super) receiver: String,
    /// The function that walks the list of NMI handlers, ours first.
    pub(super) nmi_walk: String,
    /// The variable with the state word, and where the word lies in it.
    pub(super) state: String,
    pub(super) state_offset: u64,
    /// The functions whose callers have to be covered.
    pub(super) tracking: Vec<String>,
    /// The functions through which a path can leave for user mode.
    pub(super) leaving: Vec<String>,
    /// The functions in between that change the state on the way.
    pub(super) changing: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaticKey {
    pub(super) name: String,
    pub(super) value: bool,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) bit: u16,
    /// The numbers of the bits differ from release to release: how those begin that it is for.
    pub(super) release: String,
    pub(super) value: bool,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) symbol: String,
    #[serde(default)]
    pub(super) offset: u64,
    pub(super) size: usize,
    /// All of it unless this is there.
    #[serde(default = "all_bits")]
    pub(super) mask: u64,
    pub(super) value: u64,
    /// When.
    #[serde(default)]
    pub(super) holds: Holds,
    pub(super) reason: String,
}

/// When an assumed value holds. What holds at one of these does so at those before it.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub(super) enum Holds {
    /// On each way in from user mode.
    #[default]
    UserMode,
    /// In the kernel, too, while the state says "user".
    StateUser,
    Always,
}

fn all_bits() -> u64 {
    u64::MAX
}

/// What a load from this address gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pointer {
    pub(super) symbol: String,
    #[serde(default)]
    pub(super) offset: u64,
    pub(super) yields: Yield,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Yield {
    Task,
    PerCpuOffset,
    TaskStackTop,
    EntryStackTop,
    IrqStackTop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Summary {
    pub(super) function: String,
    pub(super) effect: Effect,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Effect {
    /// Copies rdx bytes from rsi to rdi.
    Copy,
    /// Fills rdx bytes at rdi.
    Fill,
    /// Touches registers and the stack below the return address; checked against the code.
    StackOnly,
    /// Reports a bug of the kernel and returns; not followed.
    Report,
}

/// A function that a path may end in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    pub(super) function: String,
    /// Only where this function calls it, and only while accesses count.
    #[serde(default)]
    pub(super) caller: Option<String>,
    pub(super) reason: String,
}

/// Where an indirect branch goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Indirect {
    pub(super) function: String,
    pub(super) via: String,
    /// The functions it may reach; none: the path may end here.
    pub(super) targets: Vec<String>,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaticCall {
    pub(super) name: String,
    /// Only in this function and what it calls.
    #[serde(default)]
    pub(super) within: Option<String>,
    pub(super) targets: Vec<String>,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exclude {
    pub(super) entry: String,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub(super) function: String,
    pub(super) class: String,
    pub(super) shape: String,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Caller {
    pub(super) function: String,
    pub(super) reason: String,
}

/// A function that calls what can lead to user mode, but not on a way there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cut {
    pub(super) function: String,
    pub(super) reason: String,
}

/// A way in from which nothing comes back to user mode.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneWay {
    pub(super) entry: String,
    pub(super) reason: String,
}

/// A function that is not audited in events that hit the kernel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remainder {
    pub(super) function: String,
    pub(super) reason: String,
}

/// A variable whose value at link time is what it has at run time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImagePointer {
    pub(super) symbol: String,
    /// Offsets of members that do change.
    #[serde(default)]
    pub(super) except: Vec<u64>,
    pub(super) reason: String,
}
