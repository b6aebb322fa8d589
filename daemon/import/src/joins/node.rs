//! What is known of one speaker: its machine, boot and run, its names, its page, its clocks.

use std::collections::BTreeSet;

use super::{
    Vm,
    clocks::{BootAt, GRAIN_NS, Life, Wall},
    part::{Part, machine_unit, of_a_vm, opens, unit_name},
};
use crate::{
    log::Log,
    speakers::{self, Attributed, PAGE_SHIFT},
    text::{Sender, program},
};
use poisontrace_model::{
    event::{
        NameGuess, Vmm,
        log_statement::{JoinKey, LogStatement, Role},
    },
    hex::Hex,
    incident::log_evidence,
};

/// Without a key: how long after the host lost the page its guest or VMM may mention it.
const CLOCK_WITHIN_NS: i64 = 60_000_000_000;
/// A list of processes shows a process of this time at most: later the pid may be another's.
const LIST_HOLDS_NS: i64 = 3600 * 1_000_000_000;
/// A unit that ends because of a poisoned page ends within this time.
const UNIT_WITHIN_NS: i64 = 5_000_000_000;

/// Whose boots or runs a file shows one after another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// All of the file, by its marks of a reboot.
    File,
    Host(Option<String>),
    /// A sender, as a kernel or as all else.
    Sender(usize, bool),
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub parts: BTreeSet<Part>,
    hosts: BTreeSet<String>,
    boots: BTreeSet<String>,
    boot_at: Option<BootAt>,
    /// Boots and runs that files show, by file.
    runs: BTreeSet<(usize, Who, u32)>,
    /// Names before a guest's console.
    labels: BTreeSet<String>,
    /// Names before any of its lines, by the file that has them.
    named: BTreeSet<(usize, String)>,
    pids: BTreeSet<u32>,
    /// Processes that log a guest's console under a name that shows no VMM: its VMM, or who relays it.
    consoles: BTreeSet<u32>,
    units: BTreeSet<String>,
    tags: BTreeSet<String>,
    domains: BTreeSet<String>,
    /// Names of KubeVirt's VMs without their namespace.
    vmis: BTreeSet<String>,
    uuids: BTreeSet<String>,
    pub gpas: BTreeSet<u64>,
    pub hvas: BTreeSet<u64>,
    pub pfns: BTreeSet<u64>,
    /// Wall clock of its statements.
    wall: Option<Wall>,
    life: Life,
    /// Times since boot of statements that show no wall clock, by file.
    since: Option<(usize, i64, i64)>,
    /// Something that is no list of processes names the VM.
    says_its_name: bool,
    /// When lists of processes named it, where they show that.
    listed: Option<Wall>,
    vmm: Option<String>,
    /// Something of it is an incident.
    pub opens: bool,
    /// Something of it is of poisoned memory or a machine check, and no panic for another reason alone.
    pub of_poison: bool,
}

impl Node {
    /// The host of a statement that is about no process.
    pub fn of_host(logs: &[Log], entry: &Attributed<'_>) -> Self {
        let mut node = Self::default();
        let Some(log) = logs.get(entry.stream.file) else {
            return node;
        };
        let sender = log.senders.get(entry.stream.sender).cloned().unwrap_or_default();
        node.machine(Part::Process, entry, &sender, log);
        node.clocks(Part::Process, entry);
        node
    }

