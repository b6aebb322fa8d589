//! Whose words a statement is. Host and guest print the same lines, so that each is attributed by its sender and by what
//! its kernel prints of the machine; never by the file that it stands in.
//!
//! A *stream* is what one sender wrote in one run: a kernel's boot, a VMM's life between two starts.

mod kernel;

use std::collections::{HashMap, HashSet};

use super::{log::Log, text::Item};
use poisontrace_model::{
    event::log_statement::{LogStatement, Machine, MceReport, Role},
    hex::Hex,
};

pub const PAGE_SHIFT: u32 = 12;
/// A kernel's clock that goes back by more has begun anew, nanoseconds.
const NEW_BOOT_NS: u64 = 1_000_000_000;

/// One sender's lines of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    pub file: usize,
    pub sender: usize,
    /// Kernel, or all else.
    pub kernel: bool,
    /// Boot or start, from 0.
    pub run: u32,
}

/// A statement with whose it is.
pub struct Attributed<'a> {
    pub stream: Stream,
    pub item: &'a Item,
    pub role: Role,
    /// The host's kernel names a process that runs a guest.
    pub of_vmm: bool,
    /// Boots of the host that logged it, as its file shows them before.
    pub boot: u32,
    pub statement: LogStatement,
}

/// What all files show together.
pub struct Known {
    /// Page frames of guests that a VMM named to them.
    injected: HashSet<u64>,
    /// Processes that are VMMs whatever they are called: KVM was seen at work for them, or a tool names their guest.
    vmms: HashSet<u32>,
}

/// Attributes all statements of all files. `seen`: processes that a trace shows to run guests.
pub fn attribute<'a>(logs: &'a [Log], seen: &std::collections::BTreeSet<u32>) -> Vec<Attributed<'a>> {
    let mut all = Vec::new();
    let known = Known {
        injected: pages_told(logs),
        vmms: seen.iter().copied().chain(vmms(logs)).collect(),
    };
    for (file, log) in logs.iter().enumerate() {
        let mut streams: HashMap<Stream, Vec<&Item>> = HashMap::new();
        let mut order = Vec::new();
        let mut runs = Runs::default();
        let mut boots = Boots::default();
        let first = all.len();
        for item in &log.items {
            boots.item(log, item);
            let stream = runs.stream(file, item);
            let items = streams.entry(stream).or_default();
            if items.is_empty() {
                order.push(stream);
            }
            items.push(item);
        }
        for stream in order {
            let items = streams.remove(&stream).unwrap_or_default();
            if stream.kernel {
                let relay = log.senders.get(stream.sender).is_some_and(relayed);
                kernel::attribute(stream, &items, relay, &known, &mut all);
            } else {
                all.extend(items.into_iter().map(|item| Attributed {
                    stream,
                    item,
                    role: item.role,
                    of_vmm: false,
                    boot: 0,
                    statement: item.statement.clone(),
                }));
            }
        }
        for entry in all.iter_mut().skip(first) {
            entry.boot = boots.of(entry.item);
        }
    }
    all
}

/// The boots of the hosts in one file: a host's kernel begins with its version, and what is logged later is of that boot.
#[derive(Default)]
struct Boots {
    /// By host: how often its kernel has begun.
    begun: HashMap<String, u32>,
    /// Boot of the host that logged it, by line and order within it; the first has none.
    items: HashMap<(u64, u64), u32>,
}

impl Boots {
    fn item(&mut self, log: &Log, item: &Item) {
        let Some(sender) = log.senders.get(item.sender) else {
            return;
        };
        let Some(host) = &sender.host else { return };
        let of_host = sender.tag.as_deref() == Some("kernel") && !sender.relay;
        let boots = matches!(
            &item.statement,
            LogStatement::Machine {
                about: Machine::Boot(_)
            }
        );
        if of_host && boots {
            *self.begun.entry(host.clone()).or_default() += 1;
        }
        if let Some(boot) = self.begun.get(host) {
            self.items.insert((item.line, item.order), *boot);
        }
    }

    fn of(&self, item: &Item) -> u32 {
        self.items.get(&(item.line, item.order)).copied().unwrap_or(0)
    }
}

/// A console that somebody else relays.
fn relayed(sender: &super::text::Sender) -> bool {
    sender.relay || sender.tag.as_deref().is_some_and(|tag| tag != "kernel")
}

/// Page frames of guests that a VMM named to them.
fn pages_told(logs: &[Log]) -> HashSet<u64> {
    let items = logs.iter().flat_map(|log| &log.items);
    items
        .filter_map(|item| match &item.statement {
            LogStatement::VmmInjected { gpa: Some(gpa), .. } => Some(gpa.0 >> PAGE_SHIFT),
            _ => None,
        })
        .collect()
}

/// Processes that a tool or a VMM's own log names as a guest's.
fn vmms(logs: &[Log]) -> impl Iterator<Item = u32> + '_ {
    let items = logs.iter().flat_map(|log| &log.items);
    items.filter_map(|item| match &item.statement {
        LogStatement::VmName { pid, .. } | LogStatement::AddressMap { pid, .. } => *pid,
        _ => None,
    })
}

/// Where a sender's runs begin.
#[derive(Default)]
struct Runs {
    /// Run, and the latest time since boot.
    kernels: HashMap<usize, (u32, u64)>,
    others: HashMap<usize, u32>,
}

impl Runs {
    fn stream(&mut self, file: usize, item: &Item) -> Stream {
        let kernel = item.role == Role::Kernel;
        let run = if kernel {
            let boots = matches!(&item.statement, LogStatement::Machine { about } if matches!(about, Machine::Boot(_)));
            let known = self.kernels.get(&item.sender).copied();
            let (run, latest) = known.unwrap_or_default();
            let boot = item.stamp.boot;
            let back = boot.is_some_and(|boot| boot + NEW_BOOT_NS < latest);
            let new = known.is_some() && (boots && latest > 0 || back);
            let latest = if new {
                boot.unwrap_or(0)
            } else {
                latest.max(boot.unwrap_or(0))
            };
            let run = run + u32::from(new);
            self.kernels
                .insert(item.sender, (run, latest.max(u64::from(boots))));
            run
        } else {
            let run = self.others.entry(item.sender).or_default();
            *run += u32::from(matches!(item.statement, LogStatement::VmStarted { .. }));
            *run
        };
        Stream {
            file,
            sender: item.sender,
            kernel,
            run,
        }
    }
}

/// The page frame that a statement of a kernel names.
pub fn frame(statement: &LogStatement) -> Option<u64> {
    let of = |mce: &MceReport| mce.addr.map(|Hex(addr)| addr >> PAGE_SHIFT);
    match statement {
        LogStatement::HostSignal { pfn, .. }
        | LogStatement::HostAction { pfn, .. }
        | LogStatement::HostKilled { pfn, .. }
        | LogStatement::SoftwarePoison { pfn, .. }
        | LogStatement::GuestSignal { pfn, .. }
        | LogStatement::GuestAction { pfn, .. } => Some(pfn.0),
        LogStatement::MemoryError {
            pfn,
            corrected: false,
            ..
        } => pfn.map(|pfn| pfn.0),
        LogStatement::GuestMce(mce) | LogStatement::HostMce(mce) => of(mce),
        _ => None,
    }
}
