//! The story of an incident as a picture: a lane for each side, one axis of time, a mark for each event with its words on hover and
//! in a list, which paper shows too. The distance of two events is their distance in time by its logarithm: the microseconds of an
//! exit and the minutes before it stand beside each other.

use maud::{Markup, html};

use crate::{
    at,
    document::{Incident, TimelineEntry},
    plots::instant,
};
use poisontrace_model::incident::{model::Lane, story::lane_of_kind};

/// Narrow enough for a phone without scrolling.
const WIDTH: f64 = 420.0;
const LEFT: f64 = 18.0;
const RIGHT: f64 = 18.0;
/// Height of a lane, and where its line is.
const LANE: f64 = 40.0;
const LINE: f64 = 26.0;
const TOP: f64 = 6.0;
/// Of the axis, with its labels.
const AXIS: f64 = 30.0;
/// Half a mark, and the least distance of two of one lane.
const RADIUS: f64 = 9.0;
const APART: f64 = 21.0;
/// Marks of a picture; events that are closer are one mark.
const MAX_MARKS: usize = 24;
/// Width of a letter of the axis's labels, and what is left free between two.
const LETTER: f64 = 6.0;
const BETWEEN: f64 = 8.0;
/// Events of one mark that are named on hover.
const NAMED: usize = 6;

/// Events of one lane that are shown as one.
struct Mark<'a> {
    lane: Lane,
    x: f64,
    entries: Vec<&'a TimelineEntry>,
}

impl Mark<'_> {
    fn y(&self) -> f64 {
        line(self.lane)
    }

    fn is_end(&self) -> bool {
        self.entries.iter().any(|entry| entry.end)
    }

    /// Its words, for the list and for hovering.
    fn words(&self) -> String {
        match self.entries.as_slice() {
            [] => String::new(),
            [one] => format!("{} {}", at(one.t_ns), one.message),
            [first, .., last] => {
                let mut named: Vec<&str> = Vec::new();
                for entry in &self.entries {
                    if !named.contains(&entry.message.as_str()) {
                        named.push(&entry.message);
                    }
                }
                let more = match named.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                named.truncate(NAMED);
                format!(
                    "{} to {} {} events: {}{more}",
                    at(first.t_ns),
                    at(last.t_ns),
                    self.entries.len(),
                    named.join("; ")
                )
            }
        }
    }
}

const fn name(lane: Lane) -> &'static str {
    match lane {
        Lane::Hardware => "hardware",
        Lane::HostKernel => "host kernel",
        Lane::Vmm => "VMM",
        Lane::Vcpu => "vCPUs",
        Lane::Guest => "guest",
    }
}

fn line(lane: Lane) -> f64 {
    let place = Lane::ALL.iter().position(|one| *one == lane).unwrap_or(0);
    TOP + place as f64 * LANE + LINE
}

/// The picture, and its marks in words; nothing where no event has a lane.
pub fn figure(incident: &Incident) -> Markup {
    let placed: Vec<(&TimelineEntry, Lane)> = incident
        .timeline
        .iter()
        .filter_map(|entry| Some((entry, entry.lane.or_else(|| lane_of_kind(&entry.kind))?)))
        .collect();
    if placed.is_empty() {
        return html! {};
    }
    let marks = marks(&placed);
    let end = marks.iter().find(|mark| mark.is_end());
    let bottom = TOP + Lane::ALL.len() as f64 * LANE;
    let timed = placed.iter().all(|(entry, _)| entry.t_ns.is_some());
    let label = format!("What happened, in {} marks on five lanes", marks.len());
    html! {
        figure {
            svg.story viewBox={ "0 0 " (WIDTH) " " (bottom + AXIS) } role="img" aria-label=(label) {
                @for lane in Lane::ALL {
                    line x1="2" x2=(WIDTH - 2.0) y1=(px(line(*lane))) y2=(px(line(*lane))) {}
                }
                path.way d=(way(&marks)) {}
                @for lane in Lane::ALL { text.name x="2" y=(px(line(*lane) - 14.0)) { (name(*lane)) } }
                @if let Some(end) = end {
                    line.end x1=(px(end.x)) x2=(px(end.x)) y1=(px(TOP)) y2=(px(bottom)) {}
                    (ending(end, incident))
                }
                @for (n, mark) in marks.iter().enumerate() { (drawn(n + 1, mark)) }
                line x1="2" x2=(WIDTH - 2.0) y1=(px(bottom)) y2=(px(bottom)) {}
                @if timed { (ticks(&marks, bottom)) }
            }
            figcaption {
                @if timed { "Time runs to the right, from the poisoning; a gap is as wide as the logarithm of its length." }
                @else { "In order: the clock of a source has no unit." }
            }
            details.words {
                summary { "The marks in words" }
                ol {
                    @for mark in &marks {
                        li.end[mark.is_end()] { strong { (name(mark.lane)) } " " (mark.words()) }
                    }
                }
            }
        }
    }
}

