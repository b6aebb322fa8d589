//! An incident as a story: on which side each event of its timeline happened, and which of them was the end.

use super::{
    model::TimelineEntry,
    termination::Termination,
    terms::{Lane, Outcome},
    timeline::TimelineEvent,
};
use crate::event::log_statement::LogStatement;

/// On which side it happened; `None`: of poisontrace itself, or of nothing that happened.
pub const fn lane(event: &TimelineEvent) -> Option<Lane> {
    Some(match event {
        TimelineEvent::HostMce(_) | TimelineEvent::Dimm { .. } => Lane::Hardware,
        TimelineEvent::FailureBegin { .. }
        | TimelineEvent::Preexisting { .. }
        | TimelineEvent::FailureAgain { .. }
        | TimelineEvent::FailureAction { .. }
        | TimelineEvent::FailureEnd { .. }
        | TimelineEvent::Signal(_) => Lane::HostKernel,
        TimelineEvent::Injection(_) | TimelineEvent::MsrsUnread { .. } => Lane::Vmm,
        TimelineEvent::Exit(_) | TimelineEvent::McDelivered { .. } | TimelineEvent::McExit { .. } => {
            Lane::Vcpu
        }
        TimelineEvent::HandlerFinished { .. } => Lane::Guest,
        TimelineEvent::Termination(entry) => of_sign(&entry.sign),
        TimelineEvent::Statement(statement) => return of_statement(&statement.statement),
        TimelineEvent::GuestCode { .. }
        | TimelineEvent::RecordsMissed { .. }
        | TimelineEvent::Restarted { .. }
        | TimelineEvent::Omitted { .. }
        | TimelineEvent::Text { .. } => return None,
    })
}

const fn of_sign(sign: &Termination) -> Lane {
    match sign {
        Termination::Panic | Termination::CrashLoaded | Termination::ResetPort(_) | Termination::PowerOff => {
            Lane::Guest
        }
        Termination::TripleFault
        | Termination::KvmShutdown
        | Termination::SystemEvent
        | Termination::InternalError
        | Termination::PrivateMemory
        | Termination::VcpuReset => Lane::Vcpu,
        Termination::VmmExit(_) | Termination::VmmGone | Termination::VmDestroyed => Lane::Vmm,
    }
}

