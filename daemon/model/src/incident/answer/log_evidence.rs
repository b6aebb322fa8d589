//! What logs add to the answer, where nothing better is known.

use alloc::{borrow::ToOwned as _, string::String, string::ToString as _, vec::Vec};

use crate::{
    event::log_statement::JoinKey,
    hex::Hex,
    incident::{
        evidence::Evidence,
        mca,
        missing::MissingEvidence,
        model::{self, Confidence, Outcome},
    },
};

/// Puts the statements of logs into the answer, where nothing better is known.
pub fn apply(incident: &mut model::Incident, e: &Evidence) {
    use MissingEvidence as M;
    let l = &e.logged;
    if e.pid == 0 {
        incident.vm.pid = None;
    }
    if !l.any() {
        return;
    }
    if let Some(label) = &l.dimm {
        let label = label.clone();
        incident.origin.dimm = Some(model::Dimm { label });
    }
    if l.alone && !l.trace && !e.touched() && e.machine_checks.is_empty() && e.delivered == 0 {
        // The trace beside it is silent about this one: that is not known to be nothing.
        incident.signals = model::Signals::default();
        incident.exits = model::Exits::default();
        incident.injections.delivered = None;
        incident.injections.vcpus = None;
    }
    let n = &mut incident.injections;
    if e.machine_checks.is_empty() && !(l.machine_checks.is_empty() && l.mces.is_empty()) {
        // No log shows that nothing more was injected.
        n.action_optional = (l.ao_injections > 0).then_some(l.ao_injections);
        n.action_required = (l.ar_injections > 0).then_some(l.ar_injections);
        n.events = injections(e);
    }
    if l.flusher().is_some() && incident.flush.basis != model::FlushBasis::InstructionBytes {
        incident.flush = model::Flush {
            verdict: model::FlushVerdict::FlushOnly,
            basis: model::FlushBasis::GuestConsole,
            instruction: None,
            confidence: Some(Confidence::Likely),
        };
    }
    let spoken = l.panic.is_some();
    incident.missing.retain(|what| match what {
        M::GuestConsole => !spoken && l.bug_check.is_none(),
        // The VMM's own word.
        M::Memslots => !(l.own_fatal || l.own_ignored || l.own_access),
        M::PanicDevice => !spoken && !l.qmp_panicked && l.bug_check.is_none(),
        M::VmmProcess | M::VmName => false,
        _ => true,
    });
    let mut note = |absent: bool, what: M| {
        if absent {
            incident.missing.push(what);
        }
    };
    if l.alone && !l.trace && !e.touched() {
        incident
            .missing
            .retain(|what| !matches!(what, M::Probe(_) | M::MemoryFailure | M::Gpa));
        incident.missing.push(M::Probes);
        return of_logs_alone(incident, e);
    }
    note(e.vmm.name.is_none(), M::VmNameInFiles);
    if let Some(process) = &l.process {
        let process = process.clone();
        note(
            e.vmm.is_vmm != Some(true) && l.machine_checks.is_empty(),
            M::IsVmm { process },
        );
    }
    note(
        !l.machine_checks.is_empty() && e.machine_checks.is_empty() && l.mces.is_empty(),
        M::InjectedBank,
    );
    note(incident.outcome == Outcome::Unknown, M::Ending);
}

/// What a reader of logs alone can still get.
fn of_logs_alone(incident: &mut model::Incident, e: &Evidence) {
    let l = &e.logged;
    if !l.machine_checks.is_empty() && e.machine_checks.is_empty() && l.mces.is_empty() {
        incident.missing.push(MissingEvidence::InjectedBank);
    }
    if incident.outcome == Outcome::Unknown {
        incident.missing.push(MissingEvidence::Ending);
    }
}

/// The injections of the log; the machine check on the console is what became of the last one with its address.
fn injections(e: &Evidence) -> Vec<model::InjectionEvent> {
    let l = &e.logged;
    let offset = |t: u64| i64::try_from(i128::from(t) - i128::from(e.t0)).unwrap_or(0);
    let mut all: Vec<model::InjectionEvent> = l
        .machine_checks
        .iter()
        .map(|injection| model::InjectionEvent {
            t_ns: Some(offset(injection.t)),
            vcpu: None,
            via: model::Via::Log,
            bank: None,
            status: None,
            addr: injection.gpa.map(Hex),
            misc: None,
            mcg_status: None,
            severity: injection.severity,
            overflow: None,
        })
        .collect();
    // What software of the guest's kernel injects is no VMM's.
    for (t, mce) in l.mces.iter().filter(|(_, mce)| !mce.by_software) {
        let Some(status) = mce.status else { continue };
        let severity = mca::severity(status.0);
        let known = all
            .iter_mut()
            .rev()
            .find(|injection| injection.severity == severity && injection.status.is_none());
        let entry = match known {
            Some(injection) => injection,
            None => {
                all.push(model::InjectionEvent {
                    t_ns: Some(offset(*t)),
                    vcpu: None,
                    via: model::Via::Log,
                    bank: None,
                    status: None,
                    addr: None,
                    misc: None,
                    mcg_status: None,
                    severity,
                    overflow: None,
                });
                let last = all.len() - 1;
                &mut all[last]
            }
        };
        entry.vcpu = mce.cpu;
        entry.bank = mce.bank;
        entry.status = Some(status);
        entry.addr = mce.addr.or(entry.addr);
        entry.misc = mce.misc;
        entry.mcg_status = mce.mcg_status;
        entry.overflow = Some(status.0 & mca::OVER != 0);
    }
    all
}

/// By what its sources were joined: once each.
pub fn joins(e: &Evidence) -> Vec<model::Join> {
    let mut joins: Vec<model::Join> = Vec::new();
    for record in &e.logged.records {
        let Some(key) = &record.joined else { continue };
        let (key, value) = named(key);
        let known =
            |join: &model::Join| join.key == key && join.value == value && join.source == record.source;
        if !joins.iter().any(known) {
            joins.push(model::Join {
                key: key.to_owned(),
                value,
                source: record.source.clone(),
                line: (record.line > 0).then_some(record.line),
            });
        }
    }
    joins
}

/// A key's name and its value.
pub fn named(key: &JoinKey) -> (&'static str, Option<String>) {
    match key {
        JoinKey::Pid(pid) => ("pid", Some(pid.to_string())),
        JoinKey::BarePid(pid) => ("bare_pid", Some(pid.to_string())),
        JoinKey::Unit(unit) => ("unit", Some(unit.clone())),
        JoinKey::Tag(tag) => ("tag", Some(tag.clone())),
        JoinKey::Domain(name) => ("domain", Some(name.clone())),
        JoinKey::Uuid(uuid) => ("uuid", Some(uuid.clone())),
        JoinKey::Hva(at) => ("hva", Some(at.to_string())),
        JoinKey::Pfn(pfn) => ("pfn", Some(pfn.to_string())),
        JoinKey::Gpa(at) => ("gpa", Some(at.to_string())),
        JoinKey::Clock => ("clock", None),
    }
}
