// SPDX-License-Identifier: GPL-2.0

//! The charts of the page, as SVG without anything that lies elsewhere.

use super::count::{ByCause, TimeLine};
use super::report::{Report, duration, thousands};
use super::window::Window;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::collections::BTreeSet;

const WIDTH: i32 = 960;
const TEXT: RGBColor = RGBColor(33, 37, 41);
const FAINT: RGBColor = RGBColor(95, 102, 109);
const LINE: RGBColor = RGBColor(222, 226, 230);
/// The colour of what is no flush of kernel memory.
pub(super) const OTHERS: RGBColor = RGBColor(150, 156, 163);

/// The colours of the windows: far apart, and dark enough on white.
const COLORS: [RGBColor; 2] = [RGBColor(196, 78, 32), RGBColor(24, 100, 146)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

/// The colour of a window: one alone is blue.
pub(super) fn color(report: &Report, window: usize) -> RGBColor {
    COLORS[if report.windows.len() == 1 {
        1
    } else {
        window % COLORS.len()
    }]
}

/// Makes a picture of that height, and says for those who do not see it what it shows.
fn picture(
    height: i32,
    description: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area).map_err(|error| anyhow!("cannot draw a chart: {error}"))?;
    }
    let (_, drawing) = svg
        .split_once("viewBox=")
        .ok_or_else(|| anyhow!("the chart is no SVG"))?;
    // As wide as the page allows.
    Ok(format!(
        "<svg role=\"img\" aria-label=\"{}\" viewBox={drawing}",
        super::html::escape(description)
    ))
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

