//! The answer in English: summary, next steps, timeline, missing evidence; as text for a terminal and a ticket, as a page
//! for a browser and for paper, and as JSON. No other crate words an incident, and none reads these words back.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
pub mod cli;
mod compat;
mod container;
pub mod document;
pub mod forecast;
mod host_events;
mod html;
mod latency;
mod lines;
mod log_statements;
mod mca_fields;
mod missing;
mod next_steps;
mod origin;
mod plots;
pub mod probes;
pub mod refusals;
mod render;
pub mod screen;
mod summary;
mod text;
mod timeline;
mod why;

pub use host_events::line as host_event;
pub use html::{ListFilter, STYLE, html, list, no_page};
pub use render::{absent, document};
pub use text::{Look, brief, no_incident, text};
pub use why::{observed, why};

use poisontrace_model::hex::Hex;

fn or(text: Option<&str>) -> &str {
    text.unwrap_or("?")
}

fn hex(value: Option<Hex>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// `1 line`, `2 lines`, `2 fetches`.
fn many(value: Option<u64>, one: &str) -> String {
    let plural = match (value, one.ends_with("ch")) {
        (Some(1), _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {one}{plural}", count(value))
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
        Some(bytes) if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} KiB", bytes >> 10),
        None => "size ?".to_owned(),
    }
}

/// Nanoseconds in the unit that a person reads.
pub fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// A moment, from the poisoning.
fn offset(ns: i64) -> String {
    let sign = if ns < 0 { '-' } else { '+' };
    format!("{sign}{:.6} s", ns.unsigned_abs() as f64 / 1e9)
}

/// An entry's time; a dash where the clock of its trace has no unit.
fn at(t_ns: Option<i64>) -> String {
    t_ns.map_or_else(|| "-".to_owned(), offset)
}

#[cfg(test)]
mod tests {
    use super::{duration, offset};

    #[test]
    fn durations_are_in_the_unit_that_a_person_reads() {
        assert_eq!(duration(790), "790 ns");
        assert_eq!(duration(49_770), "49.8 µs");
        assert_eq!(duration(12_000_000), "12.0 ms");
        assert_eq!(offset(-1_500), "-0.000002 s");
    }
}
