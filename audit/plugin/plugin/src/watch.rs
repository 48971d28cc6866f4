// SPDX-License-Identifier: GPL-2.0

//! What happens in the guest, told to the logic.

mod access;

pub(crate) use access::{Access, Value};

use crate::{Arguments, guest};
use entry_watch_logic::regions::Regions;
use entry_watch_logic::remapped::{Function, Past, Remapped};
use entry_watch_logic::report::{Names, Report};
use entry_watch_logic::symbols::Symbols;
use entry_watch_logic::window::Cpu;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Sets the only one.
pub(crate) fn start(watch: Watch) {
    assert!(WATCH.set(watch).is_ok(), "the plugin is loaded twice");
}

/// The only one.
pub(crate) fn watch() -> &'static Watch {
    WATCH
        .get()
        .expect("set before the first callback is registered")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it: a panic aborts")
}

const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Offset of `state` in `struct context_tracking`: after a bool and an int.
const STATE_OFFSET: u64 = 8;
/// ENDBR64 and a CALL.
const FENTRY_END: u64 = 9;
/// Where the trampoline reads the word: behind ENDBR64.
const COMPARE_OFFSET: u64 = 4;
const COMPARE_LENGTH: usize = 8;
/// Length of the module's noinstr code, which the trampoline starts.
const NOINSTR_CODE: u64 = 512;

/// What a CPU is doing, for a quick look. Written by that CPU alone.
const NOT_WATCHED: u8 = 0;
const KERNEL: u8 = 1;
const WINDOW: u8 = 2;
const USER: u8 = 3;

struct Slot {
    doing: AtomicU8,
    /// Address of `context_tracking.state`, 0 until the regions are known.
    state: AtomicU64,
    /// Somebody has set its word, and it has not flushed.
    is_owed: AtomicBool,
    /// How often it has flushed everything.
    flushes: AtomicU64,
    cpu: Mutex<Cpu>,
}

impl Slot {
    fn flushes(&self) -> u64 {
        self.flushes.load(SeqCst)
    }

    /// Somebody has set its word, after it had flushed that often. It may have flushed meanwhile:
    /// both threads of the emulator write first and look then.
    fn note_owed(&self, flushes: u64) {
        self.is_owed.swap(true, SeqCst);
        if self.flushes() != flushes {
            self.is_owed.store(false, Relaxed);
        }
    }

    /// Tells the logic something, and notes what the CPU is doing now.
    fn tell<T>(&self, what: impl FnOnce(&mut Cpu) -> T) -> T {
        self.tell_with_word(None, what)
    }

    /// The same, of an event that closes a window: whether it is judged may depend on the CPU's
    /// word.
    fn tell_with_word<T>(&self, word: Option<u32>, what: impl FnOnce(&mut Cpu) -> T) -> T {
        let mut cpu = lock(&self.cpu);
        cpu.is_owed = self.is_owed.load(Relaxed);
        cpu.word = word;
        let answer = what(&mut cpu);
        let doing = if cpu.is_open() {
            WINDOW
        } else if cpu.is_user() {
            USER
        } else {
            KERNEL
        };
        self.doing.store(doing, Relaxed);
        answer
    }
}

/// All of it.
pub(crate) struct Watch {
    symbols: Symbols,
    out: PathBuf,
    pub(crate) image: Range<u64>,
    pub(crate) entry_text: Range<u64>,
    pub(crate) user_exit: Range<u64>,
    pub(crate) unmap: u64,
    pub(crate) flush: u64,
    /// What the receiver's fentry site stands before.
    behind_receiver: Range<u64>,
    /// Code of the image that runs only for a tracer or a probe.
    tracers: Vec<Range<u64>>,
    context_tracking: u64,
    slots: Vec<Slot>,
    regions: OnceLock<Regions>,
    /// Address of the per-CPU variable with the word, 0 until a trampoline is seen.
    word: AtomicU64,
    trampolines: Mutex<Vec<u64>>,
    trampoline: AtomicU64,
    /// The trampoline's instruction that reads the word.
    compare: AtomicU64,
    remapped: Mutex<Remapped>,
    open_calls: AtomicUsize,
    newest_remapping: AtomicU64,
    problems: Mutex<Vec<String>>,
    reported: Mutex<Instant>,
    /// Why the regions are not known yet.
    no_regions: Mutex<String>,
}

