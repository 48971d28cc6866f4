// SPDX-License-Identifier: GPL-2.0

//! Chunks of dynamic per-CPU memory, made and destroyed at a test's wish.
//!
//! A cgroup's per-CPU data is steered into a chunk of its own (X), by filling whatever room other
//! chunks have. Once the cgroup has gone, percpu gives X's pages back, destroys X and leaves the
//! flush to the lazy purge; then the next chunk that is created stands at X's address. Somebody who
//! still uses X's translations writes to pages that percpu gave back: those that are of interest
//! are kept from being used again by a reference, and poisoned.

use crate::{
    area,
    bindings, //
};
use core::sync::atomic::{
    AtomicBool,
    AtomicI32,
    AtomicI64,
    AtomicPtr,
    AtomicUsize,
    Ordering::SeqCst, //
};
use kernel::{
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    task::Task,
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// The largest area that percpu gives out. A chunk holds a whole number of them.
const BLOCK: usize = 32 << 10;

/// The smallest one.
const SMALLEST: usize = 4;

/// More areas than this are not needed to fill the chunks of a test machine.
const MAX_PIECES: usize = 1 << 16;

const MAX_RECORDS: usize = 64;

/// So long percpu and cgroups get to do what they do later.
const PATIENCE: usize = 500;
const NAP: Delta = Delta::from_millis(10);

const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;

/// Base address of the chunk that is looked at, 0 if there is none.
static BASE: AtomicUsize = AtomicUsize::new(0);
/// How many areas are in use there.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// Whether it was destroyed.
static IS_DESTROYED: AtomicBool = AtomicBool::new(false);
/// Base address of the chunk that was created last.
static CREATED: AtomicUsize = AtomicUsize::new(0);

/// Areas that were taken from the chunk: per-CPU address and size.
static RECORDS: [(AtomicUsize, AtomicUsize); MAX_RECORDS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MAX_RECORDS];
static RECORDED: AtomicUsize = AtomicUsize::new(0);

/// The task that allocates pieces, and the chunk that its last one came from.
static OWNER: AtomicPtr<bindings::task_struct> = AtomicPtr::new(core::ptr::null_mut());
static OWN_BASE: AtomicUsize = AtomicUsize::new(0);

fn watch_chunk(base: usize, live: i64) {
    BASE.store(0, SeqCst);
    RECORDED.store(0, SeqCst);
    LIVE.store(live, SeqCst);
    IS_DESTROYED.store(false, SeqCst);
    BASE.store(base, SeqCst);
}

extern "C" fn on_allocate(
    _data: *mut c_void,
    _call_site: c_ulong,
    _reserved: bool,
    _is_atomic: bool,
    size: usize,
    _align: usize,
    base: *mut c_void,
    _offset: c_int,
    pointer: *mut c_void,
    _bytes: usize,
    _gfp: c_uint,
) {
    if Task::current_raw() == OWNER.load(SeqCst) {
        OWN_BASE.store(base as usize, SeqCst);
        return;
    }
    if base as usize == BASE.load(SeqCst) {
        LIVE.fetch_add(1, SeqCst);
        if let Some(record) = RECORDS.get(RECORDED.fetch_add(1, SeqCst)) {
            record.0.store(pointer as usize, SeqCst);
            record.1.store(size, SeqCst);
        }
    }
}

extern "C" fn on_free(
    _data: *mut c_void,
    base: *mut c_void,
    _offset: c_int,
    _pointer: *mut c_void,
) {
    if base as usize == BASE.load(SeqCst) {
        LIVE.fetch_sub(1, SeqCst);
    }
}

extern "C" fn on_create(_data: *mut c_void, base: *mut c_void) {
    CREATED.store(base as usize, SeqCst);
}

extern "C" fn on_destroy(_data: *mut c_void, base: *mut c_void) {
    if base as usize == BASE.load(SeqCst) {
        IS_DESTROYED.store(true, SeqCst);
    }
}

/// The tracepoints of percpu that are watched, and by whom.
fn probes() -> [(&'static CStr, *mut c_void); 4] {
    [
        (c"percpu_alloc_percpu", on_allocate as *mut c_void),
        (c"percpu_free_percpu", on_free as *mut c_void),
        (c"percpu_create_chunk", on_create as *mut c_void),
        (c"percpu_destroy_chunk", on_destroy as *mut c_void),
    ]
}

struct Search {
    name: &'static CStr,
    found: *mut bindings::tracepoint,
}

/// # Safety
///
/// `tracepoint` is valid, and `search` points to a [`Search`].
unsafe extern "C" fn find(tracepoint: *mut bindings::tracepoint, search: *mut c_void) {
    // SAFETY: By this function's contract.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: The name of a tracepoint is a string.
    if unsafe { CStr::from_char_ptr((*tracepoint).name) } == search.name {
        search.found = tracepoint;
    }
}

/// A probe on a tracepoint.
///
/// # Invariants
///
/// `function` is registered on `tracepoint`.
struct Probe {
    tracepoint: *mut bindings::tracepoint,
    function: *mut c_void,
}

// SAFETY: May be unregistered from any thread.
unsafe impl Send for Probe {}

impl Probe {
    fn new(name: &'static CStr, function: *mut c_void) -> Result<Self> {
        let mut search = Search {
            name,
            found: core::ptr::null_mut(),
        };
        // SAFETY: `find` gets each tracepoint and what is passed here.
        unsafe { bindings::for_each_kernel_tracepoint(Some(find), (&raw mut search).cast()) };
        if search.found.is_null() {
            return Err(ENOENT);
        }
        // SAFETY: Each function above has the signature of its tracepoint.
        to_result(unsafe {
            bindings::tracepoint_probe_register(search.found, function, core::ptr::null_mut())
        })?;
        Ok(Self {
            tracepoint: search.found,
            function,
        })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the two waits are those of
        // tracepoint_synchronize_unregister().
        unsafe {
            bindings::tracepoint_probe_unregister(
                self.tracepoint,
                self.function,
                core::ptr::null_mut(),
            );
            bindings::synchronize_srcu(&raw mut bindings::rcu_tasks_trace_srcu_struct);
            bindings::synchronize_srcu(&raw mut bindings::tracepoint_srcu);
        }
    }
}

/// An area of per-CPU memory.
struct Piece {
    pointer: *mut c_void,
    base: usize,
}

// SAFETY: May be freed from any thread.
unsafe impl Send for Piece {}

impl Piece {
    fn new(size: usize) -> Result<Self> {
        OWNER.store(Task::current_raw(), SeqCst);
        // SAFETY: May sleep here.
        let pointer =
            unsafe { bindings::pcpu_alloc_noprof(size, SMALLEST, false, bindings::GFP_KERNEL) };
        OWNER.store(core::ptr::null_mut(), SeqCst);
        if pointer.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self {
            pointer,
            base: OWN_BASE.load(SeqCst),
        })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: It came from pcpu_alloc_noprof() and is freed once.
        unsafe { bindings::free_percpu(self.pointer) };
    }
}

/// A page of a chunk, or of another area, on which this module has a reference.
pub(crate) struct Held {
    page: *mut bindings::page,
    /// Where it was mapped.
    pub(crate) address: usize,
    /// Where the direct mapping has it.
    words: *mut u64,
}

// SAFETY: May be freed from any thread.
unsafe impl Send for Held {}

const WORDS: usize = PAGE_SIZE / size_of::<u64>();

impl Held {
    /// Takes a reference on the page that is mapped at `address`, in an area that is alive.
    pub(crate) fn new(address: usize) -> Result<Self> {
        // SAFETY: A walk of the page tables, which are there for all of the vmalloc range.
        let (page, number) = unsafe {
            let address = address as *const c_void;
            (
                bindings::vmalloc_to_page(address),
                bindings::vmalloc_to_pfn(address),
            )
        };
        if page.is_null() {
            return Err(EFAULT);
        }
        let held = Self {
            page,
            address,
            // SAFETY: Reading an integer that is constant after boot.
            words: (unsafe { bindings::page_offset_base } + number * PAGE_SIZE) as *mut u64,
        };
        held.count().fetch_add(1, SeqCst);
        Ok(held)
    }

    fn count(&self) -> &AtomicI32 {
        // SAFETY: The page is alive; everybody changes its count by atomic operations.
        unsafe { AtomicI32::from_ptr(&raw mut (*self.page)._refcount.counter) }
    }

    fn poison(&self) {
        for index in 0..WORDS {
            // SAFETY: Within the page, to which nobody but this module has a right any more.
            unsafe { self.words.add(index).write_volatile(POISON) };
        }
    }

    /// How many words somebody has written to.
    fn spoilt(&self) -> u64 {
        (0..WORDS)
            // SAFETY: As above.
            .filter(|&index| unsafe { self.words.add(index).read_volatile() } != POISON)
            .count() as u64
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: Gives back the reference that `new` took; frees the page if percpu has done so.
        unsafe { bindings::__free_pages(self.page, 0) };
    }
}

fn wait_until(condition: impl Fn() -> bool) -> Result {
    for _ in 0..PATIENCE {
        if condition() {
            return Ok(());
        }
        fsleep(NAP);
    }
    Err(ETIMEDOUT)
}

/// What a test does with chunks. Fields are dropped in this order.
pub(crate) struct Chunks {
    /// Keeps the chunk that is looked at alive.
    anchor: Option<Piece>,
    /// Areas in the next chunk.
    next: KVec<Piece>,
    /// Areas that fill all other chunks.
    others: KVec<Piece>,
    held: KVec<Held>,
    /// What `check` found in the areas last.
    words: KVec<u64>,
    _probes: KVec<Probe>,
}

/// What [`Chunks::check`] found.
#[derive(Default)]
pub(crate) struct Check {
    /// Areas that lie wholly on pages with the addresses of held ones.
    pub(crate) inside: u64,
    /// Areas that do not.
    pub(crate) outside: u64,
    /// Words of held pages that somebody has written to.
    pub(crate) spoilt: u64,
    /// By how much a number in the areas rose at most since the last check.
    pub(crate) rise: u64,
}

impl Chunks {
    pub(crate) fn new() -> Result<Self> {
        let mut registered = KVec::new();
        for (name, function) in probes() {
            registered.push(Probe::new(name, function)?, GFP_KERNEL)?;
        }
        Ok(Self {
            anchor: None,
            next: KVec::new(),
            others: KVec::new(),
            held: KVec::new(),
            words: KVec::new(),
            _probes: registered,
        })
    }

    /// Takes blocks until one lies in a chunk made for it, which is returned with its base address.
    /// The others go into `rest`.
    fn grow(rest: &mut KVec<Piece>) -> Result<Piece> {
        CREATED.store(0, SeqCst);
        while rest.len() < MAX_PIECES {
            let piece = Piece::new(BLOCK)?;
            if piece.base == CREATED.load(SeqCst) {
                return Ok(piece);
            }
            rest.push(piece, GFP_KERNEL)?;
        }
        Err(ENOSPC)
    }

    /// Leaves no room for anything outside the chunk at `base`.
    fn fill(base: usize, rest: &mut KVec<Piece>) -> Result {
        let mut size = BLOCK / 2;
        while size >= SMALLEST {
            loop {
                let piece = Piece::new(size)?;
                if piece.base == base {
                    break;
                }
                if rest.len() >= MAX_PIECES {
                    return Err(ENOSPC);
                }
                rest.push(piece, GFP_KERNEL)?;
            }
            size /= 2;
        }
        Ok(())
    }

    /// From here on whoever wants per-CPU memory gets it from a new chunk, whose base address this
    /// returns.
    ///
    /// There is one more chunk, with about as much room. The last chunk without any area in it
    /// stays, the others go: so that one has to be the last.
    pub(crate) fn prepare(&mut self) -> Result<usize> {
        self.release();
        let anchor = Self::grow(&mut self.others)?;
        let base = anchor.base;
        self.anchor = Some(anchor);
        Self::fill(base, &mut self.others)?;
        let mut fillers = KVec::new();
        let next = Self::grow(&mut fillers)?;
        self.next.push(next, GFP_KERNEL)?;
        // Among chunks with about as much room, the one that gained it last is used first.
        drop(fillers);
        watch_chunk(base, 1);
        Ok(base)
    }

    /// The areas that others have taken from the chunk since, as addresses for a CPU.
    fn areas(cpu: u32) -> impl Iterator<Item = (usize, usize)> {
        // SAFETY: The array has an entry for each possible CPU, checked by the caller.
        let offset = unsafe { bindings::__per_cpu_offset[cpu as usize] };
        RECORDS
            .iter()
            .take(RECORDED.load(SeqCst))
            .map(move |record| {
                (
                    record.0.load(SeqCst).wrapping_add(offset),
                    record.1.load(SeqCst),
                )
            })
    }

    /// Holds the pages on which a CPU has its copies of these areas. Returns how many areas.
    pub(crate) fn take(&mut self, cpu: u32) -> Result<u64> {
        let mut areas = 0;
        for (start, size) in Self::areas(cpu) {
            areas += 1;
            for page in start / PAGE_SIZE..=(start + size - 1) / PAGE_SIZE {
                let address = page * PAGE_SIZE;
                if !self.held.iter().any(|held| held.address == address) {
                    self.held.push(Held::new(address)?, GFP_KERNEL)?;
                }
            }
        }
        Ok(areas)
    }

    /// Waits until all of these areas were freed, and gets the chunk destroyed, purged and its
    /// pages poisoned.
    pub(crate) fn destroy(&mut self) -> Result {
        wait_until(|| LIVE.load(SeqCst) == 1)?;
        self.anchor = None;
        self.next.clear();
        wait_until(|| IS_DESTROYED.load(SeqCst))?;
        for held in self.held.iter() {
            // Only the reference taken here is left.
            if held.count().load(SeqCst) != 1 {
                return Err(EBUSY);
            }
            held.poison();
        }
        // SAFETY: May be called in any context that can sleep.
        unsafe { bindings::vm_unmap_aliases() };
        area::owe_again();
        Ok(())
    }

    /// The next areas come from a new chunk, whose base address this returns.
    pub(crate) fn recreate(&mut self) -> Result<usize> {
        let anchor = Self::grow(&mut self.next)?;
        let base = anchor.base;
        self.anchor = Some(anchor);
        Self::fill(base, &mut self.next)?;
        watch_chunk(base, 1);
        Ok(base)
    }

    /// Looks at a CPU's copies of the areas, and at the held pages.
    pub(crate) fn check(&mut self, cpu: u32) -> Result<Check> {
        let mut check = Check::default();
        let mut words = KVec::new();
        for (start, size) in Self::areas(cpu) {
            let is_inside = (start / PAGE_SIZE..=(start + size - 1) / PAGE_SIZE).all(|page| {
                self.held
                    .iter()
                    .any(|held| held.address == page * PAGE_SIZE)
            });
            match is_inside {
                true => check.inside += 1,
                false => check.outside += 1,
            }
            for address in (start.next_multiple_of(size_of::<u64>())..).step_by(size_of::<u64>()) {
                if address + size_of::<u64>() > start + size {
                    break;
                }
                // SAFETY: Within an area that is in use, by this CPU's own translations.
                let word = unsafe { (address as *const u64).read_volatile() };
                words.push(word, GFP_KERNEL)?;
            }
        }
        for (new, old) in words.iter().zip(self.words.iter()) {
            check.rise = check.rise.max(new.saturating_sub(*old));
        }
        self.words = words;
        check.spoilt = self.held.iter().map(Held::spoilt).sum();
        Ok(check)
    }

    /// Gives back everything but what fills the other chunks.
    pub(crate) fn release(&mut self) {
        BASE.store(0, SeqCst);
        self.anchor = None;
        self.next.clear();
        self.held.clear();
        self.words.clear();
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.release();
    }
}
