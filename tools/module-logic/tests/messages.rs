// SPDX-License-Identifier: GPL-2.0

//! Each message of the module has an entry in Documentation/troubleshooting.rst, and no entry there
//! is about a message that is gone.

use anyhow::{bail, ensure, Context, Result};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What becomes the log line of a refusal: the strings of `Refusal::message`.
const INDIRECT: &str = "refusal . message ()";

/// How the values of the control file `state` begin that are more than a mode.
const STATES: [&str; 2] = ["suspended: ", "degraded: "];

/// The module's messages as formats, without the line's end: `mode {} could not be restored`.
fn messages(source: &str) -> Result<BTreeSet<String>> {
    let tokens: TokenStream = source
        .parse()
        .map_err(|error| anyhow::anyhow!("not Rust: {error}"))?;
    let mut found = BTreeSet::new();
    collect(tokens, &mut found)?;
    Ok(found)
}

fn collect(tokens: TokenStream, found: &mut BTreeSet<String>) -> Result<()> {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                if is_macro(&tokens[..index]) {
                    found.extend(message(group)?);
                }
                let is_body = group.delimiter() == Delimiter::Brace;
                if is_body && is_function(&tokens[..index], "message") {
                    literals(group.stream(), found);
                }
                collect(group.stream(), found)?;
            }
            TokenTree::Literal(_) => {
                let text = string(token).unwrap_or_default();
                if STATES.iter().any(|state| text.starts_with(state)) {
                    found.insert(text.trim_end_matches('\n').to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether what stands before a group is `pr_something!`.
fn is_macro(before: &[TokenTree]) -> bool {
    matches!(before, [.., TokenTree::Ident(name), TokenTree::Punct(mark)]
        if mark.as_char() == '!' && name.to_string().starts_with("pr_"))
}

/// Whether what stands before a body is `fn NAME(...) -> ...`, with nothing but that.
fn is_function(before: &[TokenTree], name: &str) -> bool {
    let start = before
        .iter()
        .rposition(|token| matches!(token, TokenTree::Ident(ident) if ident == "fn"));
    start.is_some_and(|start| {
        let head = &before[start..];
        let has_body = head
            .iter()
            .any(|token| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace));
        !has_body && matches!(head.get(1), Some(TokenTree::Ident(ident)) if ident == name)
    })
}

/// The format of a `pr_*!`; `None` if it prints what [`INDIRECT`] says.
fn message(arguments: &Group) -> Result<Option<String>> {
    let first = arguments.stream().into_iter().next();
    let format = first
        .as_ref()
        .and_then(string)
        .with_context(|| format!("no format in ({})", arguments.stream()))?;
    let format = format.trim_end_matches('\n');
    if parts(format).iter().all(|part| part.is_empty()) {
        ensure!(
            arguments.stream().to_string().contains(INDIRECT),
            "the message of ({}) cannot be told from the source",
            arguments.stream()
        );
        return Ok(None);
    }
    Ok(Some(format.to_owned()))
}

/// All strings, at any depth.
fn literals(tokens: TokenStream, found: &mut BTreeSet<String>) {
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            literals(group.stream(), found);
        }
        found.extend(string(&token));
    }
}

