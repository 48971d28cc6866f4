// SPDX-License-Identifier: GPL-2.0

//! The chart: what reached the isolated CPUs, without and with the module.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    raw::PerCpu,
    report::{Load, Report, State},
    table::{causes, thousands},
};

const WIDTH: u32 = 1000;
const MARGIN: i32 = 30;
const LABEL_END: i32 = 350;
const BAR_END: i32 = 900;
const BAR: i32 = 13;
const GROUP: i32 = 2 * BAR + 14;
const BEFORE: RGBColor = RGBColor(200, 75, 49);
const AFTER: RGBColor = RGBColor(38, 110, 153);
const TEXT: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(110, 110, 110);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A pair of bars.
struct Pair {
    label: String,
    before: u64,
    after: u64,
}

struct Panel {
    title: String,
    subtitle: String,
    pairs: Vec<Pair>,
}

impl Panel {
    fn height(&self) -> i32 {
        64 + GROUP * i32::try_from(self.pairs.len()).unwrap_or(0)
    }
}

/// The chart as SVG.
pub fn render(report: &Report) -> Result<String> {
    let panels = panels(report);
    let height = 110 + panels.iter().map(Panel::height).sum::<i32>() + 60;
    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH, u32::try_from(height)?)).into_drawing_area();
        draw(&area, report, &panels, height)
            .map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
    }
    Ok(svg)
}

fn panels(report: &Report) -> Vec<Panel> {
    let per_cpu = |counts: fn(&State) -> &PerCpu| {
        let pair = |cpu: &u32| Pair {
            label: format!("CPU {cpu}"),
            before: counts(&report.before)[cpu],
            after: counts(&report.after)[cpu],
        };
        report.isolated_cpus.iter().map(pair).collect()
    };
    let entered = |state: &State, cpu: &u32| state.gaps[&Load::A][cpu].kernel_entries;
    let by_cause = |cause: String| {
        let number = |state: &State| state.other_ipis.get(&cause).copied().unwrap_or(0);
        let (before, after) = (number(&report.before), number(&report.after));
        Pair {
            label: cause,
            before,
            after,
        }
    };
    let rounds = thousands(report.rounds);
    vec![
        Panel {
            title: format!("{rounds} kernel mappings made and removed on CPU 0"),
            subtitle: "TLB-flush interrupts that each isolated CPU received".into(),
            pairs: per_cpu(|state| &state.flush_ipis),
        },
        Panel {
            title: "The same, seen by the program on the isolated CPU".into(),
            subtitle: "times that the kernel took the CPU away from it, for whatever reason".into(),
            pairs: report
                .isolated_cpus
                .iter()
                .map(|cpu| Pair {
                    label: format!("CPU {cpu}"),
                    before: entered(&report.before, cpu),
                    after: entered(&report.after, cpu),
                })
                .collect(),
        },
        Panel {
            title: "Everyday work on CPU 0".into(),
            subtitle:
                "processes, threads, modules, BPF programs, network namespaces, large buffers: \
                       interrupts sent to all isolated CPUs, by cause"
                    .into(),
            pairs: causes(report).into_iter().map(by_cause).collect(),
        },
    ]
}

type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(area: &Area<'_>, report: &Report, panels: &[Panel], height: i32) -> Drawn {
    area.fill(&WHITE)?;
    let isolated = report.isolated_cpus.len();
    text(
        area,
        &format!("What interrupts {isolated} busy isolated CPUs, without and with deferred_flush"),
        (MARGIN, 34),
        (22, TEXT),
        HPos::Left,
    )?;
    for (x, color, label) in [
        (MARGIN, BEFORE, "without the module"),
        (MARGIN + 190, AFTER, "with the module"),
    ] {
        area.draw(&Rectangle::new(
            [(x, 58), (x + 16, 58 + BAR)],
            color.filled(),
        ))?;
        text(area, label, (x + 24, 65), (15, TEXT), HPos::Left)?;
    }
    let mut y = 100;
    for panel in panels {
        draw_panel(area, panel, y)?;
        y += panel.height();
    }
    text(
        area,
        &format!(
            "Linux {}, unmodified, on {}. Each isolated CPU runs one program that never enters the kernel by itself.",
            report.kernel, report.cpu_model
        ),
        (MARGIN, height - 34),
        (13, FAINT),
        HPos::Left,
    )
}

fn draw_panel(area: &Area<'_>, panel: &Panel, top: i32) -> Drawn {
    text(
        area,
        &panel.title,
        (MARGIN, top + 8),
        (17, TEXT),
        HPos::Left,
    )?;
    text(
        area,
        &panel.subtitle,
        (MARGIN, top + 28),
        (13, FAINT),
        HPos::Left,
    )?;
    let most = panel
        .pairs
        .iter()
        .map(|p| p.before.max(p.after))
        .max()
        .unwrap_or(0)
        .max(1);
    let mut y = top + 46;
    for pair in &panel.pairs {
        text(
            area,
            &pair.label,
            (LABEL_END - 12, y + BAR),
            (14, TEXT),
            HPos::Right,
        )?;
        for (number, color, y) in [(pair.before, BEFORE, y), (pair.after, AFTER, y + BAR)] {
            let end = LABEL_END + scaled(number, most);
            area.draw(&Rectangle::new(
                [(LABEL_END, y), (end, y + BAR - 1)],
                color.filled(),
            ))?;
            text(
                area,
                &thousands(number),
                (end + 7, y + BAR / 2),
                (13, color),
                HPos::Left,
            )?;
        }
        y += GROUP;
    }
    area.draw(&PathElement::new(
        vec![(LABEL_END, top + 42), (LABEL_END, y - 8)],
        FAINT,
    ))
}

/// Length of a bar in pixels; what is not nothing can be seen.
fn scaled(number: u64, most: u64) -> i32 {
    let room = u64::try_from(BAR_END - LABEL_END).unwrap_or(0);
    let length = i32::try_from(number * room / most).unwrap_or(0);
    if number > 0 { length.max(2) } else { 0 }
}

fn text(
    area: &Area<'_>,
    what: &str,
    at: (i32, i32),
    (size, color): (i32, RGBColor),
    align: HPos,
) -> Drawn {
    let style = ("sans-serif", size)
        .into_text_style(area)
        .color(&color)
        .pos(Pos::new(align, VPos::Center));
    area.draw(&Text::new(what.to_owned(), at, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fit_and_show() {
        assert_eq!(scaled(1000, 1000), BAR_END - LABEL_END);
        assert_eq!(scaled(0, 1000), 0);
        assert_eq!(scaled(1, 1_000_000), 2);
    }
}
