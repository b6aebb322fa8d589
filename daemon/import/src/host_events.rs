//! What the host lost that is no incident of a VM that is known: pages of other processes, memory errors, their DIMMs.

use std::collections::BTreeMap;

use super::{
    log::Log,
    lone,
    speakers::{Attributed, PAGE_SHIFT},
    text::program,
};
use poisontrace_model::{
    event::log_statement::{Ended, JoinKey, LogStatement, Role},
    hex::Hex,
    incident::{
        mca,
        model::{Dimm, HostEvent},
    },
};

const SIGBUS: u32 = 7;

/// Entries of one answer; a flood of corrected errors is counted by DIMM.
const MAX_EVENTS: usize = 256;

/// By page, then by DIMM; in the order in which the files have them.
#[derive(Default)]
struct Events {
    by_page: BTreeMap<u64, usize>,
    by_address: BTreeMap<(u32, u64), usize>,
    all: Vec<HostEvent>,
    left_out: u64,
}

/// The events, and how many more there are.
pub fn collect(
    logs: &[Log],
    all: &[Attributed<'_>],
    of: &[Vec<(u32, Option<JoinKey>)>],
) -> (Vec<HostEvent>, u64) {
    let mut events = Events::default();
    let opened: std::collections::HashSet<u32> = all
        .iter()
        .zip(of)
        .filter(|(entry, _)| lone::opens(entry))
        .flat_map(|(_, of)| of.iter().map(|(vm, _)| *vm))
        .collect();
    // What opens no incident stands in none.
    let alone = |of: &[(u32, Option<JoinKey>)]| of.iter().all(|(vm, _)| !opened.contains(vm));
    // A page of a VM is in its incident.
    let of_vms: std::collections::HashSet<u64> = all
        .iter()
        .zip(of)
        .filter(|(entry, of)| !alone(of) && entry.role != Role::GuestKernel)
        .filter_map(|(entry, _)| super::speakers::frame(&entry.statement))
        .collect();
    for (entry, of) in all.iter().zip(of) {
        let no_vm = matches!(
            entry.statement,
            LogStatement::HostMce(_) | LogStatement::ProcessEnded { .. }
        );
        if of.is_empty() || no_vm && alone(of) {
            events.take(logs, entry, &of_vms);
        }
    }
    (events.all, events.left_out)
}

/// Notes the process of an event.
fn name(event: &mut HostEvent, process: &str, pid: Option<u32>) {
    event.process.get_or_insert_with(|| process.to_owned());
    event.pid = event.pid.or(pid);
    event.vm_helper = program::is_helper(process);
}

impl Events {
    fn take(&mut self, logs: &[Log], entry: &Attributed<'_>, of_vms: &std::collections::HashSet<u64>) {
        let source = || {
            logs.get(entry.stream.file)
                .map_or_else(String::new, |log| log.name.clone())
        };
        match &entry.statement {
            LogStatement::HostSignal { pfn, comm, pid } | LogStatement::HostKilled { pfn, comm, pid }
                if !entry.of_vmm =>
            {
                if let Some(event) = self.page(pfn.0, source()) {
                    name(event, comm, Some(*pid));
                }
            }
            LogStatement::HostAction { pfn, result, .. } if !of_vms.contains(&pfn.0) => {
                if let Some(event) = self.page(pfn.0, source()) {
                    event.action_result = Some(result.clone());
                }
            }
            LogStatement::OwnAccess { comm, pid, hva } if !entry.of_vmm => {
                if let Some(event) = self.access(*pid, hva.0 >> PAGE_SHIFT, source()) {
                    name(event, comm, Some(*pid));
                }
            }
            // SIGBUS has other reasons than poison: of what shares no memory with a VM it shows nothing.
            LogStatement::ProcessEnded {
                who,
                pid,
                how: Ended::Signal(SIGBUS),
                ..
            } if program::is_helper(who) => {
                let known = self
                    .all
                    .iter_mut()
                    .find(|event| event.pid.is_some() && event.pid == *pid);
                let event = match known {
                    Some(event) => Some(event),
                    None => self.push(source()),
                };
                if let Some(event) = event {
                    name(event, who, *pid);
                    event.killed = true;
                }
            }
            LogStatement::HostMce(mce)
                if mce.user_access || mce.status.is_some_and(|status| mca::raises_mc(status.0)) =>
            {
                let pfn = mce.page().map(|page| page >> PAGE_SHIFT);
                if let Some(pfn) = pfn.filter(|pfn| !of_vms.contains(pfn)) {
                    self.page(pfn, source());
                }
            }
            LogStatement::MemoryError {
                pfn,
                dimm,
                corrected: false,
                ..
            } => {
                let event = match pfn {
                    Some(pfn) => self.page(pfn.0, source()),
                    None => self.push(source()),
                };
                if let (Some(event), Some(dimm)) = (event, dimm) {
                    event.dimm = Some(Dimm { label: dimm.clone() });
                }
            }
            _ => {}
        }
    }

    fn page(&mut self, pfn: u64, source: String) -> Option<&mut HostEvent> {
        if let Some(no) = self.by_page.get(&pfn) {
            return self.all.get_mut(*no);
        }
        self.by_page.insert(pfn, self.all.len());
        let event = self.push(source)?;
        event.pfn = Some(Hex(pfn));
        Some(event)
    }

    /// A process's access to poisoned memory, by its own address of the page.
    fn access(&mut self, pid: u32, page: u64, source: String) -> Option<&mut HostEvent> {
        if let Some(no) = self.by_address.get(&(pid, page)) {
            return self.all.get_mut(*no);
        }
        self.by_address.insert((pid, page), self.all.len());
        self.push(source)
    }

    fn push(&mut self, source: String) -> Option<&mut HostEvent> {
        if self.all.len() >= MAX_EVENTS {
            self.left_out += 1;
            return None;
        }
        self.all.push(HostEvent {
            pfn: None,
            process: None,
            pid: None,
            vm_helper: false,
            killed: false,
            action_result: None,
            dimm: None,
            source,
        });
        self.all.last_mut()
    }
}
