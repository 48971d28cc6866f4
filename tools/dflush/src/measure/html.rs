// SPDX-License-Identifier: GPL-2.0

//! The report as one page that needs nothing but itself: no script, no font, no network.

use super::chart;
use super::count::{ByCause, ByStack};
use super::report::{Report, duration, thousands};
use super::window::Window;
use anyhow::Result;
use std::fmt::Write as _;

/// How many call stacks the page shows; the JSON has them all.
const STACKS: usize = 20;

const STYLE: &str = "
:root { color-scheme: light; }
body { margin: 0; background: #f4f6f8; color: #212529; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.7em; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2em; margin: 0 0 4px; }
h3 { font-size: 1em; margin: 16px 0 4px; }
p { margin: 4px 0 8px; }
.faint { color: #5f666d; }
section, .card { background: #fff; border: 1px solid #dee2e6; border-radius: 8px; }
section { padding: 16px 20px; margin: 16px 0; }
.cards { display: flex; flex-wrap: wrap; gap: 16px; margin: 16px 0; }
.card { flex: 1 1 160px; padding: 12px 16px; }
.card b { display: block; font-size: 1.35em; line-height: 1.4; white-space: nowrap; font-variant-numeric: tabular-nums; }
.fault { border-left: 6px solid #b02a37; }
svg { display: block; width: 100%; height: auto; }
.key { display: inline-block; width: 14px; height: 14px; margin: 0 6px 0 0; vertical-align: -2px; border-radius: 3px; }
.keys span { margin-right: 20px; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #e9ecef; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
summary { cursor: pointer; color: #186492; }
ol { padding-left: 1.4em; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
";

/// The page.
///
/// # Errors
///
/// If a chart cannot be drawn.
pub(super) fn render(report: &Report) -> Result<String> {
    let mut page = String::new();
    let title = format!("What interrupts CPUs {}", report.cpus);
    let title = escape(&title);
    page.push_str(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n",
    );
    page.push_str("<meta charset=\"utf-8\" />\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n");
    write!(
        page,
        "<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )?;
    head(&mut page, report, &title)?;
    cards(&mut page, report)?;
    for fault in &report.faults {
        let fault = escape(fault);
        writeln!(
            page,
            "<section class=\"fault\"><p><strong>Warning:</strong> {fault}.</p></section>"
        )?;
    }
    page.push_str("<section>\n<h2>Interrupts by cause</h2>\n");
    page.push_str("<p class=\"faint\">Interrupts sent to these CPUs, all of them together.</p>\n");
    keys(&mut page, report)?;
    page.push_str(&chart::causes(report)?);
    causes_table(&mut page, report)?;
    page.push_str("</section>\n");
    if report.has_spinners {
        gaps(&mut page, report)?;
    }
    time_lines(&mut page, report)?;
    for window in &report.windows {
        stacks(&mut page, window)?;
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

/// Text for an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Not in any document, escaped or not.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn head(page: &mut String, report: &Report, title: &str) -> Result<()> {
    writeln!(page, "<h1>{title}</h1>")?;
    let with = if report.has_spinners {
        "each with a program that never enters the kernel by itself"
    } else {
        "with what runs there"
    };
    writeln!(
        page,
        "<p class=\"faint\">Linux {} on {}, {with}.</p>",
        escape(&report.kernel),
        escape(&report.cpu_model)
    )?;
    if !report.load.is_empty() {
        let load = escape(&report.load.join(" "));
        writeln!(
            page,
            "<p class=\"faint\">Load on the other CPUs: <code>{load}</code></p>"
        )?;
    }
    for finding in &report.findings {
        writeln!(page, "<p>{}.</p>", escape(finding))?;
    }
    Ok(())
}

/// The figures that most people want, one window after the other.
fn cards(page: &mut String, report: &Report) -> Result<()> {
    page.push_str("<div class=\"cards\">\n");
    let mut card = |value: fn(&Window) -> String, what: &str| {
        let values: Vec<_> = report.windows.iter().map(|w| escape(&value(w))).collect();
        let values = values.join(" \u{2192} ");
        writeln!(page, "<div class=\"card\"><b>{values}</b>{what}</div>")
    };
    card(|w| thousands(w.counts.total()), "interrupts sent")?;
    let flushes = |w: &Window| {
        let flushes = w.counts.by_cause.iter().filter(|cause| cause.is_deferrable);
        thousands(flushes.map(ByCause::total).sum())
    };
    card(flushes, "of these deferrable flushes")?;
    if report.has_spinners {
        card(|w| duration(w.counts.all_gaps().longest_ns), "longest gap")?;
    }
    card(
        |w| format!("{:.1} s", w.span.length_ns() as f64 / 1e9),
        "measured",
    )?;
    page.push_str("</div>\n");
    Ok(())
}

/// Which colour is which window.
fn keys(page: &mut String, report: &Report) -> Result<()> {
    if report.windows.len() < 2 {
        return Ok(());
    }
    page.push_str("<p class=\"keys\">");
    for (index, window) in report.windows.iter().enumerate() {
        key(page, chart::color(report, index), &window.label)?;
    }
    page.push_str("</p>\n");
    Ok(())
}

fn key(page: &mut String, color: plotters::style::RGBColor, label: &str) -> Result<()> {
    let plotters::style::RGBColor(red, green, blue) = color;
    write!(
        page,
        "<span><i class=\"key\" style=\"background:rgb({red},{green},{blue})\"></i>{}</span>",
        escape(label)
    )?;
    Ok(())
}

/// A table that is folded away: a head, and rows of a name and numbers.
fn table(
    page: &mut String,
    summary: &str,
    head: &[String],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> Result<()> {
    writeln!(page, "<details>\n<summary>{}</summary>", escape(summary))?;
    page.push_str("<div class=\"wide\">\n<table>\n<thead><tr>");
    for cell in head {
        write!(page, "<th scope=\"col\">{}</th>", escape(cell))?;
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for (name, cells) in rows {
        write!(page, "<tr><td>{}</td>", escape(&name))?;
        for cell in cells {
            write!(page, "<td>{}</td>", escape(&cell))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n</details>\n");
    Ok(())
}

/// A column for each CPU of each window.
fn per_cpu_head(report: &Report, first: &str) -> Vec<String> {
    let mut head = vec![first.to_owned()];
    for window in &report.windows {
        let short = window.label.split(" (").next().unwrap_or_default();
        head.extend(
            report
                .cpu_numbers
                .iter()
                .map(|cpu| match report.windows.len() {
                    1 => format!("CPU {cpu}"),
                    _ => format!("CPU {cpu} {short}"),
                }),
        );
    }
    head
}

fn causes_table(page: &mut String, report: &Report) -> Result<()> {
    let rows = report.causes().into_iter().map(|(cause, figures)| {
        let cells = figures.into_iter().flat_map(|figure| {
            let sent = move |cpu| figure.and_then(|f| f.sent.get(&cpu)).copied().unwrap_or(0);
            report
                .cpu_numbers
                .iter()
                .map(move |cpu| thousands(sent(cpu)))
        });
        (cause.to_owned(), cells.collect())
    });
    table(
        page,
        "The same as a table, by CPU",
        &per_cpu_head(report, "cause"),
        rows,
    )
}

fn gaps(page: &mut String, report: &Report) -> Result<()> {
    page.push_str("<section>\n<h2>Gaps</h2>\n");
    writeln!(
        page,
        "<p class=\"faint\">How often, and for how long, the program on the CPU stood still for more \
         than {}: interrupts, but also pauses made by firmware or a hypervisor.</p>",
        duration(report.gap_threshold_ns)
    )?;
    keys(page, report)?;
    page.push_str(&chart::gaps(report)?);
    let value = |get: fn(&super::count::Gaps) -> String| -> Vec<String> {
        let of = |w: &Window, cpu| w.counts.gaps.get(&cpu).map(get).unwrap_or_default();
        (report.windows.iter())
            .flat_map(|w| report.cpu_numbers.iter().map(move |cpu| of(w, cpu)))
            .collect()
    };
    let rows = [
        ("gaps", value(|g| thousands(g.all.number))),
        (
            "of these with an interrupt",
            value(|g| thousands(g.interrupted.number)),
        ),
        ("together", value(|g| duration(g.all.total_ns))),
        (
            "of these with an interrupt",
            value(|g| duration(g.interrupted.total_ns)),
        ),
        ("longest", value(|g| duration(g.all.longest_ns))),
        (
            "longest with an interrupt",
            value(|g| duration(g.interrupted.longest_ns)),
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, cells)| (name.to_owned(), cells));
    table(page, "As a table, by CPU", &per_cpu_head(report, ""), rows)?;
    page.push_str("</section>\n");
    Ok(())
}

fn time_lines(page: &mut String, report: &Report) -> Result<()> {
    page.push_str("<section>\n<h2>Time line</h2>\n");
    for (index, window) in report.windows.iter().enumerate() {
        if report.windows.len() > 1 {
            writeln!(page, "<h3>{}</h3>", escape(&window.label))?;
        }
        page.push_str("<p class=\"keys\">");
        key(
            page,
            chart::color(report, index),
            "flushes of kernel memory, and gaps",
        )?;
        key(page, chart::OTHERS, "other interrupts")?;
        page.push_str("</p>\n");
        page.push_str(&chart::time_line(report, index, window)?);
    }
    page.push_str("</section>\n");
    Ok(())
}

fn stacks(page: &mut String, window: &Window) -> Result<()> {
    writeln!(
        page,
        "<section>\n<h2>Where they came from: {}</h2>",
        escape(&window.label)
    )?;
    let sent: Vec<&ByStack> = window
        .counts
        .by_stack
        .iter()
        .filter(|s| s.total() > 0)
        .collect();
    if sent.is_empty() {
        page.push_str("<p>No interrupt was sent to these CPUs.</p>\n");
    } else {
        page.push_str("<ol>\n");
    }
    for stack in sent.iter().take(STACKS) {
        let function = stack.callback.as_deref().unwrap_or("reschedule");
        writeln!(
            page,
            "<li><strong>{}</strong> \u{00d7} {}: <code>{}</code>\n<details><summary>Call stack</summary>\
             <code>{}</code></details></li>",
            thousands(stack.total()),
            escape(&stack.cause),
            escape(function),
            escape(&stack.stack.join(" \u{2190} "))
        )?;
    }
    if !sent.is_empty() {
        page.push_str("</ol>\n");
    }
    if sent.len() > STACKS {
        writeln!(
            page,
            "<p>{} more places are in the JSON.</p>",
            sent.len() - STACKS
        )?;
    }
    page.push_str("</section>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::escape;
    use crate::cpulist::CpuList;
    use crate::measure::count::{Counts, Span};
    use crate::measure::gaps::{Gap, Seen, Sum};
    use crate::measure::report::Report;
    use crate::measure::spinner::Usage;
    use crate::measure::window::{Plan, Window};
    use crate::system::System;
    use ipi_trace::trace;
    use roxmltree::{Document, ParsingOptions};
    use std::path::Path;

    fn window(label: &str, cpus: &CpuList) -> Window {
        let text = include_str!("../../../ipi-trace/tests/trace.txt");
        let trace = trace::read(text.as_bytes()).unwrap();
        let span = Span {
            start_ns: 17_000_000_000,
            end_ns: 18_000_000_000,
        };
        let gap = |start, length| Gap { start, length };
        let seen = || Seen {
            steps: 1000,
            gaps: vec![gap(17_100_000_000, 3000), gap(17_588_000_000, 4_000_000)],
            later: Sum::default(),
        };
        let seen: Vec<_> = cpus
            .iter()
            .map(|cpu| (cpu, Usage::default(), seen()))
            .collect();
        Window {
            label: label.into(),
            span,
            module: None,
            counts: Counts::new(&trace, &seen, span, cpus),
            interrupts: [].into(),
            lost_events: 0,
            load_status: None,
            faults: vec!["a & b < c".into()],
        }
    }

    fn page(labels: &[&str], observe: bool) -> String {
        let cpus: CpuList = "1-3".parse().unwrap();
        let load = ["sh", "-c", "echo '<script src=\"x\">&'\u{1b}"].map(str::to_owned);
        let plan = Plan {
            cpus: &cpus,
            observe,
            threshold_ns: 2000,
            seconds: None,
            load: &load,
            interrupted: std::sync::Arc::default(),
        };
        let windows = labels.iter().map(|label| window(label, &cpus)).collect();
        let machine = System::below(Path::new("/nonexistent"));
        Report::new(&machine, &plan, windows).to_html().unwrap()
    }

    /// What makes a browser fetch something.
    fn check_is_alone(page: &str) {
        let options = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(page, options).expect("a well-formed page");
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            let name = node.tag_name().name();
            assert!(
                ![
                    "script", "link", "img", "iframe", "object", "embed", "image", "use", "base"
                ]
                .contains(&name),
                "<{name}>"
            );
            for attribute in node.attributes() {
                let (key, value) = (attribute.name(), attribute.value());
                assert!(
                    !["src", "href", "srcset", "data", "action"].contains(&key),
                    "{key}"
                );
                assert!(
                    !key.starts_with("on") && !value.contains("url("),
                    "{key}={value}"
                );
            }
            if name == "style" {
                let style = node.text().unwrap_or_default();
                assert!(!style.contains("url(") && !style.contains("@import"));
            }
        }
        // Names of what the elements are, which nobody fetches.
        let names = ["http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"];
        let rest = names
            .iter()
            .fold(page.to_owned(), |page, name| page.replace(name, ""));
        assert!(!rest.contains("://"));
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        for labels in [&["as it is"][..], &["before (mode off)", "after (mode on)"]] {
            for observe in [false, true] {
                let page = page(labels, observe);
                check_is_alone(&page);
                let charts = 1 + labels.len() + usize::from(!observe);
                assert_eq!(
                    page.matches("<svg role=\"img\" aria-label=").count(),
                    charts
                );
                assert!(page.contains("vm_unmap_aliases()"));
                assert!(page.contains("&lt;script src=&quot;x&quot;&gt;&amp;"));
            }
        }
    }

    #[test]
    #[should_panic(expected = "img")]
    fn a_page_that_fetches_something_is_noticed() {
        check_is_alone(&page(&["x"], true).replace("<main>", "<main><img alt=\"\" />"));
    }

    #[test]
    #[should_panic(expected = "well-formed")]
    fn a_page_with_an_open_element_is_noticed() {
        check_is_alone(&page(&["x"], true).replace("</ol>", ""));
    }

    #[test]
    fn nothing_is_taken_for_markup() {
        assert_eq!(
            escape("a<b> \"c\" & d\u{0}"),
            "a&lt;b&gt; &quot;c&quot; &amp; d\u{fffd}"
        );
    }
}
