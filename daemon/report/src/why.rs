//! `explain --why`: the statements, events and totals that an answer rests on, and the rule that each supports.

use poisontrace_model::{
    event::log_statement::{Ended, LogRecord, LogStatement, Role, Speaker},
    incident::{answer::log_evidence as joins, log_evidence, model},
};

use crate::{
    count,
    document::{Incident, Why},
    log_statements, many, offset,
};

/// What a statement is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    PagePoisoned,
    KernelAction,
    Injection,
    GuestMachineCheck,
    GuestDeath,
    OtherDeath,
    GuestHandled,
    VmmEnded,
    VmmOwnMemory,
    HostMachineCheck,
    HostDeath,
    KernelDeath,
    SoftwarePoison,
    Identity,
    AddressMap,
    Context,
}

impl Rule {
    const fn word(self) -> &'static str {
        match self {
            Self::PagePoisoned => "page_poisoned",
            Self::KernelAction => "kernel_action",
            Self::Injection => "injection",
            Self::GuestMachineCheck => "guest_machine_check",
            Self::GuestDeath => "guest_death",
            Self::OtherDeath => "death_for_another_reason",
            Self::GuestHandled => "guest_handled_the_page",
            Self::VmmEnded => "vmm_ended",
            Self::VmmOwnMemory => "vmm_own_memory",
            Self::HostMachineCheck => "host_machine_check",
            Self::HostDeath => "host_death",
            Self::KernelDeath => "death_of_host_or_guest",
            Self::SoftwarePoison => "poisoned_by_software",
            Self::Identity => "identity",
            Self::AddressMap => "address_map",
            Self::Context => "context",
        }
    }
}

const fn is_host(role: Role) -> bool {
    matches!(role, Role::HostKernel)
}

fn rule(record: &LogRecord) -> Rule {
    match &record.statement {
        LogStatement::HostSignal { .. } | LogStatement::HostKilled { .. } => Rule::PagePoisoned,
        LogStatement::HostAction { .. } => Rule::KernelAction,
        LogStatement::VmmInjected { .. } | LogStatement::QmpMemoryFailure { .. } => Rule::Injection,
        LogStatement::GuestMce(_) => Rule::GuestMachineCheck,
        LogStatement::GuestPanic { text } if log_evidence::by_machine_check(text) => Rule::GuestDeath,
        LogStatement::GuestPanic { .. } | LogStatement::BugCheck { .. } => Rule::OtherDeath,
        LogStatement::QmpPanicked { .. } | LogStatement::QmpReset { .. } | LogStatement::VmmReset { .. } => {
            Rule::GuestDeath
        }
        LogStatement::GuestSignal { .. } | LogStatement::GuestAction { .. } => Rule::GuestHandled,
        LogStatement::ProcessEnded {
            how: Ended::OutOfMemory,
            ..
        } => Rule::OtherDeath,
        LogStatement::ProcessEnded { .. }
        | LogStatement::VmmSigbus { .. }
        | LogStatement::RunFailed
        | LogStatement::VmShutdown { .. }
        | LogStatement::QmpShutdown { .. } => Rule::VmmEnded,
        LogStatement::OwnAccess { .. } | LogStatement::VmmOwnMemory { .. } => Rule::VmmOwnMemory,
        LogStatement::KernelPanic { .. } => Rule::KernelDeath,
        LogStatement::SoftwarePoison { .. } => Rule::SoftwarePoison,
        LogStatement::HostMce(_) => Rule::HostMachineCheck,
        LogStatement::HostPanic { .. } | LogStatement::OnCpu { .. } if is_host(record.speaker.role) => {
            Rule::HostDeath
        }
        LogStatement::VmName { .. } | LogStatement::VmStarted { .. } => Rule::Identity,
        LogStatement::AddressMap { .. } => Rule::AddressMap,
        _ => Rule::Context,
    }
}

