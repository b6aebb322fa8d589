//! What the host lost that is no incident of a VM that is known: pages of other processes, memory errors, their DIMMs.

use std::collections::BTreeMap;

use super::{
    log::Log,
    speakers::{Attributed, PAGE_SHIFT},
};
use poisontrace_model::{
    event::log_statement::{JoinKey, LogStatement, Role},
    hex::Hex,
    incident::model::{Dimm, HostEvent},
};

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
    // A page of a VM is in its incident.
    let of_vms: std::collections::HashSet<u64> = all
        .iter()
        .zip(of)
        .filter(|(entry, of)| !of.is_empty() && entry.role != Role::GuestKernel)
        .filter_map(|(entry, _)| super::speakers::frame(&entry.statement))
        .collect();
    for (entry, of) in all.iter().zip(of) {
        if of.is_empty() {
            events.take(logs, entry, &of_vms);
        }
    }
    (events.all, events.left_out)
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
                    event.process = Some(comm.clone());
                    event.pid = Some(*pid);
                }
            }
            LogStatement::HostAction { pfn, result, .. } if !of_vms.contains(&pfn.0) => {
                if let Some(event) = self.page(pfn.0, source()) {
                    event.action_result = Some(result.clone());
                }
            }
            LogStatement::OwnAccess { comm, pid, hva } if !entry.of_vmm => {
                if let Some(event) = self.access(*pid, hva.0 >> PAGE_SHIFT, source()) {
                    event.process = Some(comm.clone());
                    event.pid = Some(*pid);
                }
            }
            LogStatement::HostMce(mce) if mce.user_access => {
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
            action_result: None,
            dimm: None,
            source,
        });
        self.all.last_mut()
    }
}
