//! A kernel's statements: the host's or a guest's, each by itself. A hypervisor that is a guest (L1) speaks as a host of
//! its VMMs, and as a guest of all else.

use std::collections::HashSet;

use super::{Attributed, Known, Stream, frame, software};
use crate::text::{Item, program};
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement, Machine, MceReport, Role},
    hex::Hex,
    incident::{log_evidence, mca},
};

/// Lines between a machine check's report and the panic that it leads to.
const PANIC_WITHIN_LINES: u64 = 400;
/// Lines of one moment are printed in any order.
const CLOCK_SLACK_NS: u64 = 1_000_000_000;
/// Time between them, nanoseconds.
const PANIC_WITHIN_NS: u64 = 60_000_000_000;

/// Where a stream of a kernel comes from.
#[derive(Clone, Copy)]
pub struct From {
    /// Somebody else relays its console.
    pub relay: bool,
    /// Its lines name their machine: none of another's is among them.
    pub named: bool,
    /// That name is one that people give VMs.
    pub called_vm: bool,
}

/// What is known of a stream's machine.
struct Kernel<'a> {
    guest: bool,
    host: bool,
    /// It is known by its name, and runs VMs.
    hosts_vms: bool,
    /// Something shows a physical machine, and a bank is one that QEMU injects.
    doubtful: bool,
    relay: bool,
    /// Frames for which it signalled a VMM: these are the host's, whoever else names them.
    of_vmms: HashSet<u64>,
    known: &'a Known,
    /// Frames of machine checks as a VMM injects them.
    injected: HashSet<u64>,
}

pub fn attribute<'a>(
    stream: Stream,
    items: &[&'a Item],
    machine: &[&Item],
    from: From,
    known: &Known,
    all: &mut Vec<Attributed<'a>>,
) {
    let injections = software::injections(items);
    let by_itself = items
        .iter()
        .zip(&injections)
        .filter(|(_, injection)| injection.is_none());
    let real: Vec<&Item> = by_itself.map(|(item, _)| *item).collect();
    let kernel = Kernel::of(&real, machine, from, known);
    // The machine check that a panic follows, and the memory's error by firmware's record.
    let mut last: Option<(&Item, Option<Role>)> = None;
    let mut reported: Option<&Item> = None;
    for (n, (item, injection)) in items.iter().zip(&injections).enumerate() {
        let whose = match &item.statement {
            LogStatement::GuestMce(_) if injection.is_some() => kernel.itself(),
            // Firmware reports other errors of hardware too.
            LogStatement::GuestPanic { text }
                if log_evidence::is_fatal_by_firmware(text)
                    && kernel.host
                    && reported.is_some_and(|error| precedes(error, item)) =>
            {
                Some(Role::HostKernel)
            }
            LogStatement::GuestPanic { text } => {
                kernel.panic(item, text, last.or_else(|| kernel.behind(item, &items[n + 1..])))
            }
            LogStatement::OnCpu { .. } => last.and_then(|(_, whose)| whose),
            statement => kernel.whose(statement),
        };
        if let LogStatement::GuestMce(mce) = &item.statement
            && (fatal(mce) || injection.is_some())
        {
            last = Some((item, whose));
        }
        if matches!(
            &item.statement,
            LogStatement::MemoryError { corrected: false, .. }
        ) {
            reported = Some(item);
        }
        let role = whose.unwrap_or(Role::Kernel);
        all.push(Attributed {
            stream,
            item,
            role,
            of_vmm: kernel.speaks_of_vmm(&item.statement),
            statement: match &item.statement {
                // The host died of something else: that is nobody's poison.
                LogStatement::GuestPanic { .. } if role == Role::Kernel && kernel.hosts_vms => {
                    LogStatement::Other
                }
                statement => {
                    let spoken = spoken_by(role, kernel.host && !kernel.doubtful, statement);
                    kernel.marked(spoken, injection.is_some())
                }
            },
        });
        if let Some(injection) = injection
            && let Some(pfn) = frame(&item.statement)
        {
            let statement = LogStatement::SoftwarePoison {
                pfn: Hex(pfn),
                guest: role == Role::GuestKernel,
            };
            all.push(Attributed {
                stream,
                item: injection,
                role,
                of_vmm: false,
                statement,
            });
        }
    }
}

/// Whether a statement shows what its kernel runs on.
pub fn shows_machine(statement: &LogStatement) -> bool {
    matches!(
        statement,
        LogStatement::Machine { .. } | LogStatement::MemoryError { .. } | LogStatement::GuestMce(_)
    )
}

/// A machine check that can end in a panic: one that was taken, not one that was found in a bank.
fn fatal(mce: &MceReport) -> bool {
    !mce.user_access && !mce.is_polled() && mce.status.is_none_or(|status| mca::raises_mc(status.0))
}

