//! Whose words a statement is. Host and guest print the same lines, so that each is attributed by its sender and by what
//! its kernel prints of the machine; never by the file that it stands in.
//!
//! A *stream* is what one sender wrote in one run: a kernel's boot, a VMM's life between two starts.

mod kernel;
mod software;

use std::collections::{HashMap, HashSet};

use super::{log::Log, text::Item};
use poisontrace_model::event::log_statement::{LogStatement, MceReport, Role};

pub const PAGE_SHIFT: u32 = 12;

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
        for item in &log.items {
            let named = log.senders.get(item.sender).is_some_and(is_named);
            let stream = runs.stream(file, item, named);
            let items = streams.entry(stream).or_default();
            if items.is_empty() {
                order.push(stream);
            }
            items.push(item);
        }
        // What runs under one name is one machine in each of its boots.
        let mut machines: HashMap<usize, Vec<&Item>> = HashMap::new();
        for item in &log.items {
            let named = || log.senders.get(item.sender).is_some_and(is_named);
            if item.role == Role::Kernel && kernel::shows_machine(&item.statement) && named() {
                machines.entry(item.sender).or_default().push(item);
            }
        }
        for stream in order {
            let items = streams.remove(&stream).unwrap_or_default();
            if stream.kernel {
                let sender = log.senders.get(stream.sender);
                let from = kernel::From {
                    relay: sender.is_some_and(relayed),
                    named: sender.is_some_and(|sender| sender.machine().is_some()),
                    called_vm: sender
                        .and_then(|sender| sender.label.as_deref())
                        .is_some_and(crate::text::label::is_of_a_vm),
                };
                let machine = machines.get(&stream.sender).map_or(&[][..], Vec::as_slice);
                kernel::attribute(stream, &items, machine, from, &known, &mut all);
            } else {
                all.extend(items.into_iter().map(|item| Attributed {
                    stream,
                    item,
                    role: item.role,
                    of_vmm: false,
                    statement: item.statement.clone(),
                }));
            }
        }
    }
    all
}

/// Whether a sender has a name, so that its boots are of one machine.
fn is_named(sender: &super::text::Sender) -> bool {
    let tagged = sender.tag.as_deref().is_some_and(|tag| tag != "kernel");
    !sender.pasted && tagged || sender.machine().is_some()
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

/// Where a sender's runs begin: a kernel's with its boot, a VMM's with its start, and anew after its end.
#[derive(Default)]
struct Runs {
    /// By sender, and by the domain that an event names.
    others: HashMap<(usize, Option<String>), Run>,
    /// Kernels without a name, by sender and boot.
    kernels: HashMap<(usize, u32), Kernel>,
}

/// What a kernel without a name has logged: another's lines may stand right behind its own.
#[derive(Clone, Copy, Default)]
struct Kernel {
    /// How many kernels came before it.
    no: u32,
    panicked: bool,
    /// Whether a physical processor or a VMM raised its machine check.
    physical: Option<bool>,
    /// Its latest time since boot.
    at: Option<u64>,
}

/// A kernel that went on is the same after less than this, nanoseconds.
const GOES_ON_NS: u64 = 600_000_000_000;
/// Boots of one file; more of them share their numbers with another kernel's.
const BOOTS: u32 = 1 << 16;

/// A VMM's run.
#[derive(Clone, Copy, Default)]
struct Run {
    no: u32,
    marks: u32,
    /// When it stated its end, nanoseconds; `None` within: no clock.
    ended: Option<Option<i64>>,
}

/// What a VMM logs while it ends, nanoseconds.
const END_TAKES_NS: i64 = 10_000_000_000;

impl Runs {
    /// `named`: something names the machine or the console.
    fn stream(&mut self, file: usize, item: &Item, named: bool) -> Stream {
        let kernel = item.role == Role::Kernel;
        Stream {
            file,
            sender: item.sender,
            kernel,
            run: match kernel {
                true => {
                    let boot = item.boot.unwrap_or(item.marks);
                    let of = (item.sender, boot);
                    let no = match named {
                        true => 0,
                        false => self.kernels.entry(of).or_default().of(item),
                    };
                    boot.wrapping_add(no.wrapping_mul(BOOTS))
                }
                false => {
                    let of = (item.sender, item.statement.domain().map(str::to_owned));
                    self.others.entry(of).or_default().of(item)
                }
            },
        }
    }
}

impl Kernel {
    /// A machine check that a kernel cannot have met which panicked of one of the other kind, or long before.
    fn of(&mut self, item: &Item) -> u32 {
        if let LogStatement::GuestMce(mce) = &item.statement {
            let physical = match (mce.by_hardware(), mce.by_qemu()) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            };
            let differs = self.physical.zip(physical).is_some_and(|(a, b)| a != b);
            let later = self
                .at
                .zip(item.stamp.boot)
                .is_some_and(|(a, b)| a.abs_diff(b) > GOES_ON_NS);
            if mce.exception && (differs && (self.panicked || later) || self.panicked && later) {
                *self = Self {
                    no: self.no + 1,
                    ..Self::default()
                };
            }
            self.physical = self.physical.or(physical);
        }
        self.panicked |= matches!(item.statement, LogStatement::GuestPanic { .. });
        self.at = item.stamp.boot.or(self.at);
        self.no
    }
}

impl Run {
    fn of(&mut self, item: &Item) -> u32 {
        let wall = item.stamp.wall;
        let begins = matches!(item.statement, LogStatement::VmStarted { .. });
        // A monitor's or a log's sender that stated its end and goes on is another process.
        let anew = self.ended.is_some_and(|ended| match (ended, wall) {
            (Some(ended), Some(wall)) => wall.saturating_sub(ended) > END_TAKES_NS,
            _ => false,
        });
        // Nothing lives on where its host has booted.
        let rebooted = item.marks != self.marks;
        self.marks = item.marks;
        if begins || anew || rebooted {
            self.no += 1;
            self.ended = None;
        }
        if ends(&item.statement) {
            self.ended.get_or_insert(wall);
        }
        self.no
    }
}

/// Whether a VMM states that it ends.
pub fn ends(statement: &LogStatement) -> bool {
    match statement {
        LogStatement::VmShutdown { .. } | LogStatement::VmmSigbus { .. } => true,
        LogStatement::VmmOwnMemory { fatal, .. } => *fatal,
        LogStatement::QmpMemoryFailure { action, .. } => action == "fatal",
        _ => false,
    }
}

/// Whether a host's kernel states what it did to a process: one that has a VM's page, and is not its VMM, is no part of the VM.
pub fn is_of_a_process(statement: &LogStatement) -> bool {
    matches!(
        statement,
        LogStatement::HostSignal { .. } | LogStatement::HostKilled { .. } | LogStatement::OwnAccess { .. }
    )
}

/// The page frame that a statement of a kernel names.
pub fn frame(statement: &LogStatement) -> Option<u64> {
    let of = |mce: &MceReport| mce.page().map(|page| page >> PAGE_SHIFT);
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
