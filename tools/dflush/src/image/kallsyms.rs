// SPDX-License-Identifier: GPL-2.0

//! The symbol table that a kernel carries for itself, as scripts/kallsyms.c writes it since 7.0:
//! num_syms, names, markers, token_table, token_index, offsets (each relative to itself),
//! seqs_of_names, in this order, in .rodata.
//!
//! Nothing points to it. It is found by its token index, 256 rising 16-bit offsets that begin
//! where the tokens before it begin; everything else follows from that and is checked.

use super::{Image, Segment, Symbol, Symbols};
use anyhow::{Context, Result, bail, ensure};

const TOKENS: usize = 256;
const MARKER_STEP: usize = 256;

struct Tables<'a> {
    tokens: Vec<&'a [u8]>,
    token_table: usize,
    after_index: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn align(at: usize, to: usize) -> usize {
    at.next_multiple_of(to)
}

/// Tokens '0' to '9' stand for themselves in every table.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";

fn tables_at(bytes: &[u8], digits: usize) -> Option<Tables<'_>> {
    // Walk forward over the 256 - '0' tokens from '0' on.
    let mut end = digits;
    for _ in usize::from(b'0')..TOKENS {
        end += bytes.get(end..end + 128)?.iter().position(|b| *b == 0)? + 1;
    }
    // The index has offsets from the table's start; entry '0' says how far back that is.
    let index = (end..end + 16).find(|index| {
        u32_at(bytes, index + 2 * usize::from(b'0')).is_some()
            && bytes.get(*index..index + 2) == Some(&[0, 0])
            && {
                let at = |n: usize| {
                    usize::from(u16::from_le_bytes([
                        bytes[index + 2 * n],
                        bytes[index + 2 * n + 1],
                    ]))
                };
                at(usize::from(b'1')) == at(usize::from(b'0')) + 2
                    && digits.checked_sub(at(usize::from(b'0'))).is_some()
                    && (1..TOKENS).all(|n| at(n) > at(n - 1))
            }
    })?;
    let at = |n: usize| {
        usize::from(u16::from_le_bytes([
            bytes[index + 2 * n],
            bytes[index + 2 * n + 1],
        ]))
    };
    let token_table = digits - at(usize::from(b'0'));
    let tokens = (0..TOKENS)
        .map(|n| {
            let start = token_table + at(n);
            let length = bytes.get(start..)?.iter().position(|b| *b == 0)?;
            (n + 1 == TOKENS || at(n + 1) == at(n) + length + 1)
                .then_some(&bytes[start..start + length])
        })
        .collect::<Option<_>>()?;
    Some(Tables {
        tokens,
        token_table,
        after_index: index + 2 * TOKENS,
    })
}

/// Where the compressed names start, and where each does.
fn names_before(bytes: &[u8], token_table: usize) -> Option<Vec<usize>> {
    // markers[0] is 0, markers[1] is the length of the first 256 names; so the start of the markers
    // is the one place where a table of them ends at the token table and the names before it fit.
    let mut markers = token_table - token_table % 4;
    loop {
        markers = markers.checked_sub(4)?;
        if token_table - markers > (1 << 16) {
            return None;
        }
        if u32_at(bytes, markers)? != 0 || u32_at(bytes, markers + 4)? == 0 {
            continue;
        }
        if let Some(names) = names_with(bytes, markers, token_table) {
            return Some(names);
        }
    }
}

fn names_with(bytes: &[u8], markers: usize, token_table: usize) -> Option<Vec<usize>> {
    let mut count = (token_table - markers) / 4;
    // Alignment may have left a gap of zeros before the token table.
    while count > 1 && u32_at(bytes, markers + 4 * (count - 1))? == 0 {
        count -= 1;
    }
    let last = usize::try_from(u32_at(bytes, markers + 4 * (count - 1))?).ok()?;
    // The number of symbols stands directly before the names; both are found by trying.
    for names in (markers.checked_sub(last + (MARKER_STEP << 9))?..markers.checked_sub(last)?)
        .rev()
        .filter(|names| names % 4 == 0)
    {
        let Some(declared) = names.checked_sub(4).and_then(|at| u32_at(bytes, at)) else {
            continue;
        };
        // Tables are aligned to 4 or 8.
        let symbols = usize::try_from(declared).ok()?;
        let symbols = if symbols == 0 {
            usize::try_from(u32_at(bytes, names.checked_sub(8)?)?).ok()?
        } else {
            symbols
        };
        if symbols.div_ceil(MARKER_STEP) != count {
            continue;
        }
        if let Some(starts) = walk(bytes, names, symbols, markers) {
            return Some(starts);
        }
    }
    None
}

