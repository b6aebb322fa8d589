//! What an imported statement adds to the evidence of the incident that it is of.

use alloc::{borrow::ToOwned as _, format, sync::Arc};

use crate::{
    event::{
        SigbusSeverity, Vmm,
        log_statement::{Ended, LogStatement, Machine},
    },
    incident::{
        bug_check,
        evidence::Evidence,
        log_evidence::{LogInjection, Shutdown},
        model::Severity,
    },
};

const SIGBUS: u32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: u32 = 149;

fn severity(required: bool) -> Severity {
    if required { Severity::Ar } else { Severity::Ao }
}

/// Notes the statement in the evidence.
pub(super) fn learn(e: &mut Evidence, t: u64, statement: &LogStatement, late: bool) {
    if let Some(name) = statement.domain() {
        Arc::make_mut(&mut e.vmm)
            .name
            .get_or_insert_with(|| name.to_owned());
    }
    let l = &mut e.logged;
    match statement {
        LogStatement::HostKilled { .. } => l.killed = true,
        // Its own reason, whenever it comes.
        LogStatement::ProcessEnded {
            how: Ended::OutOfMemory,
            ..
        } => {
            l.out_of_memory = true;
            l.late_end |= late;
        }
        // A SIGBUS long after may be of this page, of another, or of none.
        LogStatement::ProcessEnded { .. } | LogStatement::VmmSigbus { .. } if late => {}
        LogStatement::ProcessEnded { who, how, lone, .. } => {
            match how {
                Ended::Signal(SIGBUS) => l.died_by_sigbus = true,
                Ended::Exit(FIRECRACKER_SIGBUS) => l.vmm_sigbus = true,
                _ => {}
            }
            if *lone {
                Arc::make_mut(&mut e.vmm).vmm.get_or_insert_with(|| who.clone());
            }
        }
        LogStatement::VmmReset { recursive } => l.qmp_reset = Some(*recursive),
        LogStatement::RunFailed => l.run_failed = true,
        LogStatement::HostSignal { comm, pid, .. } => {
            l.process = Some(format!("{comm} (pid {pid})"));
            Arc::make_mut(&mut e.vmm).vmm.get_or_insert_with(|| comm.clone());
            if e.pid == 0 {
                e.pid = *pid;
            }
        }
        LogStatement::HostAction {
            page_type, result, ..
        } if e.page_type.is_none() => {
            e.page_type = Some(page_type.clone());
            e.recovery = Some(result.clone());
        }
        LogStatement::OwnAccess { comm, .. } => {
            l.own_access = true;
            Arc::make_mut(&mut e.vmm).vmm.get_or_insert_with(|| comm.clone());
        }
        LogStatement::VmmInjected {
            gpa, severity, size, ..
        } => {
            if let Some(size) = size {
                e.lsb = e.lsb.or(Some(size.trailing_zeros()));
            }
            e.logged.record_injection(LogInjection {
                t,
                gpa: gpa.map(|gpa| gpa.0),
                severity: match severity {
                    Some(SigbusSeverity::ActionRequired) => Severity::Ar,
                    Some(SigbusSeverity::ActionOptional) => Severity::Ao,
                    None => Severity::Other,
                },
                by_qmp: false,
            });
        }
        LogStatement::VmmOwnMemory { fatal, .. } => {
            l.own_fatal |= *fatal;
            l.own_ignored |= !*fatal;
        }
        LogStatement::KernelPanic { text } => {
            l.kernel_panic.get_or_insert_with(|| text.clone());
        }
        LogStatement::SoftwarePoison { .. } => l.software = true,
        LogStatement::VmmSigbus { .. } => l.vmm_sigbus = true,
        LogStatement::VmName { name, uuid, vmm, .. } => {
            let of_logs = Vmm {
                name: name.clone(),
                uuid: uuid.clone(),
                vmm: vmm.clone(),
                ..Vmm::default()
            };
            merge_name(Arc::make_mut(&mut e.vmm), &of_logs);
        }
        LogStatement::VmShutdown { reason } => {
            l.shutdown = Some(Shutdown {
                reason: reason.clone(),
                late,
            });
        }
        LogStatement::GuestMce(mce) => l.machine_check(t, mce.clone()),
        LogStatement::GuestPanic { text } => l.panicked(t, text, late),
        LogStatement::GuestSignal { comm, pid, .. } => l.guest_signal = Some((comm.clone(), *pid)),
        LogStatement::GuestAction { result, .. } => l.guest_result = Some(result.clone()),
        LogStatement::QmpMemoryFailure {
            recipient,
            action,
            action_required,
            recursive,
            ..
        } => match action.as_str() {
            "inject"
                if l.machine_checks.is_empty()
                    || l.machine_checks.iter().all(|injection| injection.by_qmp) =>
            {
                l.record_injection(LogInjection {
                    t,
                    gpa: None,
                    severity: severity(*action_required),
                    by_qmp: true,
                });
            }
            "reset" => l.qmp_reset = Some(*recursive),
            "ignore" if *recursive => l.injections_skipped += 1,
            "ignore" if recipient == "hypervisor" => {
                l.own_ignored = true;
                l.qmp_ignored = true;
            }
            "ignore" => l.qmp_ignored = true,
            "fatal" => l.qmp_fatal = Some(recipient.clone()),
            _ => {}
        },
        LogStatement::QmpPanicked { .. } => l.qmp_panicked |= !late,
        LogStatement::BugCheck { .. } if late => l.late_end = true,
        LogStatement::BugCheck { args, .. } => {
            l.bug_check.get_or_insert(args.first().map_or(0, |code| code.0));
            l.bug_check_error = l.bug_check_error.or(bug_check::error(args));
        }
        LogStatement::QmpReset { guest, .. } => {
            l.guest_reset |= *guest && !late;
            l.late_end |= late;
        }
        LogStatement::QmpShutdown {
            reason: Some(reason), ..
        } if of_libvirt(reason) => {
            l.shutdown = Some(Shutdown {
                reason: reason.clone(),
                late,
            });
        }
        LogStatement::QmpShutdown { reason, .. } => {
            l.qmp_panicked |= reason.as_deref() == Some("guest-panic") && !late;
            l.guest_reset |= reason.as_deref() == Some("guest-reset") && !late;
            l.late_end |= late;
        }
        LogStatement::HostMce(mce) => l.host_machine_check(mce.clone()),
        LogStatement::HostPanic { text, physical } => {
            l.host_panic.get_or_insert_with(|| text.clone());
            l.physical |= *physical;
        }
        LogStatement::OnCpu { comm, pid } => {
            l.on_cpu.get_or_insert_with(|| (comm.clone(), *pid));
        }
        LogStatement::MigrationRefused => l.migration_refused = true,
        LogStatement::MemoryError { dimm: Some(dimm), .. } => {
            l.dimm.get_or_insert_with(|| dimm.clone());
        }
        LogStatement::AddressMap { pfn, .. } => e.pfn = e.pfn.or(pfn.map(|pfn| pfn.0)),
        LogStatement::Machine {
            about: Machine::Hypervisor(name) | Machine::Dmi(name),
        } => {
            l.hypervisor.get_or_insert_with(|| name.clone());
        }
        LogStatement::HostAction { .. }
        | LogStatement::Machine { .. }
        | LogStatement::VmStarted { .. }
        | LogStatement::SoftwareMachineCheck { .. }
        | LogStatement::Other
        | LogStatement::MemoryError { .. } => {}
    }
}

/// Whether a reason is libvirt's (virDomainShutoffReason), not QEMU's (ShutdownCause).
fn of_libvirt(reason: &str) -> bool {
    ["migrated", "crashed", "failed", "destroyed", "saved", "shutdown"].contains(&reason)
}

/// Adds the names that are not known yet.
pub(super) fn merge_name(known: &mut Vmm, of_logs: &Vmm) {
    if known.name.is_none() && of_logs.name.is_some() {
        known.name.clone_from(&of_logs.name);
        known.name_guess = of_logs.name_guess;
    }
    known.uuid = known.uuid.take().or_else(|| of_logs.uuid.clone());
    known.vmm = known.vmm.take().or_else(|| of_logs.vmm.clone());
}