impl<'a> Kernel<'a> {
    /// `machine`: what all boots of this kernel show of its machine.
    fn of(items: &[&Item], machine: &[&Item], from: From, known: &'a Known) -> Self {
        let mut kernel = Kernel {
            guest: false,
            host: false,
            hosts_vms: false,
            doubtful: false,
            relay: from.relay,
            of_vmms: HashSet::new(),
            known,
            injected: HashSet::new(),
        };
        for item in items {
            match &item.statement {
                LogStatement::HostSignal { comm, pfn, pid } | LogStatement::HostKilled { comm, pfn, pid }
                    if kernel.of_its_vmm(comm, *pid) =>
                {
                    kernel.of_vmms.insert(pfn.0);
                }
                _ => {}
            }
        }
        kernel.hosts_vms = from.named && !from.relay && !kernel.of_vmms.is_empty();
        // What DMI alone shows: a VM may carry its host's names, or any other.
        let mut named_physical = false;
        let of_boot = items.iter().filter(|item| shows_machine(&item.statement));
        for item in of_boot.chain(machine) {
            kernel.learn(&item.statement, &mut named_physical);
        }
        kernel.doubtful &= named_physical || kernel.host;
        // A machine check as QEMU injects it is a guest's, whatever its DMI names.
        kernel.host |= named_physical && kernel.injected.is_empty();
        // A console that somebody relays is a guest's, unless it shows a physical machine.
        kernel.guest |= from.relay && !kernel.host;
        // So is one whose lines are named as VMs are, unless it runs some itself.
        kernel.guest |= from.called_vm && !kernel.host && kernel.of_vmms.is_empty();
        // A guest may show parts of its host's processor, a host nothing of a hypervisor.
        kernel.host &= !kernel.guest;
        kernel
    }

    /// A guest's bank notes that its machine may be a physical one; any bank, that software injected it.
    fn marked(&self, mut statement: LogStatement, by_software: bool) -> LogStatement {
        if let LogStatement::GuestMce(mce) = &mut statement {
            mce.doubtful = self.doubtful;
        }
        if let LogStatement::GuestMce(mce) | LogStatement::HostMce(mce) = &mut statement {
            mce.by_software = by_software;
        }
        statement
    }

    /// Whose kernel it is by what it shows of its machine alone: software injects banks of any kind.
    fn itself(&self) -> Option<Role> {
        match (self.guest, self.host) {
            (true, _) => Some(Role::GuestKernel),
            (false, true) => Some(Role::HostKernel),
            (false, false) => None,
        }
    }

    /// What one statement shows of its machine.
    fn learn(&mut self, statement: &LogStatement, named_physical: &mut bool) {
        match statement {
            LogStatement::Machine { about } => match (about, about.is_guest()) {
                (_, Some(true)) => self.guest = true,
                (Machine::Dmi(_), _) => *named_physical = true,
                (_, Some(false)) => self.host = true,
                _ => {}
            },
            // Drivers of memory controllers and firmware's records: a physical machine.
            LogStatement::MemoryError { .. } => self.host = true,
            LogStatement::GuestMce(mce) if mce.by_qemu() && !mce.by_hardware() => {
                self.doubtful = true;
                if mce.misc.is_some() {
                    self.injected.extend(frame(statement));
                }
            }
            LogStatement::GuestMce(mce) => {
                self.guest |= mce.by_hyper_v();
                self.host |= mce.by_hardware();
            }
            _ => {}
        }
    }

    fn whose(&self, statement: &LogStatement) -> Option<Role> {
        let page = frame(statement);
        match statement {
            LogStatement::HostSignal { comm, pid, .. } | LogStatement::HostKilled { comm, pid, .. }
                if self.of_its_vmm(comm, *pid) =>
            {
                Some(Role::HostKernel)
            }
            LogStatement::OwnAccess { comm, pid, .. } => {
                self.of_its_vmm(comm, *pid).then_some(Role::HostKernel)
            }
            LogStatement::GuestMce(mce) => self.machine_check(mce, page),
            LogStatement::HostSignal { .. }
            | LogStatement::HostAction { .. }
            | LogStatement::SoftwarePoison { .. }
            | LogStatement::HostKilled { .. } => self.of_page(page),
            _ if self.guest => Some(Role::GuestKernel),
            _ if self.host => Some(Role::HostKernel),
            _ => None,
        }
    }

    fn of_its_vmm(&self, comm: &str, pid: u32) -> bool {
        !self.relay && (program::is_vmm(comm) || self.known.vmms.contains(&pid))
    }

    fn speaks_of_vmm(&self, statement: &LogStatement) -> bool {
        match statement {
            LogStatement::HostSignal { comm, pid, .. }
            | LogStatement::HostKilled { comm, pid, .. }
            | LogStatement::OwnAccess { comm, pid, .. } => self.of_its_vmm(comm, *pid),
            _ => false,
        }
    }