impl Watch {
    /// Reads the symbols.
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, String> {
        let path = &arguments.kallsyms;
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let symbols = Symbols::parse(&text)?;
        let slot = |cpu: usize| Slot {
            doing: AtomicU8::new(if arguments.watched.contains(&cpu) {
                KERNEL
            } else {
                NOT_WATCHED
            }),
            state: AtomicU64::new(0),
            is_owed: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            cpu: Mutex::default(),
        };
        Ok(Self {
            image: symbols.address("_text")?..symbols.address("_end")?,
            entry_text: symbols.address("__entry_text_start")?
                ..symbols.address("__entry_text_end")?,
            user_exit: symbols.extent("__ct_user_exit")?,
            unmap: symbols.address("__vunmap_range_noflush")?,
            flush: symbols.address("flush_tlb_kernel_range")?,
            context_tracking: symbols.address("context_tracking")?,
            behind_receiver: {
                let function = symbols.extent("vtime_user_exit")?;
                function.start + FENTRY_END..function.end
            },
            tracers: vec![
                symbols.address("ftrace_caller")?..symbols.address("ftrace_stub_direct_tramp")?,
                symbols.extent("arch_ftrace_ops_list_func")?,
                symbols.extent("kprobe_int3_handler")?,
            ],
            symbols,
            out: arguments.out.clone(),
            slots: (0..arguments.cpus).map(slot).collect(),
            regions: OnceLock::new(),
            word: AtomicU64::new(0),
            trampolines: Mutex::default(),
            trampoline: AtomicU64::new(0),
            compare: AtomicU64::new(0),
            remapped: Mutex::default(),
            open_calls: AtomicUsize::new(0),
            newest_remapping: AtomicU64::new(0),
            problems: Mutex::default(),
            reported: Mutex::new(Instant::now()),
            no_regions: Mutex::new("no watched CPU came to user mode".to_owned()),
        })
    }

    fn problem(&self, text: &str) {
        let mut problems = lock(&self.problems);
        if !problems.iter().any(|known| known == text) {
            problems.push(text.to_owned());
        }
    }

    fn slot(&self, cpu: usize) -> Option<&Slot> {
        let slot = self.slots.get(cpu)?;
        (slot.doing.load(Relaxed) != NOT_WATCHED).then_some(slot)
    }

    /// The regions, once the kernel has set them all.
    fn regions(&self) -> Option<&Regions> {
        if let Some(regions) = self.regions.get() {
            return Some(regions);
        }
        match Regions::read(&self.symbols, self.slots.len() as u64, guest::read) {
            Ok(regions) => {
                for (slot, offset) in self.slots.iter().zip(&regions.per_cpu_offset) {
                    let state = self.context_tracking + STATE_OFFSET;
                    slot.state.store(state.wrapping_add(*offset), Relaxed);
                }
                Some(self.regions.get_or_init(|| regions))
            }
            Err(error) => {
                *lock(&self.no_regions) = error;
                None
            }
        }
    }

    pub(crate) fn found_trampoline(&self, start: u64, compare: &[u8], word: u64) {
        let mut bytes = [0; COMPARE_LENGTH];
        bytes.copy_from_slice(compare);
        self.compare.store(u64::from_le_bytes(bytes), Relaxed);
        self.word.store(word, Relaxed);
        self.trampoline.store(start, Relaxed);
        let mut trampolines = lock(&self.trampolines);
        if !trampolines.contains(&start) {
            trampolines.push(start);
        }
    }

    /// Whether the word is where it was found: the place may be somebody else's by now. It is the
    /// word's while the instruction stands that names it. To be called in a callback of a CPU.
    fn has_word(&self) -> bool {
        let trampoline = self.trampoline.load(Relaxed);
        trampoline != 0
            && guest::read(trampoline + COMPARE_OFFSET, COMPARE_LENGTH)
                == Some(self.compare.load(Relaxed))
    }

    /// The CPU's word as it is in memory, if the CPU has a window open and the module is there. To
    /// be called in a callback of a CPU.
    fn word_now(&self, slot: &Slot, cpu: usize) -> Option<u32> {
        if slot.doing.load(Relaxed) != WINDOW || !self.has_word() {
            return None;
        }
        let offset = self.regions.get()?.per_cpu_offset.get(cpu)?;
        read_u32(self.word.load(Relaxed).wrapping_add(*offset))
    }

    pub(crate) fn user_code(&self, cpu: usize, pc: u64) {
        let Some(slot) = self.slot(cpu) else {
            return;
        };
        if slot.doing.load(Relaxed) == USER || self.regions().is_none() {
            return;
        }
        // What brings up a CPU runs in the user's half, too.
        match guest::is_user_mode() {
            Some(true) => {
                let word = self.word_now(slot, cpu);
                slot.tell_with_word(word, |cpu| cpu.user(pc));
            }
            Some(false) => {}
            None => self.problem("registers cannot be read"),
        }
    }

