// SPDX-License-Identifier: GPL-2.0

//! The ELF file inside a boot image (Documentation/arch/x86/boot.rst in the kernel).

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

fn u32_at(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn compressed(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let version = u16::from_le_bytes(image.get(VERSION..VERSION + 2)?.try_into().ok()?);
    if version < 0x208 {
        return None;
    }
    let sectors = match image[SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + u32_at(image, PAYLOAD_OFFSET)?;
    image.get(start..start + u32_at(image, PAYLOAD_LENGTH)?)
}

/// Decompresses the payload of a bzImage.
pub(super) fn payload(image: &[u8]) -> Result<Vec<u8>> {
    let compressed = compressed(image).context("neither an ELF file nor a bzImage")?;
    // The build appends the uncompressed size.
    let mut elf = Vec::new();
    match compressed {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(compressed)
                .context("the zstd payload is damaged")?
                .read_to_end(&mut elf)
                .context("the zstd payload is damaged")?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            lzma_rs::xz_decompress(&mut &*compressed, &mut elf)
                .map_err(|error| anyhow::anyhow!("the xz payload is damaged: {error:?}"))?;
        }
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(compressed)
                .read_to_end(&mut elf)
                .context("the gzip payload is damaged")?;
        }
        [a, b, c, d, ..] => bail!(
            "the payload starts {a:02x} {b:02x} {c:02x} {d:02x}: neither zstd, xz nor gzip; \
             unpack it with the kernel's scripts/extract-vmlinux"
        ),
        _ => bail!("the payload is empty"),
    }
    ensure!(elf.starts_with(b"\x7fELF"), "the payload is no ELF file");
    Ok(elf)
}