    fn of_page(&self, page: Option<u64>) -> Option<Role> {
        let is_in = |pages: &HashSet<u64>| page.is_some_and(|page| pages.contains(&page));
        if is_in(&self.of_vmms) {
            return Some(Role::HostKernel);
        }
        if self.guest || !self.host && (is_in(&self.known.injected) || is_in(&self.injected)) {
            return Some(Role::GuestKernel);
        }
        // Without a word on a hypervisor a kernel is taken for the host's; a process of it that is no VMM's opens
        // nothing.
        Some(Role::HostKernel)
    }

    fn machine_check(&self, mce: &MceReport, page: Option<u64>) -> Option<Role> {
        if mce.by_hardware() && !(self.relay && self.guest) {
            return Some(Role::HostKernel);
        }
        if mce.by_qemu() && !self.host {
            return Some(Role::GuestKernel);
        }
        match mce.user_access {
            true => self.of_page(page),
            false if self.guest => Some(Role::GuestKernel),
            false => self.of_page(page),
        }
    }

    /// The machine check that stands behind the panic that it led to: an excerpt has the panic first.
    fn behind<'b>(&self, panic: &Item, later: &[&'b Item]) -> Option<(&'b Item, Option<Role>)> {
        let boots = |item: &&&Item| {
            let about = |about: &Machine| matches!(about, Machine::Boot(_));
            !matches!(&item.statement, LogStatement::Machine { about: machine } if about(machine))
        };
        let near = |item: &&&Item| item.line.abs_diff(panic.line) <= PANIC_WITHIN_LINES;
        let soon = |item: &Item| match (panic.stamp.boot, item.stamp.boot) {
            (Some(panic), Some(mce)) => panic.abs_diff(mce) <= PANIC_WITHIN_NS,
            _ => true,
        };
        let mut of_boot = later.iter().take_while(near).take_while(boots);
        of_boot.find_map(|item| match &item.statement {
            LogStatement::GuestMce(mce) if fatal(mce) && soon(item) => {
                Some((*item, self.whose(&item.statement)))
            }
            _ => None,
        })
    }

    fn panic(&self, item: &Item, text: &str, last: Option<(&Item, Option<Role>)>) -> Option<Role> {
        match last.filter(|(mce, _)| precedes(mce, item)) {
            Some((_, whose)) => whose,
            None if self.guest => Some(Role::GuestKernel),
            None => ((self.host || self.hosts_vms) && log_evidence::by_machine_check(text))
                .then_some(Role::HostKernel),
        }
    }
}

/// Whether a machine check is the one that a panic comes of, as far as lines and clocks show.
fn precedes(mce: &Item, panic: &Item) -> bool {
    let lines = panic.line.saturating_sub(mce.line) <= PANIC_WITHIN_LINES;
    let times = match (panic.stamp.boot, mce.stamp.boot) {
        // A clock that went back is of another boot.
        (Some(panic), Some(mce)) => {
            panic.saturating_sub(mce) <= PANIC_WITHIN_NS && mce.saturating_sub(panic) <= CLOCK_SLACK_NS
        }
        _ => true,
    };
    let walls = match (panic.stamp.wall, mce.stamp.wall) {
        (Some(at), Some(of_mce)) if panic.stamp.no_year == mce.stamp.no_year => {
            at.abs_diff(of_mce) <= PANIC_WITHIN_NS || panic.stamp.local != mce.stamp.local
        }
        _ => true,
    };
    lines && times && walls
}

/// The statement as it is of this kernel.
fn spoken_by(role: Role, physical: bool, statement: &LogStatement) -> LogStatement {
    let guest = role == Role::GuestKernel;
    match statement {
        LogStatement::HostSignal { pfn, comm, pid } | LogStatement::HostKilled { pfn, comm, pid }
            if guest =>
        {
            LogStatement::GuestSignal {
                pfn: *pfn,
                comm: comm.clone(),
                pid: *pid,
            }
        }
        LogStatement::HostAction {
            pfn,
            page_type,
            result,
        } if guest => LogStatement::GuestAction {
            pfn: *pfn,
            page_type: page_type.clone(),
            result: result.clone(),
        },
        LogStatement::SoftwarePoison { pfn, .. } => LogStatement::SoftwarePoison { pfn: *pfn, guest },
        // mcelog in a guest.
        LogStatement::MemoryError {
            pfn: Some(pfn),
            corrected: false,
            ..
        } if guest => LogStatement::GuestMce(MceReport {
            addr: Some(Hex(pfn.0 << super::PAGE_SHIFT)),
            ..MceReport::default()
        }),
        LogStatement::MemoryError { .. } if guest => LogStatement::Other,
        // A process of the guest's own.
        LogStatement::ProcessEnded {
            how: Ended::OutOfMemory,
            ..
        } if guest => LogStatement::Other,
        LogStatement::GuestMce(mce) if !guest => LogStatement::HostMce(mce.clone()),
        LogStatement::GuestPanic { text } if role == Role::HostKernel => LogStatement::HostPanic {
            text: text.clone(),
            physical,
        },
        other => other.clone(),
    }
}