/// As few digits as a screen shows.
fn px(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Events of a lane that are too close become one mark, and so do more where all of them would be too many.
fn marks<'a>(placed: &[(&'a TimelineEntry, Lane)]) -> Vec<Mark<'a>> {
    let all = xs(placed);
    let mut apart = APART;
    loop {
        let marks = merged(placed, &all, apart);
        if marks.len() <= MAX_MARKS || apart > WIDTH {
            return marks;
        }
        apart *= 1.3;
    }
}

fn merged<'a>(placed: &[(&'a TimelineEntry, Lane)], xs: &[f64], apart: f64) -> Vec<Mark<'a>> {
    let mut marks: Vec<Mark<'a>> = Vec::new();
    for ((entry, lane), x) in placed.iter().zip(xs) {
        let before = marks.iter_mut().rev().find(|mark| mark.lane == *lane);
        match before.filter(|mark| x - mark.x < apart) {
            Some(mark) => mark.entries.push(entry),
            None => marks.push(Mark {
                lane: *lane,
                x: *x,
                entries: vec![entry],
            }),
        }
    }
    marks
}

/// Where each event is on the axis. The timeline is in order of time.
fn xs(placed: &[(&TimelineEntry, Lane)]) -> Vec<f64> {
    /// Of two events at the same time.
    const LEAST: f64 = 0.5;
    let mut sums = Vec::with_capacity(placed.len());
    let (mut sum, mut before) = (0.0, None);
    for (entry, _) in placed {
        if let Some(before) = before.replace(entry.t_ns) {
            let gap = match (before, entry.t_ns) {
                (Some(before), Some(now)) => now.saturating_sub(before).max(0) as f64,
                _ => 0.0,
            };
            sum += LEAST + (1.0 + gap / 1e3).log10();
        }
        sums.push(sum);
    }
    let scale = match sum > 0.0 {
        true => (WIDTH - LEFT - RIGHT) / sum,
        false => 0.0,
    };
    sums.into_iter().map(|sum| LEFT + sum * scale).collect()
}

/// From mark to mark.
fn way(marks: &[Mark<'_>]) -> String {
    let steps = marks.iter().enumerate().map(|(n, mark)| {
        let step = if n == 0 { 'M' } else { 'L' };
        format!("{step}{} {}", px(mark.x), px(mark.y()))
    });
    steps.collect::<Vec<_>>().join("")
}

fn drawn(number: usize, mark: &Mark<'_>) -> Markup {
    let square = |class: &'static str, half: f64| {
        html! {
            rect class=(class) x=(px(mark.x - half)) y=(px(mark.y() - half)) width=(2.0 * half) height=(2.0 * half) rx=(half) {}
        }
    };
    html! {
        g.end[mark.is_end()] {
            title { (number) ": " (mark.words()) }
            (square("mark", RADIUS))
            @if mark.is_end() { (square("ring", RADIUS + 3.0)) }
            text.number x=(px(mark.x)) y=(px(mark.y() + 3.5)) { (number) }
        }
    }
}

/// The outcome beside the mark of the end, on the side where there is room.
fn ending(end: &Mark<'_>, incident: &Incident) -> Markup {
    let (x, anchor) = match end.x > WIDTH / 2.0 {
        true => (end.x - RADIUS - 6.0, "end"),
        false => (end.x + RADIUS + 6.0, "start"),
    };
    html! { text.end x=(px(x)) y=(px(end.y() - 12.0)) text-anchor=(anchor) { (incident.outcome) } }
}

