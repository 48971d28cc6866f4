// SPDX-License-Identifier: GPL-2.0

//! The functions that the module hooks or watches: whether they can be, and who else is there.

use super::{Item, Machine};
use std::io;

const FLUSH: &str = "flush_tlb_kernel_range";
const RECEIVER: &str = "vtime_user_exit";
const TEXT_POKE: &str = "__text_poke";

/// What runs before a deferred flush and can be instrumented, in distributions' kernels. The module
/// finds its own list in the running kernel (hooks/symbols.rs), and names the place in the log.
const WATCHED: [&str; 5] = [
    RECEIVER,
    "nmi_handle",
    "__rcu_read_lock",
    "__rcu_read_unlock",
    "sched_clock",
];

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const READABLE: &str = "run dflush check as root; if tracefs is not mounted: 'mount -t tracefs \
                        tracefs /sys/kernel/tracing'";

pub(super) fn items(machine: &Machine) -> Vec<Item> {
    vec![
        ftrace_works(machine),
        places(machine),
        others(machine),
        kprobes(machine),
    ]
}

fn tracefs(machine: &Machine, file: &str) -> io::Result<String> {
    let mut texts = TRACEFS
        .iter()
        .map(|root| machine.system.read(format!("{root}/{file}")));
    texts
        .find(Result::is_ok)
        .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
}

fn ftrace_works(machine: &Machine) -> Item {
    const NAME: &str = "ftrace_enabled";
    match machine.system.read("/proc/sys/kernel/ftrace_enabled") {
        Ok(value) if value.trim() == "1" => Item::fine(NAME, "functions can be hooked"),
        Ok(_) => Item::fail(
            NAME,
            "kernel.ftrace_enabled is 0",
            "'sysctl kernel.ftrace_enabled=1', and find out what sets it",
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Item::fail(
            NAME,
            "this kernel has no function tracer",
            "use a kernel with CONFIG_FUNCTION_TRACER, as distributions' kernels are",
        ),
        Err(_) => Item::fail(
            NAME,
            "ftrace has shut itself down after a fault",
            "read the kernel's log for its warning, and reboot",
        ),
    }
}

fn places(machine: &Machine) -> Item {
    const NAME: &str = "hook_places";
    let Ok(list) = tracefs(machine, "available_filter_functions") else {
        return Item::unknown(NAME, "tracefs cannot be read", READABLE);
    };
    let mut missing = vec![FLUSH, RECEIVER, TEXT_POKE];
    for line in list.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        missing.retain(|wanted| *wanted != name);
    }
    if missing.is_empty() {
        Item::fine(
            NAME,
            format!("{FLUSH}, {RECEIVER} and {TEXT_POKE} can be hooked"),
        )
    } else {
        Item::fail(
            NAME,
            format!("{} cannot be hooked in this kernel", missing.join(", ")),
            "use another kernel, and please report this one's release",
        )
    }
}

/// A function in enabled_functions.
#[derive(Debug, PartialEq, Eq)]
struct Hooked<'a> {
    function: &'a str,
    /// How many hooks it has.
    count: usize,
    ip_modify: bool,
    direct: bool,
    /// The first line and those that are indented below it.
    text: String,
}

impl Hooked<'_> {
    /// `NAME (COUNT) FLAGS... tramp: ...`, where flags are single letters
    /// (t_show() in kernel/trace/ftrace.c).
    fn parse(list: &str) -> Vec<Hooked<'_>> {
        let mut all: Vec<Hooked> = Vec::new();
        for line in list.lines() {
            if line.starts_with(char::is_whitespace) {
                if let Some(last) = all.last_mut() {
                    last.text.push_str(line);
                }
                continue;
            }
            let mut words = line.split_whitespace();
            let Some(function) = words.next() else {
                continue;
            };
            let mut words = words.skip_while(|word| !word.starts_with('('));
            let count = words.next().unwrap_or_default().trim_matches(['(', ')']);
            let flags: Vec<_> = words.take_while(|word| word.len() == 1).collect();
            all.push(Hooked {
                function,
                count: count.parse().unwrap_or(1),
                ip_modify: flags.contains(&"I"),
                direct: flags.contains(&"D"),
                text: line.into(),
            });
        }
        all
    }

    /// By whom, as far as the kernel tells.
    fn holders(&self) -> String {
        let words: Vec<_> = self.text.split_whitespace().skip(1).collect();
        format!("{} {}", self.function, words.join(" "))
    }
}

/// Whether that is a function of the watched code; compilers leave parts of one under names with
/// a suffix.
fn is_watched(function: &str) -> bool {
    WATCHED.contains(&function.split('.').next().unwrap_or(function))
}

/// What is in the way on one function, if anything is.
fn objection(hooked: &Hooked, mode: Option<&str>) -> Option<String> {
    let wrapper_is_ours = matches!(mode, Some("shadow" | "on"));
    let receiver_is_ours = mode == Some("on");
    let function = hooked.function;
    if function == FLUSH {
        let is_taken = hooked.direct || (hooked.ip_modify && !wrapper_is_ours);
        return is_taken.then(|| format!("a livepatch or BPF program on {}", hooked.holders()));
    }
    let own = usize::from(function == RECEIVER && receiver_is_ours);
    (is_watched(function) && hooked.count > own).then(|| {
        if hooked.direct && own == 0 {
            format!("a livepatch or BPF program on {}", hooked.holders())
        } else {
            format!("a tracer or kprobe on {}", hooked.holders())
        }
    })
}

