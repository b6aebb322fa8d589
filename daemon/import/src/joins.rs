//! Which speakers belong to one VM. Two are joined by a key that both have: a pid, unit, domain or uuid of one host, or
//! an address of the page; without one only where their wall clocks agree and nothing else happened at that time,
//! and what rests on that is never certain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    align::Clocks,
    log::Log,
    speakers::{Attributed, PAGE_SHIFT, Stream},
    text::{Sender, clock::Stamp, program},
};
use poisontrace_model::{
    event::{
        Vmm,
        log_statement::{Ended, JoinKey, LogStatement, Role},
    },
    hex::Hex,
    incident::log_evidence,
};

/// A statement that is put to the correlator.
pub struct Turn<'a> {
    pub entry: &'a Attributed<'a>,
    pub clocks: Clocks,
    pub of: &'a [(u32, Option<JoinKey>)],
}

/// Without a key: how long after the host lost the page its guest or VMM may mention it.
const CLOCK_WITHIN_NS: i64 = 60_000_000_000;
/// How exactly wall clocks agree.
const CLOCK_GRAIN_NS: i64 = 2_000_000_000;
/// Statements that name one page's address belong to one event only within this time; it is wide because logs often
/// omit the time zone.
const SAME_PAGE_WITHIN_NS: i64 = 26 * 3600 * 1_000_000_000;
/// A unit that ends because of a poisoned page ends within this time.
const UNIT_WITHIN_NS: i64 = 5_000_000_000;
/// Pairs without a key that are looked at.
const MAX_CLOCK_PAIRS: usize = 1 << 20;
const SIGBUS: u32 = 7;
/// Firecracker's exit status after SIGBUS (`FcExitCode::SIGBUS`).
const FIRECRACKER_SIGBUS: u32 = 149;

/// What a speaker is to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    /// The host's kernel, of this process.
    Process,
    Vmm,
    Guest,
    /// A unit that ended.
    Unit,
    /// A physical machine that died.
    Machine,
    /// Facts about others: `ps`, a monitor's answer.
    Fact,
}

/// A speaker, or its statements about one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name {
    stream: Stream,
    part: Part,
    /// The process, domain or unit that it names.
    of: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    parts: BTreeSet<Part>,
    hosts: BTreeSet<String>,
    boots: BTreeSet<String>,
    /// Boots of its host that files show, by file.
    runs: BTreeSet<(usize, u32)>,
    pids: BTreeSet<u32>,
    units: BTreeSet<String>,
    tags: BTreeSet<String>,
    domains: BTreeSet<String>,
    uuids: BTreeSet<String>,
    gpas: BTreeSet<u64>,
    hvas: BTreeSet<u64>,
    pfns: BTreeSet<u64>,
    /// Wall clock of its first and its last statement, and whether these have a year.
    wall: Option<(i64, i64, bool)>,
    vmm: Option<String>,
    /// Something of it is an incident.
    opens: bool,
}

/// A VM as the logs show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    pub pids: BTreeSet<u32>,
    pub vmm: Vmm,
}

/// All VMs, and the one of each statement.
#[derive(Default)]
pub struct Joined {
    pub vms: Vec<Vm>,
    /// By statement: VM from 1, and the key of its speaker.
    pub of: Vec<Vec<(u32, Option<JoinKey>)>>,
}

