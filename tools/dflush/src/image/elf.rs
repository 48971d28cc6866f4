// SPDX-License-Identifier: GPL-2.0

//! ELF files: segments and symbol table.

use super::{Segment, Symbol, Symbols};
use anyhow::{Context, Result, ensure};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, SymbolKind};

/// The loadable segments of an x86-64 ELF file, and its symbols if it has any.
pub(super) fn parse(file: &[u8]) -> Result<(Vec<Segment>, Symbols)> {
    let elf = ElfFile64::<Endianness>::parse(file).context("this is no 64-bit ELF file")?;
    ensure!(
        elf.architecture() == object::Architecture::X86_64,
        "this is no x86-64 kernel"
    );
    let endian = elf.endian();
    let mut segments = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) != object::elf::PT_LOAD || header.p_memsz(endian) == 0 {
            continue;
        }
        let bytes = header
            .data(endian, file)
            .ok()
            .context("a segment lies outside the file")?;
        segments.push(Segment {
            start: header.p_vaddr(endian),
            bytes: bytes.to_vec(),
            size: header.p_memsz(endian),
        });
    }
    ensure!(!segments.is_empty(), "the ELF file has nothing to load");
    let symbols = elf
        .symbols()
        .filter(|s| !s.is_undefined())
        .filter_map(|s| {
            let name = s.name().ok().filter(|name| !name.is_empty())?;
            Some(Symbol {
                address: s.address(),
                name: name.into(),
                kind: if s.kind() == SymbolKind::Section || s.kind() == SymbolKind::File {
                    return None;
                } else if s.kind() == SymbolKind::Text {
                    if s.is_global() { 'T' } else { 't' }
                } else if s.is_global() {
                    'D'
                } else {
                    'd'
                },
            })
        })
        .collect();
    Ok((segments, Symbols::new(symbols)))
}

/// Whether there is DWARF in it.
pub(super) fn has_debug_info(file: &[u8]) -> bool {
    ElfFile64::<Endianness>::parse(file)
        .is_ok_and(|elf| elf.section_by_name(".debug_line").is_some())
}
