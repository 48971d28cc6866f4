// SPDX-License-Identifier: GPL-2.0

//! The functions of a module object, each instruction with what its relocation points to.

use anyhow::{Context, Result, ensure};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};
use std::collections::HashMap;

/// What a relocation refers to: a symbol, and the offset from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) symbol: String,
    pub(super) offset: i64,
}

/// One instruction.
pub(super) struct Line {
    pub(super) instruction: Instruction,
    pub(super) target: Option<Target>,
    /// The relocation is that of the immediate operand, not of the memory operand.
    pub(super) is_immediate: bool,
    /// The function that a call or jump without a relocation goes to.
    pub(super) callee: Option<String>,
}

/// One function.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) lines: Vec<Line>,
}

impl Function {
    /// The index of the instruction at an address.
    pub(super) fn at(&self, address: u64) -> Option<usize> {
        self.lines
            .binary_search_by_key(&address, |line| line.instruction.ip())
            .ok()
    }
}

/// The variables of each section, by offset.
type Variables = HashMap<SectionIndex, Vec<(u64, String)>>;

fn variables(file: &object::File<'_>) -> Variables {
    let mut all = Variables::new();
    for symbol in file.symbols() {
        if let (Some(section), Ok(name)) = (symbol.section_index(), symbol.name()) {
            if !name.is_empty() && matches!(symbol.kind(), SymbolKind::Data | SymbolKind::Text) {
                all.entry(section)
                    .or_default()
                    .push((symbol.address(), name.into()));
            }
        }
    }
    for list in all.values_mut() {
        list.sort();
    }
    all
}

/// Names what a section and an offset in it stand for.
fn name_of(variables: &Variables, section: SectionIndex, offset: i64) -> Option<Target> {
    let list = variables.get(&section)?;
    let at = u64::try_from(offset).ok()?;
    let after = list.partition_point(|(start, _)| *start <= at);
    let (start, name) = list.get(after.checked_sub(1)?)?;
    Some(Target {
        symbol: name.clone(),
        offset: i64::try_from(at - start).ok()?,
    })
}

fn is_branch(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
    )
}

/// All functions of an object, by the symbol table.
pub(super) fn functions(bytes: &[u8]) -> Result<Vec<Function>> {
    let file = object::File::parse(bytes).context("this is no object file")?;
    ensure!(
        file.architecture() == object::Architecture::X86_64,
        "this is no x86-64 object"
    );
    let variables = variables(&file);
    let mut functions = Vec::new();
    let starts: HashMap<_, _> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .filter_map(|s| Some(((s.section_index()?, s.address()), s.name().ok()?)))
        .collect();
    for symbol in file.symbols() {
        let (Some(index), Ok(name)) = (symbol.section_index(), symbol.name()) else {
            continue;
        };
        if symbol.kind() != SymbolKind::Text || symbol.size() == 0 || name.starts_with("__pfx_") {
            continue;
        }
        let section = file.section_by_index(index)?;
        let start = usize::try_from(symbol.address())?;
        let end = start + usize::try_from(symbol.size())?;
        let code = section
            .data()?
            .get(start..end)
            .with_context(|| format!("{name} lies outside its section"))?;
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            if offset < symbol.address() || offset >= end as u64 {
                continue;
            }
            relocations.push((offset, relocation));
        }
        let mut lines = Vec::new();
        let mut decoder = Decoder::with_ip(64, code, symbol.address(), DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let fields = decoder.get_constant_offsets(&instruction);
            let mut is_immediate = false;
            let range = instruction.ip()..instruction.next_ip();
            let mut target = None;
            for (offset, relocation) in &relocations {
                if !range.contains(offset) {
                    continue;
                }
                is_immediate = fields.has_immediate()
                    && *offset == instruction.ip() + fields.immediate_offset() as u64;
                let mut addend = relocation.addend();
                if matches!(
                    relocation.kind(),
                    object::RelocationKind::Relative | object::RelocationKind::PltRelative
                ) {
                    addend += i64::try_from(range.end - offset)?;
                }
                let RelocationTarget::Symbol(to) = relocation.target() else {
                    continue;
                };
                let to = file.symbol_by_index(to)?;
                target = if to.kind() == SymbolKind::Section {
                    to.section_index()
                        .and_then(|section| name_of(&variables, section, addend))
                } else {
                    Some(Target {
                        symbol: to.name()?.into(),
                        offset: addend,
                    })
                };
            }
            let callee = starts
                .get(&(index, instruction.near_branch_target()))
                .filter(|_| target.is_none() && is_branch(&instruction))
                .map(|name| (*name).to_owned());
            lines.push(Line {
                instruction,
                target,
                is_immediate,
                callee,
            });
        }
        functions.push(Function {
            name: name.into(),
            lines,
        });
    }
    ensure!(!functions.is_empty(), "the object has no functions");
    Ok(functions)
}