fn others(machine: &Machine) -> Item {
    const NAME: &str = "other_hooks";
    let Ok(list) = tracefs(machine, "enabled_functions") else {
        return Item::unknown(NAME, "tracefs cannot be read", READABLE);
    };
    let found: Vec<_> = Hooked::parse(&list)
        .iter()
        .filter_map(|hooked| objection(hooked, machine.mode()))
        .collect();
    if found.is_empty() {
        Item::fine(NAME, "nobody else hooks what the module hooks or watches")
    } else {
        Item::fail(
            NAME,
            found.join("; "),
            "end that tracer, unload that livepatch or detach that BPF program ('bpftool link'); \
         until then mode on is refused, or suspended",
        )
    }
}

/// `ADDRESS KIND NAME+OFFSET [MODULE] [STATE]...` of a kprobe on watched code, unless disabled.
fn active_kprobes(list: &str) -> Vec<String> {
    let is_active = |line: &&str| {
        let place = line.split_whitespace().nth(2).unwrap_or_default();
        let function = place.split('+').next().unwrap_or(place);
        is_watched(function) && !line.contains("[DISABLED]")
    };
    let words = |line: &str| {
        line.split_whitespace()
            .skip(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    list.lines().filter(is_active).map(words).collect()
}

fn kprobes(machine: &Machine) -> Item {
    const NAME: &str = "other_kprobes";
    let Ok(list) = machine.system.read("/sys/kernel/debug/kprobes/list") else {
        return Item::unknown(
            NAME,
            "debugfs cannot be read",
            "run dflush check as root; if debugfs is not mounted: 'mount -t debugfs debugfs \
             /sys/kernel/debug'",
        );
    };
    let found = active_kprobes(&list);
    if found.is_empty() {
        Item::fine(NAME, "none on watched code")
    } else {
        Item::fail(
            NAME,
            format!("on watched code: {}", found.join("; ")),
            "end whoever set it (perf probe, bpftrace, trace-cmd, systemtap); until then mode on \
         is refused, or suspended",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Hooked, active_kprobes, objection};

    fn objections(list: &str, mode: Option<&str>) -> Vec<String> {
        Hooked::parse(list)
            .iter()
            .filter_map(|hooked| objection(hooked, mode))
            .collect()
    }

    /// As recorded from the stock kernel, with the module on.
    const OWN: &str = "\
__text_poke (1)           \ttramp: 0xffffffffc0659000 (on_text_poke+0x0/0x1a0 [deferred_flush]) ->on_text_poke+0x0/0x1a0 [deferred_flush]
flush_tlb_kernel_range (1)   I     M \ttramp: 0xffffffffc065a000 (on_flush+0x0/0x90 [deferred_flush]) ->on_flush+0x0/0x90 [deferred_flush]
vtime_user_exit (1) R   D   M \ttramp: ftrace_regs_caller+0x0/0x61 (call_direct_funcs+0x0/0x20)
\tdirect-->deferred_flush_trampoline+0x0/0x40 [deferred_flush]
";

    #[test]
    fn own_hooks_are_none_of_others() {
        assert_eq!(objections(OWN, Some("on")), [""; 0]);
        // The same without the module would be somebody else's.
        let found = objections(OWN, None);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].contains("livepatch") && found[1].contains("direct-->"),
            "{found:?}"
        );
        assert_eq!(objections(OWN, Some("shadow")).len(), 1);
    }

    #[test]
    fn others_are_found_beside_own_hooks() {
        let tracer = "\
vtime_user_exit (2) R   D   M \ttramp: ERROR!
\tdirect-->deferred_flush_trampoline+0x0/0x40 [deferred_flush]
nmi_handle.part.0 (1)           \ttramp: 0xffffffffc0650000 (function_trace_call+0x0/0x160)
vfs_read (1)           \ttramp: 0xffffffffc0650000 (traced+0x0/0x70 [x])
";
        let found = objections(tracer, Some("on"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("a tracer or kprobe on vtime_user_exit (2)"),
            "{found:?}"
        );
        assert!(found[1].contains("nmi_handle.part.0"), "{found:?}");
        // A tracer of flush_tlb_kernel_range() is in nobody's way.
        assert!(objections("flush_tlb_kernel_range (1)  \ttramp: x\n", Some("off")).is_empty());
    }

    #[test]
    fn kprobes_on_watched_code_are_found() {
        let list = "\
ffffffffaf65c3e4  k  __rcu_read_lock+0x4    [FTRACE]
ffffffffaf65c3e5  k  __rcu_read_lock+0x5    [DISABLED]
ffffffffaf65c3e6  r  vfs_read+0x0
ffffffffaf65c3e7  k  sched_clock+0x0    [OPTIMIZED]
";
        assert_eq!(
            active_kprobes(list),
            [
                "__rcu_read_lock+0x4 [FTRACE]",
                "sched_clock+0x0 [OPTIMIZED]"
            ]
        );
    }
}