fn walk(bytes: &[u8], names: usize, symbols: usize, markers: usize) -> Option<Vec<usize>> {
    let mut starts = Vec::with_capacity(symbols);
    let mut at = names;
    for n in 0..symbols {
        if n % MARKER_STEP == 0 {
            let marker = u32_at(bytes, markers + 4 * (n / MARKER_STEP))?;
            if usize::try_from(marker).ok()? != at - names {
                return None;
            }
        }
        starts.push(at);
        let length = usize::from(*bytes.get(at)?);
        at += if length & 0x80 == 0 {
            1 + length
        } else {
            2 + ((length & 0x7f) | (usize::from(*bytes.get(at + 1)?) << 7))
        };
    }
    (at <= markers && markers - at < 16).then_some(starts)
}

fn expand(bytes: &[u8], at: usize, tokens: &[&[u8]]) -> Option<String> {
    let first = usize::from(*bytes.get(at)?);
    let (start, length) = if first & 0x80 == 0 {
        (at + 1, first)
    } else {
        (
            at + 2,
            (first & 0x7f) | (usize::from(*bytes.get(at + 1)?) << 7),
        )
    };
    let mut name = Vec::new();
    for code in bytes.get(start..start + length)? {
        name.extend_from_slice(tokens[usize::from(*code)]);
    }
    String::from_utf8(name).ok()
}

fn in_segment(segment: &Segment, image: &Image) -> Result<Option<Symbols>> {
    let bytes = &segment.bytes;
    let mut from = 0;
    while let Some(found) = find_bytes(bytes, DIGITS, from) {
        from = found + 1;
        let Some(tables) = tables_at(bytes, found) else {
            continue;
        };
        let Some(starts) = names_before(bytes, tables.token_table) else {
            bail!("the kernel's token table is there, but not the names that belong to it");
        };
        // The offsets follow the index, aligned.
        let offsets = segment.start + align(tables.after_index, 4) as u64;
        for offsets in [offsets, offsets.next_multiple_of(8)] {
            let mut symbols = Vec::with_capacity(starts.len());
            for (n, start) in starts.iter().enumerate() {
                let name = expand(bytes, *start, &tables.tokens)
                    .context("a name in kallsyms cannot be expanded")?;
                let mut name = name.chars();
                symbols.push(Symbol {
                    kind: name.next().context("a name in kallsyms is empty")?,
                    address: image.relative(offsets + 4 * n as u64)?,
                    name: name.collect(),
                });
            }
            if symbols.windows(2).all(|w| w[0].address <= w[1].address) {
                return Ok(Some(Symbols::new(symbols)));
            }
        }
        bail!("the offsets in kallsyms do not rise; this kernel's layout is another one");
    }
    Ok(None)
}

fn find_bytes(bytes: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    bytes
        .get(from..)?
        .windows(wanted.len())
        .position(|window| window == wanted)
        .map(|at| from + at)
}

/// Finds and reads the table.
pub(super) fn find(image: &Image) -> Result<Symbols> {
    for segment in &image.segments {
        if let Some(symbols) = in_segment(segment, image)? {
            ensure!(
                symbols.address("_text").is_some() && symbols.address("_end").is_some(),
                "the kallsyms in the image lack _text or _end (CONFIG_KALLSYMS_ALL)"
            );
            return Ok(symbols);
        }
    }
    bail!("no symbols: neither a symbol table nor kallsyms inside; give --kallsyms")
}
