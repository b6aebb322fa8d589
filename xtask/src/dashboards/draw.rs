//! A dashboard drawn from what Prometheus answers to its panels' own queries, laid out as its file says. Not Grafana, and
//! it does not look like it: it shows that each panel has data, and which.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use plotters::prelude::*;
use serde_json::Value;

use super::query_of;
use crate::prometheus::{Prometheus, Series};

const STYLE: &str = "body{margin:12px;font:13px sans-serif;background:#f4f5f7;color:#222;width:1176px}
h1{font-size:17px;margin:4px 0 10px}h2{font-size:14px;margin:0;grid-column:1/25;align-self:end}
main{display:grid;grid-template-columns:repeat(24,1fr);grid-auto-rows:23px;gap:6px}
section{background:#fff;border:1px solid #d5d9de;border-radius:3px;padding:4px 7px;overflow:hidden}
h3{font-size:12px;font-weight:600;margin:0 0 2px}b{font-size:28px}
table{font-size:11px;border-collapse:collapse;width:100%}td,th{text-align:left;padding:1px 8px 1px 0}
small{color:#555;font-size:10px}i{display:inline-block;width:9px;height:9px;margin:0 3px 0 8px}svg{display:block}";
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
    RGBColor(127, 127, 127),
];
const ROW_PX: u32 = 29;
const COLUMN_PX: u32 = 49;

/// The page.
pub fn page(dashboard: &Value, prometheus: &Prometheus) -> Result<String> {
    let title = dashboard["title"].as_str().unwrap_or_default();
    let mut page = format!("<!doctype html><meta charset=utf-8><style>{STYLE}</style><h1>{title}</h1><main>");
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let name = panel["title"].as_str().unwrap_or_default();
        let grid = |key: &str| panel["gridPos"][key].as_u64().unwrap_or(0) as u32;
        let (x, y, w, h) = (grid("x"), grid("y"), grid("w"), grid("h"));
        let place = format!(
            "grid-column:{}/{};grid-row:{}/{}",
            x + 1,
            x + w + 1,
            y + 1,
            y + h + 1
        );
        if panel["type"] == "row" {
            write!(page, "<h2 style='{place}'>{name}</h2>")?;
            continue;
        }
        let mut series = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = query_of(target["expr"].as_str().unwrap_or_default());
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for one in prometheus.series(&expr)? {
                series.push((named(legend, &one), one));
            }
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"]
            .as_str()
            .unwrap_or_default();
        let size = (w * COLUMN_PX - 22, h * ROW_PX - 46);
        let body = match panel["type"].as_str() {
            Some("stat") => stat(&series, unit),
            Some("table") => table(&series),
            Some("heatmap") => heatmap(&mut series, size)?,
            _ => lines(&series, unit, size)?,
        };
        write!(page, "<section style='{place}'><h3>{name}</h3>{body}</section>")?;
    }
    Ok(page + "</main>")
}

/// The legend with the labels' values in it.
fn named(legend: &str, series: &Series) -> String {
    let mut name = legend.to_owned();
    for (label, value) in series.labels.as_object().into_iter().flatten() {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
    }
    name.replace('<', "&lt;")
}

fn none() -> String {
    "<small>no data in a replay</small>".to_owned()
}

/// The largest of the replay: the last value of a gauge is that of a host at rest.
fn stat(series: &[(String, Series)], unit: &str) -> String {
    let values = series
        .iter()
        .flat_map(|(_, one)| one.points.iter().map(|(_, value)| *value));
    match values.reduce(f64::max) {
        Some(most) => format!(
            "<b>{}</b> <small>most during the replay</small>",
            told(most, unit)
        ),
        None => none(),
    }
}

fn table(series: &[(String, Series)]) -> String {
    let mut rows = String::new();
    for (_, one) in series.iter().take(14) {
        let labels = one.labels.as_object().into_iter().flatten();
        let labels: Vec<String> = labels
            .filter(|(name, _)| !["__name__", "job"].contains(&name.as_str()))
            .map(|(_, value)| value.as_str().unwrap_or_default().to_owned())
            .collect();
        let last = one.points.last().map_or(0.0, |(_, value)| *value);
        let _ = write!(
            rows,
            "<tr><td>{}<td>{}</tr>",
            labels.join(" · "),
            told(last, "none")
        );
    }
    format!("<table>{rows}</table>")
}

