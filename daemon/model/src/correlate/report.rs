//! Evidence to the contract's incident.

use crate::{
    event::{probe::ProbeId, session::Session, totals::PageTotals},
    hex::Hex,
    incident::{
        answer::{findings::findings, log_evidence, missing::missing, next_steps::next_steps},
        evidence::Evidence,
        exits::Total,
        flush, latency,
        limits::PAGE_SIZE,
        missing::MissingEvidence,
        model,
        next_steps::Related,
        storm,
        timeline::TimelineEvent,
        verdict::{ProbeCoverage, decide},
    },
};
use alloc::{
    borrow::ToOwned as _, collections::BTreeSet, format, string::String, string::ToString as _, vec::Vec,
};

/// An incident as it stands, with what its sinks need and its report does not hold.
#[derive(Clone, Debug)]
pub struct Update {
    /// The answer.
    pub incident: model::Incident,
    /// All its exits, with their durations' histograms.
    pub exits: PageTotals,
    /// Whether the guest, or its VMM, has touched the page.
    pub touched: bool,
    /// Nothing more can come: the VMM is gone.
    pub closed: bool,
}

/// The incident as it stands, and nothing of others.
pub fn incident(e: &Evidence, session: &Session) -> model::Incident {
    update(e, session, Related::default()).incident
}

/// The incident as it stands.
pub fn update(e: &Evidence, session: &Session, related: Related) -> Update {
    let total = e.exits.total();
    let flush = flush::flush(&e.exits, &total);
    let coverage = ProbeCoverage {
        handler_end: session.has(&ProbeId::KvmMsr),
        delivery: session.has(&ProbeId::KvmInjException),
        injection: session.has(&ProbeId::VcpuIoctlMce),
        exits: session.has(&ProbeId::KvmExit) || session.has(&ProbeId::KvmPageFault),
    };
    let v = decide(e, &total, &flush, coverage);
    let wall = session.clock.wall_at(e.t0);
    let origin = origin(e);
    let mut incident = model::Incident {
        id: id(e, session),
        started_at: match &e.known_as {
            Some((_, started_at)) => started_at.clone(),
            None => wall.and_then(rfc3339),
        },
        vm: model::Vm {
            name: e.vmm.name.clone(),
            name_guess: e.vmm.name_guess,
            uuid: e.vmm.uuid.clone(),
            vmm: e.vmm.vmm.clone(),
            pid: Some(e.pid),
            container: e.vmm.container.as_deref().cloned(),
        },
        page: page(e),
        outcome: v.outcome,
        cause: v.cause,
        confidence: v.confidence,
        findings: findings(e, &total, v, coverage),
        next_steps: next_steps(e, v, origin.how, &related),
        origin,
        related_total: related.total_beyond_named(),
        related_incidents: related.named,
        signals: signals(e, &total, session),
        exits: exits(e, &total, session),
        exit_samples: e.exits.exit_samples.report(e.t0, &total.misread),
        storm: storm::storm(&total, e.size()),
        missing: missing(e, &total, &flush, v, session),
        flush,
        latency_ns: latency::report(&total.page, &e.exits.samples, e.exits.baseline_exit.as_ref()),
        injections: injections(e, session),
        joins: log_evidence::joins(e),
        records: e.logged.records.clone(),
        timeline: timeline(e, &total.misread),
    };
    let kernel = session.host.kernel.as_deref();
    if latency::exit_is_late(e.exits.svm, kernel) {
        incident.missing.push(MissingEvidence::LateSvmExit);
    }
    log_evidence::apply(&mut incident, e);
    Update {
        incident,
        exits: total.page,
        touched: e.touched(),
        closed: e.vmm_gone(),
    }
}

/// Stable over a replay: the clock part, then who and what.
pub fn id(e: &Evidence, session: &Session) -> String {
    if let Some((id, _)) = &e.known_as {
        return id.clone();
    }
    let clock = session
        .clock
        .wall_at(e.t0)
        .and_then(|ns| jiff::Timestamp::from_nanosecond(i128::from(ns)).ok())
        .map_or_else(
            || format!("mono{}", e.t0),
            |at| at.strftime("%Y%m%dT%H%M%SZ").to_string(),
        );
    // Only what is known when the incident opens: the id must not change when more is learnt.
    let page = match (e.named_hva.or(e.hva), e.gpa) {
        (Some(hva), _) => format!("{hva:x}"),
        (None, Some(gpa)) => format!("gpa{gpa:x}"),
        (None, None) => "page".to_owned(),
    };
    format!("{clock}-{}-{page}", e.pid)
}

