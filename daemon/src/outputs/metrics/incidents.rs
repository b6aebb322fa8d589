//! What an incident's change adds to the metrics: pure, from one update to the next.

use std::collections::{BTreeMap, HashSet};

use super::{
    families::{Families, VERDICTS},
    histogram::{Counts, Histogram, counts},
};
use poisontrace_model::{
    correlate::report::Update,
    event::totals::DurationTotals,
    incident::model::{Cause, Outcome, StormKind},
};

/// Incidents that are remembered; the oldest id goes. The correlator's own limit.
const MAX_INCIDENTS: usize = 16_384;
/// A storm without an exit for so long is over, nanoseconds.
const STORM_OVER_NS: u64 = 10_000_000_000;
const PAGE_SIZE: u64 = 4096;

/// The incidents as the metrics last saw them.
#[derive(Default)]
pub struct Incidents {
    /// Boxed: a node of the map has room for eleven.
    seen: BTreeMap<String, Box<Seen>>,
    verdicts: Verdicts,
}

/// Pairs of outcome and cause beside those that are there from the start: most of the possible ones never come, and
/// the series are to stay few whatever comes.
#[derive(Default)]
pub struct Verdicts(HashSet<[&'static str; 2]>);

const MAX_OTHER_VERDICTS: usize = 64;

impl Verdicts {
    pub fn label(&mut self, pair: [&'static str; 2]) -> [&'static str; 2] {
        let known = VERDICTS
            .iter()
            .any(|(outcome, cause)| [outcome.word(), cause.word()] == pair);
        if known || self.0.contains(&pair) {
            pair
        } else if self.0.len() < MAX_OTHER_VERDICTS {
            self.0.insert(pair);
            pair
        } else {
            [pair[0], "other"]
        }
    }
}

/// What of one incident has been counted.
#[derive(Default)]
struct Seen {
    pid: u32,
    verdict: Option<(Outcome, Cause)>,
    /// Exits by access: read, write, fetch, unknown.
    exits: [u64; 5],
    /// SIGBUS, and machine checks injected: optional, required.
    signals: [u64; 2],
    injected: [u64; 2],
    delivered: u64,
    durations: [(Counts, u64); 4],
    storm: Option<StormKind>,
    /// Duration and last exit of a storm that is not over yet.
    storming: Option<(u64, u64)>,
    storm_observed: bool,
    open: bool,
    at_risk: bool,
    pages: u64,
}

/// The part of a change that is counted by VM too.
pub struct Change {
    /// The verdict is another than before.
    pub verdict: bool,
    /// Exits that are new.
    pub exits: u64,
}

impl Incidents {
    /// Nothing more comes of this incident.
    pub fn forget(&mut self, id: &str) {
        self.seen.remove(id);
    }

    /// Counts what is new.
    pub fn update(&mut self, update: &Update, to: &Families) -> Change {
        let incident = &update.incident;
        if !self.seen.contains_key(&incident.id) {
            while self.seen.len() >= MAX_INCIDENTS {
                self.seen.pop_first();
            }
            to.incidents_opened.inc();
        }
        let seen = self.seen.entry(incident.id.clone()).or_default();
        seen.pid = incident.vm.pid.unwrap_or(0);
        let verdict = (incident.outcome, incident.cause);
        let new_verdict = seen.verdict.replace(verdict) != Some(verdict);
        if new_verdict {
            let pair = [verdict.0.word(), verdict.1.word()];
            to.incidents.with_label_values(&self.verdicts.label(pair)).inc();
        }
        let exits = seen.exits(update, to);
        seen.injections(update, to);
        seen.durations(update, to);
        seen.storm(update, to);
        seen.open = !update.closed;
        seen.at_risk = seen.open && !update.touched && incident.outcome == Outcome::Running;
        seen.pages = incident.page.size_bytes.unwrap_or(PAGE_SIZE).div_ceil(PAGE_SIZE);
        if update.closed {
            seen.storm_over(to);
        }
        Change {
            verdict: new_verdict,
            exits,
        }
    }

    /// Sets what is a state and not a count. `now_ns`: CLOCK_MONOTONIC, as the events have it.
    pub fn tick(&mut self, now_ns: u64, to: &Families) {
        let mut at_risk = HashSet::new();
        let (mut open, mut pages) = (0, 0);
        for seen in self.seen.values_mut() {
            if seen
                .storming
                .is_some_and(|(_, last)| now_ns.saturating_sub(last) > STORM_OVER_NS)
            {
                seen.storm_over(to);
            }
            if seen.open {
                open += 1;
                pages += seen.pages;
            }
            if seen.at_risk {
                at_risk.insert(seen.pid);
            }
        }
        to.incidents_open.set(open);
        to.poisoned_pages.set(gauge(pages));
        to.guests_at_risk.set(gauge(at_risk.len() as u64));
    }
}

impl Seen {
    fn exits(&mut self, update: &Update, to: &Families) -> u64 {
        let page = &update.exits;
        let known = page.reads + page.writes + page.fetches + page.page_walks;
        let now = [
            page.reads,
            page.writes,
            page.fetches,
            page.page_walks,
            page.exits.saturating_sub(known),
        ];
        let mut all = 0;
        for ((access, now), before) in super::families::ACCESSES.iter().zip(now).zip(&mut self.exits) {
            let new = grown(before, now);
            all += new;
            to.poison_exits.with_label_values(&[access]).inc_by(new);
        }
        all
    }

    fn injections(&mut self, update: &Update, to: &Families) {
        let signals = &update.incident.signals;
        let injections = &update.incident.injections;
        let counted = [
            (
                [signals.action_optional, signals.action_required],
                &mut self.signals,
                &to.sigbus,
            ),
            (
                [injections.action_optional, injections.action_required],
                &mut self.injected,
                &to.machine_checks_queued,
            ),
        ];
        for (now, before, counters) in counted {
            for ((severity, now), before) in super::families::SEVERITIES.iter().zip(now).zip(before) {
                counters
                    .with_label_values(&[severity])
                    .inc_by(grown(before, now.unwrap_or(0)));
            }
        }
        let delivered = grown(&mut self.delivered, injections.delivered.unwrap_or(0));
        to.machine_checks_delivered.inc_by(delivered);
    }

    fn durations(&mut self, update: &Update, to: &Families) {
        let page = &update.exits;
        let all: [(&DurationTotals, &Histogram); 4] = [
            (&page.exit_to_entry, &to.exit_to_entry),
            (&page.in_kernel_time, &to.in_kernel),
            (&page.gup, &to.gup),
            (&page.vmm, &to.in_vmm),
        ];
        for ((duration, histogram), before) in all.into_iter().zip(&mut self.durations) {
            if duration.count > 0 {
                let now = counts(duration);
                histogram.add(&now, duration.sum, &before.0, before.1);
                *before = (now, duration.sum);
            }
        }
    }

    fn storm(&mut self, update: &Update, to: &Families) {
        let Some(storm) = &update.incident.storm else {
            return;
        };
        if self.storm.replace(storm.kind) != Some(storm.kind) {
            to.storms.with_label_values(&[storm.kind.word()]).inc();
        }
        if let (Some(duration), false) = (storm.duration_ns, self.storm_observed) {
            self.storming = Some((duration, update.exits.last_ns));
        }
    }

    /// A storm counts once, with the length that it had when it was first over.
    fn storm_over(&mut self, to: &Families) {
        if let Some((duration, _)) = self.storming.take() {
            self.storm_observed = true;
            to.storm_duration.observe(duration);
        }
    }
}

/// How much a count has grown, and remembers it.
fn grown(before: &mut u64, now: u64) -> u64 {
    let new = now.saturating_sub(*before);
    *before = now.max(*before);
    new
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
