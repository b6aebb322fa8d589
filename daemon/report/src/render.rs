//! From the model's incident to its document: the one place where its text is made.

use poisontrace_model::incident::{missing::MissingEvidence, model, story};

use crate::{
    document::{Incident, Missing, TimelineEntry},
    missing, next_steps, summary, timeline,
};

/// The incident with its text.
pub fn document(i: model::Incident) -> Incident {
    let summary = summary::summary(&i);
    let end = story::end(&i.timeline, i.outcome);
    let timeline = i.timeline.iter().enumerate();
    let timeline = timeline.map(|(n, of)| entry(of, end == Some(n))).collect();
    Incident {
        id: i.id,
        started_at: i.started_at,
        vm: i.vm,
        page: i.page,
        outcome: i.outcome,
        cause: i.cause,
        confidence: i.confidence,
        summary,
        origin: i.origin,
        related_incidents: i.related_incidents,
        related_total: i.related_total,
        next_steps: i
            .next_steps
            .iter()
            .map(|step| next_steps::message(step).into_owned())
            .collect(),
        signals: i.signals,
        exits: i.exits,
        exit_samples: i.exit_samples,
        storm: i.storm,
        flush: i.flush,
        latency_ns: i.latency_ns,
        injections: i.injections,
        joins: i.joins,
        timeline,
        missing: i.missing.iter().map(absent).collect(),
        why: Vec::new(),
    }
}

/// Absent evidence with its text.
pub fn absent(what: &MissingEvidence) -> Missing {
    Missing {
        kind: what.kind().to_owned(),
        message: missing::message(what).into_owned(),
    }
}

fn entry(entry: &model::TimelineEntry, end: bool) -> TimelineEntry {
    TimelineEntry {
        t_ns: entry.t_ns,
        kind: entry.event.kind().to_owned(),
        message: timeline::message(&entry.event),
        source: timeline::source(&entry.event),
        lane: story::lane(&entry.event),
        end,
    }
}
