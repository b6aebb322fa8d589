//! From the model's incident to its document: the one place where its text is made.

use poisontrace_model::incident::{missing::MissingEvidence, model};

use crate::{
    document::{Incident, Missing, TimelineEntry},
    missing, next_steps, summary, timeline,
};

/// The incident with its text.
pub fn document(incident: &model::Incident) -> Incident {
    let i = incident;
    Incident {
        id: i.id.clone(),
        started_at: i.started_at.clone(),
        vm: i.vm.clone(),
        page: i.page.clone(),
        outcome: i.outcome,
        cause: i.cause,
        confidence: i.confidence,
        summary: summary::summary(i),
        origin: i.origin.clone(),
        related_incidents: i.related_incidents.clone(),
        related_total: i.related_total,
        next_steps: i
            .next_steps
            .iter()
            .map(|step| next_steps::message(step).into_owned())
            .collect(),
        signals: i.signals.clone(),
        exits: i.exits.clone(),
        exit_samples: i.exit_samples.clone(),
        storm: i.storm.clone(),
        flush: i.flush.clone(),
        latency_ns: i.latency_ns.clone(),
        injections: i.injections.clone(),
        joins: i.joins.clone(),
        timeline: i.timeline.iter().map(entry).collect(),
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

fn entry(entry: &model::TimelineEntry) -> TimelineEntry {
    TimelineEntry {
        t_ns: entry.t_ns,
        kind: entry.event.kind().to_owned(),
        message: timeline::message(&entry.event),
        source: timeline::source(&entry.event),
    }
}