fn rfc3339(ns: i64) -> Option<String> {
    let at = jiff::Timestamp::from_nanosecond(i128::from(ns)).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn page(e: &Evidence) -> model::Page {
    let huge = e.size().is_some_and(|size| size > PAGE_SIZE);
    model::Page {
        pfn: e.pfn.map(Hex),
        hva: e.hva.map(Hex),
        gpa: e.gpa.map(Hex),
        gpas: if huge {
            e.gpas.iter().copied().map(Hex).collect()
        } else {
            Vec::new()
        },
        size_bytes: e.size(),
        kind: e.page_type.clone(),
        action_result: e.recovery.clone(),
    }
}

fn signals(e: &Evidence, total: &Total, session: &Session) -> model::Signals {
    let seen = session.has(&ProbeId::SendSigMceerr) || session.has(&ProbeId::ForceSigMceerr);
    let required = e.action_required(total);
    let optional = !predates(e, session) && seen;
    model::Signals {
        action_optional: (optional || e.ao_signals > 0).then_some(e.ao_signals),
        action_required: (seen || required > 0).then_some(required),
    }
}

/// Whether the page was poisoned before the probes were there: what came of it until then is not known.
fn predates(e: &Evidence, session: &Session) -> bool {
    e.predates || e.pfn.is_none() && session.hardware_corrupted_kb.is_some_and(|kb| kb > 0)
}

fn exits(e: &Evidence, total: &Total, session: &Session) -> model::Exits {
    let x = &total.page;
    let seen = x.exits > 0 || session.has(&ProbeId::KvmExit) || session.has(&ProbeId::KvmPageFault);
    // Of a huge page the lines of one 4 KiB page cannot be distinguished from those of another without a GPA.
    let mixed = e.size().is_some_and(|size| size > PAGE_SIZE) && total.lines_by_page.contains_key(&None);
    let located = (total.located > 0 && !mixed) || (seen && x.exits == 0);
    model::Exits {
        count: seen.then_some(x.exits),
        distinct_lines: located.then_some(total.distinct_lines()),
        line_bitmap: located.then_some(x.lines),
        // Beyond those that are distinguished there is no number, only "more".
        distinct_rips: (seen && x.other_rips == 0).then_some(x.rips.len() as u64),
        by_access: model::ByAccess {
            read: located.then_some(x.reads),
            // Each of the others may be either.
            write: (located && x.writes_or_walks == 0).then_some(x.writes),
            fetch: located.then_some(x.fetches),
            page_walk: (located && x.writes_or_walks == 0).then_some(x.page_walks),
        },
    }
}

fn injections(e: &Evidence, session: &Session) -> model::Injections {
    let injection = session.has(&ProbeId::VcpuIoctlMce) || !e.machine_checks.is_empty();
    let delivered = session.has(&ProbeId::KvmInjException) || e.delivered > 0;
    model::Injections {
        action_optional: (injection && (!predates(e, session) || e.ao_injections > 0))
            .then_some(e.ao_injections),
        action_required: injection.then_some(e.ar_injections),
        delivered: delivered.then_some(e.delivered),
        vcpus: delivered.then_some(e.delivered_to.len() as u64),
        events: e
            .machine_checks
            .iter()
            .map(|injection| model::InjectionEvent {
                t_ns: Some(offset(injection.t, e.t0)),
                vcpu: injection.vcpu,
                via: injection.via,
                bank: Some(injection.bank.bank),
                status: Some(injection.bank.status),
                addr: Some(injection.bank.addr),
                misc: Some(injection.bank.misc),
                mcg_status: injection.mcg_status.map(Hex),
                severity: injection.severity,
                overflow: Some(injection.overflow()),
            })
            .collect(),
    }
}

/// A store of an earlier version has the flags of `memory_failure()` in the timeline alone.
fn origin(e: &Evidence) -> model::Origin {
    if e.logged.software {
        return model::Origin {
            how: model::OriginKind::SoftwareInjection,
            basis: model::OriginBasis::Log,
            ..model::Origin::default()
        };
    }
    if e.hardware.flags.is_some() {
        return e.hardware.origin();
    }
    let mut hardware = e.hardware.clone();
    hardware.flags = e.timeline.events().find_map(|event| match event {
        TimelineEvent::FailureBegin { flags, .. } => *flags,
        _ => None,
    });
    if e.claimed() {
        return model::Origin {
            how: model::OriginKind::Claimed,
            basis: model::OriginBasis::NoMemoryFailure,
            ..model::Origin::default()
        };
    }
    hardware.origin()
}

/// `misread`: pages whose addresses are none.
fn timeline(e: &Evidence, misread: &BTreeSet<u64>) -> Vec<model::TimelineEntry> {
    let known = |gpa: &Hex| !misread.contains(&(gpa.0 & !(PAGE_SIZE - 1)));
    let entries = e.timeline.entries().into_iter().map(|(t, mut event)| {
        if let TimelineEvent::Exit(exit) = &mut event {
            exit.gpa = exit.gpa.filter(known);
        }
        // A line whose clock is not aligned stands in its order alone.
        let placed = !matches!(&event, TimelineEvent::Statement(line) if line.own_clock.is_some());
        model::TimelineEntry {
            t_ns: placed.then(|| offset(t, e.t0)),
            event,
        }
    });
    entries.collect()
}

/// Nanoseconds from the poisoning.
fn offset(t: u64, t0: u64) -> i64 {
    i64::try_from(i128::from(t) - i128::from(t0)).unwrap_or(i64::MAX)
}
