//! Plots, as SVG to stand in a page. Colours are names only: the page's style sheet gives each of [`INK`], [`FAINT`],
//! [`BAR`], [`CLAIM`], [`UNKNOWN`] and [`SCALE`] its colour, for light, dark and paper.

use plotters::prelude::*;
use poisontrace_probes::page_totals;

use poisontrace_model::incident::model::{Distribution, ExitSample};

const INK: RGBColor = RGBColor(0, 0, 1);
const FAINT: RGBColor = RGBColor(0, 0, 2);
const BAR: RGBColor = RGBColor(0, 0, 3);
const CLAIM: RGBColor = RGBColor(0, 0, 4);
const UNKNOWN: RGBColor = RGBColor(0, 0, 5);
/// By latency, the shortest first.
const SCALE: [RGBColor; Scale::STEPS] = [
    RGBColor(0, 1, 0),
    RGBColor(0, 1, 1),
    RGBColor(0, 1, 2),
    RGBColor(0, 1, 3),
    RGBColor(0, 1, 4),
    RGBColor(0, 1, 5),
];

/// The claim of 2020, nanoseconds: 63 exits within this time; and what that leaves to each.
const CLAIM_NS: f64 = page_totals::CLAIM_NS as f64;
const CLAIM_EACH_NS: f64 = CLAIM_NS / 63.0;

const WIDTH: u32 = 600;
const FONT: (&str, u32) = ("sans-serif", 15);
const SMALL: (&str, u32) = ("sans-serif", 13);

const PAGE_SHIFT: u32 = 12;
const LINE_SHIFT: u32 = 6;
const LINES: u64 = 64;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Latencies from the shortest to the longest, in equal factors.
pub struct Scale {
    low: u64,
    high: u64,
}

impl Scale {
    pub const STEPS: usize = 6;

    fn of(known: impl Iterator<Item = u64> + Clone) -> Option<Self> {
        Some(Self {
            low: known.clone().min()?.max(1),
            high: known.max()?.max(1),
        })
    }

    fn step(&self, ns: u64) -> usize {
        let whole = (self.high as f64 / self.low as f64).ln();
        if whole <= 0.0 {
            return 0;
        }
        let part = (ns.max(1) as f64 / self.low as f64).ln() / whole;
        ((part * Self::STEPS as f64) as usize).min(Self::STEPS - 1)
    }

    /// Where each step begins, nanoseconds; one alone where all are alike.
    pub fn steps(&self) -> Vec<u64> {
        let factor = self.high as f64 / self.low as f64;
        let mut steps: Vec<u64> = (0..Self::STEPS)
            .map(|n| (self.low as f64 * factor.powf(n as f64 / Self::STEPS as f64)).round() as u64)
            .collect();
        steps.dedup();
        steps
    }
}