const fn of_statement(statement: &LogStatement) -> Option<Lane> {
    Some(match statement {
        LogStatement::HostMce(_) | LogStatement::MemoryError { .. } => Lane::Hardware,
        LogStatement::HostSignal { .. }
        | LogStatement::HostAction { .. }
        | LogStatement::HostKilled { .. }
        | LogStatement::OwnAccess { .. }
        | LogStatement::SoftwarePoison { guest: false, .. }
        | LogStatement::HostPanic { .. } => Lane::HostKernel,
        LogStatement::ProcessEnded { .. }
        | LogStatement::VmmInjected { .. }
        | LogStatement::VmmOwnMemory { .. }
        | LogStatement::VmmReset { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmSigbus { .. }
        | LogStatement::VmStarted { .. }
        | LogStatement::VmShutdown { .. }
        | LogStatement::MigrationRefused
        | LogStatement::QmpMemoryFailure { .. }
        | LogStatement::QmpReset { guest: false, .. }
        | LogStatement::QmpShutdown { guest: false, .. } => Lane::Vmm,
        LogStatement::GuestMce(_)
        | LogStatement::GuestPanic { .. }
        | LogStatement::GuestSignal { .. }
        | LogStatement::GuestAction { .. }
        | LogStatement::SoftwarePoison { guest: true, .. }
        | LogStatement::BugCheck { .. }
        | LogStatement::QmpPanicked { .. }
        | LogStatement::QmpReset { guest: true, .. }
        | LogStatement::QmpShutdown { guest: true, .. } => Lane::Guest,
        // A kernel's panic of which nothing shows whose it is, and what is known without having happened.
        LogStatement::KernelPanic { .. }
        | LogStatement::VmName { .. }
        | LogStatement::Machine { .. }
        | LogStatement::OnCpu { .. }
        | LogStatement::AddressMap { .. }
        | LogStatement::SoftwareMachineCheck { .. }
        | LogStatement::Other => return None,
    })
}

/// The same by the kind's stable name, for an answer that was stored before lanes were.
pub fn lane_of_kind(kind: &str) -> Option<Lane> {
    Some(match kind {
        "host_mce" | "dimm" => Lane::Hardware,
        "failure_begin" | "preexisting" | "failure_again" | "failure_action" | "failure_end" | "signal" => {
            Lane::HostKernel
        }
        "injection" | "msrs_unread" => Lane::Vmm,
        "exit" | "mc_delivered" | "mc_exit" => Lane::Vcpu,
        "handler_finished" => Lane::Guest,
        _ => return None,
    })
}

/// The place in the timeline of the event that was the end, by the verdict: the first that shows that outcome; where none does, the
/// first sign of any end. `None` where nobody was lost.
pub fn end(timeline: &[TimelineEntry], outcome: Outcome) -> Option<usize> {
    let is_loss = matches!(
        outcome,
        Outcome::GuestPanicked
            | Outcome::HostPanicked
            | Outcome::GuestReset
            | Outcome::VmmKilled
            | Outcome::VmmExited
    );
    if !is_loss {
        return None;
    }
    let shows = timeline.iter().position(|entry| shows(&entry.event, outcome));
    shows.or_else(|| timeline.iter().position(|entry| sign(&entry.event).is_some()))
}

/// A sign that is attributed to this page.
fn sign(event: &TimelineEvent) -> Option<&Termination> {
    match event {
        TimelineEvent::Termination(entry) if !entry.other_page && !entry.late => Some(&entry.sign),
        _ => None,
    }
}

fn shows(event: &TimelineEvent, outcome: Outcome) -> bool {
    let statement = match event {
        TimelineEvent::Statement(statement) => Some(&statement.statement),
        _ => None,
    };
    match outcome {
        Outcome::GuestPanicked => {
            matches!(sign(event), Some(Termination::Panic | Termination::CrashLoaded))
                || matches!(
                    statement,
                    Some(
                        LogStatement::GuestPanic { .. }
                            | LogStatement::BugCheck { .. }
                            | LogStatement::QmpPanicked { .. }
                    )
                )
        }
        Outcome::HostPanicked => match statement {
            Some(LogStatement::HostPanic { .. }) => true,
            Some(LogStatement::HostMce(mce)) => mce.last_words,
            _ => false,
        },
        Outcome::GuestReset => {
            matches!(
                sign(event),
                Some(
                    Termination::ResetPort(_)
                        | Termination::TripleFault
                        | Termination::KvmShutdown
                        | Termination::SystemEvent
                        | Termination::VcpuReset
                )
            ) || matches!(
                statement,
                Some(LogStatement::VmmReset { .. } | LogStatement::QmpReset { .. })
            )
        }
        Outcome::VmmKilled | Outcome::VmmExited => {
            matches!(sign(event), Some(Termination::VmmExit(_) | Termination::VmmGone))
                || matches!(
                    statement,
                    Some(
                        LogStatement::HostKilled { .. }
                            | LogStatement::ProcessEnded { .. }
                            | LogStatement::VmmSigbus { .. }
                            | LogStatement::VmmOwnMemory { fatal: true, .. }
                            | LogStatement::VmShutdown { .. }
                    )
                )
        }
        Outcome::Running | Outcome::Unaffected | Outcome::Survived | Outcome::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::timeline::TerminationEntry;
    use alloc::boxed::Box;

    fn at(t_ns: i64, event: TimelineEvent) -> TimelineEntry {
        TimelineEntry {
            t_ns: Some(t_ns),
            event,
        }
    }

    fn ended(sign: Termination, late: bool) -> TimelineEvent {
        TimelineEvent::Termination(Box::new(TerminationEntry {
            sign,
            vcpu: None,
            other_page: false,
            late,
        }))
    }

    #[test]
    fn the_end_is_the_first_sign_that_shows_the_outcome() {
        let timeline = [
            at(0, TimelineEvent::FailureEnd { ret: 0 }),
            at(1, ended(Termination::Panic, true)),
            at(2, ended(Termination::TripleFault, false)),
            at(3, ended(Termination::Panic, false)),
            at(4, ended(Termination::VmDestroyed, false)),
        ];
        assert_eq!(end(&timeline, Outcome::GuestPanicked), Some(3));
        assert_eq!(end(&timeline, Outcome::GuestReset), Some(2));
        assert_eq!(
            end(&timeline, Outcome::VmmKilled),
            Some(2),
            "the first sign of any end"
        );
        assert_eq!(end(&timeline, Outcome::Survived), None);
    }

    #[test]
    fn a_lane_by_the_kinds_name_is_that_of_the_event() {
        for event in [
            TimelineEvent::FailureEnd { ret: 0 },
            TimelineEvent::MsrsUnread { truncated: true },
            TimelineEvent::McDelivered { vcpu: None },
            TimelineEvent::HandlerFinished { vcpu: None },
            TimelineEvent::Omitted { entries: 3 },
        ] {
            assert_eq!(lane_of_kind(event.kind()), lane(&event), "{event:?}");
        }
    }
}