/// Groups the statements by VM.
pub fn join(logs: &[Log], all: &[Attributed<'_>]) -> Joined {
    let mut graph = Graph {
        relays: relays(logs),
        ..Graph::default()
    };
    let nodes: Vec<Option<usize>> = all.iter().map(|entry| graph.take(logs, entry)).collect();
    graph.by_copies(all, &nodes);
    graph.by_names();
    graph.by_addresses();
    graph.by_clocks();
    graph.number(logs, all, &nodes)
}

/// Processes that log under several names, as console servers and container engines do.
fn relays(logs: &[Log]) -> BTreeSet<u32> {
    let mut tags: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for sender in logs.iter().flat_map(|log| &log.senders) {
        if let (Some(pid), Some(tag)) = (sender.pid, &sender.tag)
            && !program::is_vmm(tag)
        {
            tags.entry(pid).or_default().insert(tag);
        }
    }
    let several = tags.into_iter().filter(|(_, tags)| tags.len() > 1);
    several.map(|(pid, _)| pid).collect()
}

#[derive(Default)]
struct Graph {
    names: HashMap<Name, usize>,
    nodes: Vec<Node>,
    /// Union-find: parent, and the key of the join.
    parent: Vec<usize>,
    keys: Vec<Option<JoinKey>>,
    /// Processes that log under several names: none of them is one VM's.
    relays: BTreeSet<u32>,
}

impl Graph {
    fn take(&mut self, logs: &[Log], entry: &Attributed<'_>) -> Option<usize> {
        let log = logs.get(entry.stream.file)?;
        let sender = log.senders.get(entry.stream.sender).cloned().unwrap_or_default();
        let (part, of) = part(entry, &sender)?;
        let name = Name {
            stream: entry.stream,
            part,
            of,
        };
        let no = match self.names.get(&name) {
            Some(no) => *no,
            None => {
                let no = self.nodes.len();
                self.nodes.push(Node::default());
                self.parent.push(no);
                self.keys.push(None);
                self.names.insert(name, no);
                no
            }
        };
        self.nodes[no].learn(part, entry, &sender, log, &self.relays);
        Some(no)
    }

    fn root(&self, mut no: usize) -> usize {
        while self.parent[no] != no {
            no = self.parent[no];
        }
        no
    }

    /// Joins two, where nothing contradicts.
    fn join(&mut self, a: usize, b: usize, key: &JoinKey) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return false;
        }
        let (first, second) = (a.min(b), a.max(b));
        if self.nodes[first].contradicts(&self.nodes[second], key) {
            return false;
        }
        let other = std::mem::take(&mut self.nodes[second]);
        self.nodes[first].absorb(other);
        self.parent[second] = first;
        // A join by a clock makes all of the other side rest on it.
        self.keys[second] = Some(key.clone());
        true
    }

    /// One log may stand in two files: the same statement of the same moment, or of the same address in the VMM, is of one
    /// speaker.
    fn by_copies(&mut self, all: &[Attributed<'_>], nodes: &[Option<usize>]) {
        let mut known: HashMap<(Part, Stamp, &LogStatement), (usize, usize)> = HashMap::new();
        for (entry, no) in all.iter().zip(nodes) {
            let Some(no) = *no else { continue };
            let Some(part) = self.nodes[no].parts.first().copied() else {
                continue;
            };
            let stamp = entry.item.stamp;
            let key = match &entry.statement {
                LogStatement::VmmInjected { hva: Some(hva), .. } => JoinKey::Hva(*hva),
                LogStatement::GuestMce(mce) if stamp != Stamp::default() => match mce.addr {
                    Some(addr) => JoinKey::Gpa(addr),
                    None => continue,
                },
                LogStatement::GuestSignal { pfn, .. } if stamp != Stamp::default() => JoinKey::Pfn(*pfn),
                _ => continue,
            };
            let stamp = match entry.statement {
                LogStatement::VmmInjected { .. } => Stamp::default(),
                _ => stamp,
            };
            let file = entry.stream.file;
            let (first, other) = *known.entry((part, stamp, &entry.statement)).or_insert((file, no));
            if first != file {
                self.join(other, no, &key);
            }
        }
    }

    fn by_names(&mut self) {
        let mut known: BTreeMap<String, (JoinKey, Vec<usize>)> = BTreeMap::new();
        for (no, node) in self.nodes.iter().enumerate() {
            for (text, key) in node.keys() {
                known.entry(text).or_insert_with(|| (key, Vec::new())).1.push(no);
            }
        }
        for (key, nodes) in known.into_values() {
            for pair in nodes.windows(2) {
                self.join(pair[0], pair[1], &key);
            }
            // Where neighbours contradict each other, others may not.
            for n in 2..nodes.len().min(64) {
                self.join(nodes[0], nodes[n], &key);
            }
        }
    }

    fn by_addresses(&mut self) {
        type Key = fn(u64) -> JoinKey;
        type Of = fn(&Node) -> &BTreeSet<u64>;
        let kinds: [(Key, Of); 3] = [
            (|at| JoinKey::Hva(Hex(at)), |node| &node.hvas),
            (|at| JoinKey::Pfn(Hex(at)), |node| &node.pfns),
            (|at| JoinKey::Gpa(Hex(at)), |node| &node.gpas),
        ];
        for (key, of) in kinds {
            let mut holders: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
            for no in 0..self.nodes.len() {
                let root = self.root(no);
                for at in of(&self.nodes[root]) {
                    holders.entry(*at).or_default().insert(root);
                }
            }
            for (at, nodes) in holders {
                // Of two VMs with the same address neither can be distinguished from the other.
                let roots: BTreeSet<usize> = nodes.iter().map(|no| self.root(*no)).collect();
                let of_part = |part: Part| {
                    let nodes = roots.iter().filter(|no| self.nodes[**no].parts.contains(&part));
                    nodes.count()
                };
                let unique = [Part::Process, Part::Vmm, Part::Guest]
                    .into_iter()
                    .all(|part| of_part(part) <= 1);
                if !unique {
                    continue;
                }
                let roots: Vec<usize> = roots.into_iter().collect();
                for pair in roots.windows(2) {
                    self.join(pair[0], pair[1], &key(at));
                }
            }
        }
    }

    /// Only what is alone on both sides.
    fn by_clocks(&mut self) {
        for (first, second) in [
            (Part::Process, Part::Vmm),
            (Part::Vmm, Part::Guest),
            (Part::Process, Part::Guest),
            (Part::Process, Part::Unit),
        ] {
            let of = |graph: &Self, part: Part, without: Part| -> Vec<usize> {
                let roots = (0..graph.nodes.len()).filter(|no| graph.parent[*no] == *no);
                let is =
                    |node: &Node| node.opens && node.parts.contains(&part) && !node.parts.contains(&without);
                roots.filter(|no| is(&graph.nodes[*no])).collect()
            };
            let (left, right) = (of(self, first, second), of(self, second, first));
            if left.len().saturating_mul(right.len()) > MAX_CLOCK_PAIRS {
                continue;
            }
            let mut pairs = Vec::new();
            for a in &left {
                let near = right
                    .iter()
                    .filter(|b| self.nodes[*a].agrees(&self.nodes[**b], second));
                pairs.extend(near.map(|b| (*a, *b)));
            }
            let alone = |(a, b): &&(usize, usize)| {
                pairs.iter().filter(|(x, _)| x == a).count() == 1
                    && pairs.iter().filter(|(_, y)| y == b).count() == 1
            };
            let pairs: Vec<(usize, usize)> = pairs.iter().filter(alone).copied().collect();
            for (a, b) in pairs {
                self.join(a, b, &JoinKey::Clock);
            }
        }
    }

    /// The key by which a node came to its VM: the weakest on its way.
    fn key(&self, mut no: usize) -> Option<JoinKey> {
        let mut key = None;
        while self.parent[no] != no {
            let step = self.keys[no].clone();
            if key.is_none() || step == Some(JoinKey::Clock) {
                key = step;
            }
            no = self.parent[no];
        }
        key
    }

    fn number(&self, logs: &[Log], all: &[Attributed<'_>], nodes: &[Option<usize>]) -> Joined {
        let mut numbers: HashMap<usize, u32> = HashMap::new();
        let mut joined = Joined::default();
        let mut by_pfn: HashMap<u64, BTreeSet<usize>> = HashMap::new();
        for no in nodes.iter().flatten() {
            let root = self.root(*no);
            let next = joined.vms.len() as u32 + 1;
            if let std::collections::hash_map::Entry::Vacant(entry) = numbers.entry(root) {
                entry.insert(next);
                joined.vms.push(self.nodes[root].vm());
            }
            if self.nodes[root].parts.contains(&Part::Process) {
                for pfn in &self.nodes[root].pfns {
                    by_pfn.entry(*pfn).or_default().insert(root);
                }
            }
        }
        for (entry, no) in all.iter().zip(nodes) {
            let mut of = Vec::new();
            if let Some(no) = no
                && let Some(number) = numbers.get(&self.root(*no))
            {
                of.push((*number, self.key(*no)));
            } else if let Some(pfn) = super::speakers::frame(&entry.statement)
                && entry.role != Role::GuestKernel
            {
                // What the host did about a page concerns all of that host that had it.
                const MAX_OF_PAGE: usize = 64;
                let hosts = hosts(logs, entry);
                let roots = by_pfn.get(&pfn).into_iter().flatten();
                let roots = roots.filter(|root| {
                    let of_node = &self.nodes[**root].hosts;
                    hosts.is_empty() || of_node.is_empty() || !hosts.is_disjoint(of_node)
                });
                let key = Some(JoinKey::Pfn(Hex(pfn)));
                let roots = roots.take(MAX_OF_PAGE);
                of.extend(roots.filter_map(|root| Some((*numbers.get(root)?, key.clone()))));
            }
            joined.of.push(of);
        }
        joined
    }
}

/// The hosts that a statement's sender or its file names.
fn hosts(logs: &[Log], entry: &Attributed<'_>) -> BTreeSet<String> {
    let log = logs.get(entry.stream.file);
    let sender = log.and_then(|log| log.senders.get(entry.stream.sender));
    let of_sender = sender.and_then(|sender| sender.host.clone());
    of_sender
        .or_else(|| log.and_then(|log| log.hostname.clone()))
        .into_iter()
        .collect()
}

/// What a statement's speaker is to a VM, and the process or domain that it names; `None`: none by itself.
fn part(entry: &Attributed<'_>, sender: &Sender) -> Option<(Part, Option<String>)> {
    let text = |pid: &u32| Some(pid.to_string());
    Some(match &entry.statement {
        LogStatement::HostSignal { pid, .. }
        | LogStatement::HostKilled { pid, .. }
        | LogStatement::OwnAccess { pid, .. } => entry.of_vmm.then(|| (Part::Process, text(pid)))?,
        LogStatement::ProcessEnded { pid: Some(pid), .. } => (Part::Fact, text(pid)),
        LogStatement::ProcessEnded { who, how, .. } => {
            let by_sigbus = matches!(how, Ended::Signal(SIGBUS) | Ended::Exit(FIRECRACKER_SIGBUS));
            by_sigbus.then(|| (Part::Unit, Some(who.clone())))?
        }
        LogStatement::VmName { pid: Some(pid), .. } => (Part::Fact, text(pid)),
        LogStatement::AddressMap { gpa, pfn, .. } => (Part::Fact, gpa.or(*pfn).map(|at| at.to_string())),
        LogStatement::HostPanic { .. } | LogStatement::OnCpu { .. } if entry.role == Role::HostKernel => {
            (Part::Machine, None)
        }
        LogStatement::HostMce(mce) if !mce.user_access && mce.exception => (Part::Machine, None),
        LogStatement::HostMce(_)
        | LogStatement::HostAction { .. }
        | LogStatement::HostPanic { .. }
        | LogStatement::OnCpu { .. }
        | LogStatement::Machine { .. }
        | LogStatement::MemoryError { .. }
        | LogStatement::SoftwarePoison { guest: false, .. }
        | LogStatement::Other => return None,
        LogStatement::KernelPanic { .. } => (Part::Machine, None),
        LogStatement::GuestMce(_)
        | LogStatement::SoftwarePoison { .. }
        | LogStatement::GuestPanic { .. }
        | LogStatement::GuestSignal { .. }
        | LogStatement::GuestAction { .. } => (Part::Guest, None),
        LogStatement::QmpMemoryFailure { domain, .. }
        | LogStatement::QmpPanicked { domain, .. }
        | LogStatement::QmpReset { domain, .. }
        | LogStatement::BugCheck { domain, .. }
        | LogStatement::QmpShutdown { domain, .. } => {
            (Part::Vmm, domain.clone().or_else(|| sender.domain.clone()))
        }
        LogStatement::VmmInjected { .. }
        | LogStatement::VmmOwnMemory { .. }
        | LogStatement::VmmReset { .. }
        | LogStatement::RunFailed
        | LogStatement::VmmSigbus { .. }
        | LogStatement::VmName { pid: None, .. }
        | LogStatement::VmStarted { .. }
        | LogStatement::VmShutdown { .. }
        | LogStatement::MigrationRefused => (Part::Vmm, sender.domain.clone()),
    })
}

impl Node {
    /// `relays`: processes that log under several names.
    fn learn(
        &mut self,
        part: Part,
        entry: &Attributed<'_>,
        sender: &Sender,
        log: &Log,
        relays: &BTreeSet<u32>,
    ) {
        self.parts.insert(part);
        self.hosts
            .extend(sender.host.clone().or_else(|| log.hostname.clone()));
        self.boots.extend(sender.boot.clone());
        self.runs.insert((entry.stream.file, entry.boot));
        self.opens |= opens(part, entry);
        let of_identity = matches!(
            &entry.statement,
            LogStatement::VmStarted { .. } | LogStatement::VmName { .. }
        );
        if !of_identity {
            self.clock(entry.item.stamp);
        }
        let of_process = matches!(part, Part::Vmm | Part::Guest);
        if of_process {
            self.units
                .extend(sender.unit.clone().filter(|unit| of_a_vm(unit)));
            self.domains.extend(sender.domain.clone());
            let tag = sender.tag.as_deref().unwrap_or_default();
            // The process of a console server or a container engine relays the consoles of many.
            let runs_it =
                part == Part::Guest && !sender.relay && sender.pid.is_some_and(|pid| !relays.contains(&pid));
            if runs_it || program::is_vmm(tag) || tag == "QEMU" {
                self.pids.extend(sender.pid);
            }
            if part == Part::Guest && !tag.is_empty() && tag != "kernel" && !program::is_vmm(tag) {
                self.tags.insert(unit_name(tag).to_owned());
            }
            if let Some(domain) = sender.unit.as_deref().and_then(machine_unit) {
                self.domains.insert(domain);
            }
        }
        let page = |at: Hex| at.0 >> PAGE_SHIFT << PAGE_SHIFT;
        match &entry.statement {
            LogStatement::HostSignal { pfn, comm, pid } | LogStatement::HostKilled { pfn, comm, pid } => {
                self.pids.insert(*pid);
                self.pfns.insert(pfn.0);
                self.vmm.get_or_insert_with(|| comm.clone());
            }
            LogStatement::OwnAccess { pid, hva, .. } => {
                self.pids.insert(*pid);
                self.hvas.insert(page(*hva));
            }
            LogStatement::ProcessEnded { pid: Some(pid), .. } => {
                self.pids.insert(*pid);
            }
            LogStatement::ProcessEnded { who, .. } => {
                self.tags.insert(unit_name(who).to_owned());
                self.units.insert(who.clone());
            }
            LogStatement::VmName { name, uuid, vmm, pid } => {
                self.pids.extend(*pid);
                self.domains.extend(name.clone());
                self.uuids.extend(uuid.clone());
                self.vmm = vmm.clone().or_else(|| self.vmm.take());
            }
            LogStatement::AddressMap { gpa, hva, pfn, pid } => {
                self.pids.extend(*pid);
                self.gpas.extend(gpa.map(page));
                self.hvas.extend(hva.map(page));
                self.pfns.extend(pfn.map(|pfn| pfn.0));
            }
            LogStatement::VmmInjected { hva, gpa, .. } => {
                self.gpas.extend(gpa.map(page));
                self.hvas.extend(hva.map(page));
            }
            LogStatement::VmmOwnMemory { hva, .. } => self.hvas.extend(hva.map(page)),
            LogStatement::GuestMce(mce) => self.gpas.extend(mce.page()),
            LogStatement::GuestSignal { pfn, .. }
            | LogStatement::GuestAction { pfn, .. }
            | LogStatement::SoftwarePoison { pfn, guest: true } => {
                self.gpas.extend(pfn.0.checked_mul(1 << PAGE_SHIFT));
            }
            LogStatement::QmpMemoryFailure { domain, .. }
            | LogStatement::QmpPanicked { domain, .. }
            | LogStatement::QmpReset { domain, .. }
            | LogStatement::BugCheck { domain, .. }
            | LogStatement::QmpShutdown { domain, .. } => self.domains.extend(domain.clone()),
            _ => {}
        }
    }

    fn clock(&mut self, stamp: Stamp) {
        let Some(wall) = stamp.wall else { return };
        let year = !stamp.no_year;
        self.wall = Some(match self.wall {
            Some((first, last, known)) => (first.min(wall), last.max(wall), known && year),
            None => (wall, wall, year),
        });
    }

    /// The names that another speaker may have too; each with its host, so that those of two hosts differ.
    fn keys(&self) -> Vec<(String, JoinKey)> {
        let mut keys = Vec::new();
        keys.extend(
            self.pids
                .iter()
                .map(|pid| (format!("pid {pid}"), JoinKey::Pid(*pid))),
        );
        keys.extend(
            self.units
                .iter()
                .map(|unit| (format!("unit {unit}"), JoinKey::Unit(unit.clone()))),
        );
        keys.extend(
            self.tags
                .iter()
                .map(|tag| (format!("tag {tag}"), JoinKey::Tag(tag.clone()))),
        );
        keys.extend(
            self.domains
                .iter()
                .map(|name| (format!("domain {name}"), JoinKey::Domain(name.clone()))),
        );
        keys.extend(
            self.uuids
                .iter()
                .map(|uuid| (format!("uuid {uuid}"), JoinKey::Uuid(uuid.clone()))),
        );
        keys
    }

    fn contradicts(&self, other: &Self, key: &JoinKey) -> bool {
        let differ =
            |a: &BTreeSet<String>, b: &BTreeSet<String>| !a.is_empty() && !b.is_empty() && a.is_disjoint(b);
        let pids = !self.pids.is_empty() && !other.pids.is_empty() && self.pids.is_disjoint(&other.pids);
        let machine = self.parts.contains(&Part::Machine) || other.parts.contains(&Part::Machine);
        let names = differ(&self.domains, &other.domains) || differ(&self.uuids, &other.uuids);
        let hosts = differ(&self.hosts, &other.hosts) || differ(&self.boots, &other.boots);
        let far = matches!(key, JoinKey::Gpa(_) | JoinKey::Hva(_))
            && self.apart(other).is_some_and(|apart| apart > SAME_PAGE_WITHIN_NS);
        machine || names || hosts || pids || far || self.other_boot(other)
    }

    /// Whether a file that shows both shows them in different boots of their host.
    fn other_boot(&self, other: &Self) -> bool {
        self.runs.iter().any(|(file, run)| {
            let of_file = |node: &Self| {
                node.runs
                    .range((*file, 0)..=(*file, u32::MAX))
                    .map(|(_, run)| *run)
                    .collect::<Vec<_>>()
            };
            let (mine, theirs) = (of_file(self), of_file(other));
            !theirs.is_empty() && !theirs.contains(run) && !mine.iter().any(|run| theirs.contains(run))
        })
    }

    /// How far apart the nearest of their statements are.
    fn apart(&self, other: &Self) -> Option<i64> {
        let ((a, b, year), (c, d, other_year)) = (self.wall?, other.wall?);
        (year == other_year).then(|| if b < c { c - b } else { (a - d).max(0) })
    }

    /// Whether wall clocks put the other right behind this one.
    fn agrees(&self, other: &Self, part: Part) -> bool {
        let (Some((first, last, year)), Some((begin, _, other_year))) = (self.wall, other.wall) else {
            return false;
        };
        let within = if part == Part::Unit {
            UNIT_WITHIN_NS
        } else {
            CLOCK_WITHIN_NS
        };
        let of_vm = part != Part::Unit || other.units.iter().any(|unit| of_a_vm(unit));
        let near = begin >= first - CLOCK_GRAIN_NS && begin <= last.saturating_add(within);
        of_vm && year == other_year && near && !self.contradicts(other, &JoinKey::Clock)
    }

    fn absorb(&mut self, other: Self) {
        let Self {
            parts,
            hosts,
            boots,
            runs,
            pids,
            units,
            tags,
            domains,
            uuids,
            gpas,
            hvas,
            pfns,
            wall,
            vmm,
            opens,
        } = other;
        self.parts.extend(parts);
        self.hosts.extend(hosts);
        self.boots.extend(boots);
        self.runs.extend(runs);
        self.pids.extend(pids);
        self.units.extend(units);
        self.tags.extend(tags);
        self.domains.extend(domains);
        self.uuids.extend(uuids);
        self.gpas.extend(gpas);
        self.hvas.extend(hvas);
        self.pfns.extend(pfns);
        self.opens |= opens;
        self.vmm = self.vmm.take().or(vmm);
        self.wall = match (self.wall, wall) {
            (Some((a, b, year)), Some((c, d, other))) => Some((a.min(c), b.max(d), year && other)),
            (mine, other) => mine.or(other),
        };
    }

    fn vm(&self) -> Vm {
        Vm {
            pids: self.pids.clone(),
            vmm: Vmm {
                name: self.domains.first().cloned(),
                uuid: self.uuids.first().cloned(),
                vmm: self.vmm.clone(),
                ..Vmm::default()
            },
        }
    }
}

fn opens(part: Part, entry: &Attributed<'_>) -> bool {
    part == Part::Unit
        || log_evidence::opens(&entry.statement)
        || matches!(entry.statement, LogStatement::GuestPanic { .. })
}

/// `fc@a.service` and `fc@a` are one name.
fn unit_name(unit: &str) -> &str {
    [".service", ".scope"]
        .iter()
        .find_map(|end| unit.strip_suffix(end))
        .unwrap_or(unit)
}

/// Whether a unit's name is one that managers give the units of VMs.
pub fn of_a_vm(unit: &str) -> bool {
    const WORDS: [&str; 12] = [
        "qemu",
        "kvm",
        "firecracker",
        "fc@",
        "fc-",
        "microvm",
        "cloud-hypervisor",
        "crosvm",
        "vm@",
        "vm-",
        "machine-",
        "libvirt",
    ];
    let number = unit_name(unit).bytes().all(|b| b.is_ascii_digit());
    unit.ends_with(".scope") && number || WORDS.iter().any(|word| unit.contains(word))
}

/// `machine-qemu\x2d1\x2ddb\x2d7.scope`: the domain.
fn machine_unit(unit: &str) -> Option<String> {
    let name = unit.strip_prefix("machine-qemu\\x2d")?.strip_suffix(".scope")?;
    let (number, domain) = name.split_once("\\x2d")?;
    (!domain.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| domain.replace("\\x2d", "-"))
}