fn ticks(marks: &[Mark<'_>], bottom: f64) -> Markup {
    let times: Vec<(f64, i64)> = {
        let mut times: Vec<(f64, i64)> = marks
            .iter()
            .filter_map(|mark| Some((mark.x, mark.entries.first()?.t_ns?)))
            .collect();
        times.sort_by_key(|(_, t)| *t);
        times
    };
    // The last has its label in any case, and the others where there is room before it.
    let spans: Vec<(f64, f64)> = times.iter().map(|(x, t)| span(*x, &label(*t))).collect();
    let last = spans.last().map_or(WIDTH, |(left, _)| *left);
    let mut free = f64::MIN;
    let shown = times.iter().zip(&spans).enumerate().filter(|(n, (_, span))| {
        let is_last = n + 1 == times.len();
        let room = is_last || span.0 >= free && span.1 + BETWEEN <= last;
        if room {
            free = span.1 + BETWEEN;
        }
        room
    });
    let shown: Vec<&(f64, i64)> = shown.map(|(_, (tick, _))| tick).collect();
    html! {
        @for (x, t) in shown {
            line x1=(px(*x)) x2=(px(*x)) y1=(px(bottom)) y2=(px(bottom + 5.0)) {}
            text.tick x=(px(*x)) y=(px(bottom + 18.0)) text-anchor=(anchor(*x)) { (label(*t)) }
        }
    }
}

fn label(t_ns: i64) -> String {
    match t_ns {
        0 => "0".to_owned(),
        t => instant(t as f64),
    }
}

/// From where to where a label is.
fn span(x: f64, label: &str) -> (f64, f64) {
    let width = label.chars().count() as f64 * LETTER;
    match anchor(x) {
        "start" => (x, x + width),
        "end" => (x - width, x),
        _ => (x - width / 2.0, x + width / 2.0),
    }
}

fn anchor(x: f64) -> &'static str {
    if x < 40.0 {
        "start"
    } else if x > WIDTH - 40.0 {
        "end"
    } else {
        "middle"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poisontrace_model::{
        correlate::report::incident, event::session::Session, incident::evidence::Evidence,
    };

    fn entry(t_ns: i64, lane: Lane, message: &str) -> TimelineEntry {
        TimelineEntry {
            t_ns: Some(t_ns),
            kind: "exit".to_owned(),
            message: message.to_owned(),
            source: None,
            lane: Some(lane),
            end: false,
        }
    }

    fn of(timeline: Vec<TimelineEntry>) -> String {
        let evidence = Evidence::new(1, 7, Default::default());
        let mut document = crate::document(incident(&evidence, &Session::default()));
        document.timeline = timeline;
        figure(&document).into_string()
    }

    #[test]
    fn events_stand_in_order_on_their_lanes_and_the_end_is_marked() {
        let mut timeline = vec![
            entry(0, Lane::HostKernel, "memory_failure"),
            entry(27_000_000, Lane::Vmm, "injects"),
            entry(2_000_000_000, Lane::Vcpu, "exit"),
            entry(2_200_000_000, Lane::Guest, "panic"),
        ];
        timeline[3].end = true;
        let picture = of(timeline);
        assert_eq!(picture.matches("class=\"mark\"").count(), 4);
        assert_eq!(picture.matches("class=\"ring\"").count(), 1);
        for words in [
            "1: +0.000000 s memory_failure",
            "4: +2.200000 s panic",
            "host kernel",
        ] {
            assert!(picture.contains(words), "{words}: {picture}");
        }
        let xs: Vec<f64> = picture
            .split("class=\"mark\" x=\"")
            .skip(1)
            .map(|rest| rest.split_once('"').unwrap().0.parse().unwrap())
            .collect();
        assert!(xs.windows(2).all(|pair| pair[0] < pair[1]), "{xs:?}");
        assert!(xs[0] >= 0.0 && xs[3] + 2.0 * RADIUS <= WIDTH, "{xs:?}");
    }

    #[test]
    fn a_storm_is_few_marks_that_name_how_many_events_they_are() {
        let storm = (0..190).map(|n| entry(n * 5_000, Lane::Vcpu, &format!("exit {n}")));
        let picture = of(storm.collect());
        let marks = picture.matches("class=\"mark\"").count();
        assert!((2..=MAX_MARKS).contains(&marks), "{marks}");
        assert!(picture.contains("events: exit 0; exit 1"), "{picture}");
    }

    #[test]
    fn words_of_others_are_shown_and_not_obeyed() {
        let evil = "</title></svg><script>alert(1)</script>";
        let picture = of(vec![entry(0, Lane::Guest, evil)]);
        assert!(!picture.contains("<script"), "{picture}");
        assert!(picture.contains("&lt;script&gt;"), "{picture}");
    }

    #[test]
    fn an_answer_of_before_lanes_has_those_of_its_kinds_and_one_without_any_no_picture() {
        let old = |kind: &str| TimelineEntry {
            kind: kind.to_owned(),
            lane: None,
            ..entry(0, Lane::Guest, "words")
        };
        assert_eq!(of(vec![old("signal"), old("text")]).matches("<title>").count(), 1);
        assert_eq!(of(vec![old("text")]), "");
        assert_eq!(of(Vec::new()), "");
        let mut unordered = old("exit");
        unordered.t_ns = None;
        assert!(of(vec![unordered]).contains("In order"));
    }
}