/// From the first to the last time of all.
fn times(series: &[(String, Series)]) -> Option<(f64, f64)> {
    let all = || {
        series
            .iter()
            .flat_map(|(_, one)| one.points.iter().map(|(t, _)| *t))
    };
    Some((all().reduce(f64::min)?, all().reduce(f64::max)?))
}

fn lines(series: &[(String, Series)], unit: &str, (width, height): (u32, u32)) -> Result<String> {
    let Some((first, last)) = times(series) else {
        return Ok(none());
    };
    let most = series
        .iter()
        .flat_map(|(_, one)| one.points.iter().map(|(_, value)| *value))
        .fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.08 } else { 1.0 };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height.saturating_sub(30))).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(20)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..(last - first).max(1.0), 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|t| format!("{t:.0} s"))
            .y_label_formatter(&|value| told(*value, unit))
            .draw()?;
        for ((_, one), colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let points = one.points.iter().map(|(t, value)| (t - first, *value));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        area.present()?;
    }
    let mut legend = String::new();
    for ((name, _), colour) in series.iter().zip(COLOURS.iter().cycle()).take(8) {
        let RGBColor(r, g, b) = colour;
        let _ = write!(legend, "<i style='background:rgb({r},{g},{b})'></i>{name}");
    }
    Ok(format!("{svg}<small>{legend}</small>"))
}

/// Cumulative buckets (`le`) as colours over time.
fn heatmap(series: &mut [(String, Series)], (width, height): (u32, u32)) -> Result<String> {
    let edge = |name: &str| name.parse::<f64>().unwrap_or(f64::INFINITY);
    series.sort_by(|a, b| edge(&a.0).total_cmp(&edge(&b.0)));
    let Some((first, last)) = times(series) else {
        return Ok(none());
    };
    let mut below: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
    let mut cells = Vec::new();
    for (row, (_, one)) in series.iter().enumerate() {
        for (t, value) in &one.points {
            let under = below.insert(*t as i64, *value).unwrap_or(0.0);
            if value - under > 0.5 {
                cells.push((t - first, row as f64, value - under));
            }
        }
    }
    let most = cells.iter().map(|(_, _, count)| *count).fold(1.0, f64::max);
    let names: Vec<String> = series.iter().map(|(name, _)| told(edge(name), "s")).collect();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(20)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..(last - first).max(1.0), 0.0..series.len() as f64)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .y_labels(8)
            .x_label_formatter(&|t| format!("{t:.0} s"))
            .y_label_formatter(&|row| names.get(*row as usize).cloned().unwrap_or_default())
            .draw()?;
        chart.draw_series(cells.iter().map(|(t, row, count)| {
            // A storm's million must not hide a single exit.
            let share = (count.ln_1p() / most.ln_1p() * 190.0) as u8;
            let colour = RGBColor(255, 215 - share, 180 - share.min(180));
            Rectangle::new([(*t - 0.5, *row), (*t + 0.5, *row + 1.0)], colour.filled())
        }))?;
        area.present()?;
    }
    Ok(svg)
}

fn told(value: f64, unit: &str) -> String {
    let short = |value: f64| {
        let digits = format!("{value:.2}");
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match unit {
        "s" if value == 0.0 => "0".to_owned(),
        "s" if value.is_infinite() => "+Inf".to_owned(),
        "s" if value < 1e-6 => format!("{} ns", short(value * 1e9)),
        "s" if value < 1e-3 => format!("{} µs", short(value * 1e6)),
        "s" if value < 1.0 => format!("{} ms", short(value * 1e3)),
        "s" => format!("{} s", short(value)),
        "percentunit" => format!("{} %", short(value * 100.0)),
        "bytes" if value >= 1048576.0 => format!("{} MiB", short(value / 1048576.0)),
        _ if value >= 1e6 => format!("{} M", short(value / 1e6)),
        _ if value >= 1e4 => format!("{} k", short(value / 1e3)),
        _ => short(value),
    }
}