fn string(token: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = token else {
        return None;
    };
    match syn::Lit::new(literal.clone()) {
        syn::Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

/// A format's text between its placeholders.
fn parts(format: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((text, tail)) = rest.split_once('{') {
        parts.push(text);
        rest = tail.split_once('}').map_or("", |(_, after)| after);
    }
    parts.push(rest);
    parts
}

/// Whether an entry is that of a message: a word in capitals where the format has a placeholder.
fn is_entry_of(entry: &str, format: &str) -> bool {
    let parts = parts(format);
    let Some(mut rest) = entry.strip_prefix(parts[0]) else {
        return false;
    };
    for part in &parts[1..] {
        let value = rest.trim_start_matches(|c: char| c.is_ascii_uppercase());
        match value.strip_prefix(part) {
            Some(after) if value.len() < rest.len() => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// The terms that are one literal and nothing else, each with a text below.
fn entries(page: &str) -> Result<Vec<&str>> {
    let mut entries = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let term = line
            .strip_prefix("``")
            .and_then(|line| line.strip_suffix("``"));
        let Some(term) = term.filter(|term| !term.contains("``")) else {
            continue;
        };
        match lines.peek() {
            Some(text) if text.starts_with("  ") && text.trim().len() > 1 => entries.push(term),
            _ => bail!("nothing is said about '{term}'"),
        }
    }
    Ok(entries)
}

/// What is wrong, one sentence each.
fn differences(messages: &BTreeSet<String>, entries: &[&str]) -> Vec<String> {
    let without_entry = messages
        .iter()
        .filter(|format| !entries.iter().any(|entry| is_entry_of(entry, format)))
        .map(|format| format!("no entry for '{format}'"));
    let without_message = entries
        .iter()
        .filter(|entry| !messages.iter().any(|format| is_entry_of(entry, format)))
        .map(|entry| format!("no such message any more: '{entry}'"));
    without_entry.chain(without_message).collect()
}

fn module_sources(top: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for directory in [top.to_owned(), top.join("hooks")] {
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    Ok(sources)
}

#[test]
fn each_message_has_an_entry_and_each_entry_a_message() -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = BTreeSet::new();
    for path in module_sources(&top)? {
        let source = fs::read_to_string(&path)?;
        all.extend(messages(&source).with_context(|| path.display().to_string())?);
    }
    let page = fs::read_to_string(top.join("Documentation/troubleshooting.rst"))?;
    let entries = entries(&page)?;
    // Those of today; a reader of the source that finds next to nothing must not pass.
    ensure!(all.len() >= 30, "only {} messages were found", all.len());
    let differences = differences(&all, &entries);
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

const SOURCE: &str = r#"
    fn message(self) -> &'static str {
        match self { Self::A => { "a is wrong" } Self::B => "b is wrong" }
    }
    fn other(&self) -> Result {
        init!(Self { it <- run(|| { pr_info!("on: {}, method {name}\n", x) }) });
        pr_err!(
            "one line, \
             in two\n"
        );
        pr_err!("{}\n", refusal.message());
        f.write_str("degraded: a hook")
    }
"#;

#[test]
fn messages_are_found_wherever_they_stand() -> Result<()> {
    let found = messages(SOURCE)?;
    let expected = [
        "a is wrong",
        "b is wrong",
        "degraded: a hook",
        "on: {}, method {name}",
        "one line, in two",
    ];
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn a_message_that_cannot_be_read_is_an_error() {
    assert!(messages(r#"fn f() { pr_err!("{}\n", text) }"#).is_err());
    assert!(messages("fn f() { pr_err!(text) }").is_err());
}

#[test]
fn a_missing_entry_and_a_left_over_one_are_reported() -> Result<()> {
    let page = "``a is wrong``\n  Text.\n``on: LIST, method NAME``\n  Text.\n``gone``\n  Text.\n\
        ``b is wrong``\n  Text.\n``degraded: a hook``\n  Text.\n``key`` rises\n  Text.\n";
    assert_eq!(
        differences(&messages(SOURCE)?, &entries(page)?),
        [
            "no entry for 'one line, in two'",
            "no such message any more: 'gone'"
        ]
    );
    Ok(())
}

#[test]
fn an_entry_without_a_text_is_an_error() {
    assert!(entries("``a is wrong``\n\nText.\n").is_err());
}

#[test]
fn placeholders_are_words_in_capitals() {
    assert!(is_entry_of("mode MODE is out", "mode {} is out"));
    assert!(!is_entry_of("mode {} is out", "mode {} is out"));
    assert!(!is_entry_of("mode  is out", "mode {} is out"));
    assert!(!is_entry_of("mode MODE is out of range", "mode {} is out"));
}