/// The exits of a storm: time against the line of the page, coloured by their time in the kernel.
pub struct StormPlot {
    pub svg: String,
    pub points: usize,
    /// What the vertical axis counts.
    pub of: &'static str,
    /// The time axis is logarithmic.
    pub logarithmic: bool,
    /// What is coloured, and how; `None` where no time is known.
    pub scale: Option<(&'static str, Scale)>,
}

/// `None` where the lines of fewer than two exits are known.
pub fn storm(samples: &[ExitSample]) -> Option<StormPlot> {
    let in_kernel = samples.iter().any(|sample| sample.in_kernel_ns.is_some());
    let coloured = match in_kernel {
        true => "in the kernel",
        false => "from exit to entry",
    };
    let latency = |sample: &ExitSample| match in_kernel {
        true => sample.in_kernel_ns,
        false => sample.exit_to_entry_ns,
    };
    let placed: Vec<(i64, u64, Option<u64>)> = samples
        .iter()
        .filter_map(|sample| Some((sample.t_ns, sample.gpa?.0, latency(sample))))
        .collect();
    if placed.len() < 2 {
        return None;
    }
    let (first, last) = (placed.first()?.0, placed.last()?.0);
    let base = placed.iter().map(|(_, gpa, _)| gpa >> PAGE_SHIFT).min()?;
    let top = placed.iter().map(|(_, gpa, _)| gpa >> PAGE_SHIFT).max()?;
    let (of, rows) = match top - base {
        0 => ("64-byte line of the page", LINES),
        pages => ("4 KiB page, from the first touched on", pages.saturating_add(1)),
    };
    // Of a long storm single exits are known from its beginning, and then at ever greater distances.
    let middle = placed[placed.len() / 2].0;
    let span = last.saturating_sub(first) as f64;
    let logarithmic = placed.len() > 8 && span > 20.0 * (middle.saturating_sub(first) as f64).max(1.0);
    let shortest = placed
        .iter()
        .map(|(t, _, _)| t.saturating_sub(first))
        .find(|t| *t > 0);
    let x = |t: i64| {
        let since = t.saturating_sub(first) as f64;
        if logarithmic {
            since.max(shortest.unwrap_or(1) as f64 / 2.0).log10()
        } else {
            since
        }
    };
    let (low, high) = (x(first), x(last));
    let margin = if high > low { (high - low) * 0.03 } else { 500.0 };
    let scale = Scale::of(placed.iter().filter_map(|(_, _, ns)| *ns));
    let points = placed.iter().map(|(t, gpa, ns)| {
        let row = match top - base {
            0 => (gpa >> LINE_SHIFT) % LINES,
            _ => (gpa >> PAGE_SHIFT) - base,
        };
        let colour = match (ns, &scale) {
            (Some(ns), Some(scale)) => SCALE[scale.step(*ns)],
            _ => UNKNOWN,
        };
        Circle::new((x(*t), row as f64), 4, colour.filled())
    });
    let mut svg = String::new();
    let drawn = (|| -> Drawn {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 360)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(52)
            .build_cartesian_2d(low - margin..high + margin, -1.0..rows as f64)?;
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .label_style(FONT.into_font().color(&INK))
            .x_labels(6)
            .y_labels(9)
            .x_desc(if logarithmic {
                "since the first exit (logarithmic)"
            } else {
                "since the first exit"
            })
            .y_desc(of)
            .x_label_formatter(&|x| match logarithmic {
                true => instant(10f64.powf(*x)),
                // The margin before the first exit is no time.
                false if *x < 0.0 => String::new(),
                false => instant(*x),
            })
            .y_label_formatter(&|y| {
                if *y < 0.0 {
                    String::new()
                } else {
                    format!("{y:.0}")
                }
            })
            .draw()?;
        chart.draw_series(points)?;
        area.present()?;
        Ok(())
    })();
    drawn.ok()?;
    Some(StormPlot {
        svg: framed(&svg),
        points: placed.len(),
        of,
        logarithmic,
        scale: scale.map(|scale| (coloured, scale)),
    })
}

/// Histograms one above the other, on one axis of time in powers of two; `None` where there is none.
pub fn histograms(rows: &[(&str, &Distribution)]) -> Option<String> {
    let rows: Vec<_> = rows.iter().filter(|(_, d)| !d.buckets.is_empty()).collect();
    let used = |d: &&(&str, &Distribution)| {
        let all = d.1.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        let all: Vec<usize> = all.map(|(n, _)| n).collect();
        Some((*all.first()?, *all.last()?))
    };
    let low = rows.iter().filter_map(used).map(|(low, _)| low).min()?.min(9);
    let high = rows.iter().filter_map(used).map(|(_, high)| high).max()?.max(16) + 1;
    let mut svg = String::new();
    let drawn = (|| -> Drawn {
        let height = 130 * rows.len() as u32 + 40;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let (above, axis) = area.split_vertically(height - 40);
        for (area, (name, distribution)) in above.split_evenly((rows.len(), 1)).iter().zip(&rows) {
            histogram(area, name, distribution, low as f64..high as f64)?;
        }
        time_axis(&axis, low as f64..high as f64)?;
        area.present()?;
        Ok(())
    })();
    drawn.ok()?;
    Some(framed(&svg))
}

const LEFT: u32 = 60;

fn histogram(area: &Area<'_>, name: &str, d: &Distribution, x: std::ops::Range<f64>) -> Drawn {
    let most = d.buckets.iter().copied().max().unwrap_or(1).max(1);
    let mut chart = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(8)
        .margin_top(26)
        .y_label_area_size(LEFT - 8)
        .build_cartesian_2d(x.clone(), 0.0..f64::from(most) * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .axis_style(INK)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .label_style(SMALL.into_font().color(&INK))
        .x_labels(0)
        .y_labels(if most < 4 { most as usize + 1 } else { 4 })
        .y_label_formatter(&|y| thousands(*y))
        .draw()?;
    let bars = d.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    chart.draw_series(bars.map(|(n, count)| {
        let n = n as f64;
        Rectangle::new([(n + 0.06, 0.0), (n + 0.94, f64::from(*count))], BAR.filled())
    }))?;
    for ns in [CLAIM_EACH_NS, CLAIM_NS] {
        let at = ns.log2();
        let line = [(at, 0.0), (at, f64::from(most) * 1.05)];
        chart.draw_series(std::iter::once(PathElement::new(line, CLAIM.stroke_width(2))))?;
    }
    area.draw(&Text::new(
        name.to_owned(),
        (LEFT as i32, 6),
        FONT.into_font().color(&INK),
    ))?;
    Ok(())
}

/// The ticks below the histograms, and what the claim's lines are.
fn time_axis(area: &Area<'_>, x: std::ops::Range<f64>) -> Drawn {
    let width = f64::from(WIDTH - LEFT - 8);
    let at = |log2: f64| LEFT as i32 + ((log2 - x.start) / (x.end - x.start) * width) as i32;
    let style = SMALL.into_font().color(&INK).pos(centred());
    let mut free = i32::MIN;
    for decade in 0..12 {
        let ns = 10f64.powi(decade);
        if !x.contains(&ns.log2()) || at(ns.log2()) < free {
            continue;
        }
        let here = at(ns.log2());
        free = here + 48;
        area.draw(&PathElement::new([(here, 0), (here, 5)], INK))?;
        area.draw(&Text::new(instant(ns), (here, 8), style.clone()))?;
    }
    let style = SMALL.into_font().color(&CLAIM).pos(centred());
    for (ns, text) in [(CLAIM_EACH_NS, "50 µs / 63"), (CLAIM_NS, "50 µs")] {
        area.draw(&Text::new(text, (at(ns.log2()), 23), style.clone()))?;
    }
    Ok(())
}

fn centred() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Center, VPos::Top)
}

