// SPDX-License-Identifier: GPL-2.0

//! The running kernel. Only the image itself is read from /proc/kcore, not the rest of memory.

use super::{Segment, Symbols};
use anyhow::{Context, Result, ensure};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf::FileHeader64};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

const HEADERS: u64 = 1 << 20;

pub(super) fn read() -> Result<(Vec<Segment>, Symbols)> {
    let text = std::fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let symbols = Symbols::from_kallsyms_text(&text)?;
    let start = symbols.address("_text").context("kallsyms lacks _text")?;
    let end = symbols.address("_end").context("kallsyms lacks _end")?;
    let mut kcore = File::open("/proc/kcore").context("cannot open /proc/kcore")?;
    let mut headers = Vec::new();
    kcore
        .by_ref()
        .take(HEADERS)
        .read_to_end(&mut headers)
        .context("cannot read /proc/kcore")?;
    let header = FileHeader64::<Endianness>::parse(&*headers).context("/proc/kcore is no ELF")?;
    let endian = header.endian()?;
    let mut segments = Vec::new();
    for segment in header.program_headers(endian, &*headers)? {
        let from = segment.p_vaddr(endian).max(start);
        let to = segment
            .p_vaddr(endian)
            .saturating_add(segment.p_filesz(endian))
            .min(end);
        if segment.p_type(endian) != object::elf::PT_LOAD || from >= to {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from)?];
        kcore.seek(SeekFrom::Start(
            segment.p_offset(endian) + (from - segment.p_vaddr(endian)),
        ))?;
        // Freed init memory may be missing; it reads as zeros.
        read_pages(&mut kcore, &mut bytes)?;
        segments.push(Segment {
            start: from,
            size: to - from,
            bytes,
        });
    }
    ensure!(
        !segments.is_empty(),
        "/proc/kcore does not have the kernel's image"
    );
    Ok((segments, symbols))
}

fn read_pages(kcore: &mut File, bytes: &mut [u8]) -> Result<()> {
    for page in bytes.chunks_mut(1 << 16) {
        let here = kcore.stream_position()?;
        if kcore.read_exact(page).is_err() {
            kcore.seek(SeekFrom::Start(here + page.len() as u64))?;
        }
    }
    Ok(())
}
