// SPDX-License-Identifier: GPL-2.0

//! A kernel in memory: its bytes by address and its symbols.

mod bzimage;
mod elf;
mod kallsyms;
mod live;
mod symbols;

use anyhow::{Context, Result, bail};
use std::path::Path;

pub use symbols::{Symbol, Symbols};

/// One run of bytes. What lies beyond the bytes, up to `size`, is zero.
struct Segment {
    start: u64,
    bytes: Vec<u8>,
    size: u64,
}

/// A kernel image with its symbols.
pub struct Image {
    segments: Vec<Segment>,
    /// Its symbols.
    pub symbols: Symbols,
    /// Whether it was read from a running kernel, so that all patching is done.
    pub is_live: bool,
    /// Where it came from, for the report.
    pub origin: String,
    /// Its debug info, if it has any.
    pub(crate) debug_info: Option<addr2line::Loader>,
}

impl Image {
    /// Reads a vmlinux, a bzImage or a boot image of another name.
    ///
    /// The symbols come from the ELF symbol table or else from the kallsyms inside the image;
    /// `kallsyms`, the text of a /proc/kallsyms with addresses, takes precedence.
    ///
    /// # Errors
    ///
    /// If the file is none of these, or has no symbols.
    pub fn open(path: &Path, kallsyms: Option<&Path>) -> Result<Self> {
        let origin = path.display().to_string();
        let file = std::fs::read(path).with_context(|| format!("cannot read {origin}"))?;
        let elf = if file.starts_with(b"\x7fELF") {
            file
        } else {
            bzimage::payload(&file).with_context(|| format!("{origin} is no kernel image"))?
        };
        let (segments, mut symbols) = elf::parse(&elf)?;
        let mut image = Self {
            segments,
            symbols: Symbols::default(),
            is_live: false,
            origin,
            debug_info: None,
        };
        if let Some(path) = kallsyms {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            symbols = Symbols::from_kallsyms_text(&text)?;
        } else if symbols.is_empty() {
            symbols = kallsyms::find(&image)?;
        }
        image.symbols = symbols;
        // Only a file of its own can have any: a boot image is stripped.
        if elf::has_debug_info(&elf) {
            image.debug_info = addr2line::Loader::new(path).ok();
        }
        Ok(image)
    }

    /// Reads the running kernel through /proc/kcore and /proc/kallsyms.
    ///
    /// # Errors
    ///
    /// Without the right to read both.
    pub fn live() -> Result<Self> {
        let (segments, symbols) = live::read()?;
        Ok(Self {
            segments,
            symbols,
            is_live: true,
            origin: "the running kernel (/proc/kcore)".into(),
            debug_info: None,
        })
    }

    /// The bytes from `address` on: at least one, at most `length`; none where nothing is mapped.
    #[must_use]
    pub fn bytes_at(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let segment = self
            .segments
            .iter()
            .find(|s| address >= s.start && address - s.start < s.size)?;
        let offset = usize::try_from(address - segment.start).ok()?;
        let left = usize::try_from(segment.size).ok()? - offset;
        let mut bytes: Vec<u8> = segment
            .bytes
            .iter()
            .skip(offset)
            .take(length)
            .copied()
            .collect();
        bytes.resize(length.min(left), 0);
        Some(bytes)
    }

    /// Exactly `N` bytes at `address`.
    ///
    /// # Errors
    ///
    /// If they are not in the image.
    pub fn array<const N: usize>(&self, address: u64) -> Result<[u8; N]> {
        self.bytes_at(address, N)
            .and_then(|bytes| bytes.try_into().ok())
            .with_context(|| format!("{address:#x} is not in the image"))
    }

    /// The 32 bits at `address`.
    ///
    /// # Errors
    ///
    /// If they are not in the image.
    pub fn u32(&self, address: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(address)?))
    }

    /// The 64 bits at `address`.
    ///
    /// # Errors
    ///
    /// If they are not in the image.
    pub fn u64(&self, address: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(address)?))
    }

    /// What a self-relative 32-bit offset at `address` points to.
    ///
    /// # Errors
    ///
    /// If it is not in the image.
    pub fn relative(&self, address: u64) -> Result<u64> {
        let offset = i32::from_le_bytes(self.array(address)?);
        Ok(address.wrapping_add_signed(i64::from(offset)))
    }

    /// The address of a symbol that has to exist.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn require(&self, name: &str) -> Result<u64> {
        match self.symbols.address(name) {
            Some(address) => Ok(address),
            None => bail!("the kernel has no symbol {name}"),
        }
    }
}
