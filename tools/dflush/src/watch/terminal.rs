// SPDX-License-Identifier: GPL-2.0

//! The live view.

use super::{Change, Watch};
use crate::status;
use anyhow::{Context, Result};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

/// What a key asks for.
enum Wish {
    Quit,
    Scroll(isize),
    Nothing,
}

/// Runs until the user quits.
///
/// # Errors
///
/// If the module cannot be read any more, or the terminal fails. The terminal is as it was then.
pub fn run(watch: &mut Watch) -> Result<()> {
    let mut terminal =
        ratatui::try_init().context("this terminal cannot show the live view: use --plain")?;
    let result = show(&mut terminal, watch);
    ratatui::restore();
    result
}

fn show(terminal: &mut ratatui::DefaultTerminal, watch: &mut Watch) -> Result<()> {
    let mut change = watch.look()?;
    let mut first_cpu = 0;
    loop {
        terminal.draw(|frame| draw(frame, &change, first_cpu))?;
        if event::poll(watch.remaining())? {
            match wish(&event::read()?) {
                Wish::Quit => return Ok(()),
                Wish::Scroll(by) => {
                    let last = change.snapshot.cpus.len().saturating_sub(1);
                    first_cpu = first_cpu.saturating_add_signed(by).min(last);
                }
                Wish::Nothing => {}
            }
        }
        if watch.remaining().is_zero() {
            change = watch.look()?;
        }
    }
}

fn wish(event: &Event) -> Wish {
    let Event::Key(key) = event else {
        return Wish::Nothing;
    };
    if key.kind == KeyEventKind::Release {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        // The terminal sends no signal in raw mode.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown => Wish::Scroll(10),
        KeyCode::PageUp => Wish::Scroll(-10),
        _ => Wish::Nothing,
    }
}

/// The most frequent of the latest decisions that are shown.
const CAUSES: usize = 4;

fn draw(frame: &mut Frame, change: &Change, first_cpu: usize) {
    let totals = status::totals(&change.snapshot.summary.counters).len();
    let causes = change.causes.len().min(CAUSES);
    // With its frame and its header.
    let causes_height = if causes == 0 { 0 } else { causes + 3 };
    let areas: [Rect; 5] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(totals.div_ceil(2) as u16 + 2),
        Constraint::Min(4),
        Constraint::Length(causes_height as u16),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [head, middle, cpus, last, foot] = areas;
    frame.render_widget(heading(change), head);
    draw_totals(frame, change, middle);
    frame.render_widget(cpu_table(change, first_cpu), cpus);
    if causes > 0 {
        frame.render_widget(cause_table(change), last);
    }
    frame.render_widget(
        Line::from(" q quits, up and down scroll the CPUs").dim(),
        foot,
    );
}

/// Green where interrupts are spared, red where something is wrong.
fn state_color(state: &str) -> Color {
    match state {
        "on" => Color::Green,
        "shadow" => Color::Cyan,
        "off" => Color::Gray,
        "suspended" => Color::Yellow,
        _ => Color::Red,
    }
}

fn heading(change: &Change) -> Paragraph<'_> {
    let control = &change.snapshot.control;
    let summary = &change.snapshot.summary;
    let color = state_color(change.short_state());
    let lines = vec![
        Line::from(vec![
            Span::raw("mode ").dim(),
            Span::raw(&*control.mode).bold(),
            Span::raw("   state ").dim(),
            Span::styled(&*control.state, Style::new().fg(color).bold()),
        ]),
        Line::from(status::policy(control)),
    ];
    let title = format!(
        " deferred_flush {} for kernel {} ",
        summary.version, summary.kernel
    );
    Paragraph::new(lines).block(Block::bordered().title(title))
}

/// Two columns of counters, each with its rate.
fn draw_totals(frame: &mut Frame, change: &Change, area: Rect) {
    let totals = status::totals(&change.snapshot.summary.counters);
    let halves: [Rect; 2] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area);
    let parts = totals.chunks(totals.len().div_ceil(2));
    for (index, (part, area)) in parts.zip(halves).enumerate() {
        let rows = part.iter().map(|(name, count, _)| {
            Row::new([
                Cell::from(*name),
                number(count.to_string()),
                rate(change.rate(&[name])),
            ])
        });
        let widths = [
            Constraint::Length(14),
            Constraint::Min(8),
            Constraint::Length(12),
        ];
        let title = if index == 0 { " totals and rates " } else { "" };
        frame.render_widget(
            Table::new(rows, widths).block(Block::bordered().title(title)),
            area,
        );
    }
}

fn number(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// What is still shows in the background.
fn rate(value: f64) -> Cell<'static> {
    let line = Line::from(format!("{value:.1}/s")).right_aligned();
    Cell::from(if value > 0.0 { line.bold() } else { line.dim() })
}

fn cpu_table(change: &Change, first_cpu: usize) -> Table<'_> {
    let header = [
        "cpu",
        "now",
        "pending",
        "deferred",
        "deferred/s",
        "flushed/s",
        "sent/s",
    ];
    let rows = change.snapshot.cpus.iter().skip(first_cpu).map(|cpu| {
        let rates = change.cpu_rates.iter().find(|rates| rates.cpu == cpu.cpu);
        let rate_of = |value: fn(&super::CpuRates) -> f64| rate(rates.map_or(0.0, value));
        Row::new([
            number(cpu.cpu.to_string()),
            Cell::from(&*cpu.mode),
            Cell::from(status::word(cpu.word)),
            number(cpu.deferred.to_string()),
            rate_of(|rates| rates.deferred),
            rate_of(|rates| rates.flushed),
            rate_of(|rates| rates.sent),
        ])
    });
    let widths = [4, 8, 9, 12, 12, 12, 12].map(Constraint::Length);
    Table::new(rows, widths)
        .header(Row::new(header).dim())
        .block(Block::bordered().title(" CPUs "))
}

fn cause_table(change: &Change) -> Table<'_> {
    let rows = change.causes.iter().take(CAUSES).map(|cause| {
        Row::new([
            Cell::from(&*cause.caller),
            Cell::from(&*cause.decision),
            number(cause.flushes.to_string()),
            number(cause.deferred.to_string()),
        ])
    });
    let widths = [
        Constraint::Min(24),
        Constraint::Length(13),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    Table::new(rows, widths)
        .header(Row::new(["caller", "decision", "flushes", "deferred"]).dim())
        .block(Block::bordered().title(" the latest decisions "))
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::watch::tests::change;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(width: u16, height: u16, first_cpu: usize) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, &change(), first_cpu))
            .expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn the_view_shows_state_rates_cpus_and_causes() {
        let view = drawn(80, 30, 0);
        for text in [
            "state suspended: watched code changed at vtime_user_exit",
            "every interrupt is sent for now",
            "20.0/s",
            "user     owed",
            "__purge_vmap_area_lazy",
            "kept_caller",
            "q quits",
        ] {
            assert!(view.contains(text), "{text}:\n{view}");
        }
    }

    #[test]
    fn cpus_scroll_and_small_terminals_do_not_matter() {
        assert!(drawn(80, 30, 0).contains("   1 user"));
        let scrolled = drawn(80, 30, 1);
        assert!(
            !scrolled.contains("   1 user") && scrolled.contains("   2 idle"),
            "{scrolled}"
        );
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(width, height, 1);
        }
    }
}