fn speaker(speaker: &Speaker) -> String {
    let role = match speaker.role {
        Role::HostKernel => "host kernel",
        Role::Kernel => "kernel",
        Role::Vmm => "VMM",
        Role::Libvirt => "libvirt",
        Role::Qmp => "QMP",
        Role::GuestKernel => "guest kernel",
        Role::Tool => "tool",
        Role::Unknown => "unknown",
    };
    let names = [
        speaker.host.as_ref().map(|host| format!("host {host}")),
        speaker.tag.as_ref().map(|tag| format!("tag {tag}")),
        speaker.pid.map(|pid| format!("pid {pid}")),
        speaker.unit.as_ref().map(|unit| format!("unit {unit}")),
        speaker.domain.as_ref().map(|domain| format!("domain {domain}")),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    match names.is_empty() {
        true => role.to_owned(),
        false => format!("{role} ({})", names.join(", ")),
    }
}

/// The evidence of an incident, in the order in which it was put together.
pub fn why(incident: &model::Incident) -> Vec<Why> {
    incident
        .records
        .iter()
        .map(|record| Why {
            source: record.source.clone(),
            line: (record.line > 0).then_some(record.line),
            speaker: speaker(&record.speaker),
            joined_by: record.joined.as_ref().map(|key| {
                let (name, value) = joins::named(key);
                value.map_or_else(|| name.to_owned(), |value| format!("{name} {value}"))
            }),
            supports: rule(record).word().to_owned(),
            message: log_statements::message(&record.statement),
            text: record.text.clone(),
        })
        .collect()
}

/// Events of one kind that are shown one by one; the totals have all.
const MAX_OF_KIND: usize = 4;

/// The rule that an event of the timeline supports, by its kind.
fn rule_of_event(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "failure_begin" | "failure_again" | "preexisting" => Rule::PagePoisoned.word(),
        "failure_action" | "failure_end" => Rule::KernelAction.word(),
        "signal" => "signal",
        "exit" | "guest_code" => "access",
        "injection" | "msrs_unread" => Rule::Injection.word(),
        "mc_delivered" => Rule::GuestMachineCheck.word(),
        "handler_finished" => Rule::GuestHandled.word(),
        "termination" => "end",
        "records_missed" | "restarted" => Rule::Context.word(),
        _ => return None,
    })
}

/// The events and totals of a trace, a recording or the probes.
pub fn observed(incident: &Incident) -> Vec<Why> {
    let one = |speaker: &str, supports: &str, message: String| Why {
        source: "events".to_owned(),
        line: None,
        speaker: speaker.to_owned(),
        joined_by: None,
        supports: supports.to_owned(),
        message,
        text: String::new(),
    };
    let mut shown = std::collections::BTreeMap::<&str, usize>::new();
    let mut all = Vec::new();
    for entry in incident.timeline.iter().filter(|entry| entry.source.is_none()) {
        let Some(rule) = rule_of_event(&entry.kind) else {
            continue;
        };
        let before = shown.entry(entry.kind.as_str()).or_default();
        *before += 1;
        if *before <= MAX_OF_KIND {
            let at = entry.t_ns.map(|t| format!("{} ", offset(t))).unwrap_or_default();
            all.push(one("event", rule, format!("{at}{}", entry.message)));
        }
    }
    let (x, signals, injections) = (&incident.exits, &incident.signals, &incident.injections);
    if x.count.is_some_and(|n| n > 0) {
        let text = format!(
            "{} on this page, {} of 64",
            many(x.count, "exit"),
            many(x.distinct_lines, "line")
        );
        all.push(one("total", "access", text));
    }
    if signals.action_optional.or(signals.action_required).is_some() && !all.is_empty() {
        let (optional, required) = (count(signals.action_optional), count(signals.action_required));
        let text = format!("SIGBUS to the VMM: {optional} action optional, {required} action required");
        all.push(one("total", "signal", text));
    }
    if injections.delivered.is_some() && !all.is_empty() {
        let text = format!(
            "{} action optional, {} action required injected; #MC entered the guest {}",
            count(injections.action_optional),
            count(injections.action_required),
            many(injections.delivered, "time")
        );
        all.push(one("total", Rule::Injection.word(), text));
    }
    if let Some(storm) = &incident.storm {
        let text = format!(
            "{}: {} over {}",
            storm.kind,
            many(Some(storm.exits), "exit"),
            many(Some(storm.lines), "line")
        );
        all.push(one("total", "storm", text));
    }
    all
}