    /// `relays`: processes that log under several names.
    pub fn learn(
        &mut self,
        part: Part,
        entry: &Attributed<'_>,
        sender: &Sender,
        log: &Log,
        relays: &BTreeSet<u32>,
    ) {
        self.parts.insert(part);
        self.machine(part, entry, sender, log);
        self.opens |= opens(part, entry);
        self.of_poison |= match &entry.statement {
            LogStatement::GuestPanic { text } => log_evidence::by_machine_check(text),
            _ => opens(part, entry),
        };
        self.clocks(part, entry);
        let of_process = matches!(part, Part::Vmm | Part::Guest);
        if of_process {
            self.units
                .extend(sender.unit.clone().filter(|unit| of_a_vm(unit)));
            self.domains.extend(sender.domain.clone());
            let tag = sender.tag.as_deref().unwrap_or_default();
            // The process of a console server or a container engine relays the consoles of many.
            let runs_it =
                part == Part::Guest && !sender.relay && sender.pid.is_some_and(|pid| !relays.contains(&pid));
            // A container engine puts its own name before a container's: `docker/vm-1`.
            let named_as_its_unit = of_a_vm(tag) && !tag.contains('/');
            if program::is_vmm(tag) || tag == "QEMU" || runs_it && named_as_its_unit {
                self.pids.extend(sender.pid);
            } else if runs_it {
                self.consoles.extend(sender.pid);
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
                match (pid, Wall::of(entry.item.stamp)) {
                    (None, _) => self.says_its_name = true,
                    (Some(_), at) => self.listed = union(self.listed, at, Wall::union),
                }
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
            | LogStatement::QmpShutdown { domain, .. }
            | LogStatement::VmStarted { domain, .. } => {
                // KubeVirt's events name the VM, its records the domain too.
                match entry.role == Role::Tool && sender.domain.is_none() {
                    true => self.vmis.extend(domain.clone()),
                    false if entry.role == Role::Tool => {}
                    false => self.domains.extend(domain.clone()),
                }
            }
            _ => {}
        }
        let by_sender = sender.domain.is_some() || sender.unit.as_deref().and_then(machine_unit).is_some();
        self.says_its_name |= entry.statement.domain().is_some() || of_process && by_sender;
    }

    /// Which machine it runs on, and in which boot or run.
    fn machine(&mut self, part: Part, entry: &Attributed<'_>, sender: &Sender, log: &Log) {
        let file = entry.stream.file;
        // A name before a guest's console is the console's.
        let host = match part {
            Part::Guest => sender.host.as_deref(),
            _ => sender.machine(),
        };
        let host = host.or(log.hostname.as_deref());
        self.hosts.extend(host.map(str::to_owned));
        self.boots.extend(sender.boot.clone());
        self.runs.insert((file, Who::File, entry.item.marks));
        // A console that nobody relays shows no boot but the guest's own.
        let relayed = part != Part::Guest || sender.tag.as_deref().is_some_and(|tag| tag != "kernel");
        if let Some(boot) = entry.item.host_boot.filter(|_| relayed) {
            self.runs.insert((file, Who::Host(host.map(str::to_owned)), boot));
        }
        if matches!(part, Part::Vmm | Part::Guest) {
            self.runs.insert((
                file,
                Who::Sender(entry.stream.sender, entry.stream.kernel),
                entry.stream.run,
            ));
        }
        if part == Part::Guest {
            self.labels.extend(sender.label.clone());
        }
        self.named.extend(sender.label.clone().map(|label| (file, label)));
    }

    fn clocks(&mut self, part: Part, entry: &Attributed<'_>) {
        let stamp = entry.item.stamp;
        let wall = Wall::of(stamp);
        let life = match &entry.statement {
            LogStatement::VmStarted { .. } => Life {
                born: wall,
                ended: None,
            },
            // What ended by itself did not live on; a unit may be started again.
            LogStatement::ProcessEnded { .. } => Life {
                born: None,
                ended: wall,
            },
            statement if speakers::ends(statement) => Life {
                born: None,
                ended: wall,
            },
            _ => Life::default(),
        };
        self.life = self.life.union(life);
        let of_identity = matches!(
            &entry.statement,
            LogStatement::VmStarted { .. } | LogStatement::VmName { .. }
        );
        if let Some(wall) = wall.filter(|_| !of_identity) {
            self.wall = Some(self.wall.map_or(wall, |known| known.union(wall)));
        }
        if matches!(part, Part::Process | Part::Machine)
            && let Some(at) = BootAt::of(stamp)
        {
            self.boot_at = Some(self.boot_at.map_or(at, |known| known.union(at)));
        }
        if matches!(part, Part::Process | Part::Unit)
            && wall.is_none()
            && let Some(at) = stamp.boot.and_then(|at| i64::try_from(at).ok())
        {
            let file = entry.stream.file;
            self.since = union(self.since, Some((file, at, at)), |a, b| {
                (a.0, a.1.min(b.1), a.2.max(b.2))
            });
        }
    }

    /// The names that another speaker may have too.
    pub fn keys(&self) -> Vec<(String, JoinKey)> {
        let mut keys = Vec::new();
        keys.extend(
            self.processes()
                .map(|pid| (format!("pid {pid}"), JoinKey::Pid(pid))),
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
        let vmis = self.domains.iter().filter_map(|domain| vmi(domain));
        keys.extend(
            vmis.chain(self.vmis.iter().map(String::as_str))
                .map(|name| (format!("VM {name} of KubeVirt"), JoinKey::Domain(name.to_owned()))),
        );
        keys.extend(
            self.uuids
                .iter()
                .map(|uuid| (format!("uuid {uuid}"), JoinKey::Uuid(uuid.clone()))),
        );
        keys
    }

    /// Its VMM, and who logs its console.
    fn processes(&self) -> impl Iterator<Item = u32> + '_ {
        self.pids.union(&self.consoles).copied()
    }

    /// Whether their processes differ. What relays a console is another process than the VMM, so that it speaks against nothing but
    /// a join by clocks alone.
    fn other_process(&self, other: &Self, key: &JoinKey) -> bool {
        let of = |node: &Self| -> BTreeSet<u32> {
            match key {
                JoinKey::Clock => node.processes().collect(),
                _ => node.pids.clone(),
            }
        };
        let (mine, theirs) = (of(self), of(other));
        !mine.is_empty() && !theirs.is_empty() && mine.is_disjoint(&theirs)
    }

    /// Whether both cannot be of one life of one VM.
    pub fn contradicts(&self, other: &Self, key: &JoinKey) -> bool {
        let differ =
            |a: &BTreeSet<String>, b: &BTreeSet<String>| !a.is_empty() && !b.is_empty() && a.is_disjoint(b);
        let machine = self.parts.contains(&Part::Machine) || other.parts.contains(&Part::Machine);
        let names = differ(&self.domains, &other.domains)
            || differ(&self.uuids, &other.uuids)
            || differ(&self.vmis, &other.vmis)
            || self.other_vmi(other)
            || other.other_vmi(self);
        // A pid is one host's: names of two before the lines of one file are of two.
        let by_pid = matches!(key, JoinKey::Pid(_))
            && !share_a_host(&self.hosts, &other.hosts)
            && self.named_apart(other);
        let labels = by_pid || differ(&self.labels, &other.labels);
        machine
            || names
            || labels
            || self.other_process(other, key)
            || self.elsewhere(other)
            || self.at_another_time(other, key)
    }

    /// Whether its VM's short name is none of the other's domains.
    fn other_vmi(&self, other: &Self) -> bool {
        let is = |domain: &String| {
            self.vmis
                .iter()
                .any(|name| name == domain || vmi(domain) == Some(name))
        };
        !self.vmis.is_empty() && !other.domains.is_empty() && !other.domains.iter().any(is)
    }

    /// Whether they are of two machines, or of two boots or runs of one.
    pub fn elsewhere(&self, other: &Self) -> bool {
        let differ =
            |a: &BTreeSet<String>, b: &BTreeSet<String>| !a.is_empty() && !b.is_empty() && a.is_disjoint(b);
        let boot = |a: Option<BootAt>, b: Option<BootAt>| a.zip(b).is_some_and(|(a, b)| a.is_another(b));
        let hosts = !self.hosts.is_empty() && !other.hosts.is_empty();
        hosts && !share_a_host(&self.hosts, &other.hosts)
            || differ(&self.boots, &other.boots)
            || boot(self.boot_at, other.boot_at)
            || self.other_run(other)
    }

    fn at_another_time(&self, other: &Self, key: &JoinKey) -> bool {
        let excludes = |life: Life, wall: Option<Wall>| wall.is_some_and(|wall| life.excludes(wall));
        let far = matches!(key, JoinKey::Gpa(_) | JoinKey::Hva(_) | JoinKey::Pfn(_))
            && self
                .wall
                .zip(other.wall)
                .is_some_and(|(a, b)| a.is_another_event(b));
        far || excludes(self.life, other.wall) || excludes(other.life, self.wall)
    }

    /// Whether a file that shows both shows them in different boots of their host, or runs of their sender.
    fn other_run(&self, other: &Self) -> bool {
        self.runs.iter().any(|(file, who, _)| {
            let of_both = |node: &Self| {
                let runs = node.runs.iter().filter(|(a, b, _)| a == file && b == who);
                runs.map(|(.., run)| *run).collect::<BTreeSet<u32>>()
            };
            let theirs = of_both(other);
            !theirs.is_empty() && of_both(self).is_disjoint(&theirs)
        })
    }

    /// How far apart the nearest of their statements are.
    pub fn apart(&self, other: &Self) -> Option<i64> {
        self.wall?.apart(other.wall?)
    }

    /// Whether wall clocks put the other right behind this one.
    pub fn agrees(&self, other: &Self, part: Part) -> bool {
        if let (Some((file, first, last)), Some((of, begins, _)), Part::Unit) =
            (self.since, other.since, part)
        {
            // One kernel's buffer: both are of its boot.
            let near = begins >= first && begins <= last.saturating_add(UNIT_WITHIN_NS);
            let of_vm = other.units.iter().any(|unit| of_a_vm(unit));
            return of_vm && file == of && near && !self.contradicts(other, &JoinKey::Clock);
        }
        let (Some(mine), Some(theirs)) = (self.wall, other.wall) else {
            return false;
        };
        let within = if part == Part::Unit {
            UNIT_WITHIN_NS
        } else {
            CLOCK_WITHIN_NS
        };
        let of_vm = part != Part::Unit || other.units.iter().any(|unit| of_a_vm(unit));
        let near = theirs.first >= mine.first - GRAIN_NS && theirs.first <= mine.last.saturating_add(within);
        of_vm
            && mine.year == theirs.year
            && near
            && !self.named_apart(other)
            && !self.contradicts(other, &JoinKey::Clock)
    }

    /// Whether one file puts different names before the lines of both: a guest's name is not its host's, but nearness alone
    /// does not show which guest of which host it is.
    fn named_apart(&self, other: &Self) -> bool {
        let of = |node: &Self, file: usize| -> BTreeSet<String> {
            let of_file = node.named.iter().filter(|(at, _)| *at == file);
            of_file.map(|(_, name)| name.clone()).collect()
        };
        self.named.iter().any(|(file, _)| {
            let (mine, theirs) = (of(self, *file), of(other, *file));
            !theirs.is_empty() && mine.is_disjoint(&theirs)
        })
    }

    pub fn absorb(&mut self, other: Self) {
        let Self {
            parts,
            hosts,
            boots,
            boot_at,
            runs,
            labels,
            named,
            pids,
            consoles,
            units,
            tags,
            domains,
            vmis,
            uuids,
            gpas,
            hvas,
            pfns,
            wall,
            life,
            since,
            says_its_name,
            listed,
            vmm,
            opens,
            of_poison,
        } = other;
        self.parts.extend(parts);
        self.hosts.extend(hosts);
        self.boots.extend(boots);
        self.runs.extend(runs);
        self.labels.extend(labels);
        self.named.extend(named);
        self.pids.extend(pids);
        self.consoles.extend(consoles);
        self.units.extend(units);
        self.tags.extend(tags);
        self.domains.extend(domains);
        self.vmis.extend(vmis);
        self.uuids.extend(uuids);
        self.gpas.extend(gpas);
        self.hvas.extend(hvas);
        self.pfns.extend(pfns);
        self.opens |= opens;
        self.of_poison |= of_poison;
        self.says_its_name |= says_its_name;
        self.listed = union(self.listed, listed, Wall::union);
        self.vmm = self.vmm.take().or(vmm);
        self.life = self.life.union(life);
        self.since = union(self.since, since, |a, b| (a.0, a.1.min(b.1), a.2.max(b.2)));
        self.wall = union(self.wall, wall, Wall::union);
        self.boot_at = union(self.boot_at, boot_at, BootAt::union);
    }

    /// Whether the same host, boot, file, or another key than a pid is known of both: pids of two hosts may be the same.
    pub fn shares_host(&self, other: &Self) -> bool {
        let both = |of: fn(&Self) -> &BTreeSet<String>| !of(self).is_disjoint(of(other));
        let page = |of: fn(&Self) -> &BTreeSet<u64>| !of(self).is_disjoint(of(other));
        let boot = self.boot_at.zip(other.boot_at).is_some_and(|(a, b)| a.is_same(b));
        let mut files = self.runs.iter().map(|(file, ..)| file);
        share_a_host(&self.hosts, &other.hosts)
            || both(|node| &node.boots)
            || both(|node| &node.domains)
            || both(|node| &node.uuids)
            || both(|node| &node.units)
            || page(|node| &node.pfns)
            || page(|node| &node.hvas)
            || page(|node| &node.gpas)
            || boot
            || files.any(|file| other.runs.iter().any(|(other, ..)| other == file))
    }

    pub fn vm(&self) -> Vm {
        let name = only(&self.domains).or_else(|| only(&self.vmis).filter(|_| self.domains.is_empty()));
        let near = self.listed.zip(self.wall);
        let near = near.is_some_and(|(list, wall)| list.is_near(wall, LIST_HOLDS_NS));
        let aged = name.is_some() && !self.says_its_name && !near;
        Vm {
            pids: self.pids.clone(),
            vmm: Vmm {
                name,
                name_guess: aged.then_some(NameGuess::AgedList),
                uuid: only(&self.uuids),
                vmm: self.vmm.clone(),
                ..Vmm::default()
            },
        }
    }
}

/// The VM of `default_db-7`: names of Kubernetes have no `_`.
fn vmi(domain: &str) -> Option<&str> {
    let (namespace, name) = domain.split_once('_')?;
    let of = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    (of(namespace) && of(name)).then_some(name)
}

/// Whether a machine is named in both: `h1` is the `h1.example.org` of another log.
fn share_a_host(a: &BTreeSet<String>, b: &BTreeSet<String>) -> bool {
    let short = |name: &str, whole: &str| {
        let rest = whole.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('.')) && name.bytes().any(|b| b.is_ascii_alphabetic())
    };
    let same = |a: &String| b.iter().any(|b| a == b || short(a, b) || short(b, a));
    a.iter().any(same)
}

/// Of several names none is known to be the VM's.
fn only(names: &BTreeSet<String>) -> Option<String> {
    (names.len() == 1).then(|| names.first().cloned()).flatten()
}

fn union<T>(a: Option<T>, b: Option<T>, both: fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (a, b) => a.or(b),
    }
}