    pub(crate) fn entry_code(&self, cpu: usize, pc: u64) {
        let Some(slot) = self.slot(cpu) else {
            return;
        };
        if slot.doing.load(Relaxed) == KERNEL {
            return;
        }
        let is_way_in = self.symbols.locate(pc).is_some_and(|(name, offset)| {
            offset == 0 && (name.starts_with("asm_") || name.starts_with("entry_"))
                || name == "irq_entries_start"
        });
        if slot.tell(|state| state.entry_code(pc, is_way_in)) {
            self.opened(slot, cpu);
        }
    }

    /// A window opened: who runs there?
    fn opened(&self, slot: &Slot, cpu: usize) {
        let running = self
            .regions()
            .and_then(|regions| regions.running(cpu, guest::read));
        match running {
            Some(running) => lock(&slot.cpu).running = running,
            None => self.problem("it cannot be read which task runs"),
        }
    }

    pub(crate) fn full_flush(&self, cpu: usize) {
        if let Some(slot) = self.slot(cpu) {
            slot.flushes.fetch_add(1, SeqCst);
            slot.tell(Cpu::flushed);
            slot.is_owed.store(false, Relaxed);
        }
    }

    pub(crate) fn user_exit_end(&self, cpu: usize) {
        if let Some(slot) = self.slot(cpu)
            && slot.doing.load(Relaxed) == WINDOW
        {
            let word = self.word_now(slot, cpu);
            slot.tell_with_word(word, Cpu::left_user_exit);
        }
    }

    /// A function starts that takes the bounds of a range.
    pub(crate) fn called(&self, function: Function, call: Option<guest::Call>) {
        match call {
            Some(call) => {
                let (start, end) = call.arguments;
                let mut remapped = lock(&self.remapped);
                remapped.called(call.frame, function, start..end);
                self.open_calls.store(remapped.open_calls(), Relaxed);
            }
            None => self.problem("registers cannot be read"),
        }
    }

    /// Some function returns.
    pub(crate) fn returned(&self, frame: u64) {
        if self.open_calls.load(Relaxed) == 0 {
            return;
        }
        let mut remapped = lock(&self.remapped);
        if remapped.returned(frame) {
            self.open_calls.store(remapped.open_calls(), Relaxed);
            self.newest_remapping.store(remapped.count(), Relaxed);
            drop(remapped);
            self.report_now_and_then();
        }
    }

    fn past(&self, since: u64, address: u64) -> Past {
        if since >= self.newest_remapping.load(Relaxed) {
            return Past::Unchanged;
        }
        lock(&self.remapped).since(since, address)
    }

    /// So that something is left of a machine that hangs.
    fn report_now_and_then(&self) {
        let mut reported = lock(&self.reported);
        if reported.elapsed() >= REPORT_INTERVAL {
            *reported = Instant::now();
            drop(reported);
            self.report(false);
        }
    }

    /// The guest has ended.
    pub(crate) fn finish(&self) {
        for slot in &self.slots {
            lock(&slot.cpu).finish();
        }
        self.report(true);
    }

    fn report(&self, is_complete: bool) {
        let cpus: Vec<_> = self.slots.iter().map(|slot| lock(&slot.cpu)).collect();
        let trampolines = lock(&self.trampolines);
        let names = Names {
            symbols: &self.symbols,
            image_end: self.image.end,
            trampolines: &trampolines,
        };
        let mut report = Report::new(&names, cpus.iter().map(|cpu| &**cpu));
        let remapped = lock(&self.remapped);
        report.unmapped = remapped.unmapped;
        report.remapped = remapped.count();
        report.is_complete = is_complete;
        report.problems.clone_from(&lock(&self.problems));
        if remapped.lost != 0 {
            let lost = remapped.lost;
            report
                .problems
                .push(format!("{lost} calls were not seen to return"));
        }
        if self.regions.get().is_none() {
            report.problems.push(lock(&self.no_regions).clone());
        }
        let files = [
            (
                "report.txt",
                report.table().map_err(|error| error.to_string()),
            ),
            (
                "summary.json",
                report.summary().map_err(|error| error.to_string()),
            ),
            (
                "seen.jsonl",
                report.lines().map_err(|error| error.to_string()),
            ),
        ];
        for (name, text) in files {
            let path = self.out.join(name);
            let write = |text| std::fs::write(&path, text).map_err(|error| error.to_string());
            if let Err(error) = text.and_then(write) {
                eprintln!("entry-watch: {}: {error}", path.display());
            }
        }
    }
}

fn read_u32(address: u64) -> Option<u32> {
    u32::try_from(guest::read(address, 4)?).ok()
}