/// A tick of a time axis: as few digits as show it.
pub fn instant(ns: f64) -> String {
    let (value, unit) = match ns.abs() {
        0.0..1e3 => (ns, "ns"),
        1e3..1e6 => (ns / 1e3, "µs"),
        1e6..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let digits = format!("{value:.2}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!(
        "{} {unit}",
        if digits.is_empty() || digits == "-0" {
            "0"
        } else {
            digits
        }
    )
}

fn thousands(count: f64) -> String {
    match count {
        0.0..10e3 => format!("{count:.0}"),
        10e3..10e6 => format!("{:.0} k", count / 1e3),
        _ => format!("{:.0} M", count / 1e6),
    }
}

/// As wide as the page wants it.
fn framed(svg: &str) -> String {
    svg.replacen(&format!("width=\"{WIDTH}\" "), "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{event::Access, hex::Hex};

    fn walk(exits: u64) -> Vec<ExitSample> {
        (0..exits)
            .map(|n| ExitSample {
                t_ns: (1_000 * n) as i64,
                vcpu: Some(0),
                gpa: Some(Hex(0x5000 + (n % 64) * 64)),
                rip: None,
                access: Access::Read,
                in_kernel_ns: Some(700 + n),
                gup_ns: None,
                exit_to_entry_ns: None,
            })
            .collect()
    }

    /// (x, y) of each circle.
    fn circles(svg: &str) -> Vec<(i32, i32)> {
        let number = |element: &str, name: &str| {
            let rest = element.split_once(&format!(" {name}=\"")).unwrap().1;
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        svg.split("<circle")
            .skip(1)
            .map(|element| (number(element, "cx"), number(element, "cy")))
            .collect()
    }

    #[test]
    fn a_walk_of_the_lines_is_a_diagonal() {
        let plot = storm(&walk(64)).unwrap();
        let circles = circles(&plot.svg);
        assert_eq!((plot.points, circles.len()), (64, 64));
        // Screens count downwards.
        assert!(
            circles.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 > w[1].1),
            "{circles:?}"
        );
        assert!(!plot.logarithmic);
    }

    #[test]
    fn fewer_than_two_exits_are_no_plot() {
        assert_eq!(circles(&storm(&walk(2)).unwrap().svg).len(), 2);
        assert!(storm(&walk(1)).is_none());
        assert!(storm(&[]).is_none());
        assert!(histograms(&[]).is_none());
    }

    #[test]
    fn a_storm_known_by_its_beginning_has_a_logarithmic_time() {
        let mut samples = walk(256);
        for n in 9..20 {
            samples.extend(walk(1).into_iter().map(|s| ExitSample {
                t_ns: 1_000 << n,
                ..s
            }));
        }
        let plot = storm(&samples).unwrap();
        assert!(plot.logarithmic);
        assert_eq!(circles(&plot.svg).len(), 256 + 11);
    }

    #[test]
    fn steps_of_latency_grow_by_equal_factors() {
        let scale = Scale {
            low: 1_000,
            high: 64_000,
        };
        assert_eq!(scale.steps(), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000]);
        assert_eq!(
            (scale.step(1_000), scale.step(9_000), scale.step(64_000)),
            (0, 3, 5)
        );
    }

    #[test]
    fn times_are_told_with_as_few_digits_as_they_need() {
        for (ns, injection) in [(0.0, "0 ns"), (790.0, "790 ns"), (5e4, "50 µs"), (2.5e9, "2.5 s")] {
            assert_eq!(instant(ns), injection);
        }
    }
}