fn bar(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn {
    area.draw(&Rectangle::new([from, to], color.filled()))
}

fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn {
    area.draw(&PathElement::new(vec![from, to], color))
}

/// Pixels for `number` if `most` has `room` of them; what is not nothing can be seen.
fn scaled(number: u64, most: u64, room: i32) -> i32 {
    let length = (number as f64 / most.max(1) as f64 * f64::from(room)).round() as i32;
    if number > 0 { length.clamp(2, room) } else { 0 }
}

/// The same on a logarithmic scale from `least` on.
fn log_scaled(number: u64, least: u64, most: u64, room: i32) -> i32 {
    let log = |number: u64| (number.max(1) as f64).log10();
    let (least, most) = (least.max(1), most.max(least.max(1) * 10));
    let part = (log(number) - log(least)) / (log(most) - log(least));
    if number == 0 {
        0
    } else {
        ((part * f64::from(room)).round() as i32).clamp(2, room)
    }
}

/// Bars to the right: interrupts by cause.
pub(super) fn causes(report: &Report) -> Result<String> {
    const LABELS: i32 = 330;
    const ROOM: i32 = WIDTH - LABELS - 90;
    const BAR: i32 = 16;
    let causes = report.causes();
    let windows = i32::try_from(report.windows.len())?;
    let group = windows * (BAR + 2) + 12;
    let height = 16 + group * i32::try_from(causes.len().max(1))?;
    let total = |cause: Option<&ByCause>| cause.map_or(0, ByCause::total);
    let most = (causes.iter().flat_map(|(_, figures)| figures))
        .map(|figure| total(*figure))
        .max()
        .unwrap_or(0);
    let description = (causes.iter())
        .map(|(cause, figures)| {
            let numbers: Vec<_> = figures.iter().map(|f| thousands(total(*f))).collect();
            format!("{cause}: {}", numbers.join(", then "))
        })
        .collect::<Vec<_>>()
        .join("; ");
    picture(height, &format!("Bar chart. {description}"), |area| {
        if causes.is_empty() {
            return text(area, "no interrupts", (LABELS, 20), (15, FAINT), HPos::Left);
        }
        let mut top = 8;
        for (cause, figures) in &causes {
            let middle = top + windows * (BAR + 2) / 2;
            text(area, cause, (LABELS - 12, middle), (15, TEXT), HPos::Right)?;
            for (index, figure) in figures.iter().enumerate() {
                let number = total(*figure);
                let end = LABELS + scaled(number, most, ROOM);
                let from = top + index as i32 * (BAR + 2);
                if number > 0 {
                    bar(
                        area,
                        (LABELS, from),
                        (end, from + BAR),
                        color(report, index),
                    )?;
                }
                let at = (end + 8, from + BAR / 2 + 1);
                text(area, &thousands(number), at, (14, TEXT), HPos::Left)?;
            }
            top += group;
        }
        line(area, (LABELS - 1, 4), (LABELS - 1, top - 4), OTHERS)
    })
}

/// Where the axes are: their left end, their bottom, and the room above and to the right.
struct Frame {
    left: i32,
    bottom: i32,
    width: i32,
    height: i32,
}

impl Frame {
    /// Lines across at those values, with their names.
    fn grid(&self, area: &Area<'_>, marks: &[(i32, String)]) -> Drawn {
        for (up, name) in marks {
            let y = self.bottom - up;
            line(area, (self.left, y), (self.left + self.width, y), LINE)?;
            text(area, name, (self.left - 8, y), (13, FAINT), HPos::Right)?;
        }
        let end = (self.left + self.width, self.bottom);
        line(area, (self.left, self.bottom), end, OTHERS)
    }
}

/// Powers of ten up to `most`.
fn powers(least: u64, most: u64) -> impl Iterator<Item = u64> {
    (0..19)
        .map(|power| 10u64.pow(power))
        .filter(move |n| (least..=most.max(least)).contains(n))
}

/// Bars upwards: how many gaps of which length.
pub(super) fn gaps(report: &Report) -> Result<String> {
    let sums: Vec<_> = report
        .windows
        .iter()
        .map(|w| w.counts.all_gaps().by_length_ns)
        .collect();
    let lengths: BTreeSet<u64> = sums.iter().flat_map(|sum| sum.keys().copied()).collect();
    let (Some(first), Some(last)) = (lengths.first(), lengths.last()) else {
        return picture(40, "No gaps", |area| {
            text(
                area,
                "no gaps over the threshold",
                (12, 20),
                (15, FAINT),
                HPos::Left,
            )
        });
    };
    let classes: Vec<u64> = (first.ilog2()..=last.ilog2())
        .map(|power| 1 << power)
        .collect();
    let most = sums
        .iter()
        .flat_map(|sum| sum.values().copied())
        .max()
        .unwrap_or(1);
    let frame = Frame {
        left: 80,
        bottom: 270,
        width: WIDTH - 100,
        height: 240,
    };
    let up = |number| log_scaled(number * 2, 1, most * 2, frame.height);
    let step = frame.width / i32::try_from(classes.len())?;
    let thick = ((step - 6) / i32::try_from(sums.len())?).clamp(2, 40);
    let every = 1 + (70 / step.max(1)) as usize;
    let description = format!(
        "Histogram of {} gaps from {} to {}",
        sums.iter().flat_map(|sum| sum.values()).sum::<u64>(),
        duration(*first),
        duration(*last * 2)
    );
    picture(330, &description, |area| {
        let marks: Vec<_> = powers(1, most).map(|n| (up(n), thousands(n))).collect();
        frame.grid(area, &marks)?;
        text(
            area,
            "number (logarithmic)",
            (8, 12),
            (13, FAINT),
            HPos::Left,
        )?;
        for (index, class) in classes.iter().enumerate() {
            let left = frame.left + 3 + index as i32 * step;
            for (window, sum) in sums.iter().enumerate() {
                let number = sum.get(class).copied().unwrap_or(0);
                let from = left + window as i32 * thick;
                if number > 0 {
                    let to = (from + thick - 2, frame.bottom);
                    bar(
                        area,
                        (from, frame.bottom - up(number)),
                        to,
                        color(report, window),
                    )?;
                }
            }
            if index % every == 0 {
                line(
                    area,
                    (left - 3, frame.bottom),
                    (left - 3, frame.bottom + 5),
                    OTHERS,
                )?;
                let at = (left - 3, frame.bottom + 16);
                text(area, &duration(*class), at, (13, FAINT), HPos::Center)?;
            }
        }
        let at = (frame.left + frame.width / 2, frame.bottom + 40);
        text(
            area,
            "length of the gap, from this to twice as long",
            at,
            (13, FAINT),
            HPos::Center,
        )
    })
}

/// One window from its start to its end: what was sent, and the longest gap.
pub(super) fn time_line(report: &Report, index: usize, window: &Window) -> Result<String> {
    let time = &window.counts.time_line;
    let sent: Vec<u64> = both(time)
        .map(|(flushes, others)| flushes + others)
        .collect();
    // The same scale for all windows, or they could not be compared by looking at them.
    let most = (report.windows.iter())
        .flat_map(|w| both(&w.counts.time_line))
        .map(|(flushes, others)| flushes + others)
        .max()
        .unwrap_or(0)
        .max(1);
    let upper = Frame {
        left: 80,
        bottom: 150,
        width: WIDTH - 100,
        height: 120,
    };
    let lower = Frame {
        bottom: 290,
        height: 90,
        ..upper
    };
    let end = if report.has_spinners {
        lower.bottom
    } else {
        upper.bottom
    };
    let seconds = window.span.length_ns() as f64 / 1e9;
    let description = format!(
        "Time line of {seconds:.1} seconds: {} interrupts sent, at most {} in a step of {}",
        thousands(sent.iter().sum()),
        thousands(sent.iter().copied().max().unwrap_or(0)),
        duration(time.step_ns)
    );
    picture(end + 50, &description, |area| {
        let what = format!("interrupts sent in each {}", duration(time.step_ns));
        text(area, &what, (8, 12), (13, FAINT), HPos::Left)?;
        let mark = |n: u64| (scaled(n, most, upper.height), thousands(n));
        upper.grid(area, &[mark(most), mark(most.div_ceil(2))])?;
        let color = color(report, index);
        for (step, (flushes, others)) in both(time).enumerate() {
            let (from, to) = across(&upper, step, sent.len());
            let all = upper.bottom - scaled(flushes + others, most, upper.height);
            let flush = upper.bottom - scaled(flushes, most, upper.height);
            if others > 0 {
                bar(area, (from, all), (to, upper.bottom), OTHERS)?;
            }
            if flushes > 0 {
                bar(area, (from, flush), (to, upper.bottom), color)?;
            }
        }
        if report.has_spinners {
            longest_gaps(area, report, time, &lower, color)?;
        }
        for part in 0..=4 {
            let x = upper.left + upper.width * part / 4;
            let digits = if seconds < 8.0 { 2 } else { 1 };
            let at = format!("{:.digits$} s", seconds * f64::from(part) / 4.0);
            line(area, (x, end), (x, end + 5), OTHERS)?;
            text(area, &at, (x, end + 16), (13, FAINT), HPos::Center)?;
        }
        let at = (upper.left + upper.width / 2, end + 38);
        text(
            area,
            "time since the start of the window",
            at,
            (13, FAINT),
            HPos::Center,
        )
    })
}

/// Kernel-range flushes and others, step by step.
fn both(time: &TimeLine) -> impl Iterator<Item = (u64, u64)> {
    time.kernel_range_flushes
        .iter()
        .copied()
        .zip(time.others.iter().copied())
}

/// From where to where a step reaches.
fn across(frame: &Frame, step: usize, steps: usize) -> (i32, i32) {
    let x = |step: usize| frame.left + frame.width * step as i32 / steps as i32;
    (x(step), x(step + 1) - 1)
}

fn longest_gaps(
    area: &Area<'_>,
    report: &Report,
    time: &TimeLine,
    frame: &Frame,
    color: RGBColor,
) -> Drawn {
    let longest = |time: &TimeLine, step: usize| {
        time.longest_gap_ns
            .values()
            .filter_map(|gaps| gaps.get(step))
            .copied()
            .max()
            .unwrap_or(0)
    };
    let steps = time.others.len();
    let most = (report.windows.iter())
        .flat_map(|w| (0..steps).map(|step| longest(&w.counts.time_line, step)))
        .max()
        .unwrap_or(0);
    let least = report.gap_threshold_ns.max(1);
    let up = |ns| log_scaled(ns, least, most, frame.height);
    let what = "longest gap that a spinner saw (logarithmic)";
    text(
        area,
        what,
        (8, frame.bottom - frame.height - 18),
        (13, FAINT),
        HPos::Left,
    )?;
    let marks: Vec<_> = powers(least, most.max(least * 10))
        .map(|n| (up(n), duration(n)))
        .collect();
    frame.grid(area, &marks)?;
    for step in 0..steps {
        let gap = longest(time, step);
        if gap > 0 {
            let (from, to) = across(frame, step, steps);
            bar(
                area,
                (from, frame.bottom - up(gap)),
                (to, frame.bottom),
                color,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{log_scaled, powers, scaled};

    #[test]
    fn bars_fit_and_show() {
        assert_eq!(scaled(1000, 1000, 500), 500);
        assert_eq!(scaled(0, 1000, 500), 0);
        assert_eq!(scaled(1, 1_000_000, 500), 2);
        assert_eq!(log_scaled(100, 1, 10_000, 500), 250);
        assert_eq!(log_scaled(0, 1, 10_000, 500), 0);
        assert_eq!(log_scaled(10_000, 1, 10_000, 500), 500);
        assert_eq!(log_scaled(5, 10, 10_000, 500), 2);
    }

    #[test]
    fn marks_are_powers_of_ten_within_reach() {
        assert_eq!(powers(1, 250).collect::<Vec<_>>(), [1, 10, 100]);
        assert_eq!(powers(2000, 30_000).collect::<Vec<_>>(), [10_000]);
    }
}
