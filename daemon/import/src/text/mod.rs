//! Logs as text: each line is a statement of its sender, in whatever file it stands. Host log, VMM log and console
//! are often written into one file, and into one another's lines.

pub mod boots;
pub mod clock;
mod columns;
mod command;
mod console;
mod coredumpctl;
pub mod envelope;
mod escapes;
mod guest;
mod hardware_report;
mod journal;
mod kubevirt;
pub mod label;
mod libvirt;
mod line;
mod prefix;
pub mod program;
mod qmp;
mod reports;
mod section;
pub mod sender;
mod shell;
mod torn;
mod virsh_words;
pub mod wordings;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    origin::{OfDomain, Origin},
    reformat::LooksCut,
};
use boots::Boots;
use clock::Stamp;
use line::{Line, may_print};
use poisontrace_model::event::log_statement::{LogStatement, Role};
use reports::{OfBoot, Report};
pub use sender::Sender;

/// Statements kept of one file; later ones are counted.
const MAX_ITEMS: usize = 16_384;
/// The sender of a line for whose sender there is no room.
const NO_ROOM: usize = usize::MAX;
/// Corrected errors of memory kept of one file: a flood of them leaves room for the rest.
const MAX_CORRECTED: usize = 1024;

/// A statement, where it stands, who sent it and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Number of the line, from 1.
    pub line: u64,
    /// Among the statements of one line of the file: a post's markup may hold a whole log on one line.
    pub order: u64,
    /// Its time stamps.
    pub stamp: Stamp,
    /// Boot, within the file, of the kernel that speaks.
    pub boot: Option<u32>,
    /// Boot, within the file, of the host that logged it; `None`: nothing names it.
    pub host_boot: Option<u32>,
    /// Marks of a reboot that stand before it in the file.
    pub marks: u32,
    /// Index into [`Scanner::senders`].
    pub sender: usize,
    /// Who prints such lines; a [`Role::Kernel`] may be a host's or a guest's.
    pub role: Role,
    /// The line, as it can be shown.
    pub text: String,
    /// Its content.
    pub statement: LogStatement,
}

/// Reads the lines of one file.
#[derive(Default)]
pub struct Scanner {
    /// Statements.
    pub items: Vec<Item>,
    /// Senders, to which statements refer by index.
    pub senders: Vec<Sender>,
    known_senders: HashMap<Sender, usize>,
    /// Statements that found no room.
    pub dropped: u64,
    /// Lines that were some log's.
    pub known: u64,
    /// What libvirt logs about the host.
    pub host_kernel: Option<String>,
    /// Name of the host.
    pub hostname: Option<String>,
    reports: BTreeMap<usize, Report>,
    /// Records of firmware and of mcelog under way, by sender and boot.
    hardware: BTreeMap<OfBoot, hardware_report::Reports>,
    corrected: usize,
    /// Messages so far.
    order: u64,
    journal: journal::Gatherer,
    virsh: qmp::Virsh,
    command: command::Block,
    crash: coredumpctl::Info,
    human: clock::Human,
    boots: Boots,
    sections: section::Sections,
    columns: columns::Columns,
    /// Sessions of monitors that began.
    monitors: u32,
    kernel_lines: torn::Torn,
    /// Lines of a kernel that lost their beginning.
    pub torn: Vec<LooksCut>,
}

impl Scanner {
    /// Reads the line of this number.
    pub fn line(&mut self, number: u64, line: &[u8]) {
        self.line_of(number, line, &Origin::default());
    }

    /// The same of a line that came out of somebody's record.
    pub fn line_of(&mut self, number: u64, line: &[u8], origin: &Origin) {
        let line = &*escapes::strip(line);
        if let Some(entry) = journal::json(number, line) {
            return self.entry(&entry, origin);
        }
        // The environment before a VMM's command looks like a field.
        if !self.command.holds(line) {
            let of_field = envelope::dated_field(line).unwrap_or(line);
            let (field, entry) = self.journal.line(number, of_field);
            if let Some(entry) = entry {
                self.entry(&entry, origin);
            }
            if field {
                return;
            }
        }
        if boots::is_mark(line) {
            self.boots.mark();
            return;
        }
        if self.sections.line(line) {
            // A prompt may stand before the first line of what follows.
            self.command.end();
        }
        self.message(number, line, None, origin);
    }

    /// The file is over.
    pub fn finish(&mut self) {
        self.torn = self.kernel_lines.finish();
        if let Some(entry) = self.journal.finish() {
            self.entry(&entry, &Origin::default());
        }
        self.name_launchers();
        for sender in std::mem::take(&mut self.reports) {
            self.close(sender.0, sender.1);
        }
        for (of, mut reports) in std::mem::take(&mut self.hardware) {
            for finished in reports.finish() {
                self.keep_hardware(of, finished);
            }
        }
    }

    /// A pod that runs one VM names it in some of its records.
    fn name_launchers(&mut self) {
        let pod = |sender: &Sender| (sender.host.clone(), sender.label.clone());
        let mut domains: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for sender in self.senders.iter().filter(|sender| sender.launcher) {
            domains
                .entry(pod(sender))
                .or_default()
                .extend(sender.domain.clone());
        }
        for sender in self.senders.iter_mut().filter(|sender| sender.launcher) {
            if let Some(names) = domains.get(&pod(sender)).filter(|names| names.len() == 1) {
                sender.domain = sender.domain.take().or_else(|| names.first().cloned());
            }
        }
    }

    fn entry(&mut self, entry: &journal::Entry, origin: &Origin) {
        self.known += 1;
        self.message(entry.line, &entry.message, Some(entry), origin);
    }

    fn message(&mut self, number: u64, whole: &[u8], entry: Option<&journal::Entry>, origin: &Origin) {
        self.order += 1;
        let mut envelope = envelope::open(whole);
        let section = match self.sections.origin.is_empty() || entry.is_some() {
            true => None,
            false => Some(origin.within(&self.sections.origin)),
        };
        if let Some(section) = section
            .as_ref()
            .filter(|section| section.of_domain == OfDomain::Console)
            && envelope.of_console()
        {
            envelope.relay = section.domain.as_deref().map(str::as_bytes);
            envelope.guest = envelope.relay;
        }
        let mut line = Line {
            number,
            whole,
            entry,
            envelope,
            human: self.human.line(whole),
            origin: section.as_ref().unwrap_or(origin),
            boot: (None, None),
            column: None,
        };
        let column = self.column(&line, origin.column.as_deref().map(str::as_bytes));
        line.column = column.as_deref();
        line.boot = self.boot(&line);
        if line.origin.of_domain == OfDomain::Launcher && line.origin.domain.is_some() {
            // Whatever it is about: it names the VM of its pod.
            self.sender(&line);
        }
        if let Some(dump) = entry.and_then(|entry| entry.core_dump.clone()) {
            return self.add(&line, Role::Tool, dump);
        }
        if self.statement(&line) || self.report(&line) || self.hardware(&line) {
            // It is no part of a command line.
            self.command.end();
            return;
        }
        if self.others(&line) {
            return;
        }
        // A console's output may run into another's line.
        if let Some(at) = envelope::interleaved(whole)
            && at > 0
        {
            // Where the other line has a logger's date of its own, what stands behind that names its sender.
            let dated = (envelope.at..at).find(|at| prefix::begins_with_date(&whole[*at..]));
            let at = dated.unwrap_or(at);
            let mut inner = envelope::open(&whole[at..]);
            inner.at += at;
            (inner.label, inner.from) = (envelope.label.or(inner.label), envelope.from);
            if dated.is_none() {
                let own = |tag: &[u8]| {
                    whole[..envelope.at]
                        .split(u8::is_ascii_whitespace)
                        .any(|word| word.strip_suffix(b":") == Some(tag))
                };
                match whole.get(envelope.at..at).and_then(envelope::torn_tag) {
                    Some(tag) if !own(tag) => inner.label = Some(tag),
                    _ => (inner.host, inner.tag, inner.pid) = (envelope.host, envelope.tag, envelope.pid),
                }
            }
            let mut line = Line {
                envelope: inner,
                ..line
            };
            line.boot = self.boot(&line);
            if self.statement(&line) || self.report(&line) {
                return;
            }
        }
        let logged = envelope.host.is_some() && envelope.tag.is_some();
        let dated =
            envelope.at > 0 && (envelope.printk || envelope.of_kernel() || logged || envelope.libvirt);
        self.known += u64::from(dated);
    }

    /// The name before a line that is of no known shape, where it stands before others too.
    fn column(&mut self, line: &Line<'_>, before: Option<&[u8]>) -> Option<String> {
        let e = &line.envelope;
        if line.entry.is_some() || e.label.is_some() || e.relay.is_some() {
            return None;
        }
        // Where the line's own prefix is known nothing is looked for.
        let inside = || {
            let at = (e.at == 0).then(|| envelope::interleaved(line.whole))?;
            at.filter(|at| *at > 0)
        };
        let before = match before {
            Some(before) => before,
            None => &line.whole[..inside()?],
        };
        let columns::Column::Name { name, first } = self.columns.line(line.number, before) else {
            return None;
        };
        if let Some(first) = first {
            self.name_again(first, &name);
        }
        Some(name)
    }

    /// Puts what the line `number` shows to the sender of this name.
    fn name_again(&mut self, number: u64, name: &str) {
        let of_line = |item: &Item| item.line == number && item.role == Role::Kernel;
        let items: Vec<usize> = (0..self.items.len())
            .filter(|at| of_line(&self.items[*at]))
            .collect();
        for at in items {
            let sender = self.named(self.items[at].sender, name);
            self.items[at].sender = sender;
        }
        let open = self.reports.iter().find(|(_, report)| report.line == number);
        if let Some(old) = open.map(|(sender, _)| *sender)
            && let Some(report) = self.reports.remove(&old)
        {
            let sender = self.named(old, name);
            self.reports.insert(sender, report);
        }
    }

    /// The sender that is as another, with a name before its lines.
    fn named(&mut self, sender: usize, name: &str) -> usize {
        let mut sender = self.senders.get(sender).cloned().unwrap_or_default();
        sender.label = line::within(sender.label.as_deref(), Some(name.to_owned()));
        self.known_sender(&sender)
    }

    /// The boots of the kernel that speaks and of the host that logs, within the file.
    fn boot(&mut self, line: &Line<'_>) -> (Option<u32>, Option<u32>) {
        let e = &line.envelope;
        let tag = match line.entry {
            Some(entry) => entry.sender.tag.as_deref().map(str::as_bytes),
            None => e.tag,
        };
        let of_host = (tag == Some(b"kernel") || e.in_buffer) && e.relay.is_none();
        let machine = line.machine();
        if of_host || e.printk || tag.is_none() && boots::is_head(e.message) {
            // A guest's console behind a relay boots by itself.
            let relay = (!of_host).then(|| e.relay.or(tag)).flatten();
            let [host, label, inner] = machine;
            let speaker = boots::machine(&[host, label, inner, relay]);
            let boot = match (line.entry, line.whole.get(..e.at)) {
                (Some(entry), _) if of_host => entry.stamp.boot,
                (_, Some(before)) if e.printk => clock::printk(before),
                _ => None,
            };
            let head = boots::is_head(e.message);
            let begun = self.boots.of_kernel(speaker, line.number, boot, head);
            if let Some(ended) = begun.ended {
                self.last_words(line, ended);
            }
            let own = Some(begun.no);
            if of_host || relay.is_none() {
                return (own, own);
            }
            return (own, self.host_boot(machine));
        }
        let host_boot = self.host_boot(machine);
        // A kernel's line without a time since boot is of the boot that the lines before it are of.
        let own = || {
            let [host, label, inner] = machine;
            self.boots.of_program(boots::machine(&[host, label, inner, None]))
        };
        (host_boot.is_none().then(own), host_boot)
    }

    fn host_boot(&mut self, machine: [Option<&[u8]>; 3]) -> Option<u32> {
        let [host, label, inner] = machine;
        let named = machine.iter().any(Option::is_some);
        named.then(|| self.boots.of_program(boots::machine(&[host, label, inner, None])))
    }

    /// A line that is a statement by itself.
    fn statement(&mut self, line: &Line<'_>) -> bool {
        let message = line.envelope.message;
        let (message, of_vmm) = match program::vmm_prefix(message) {
            Some(rest) => (program::without_level(rest), true),
            // A logger took QEMU's own name for its tag.
            None if line.envelope.tag.is_some_and(program::is_vmm_name) => {
                (program::without_level(message), false)
            }
            None => (message, false),
        };
        let Some((wording, statement)) = wordings::read(message) else {
            return false;
        };
        if !may_print(wording.role, line, of_vmm) {
            return false;
        }
        if wording.role == Role::Kernel {
            self.kernel_line(line);
        }
        match statement {
            LogStatement::Other => {
                self.known += 1;
                self.touch_report(line);
            }
            LogStatement::GuestMce(mce) => self.begin(line, mce, false),
            statement => self.add(line, wording.role, statement),
        }
        true
    }

    fn kernel_line(&mut self, line: &Line<'_>) {
        let stamp = line.stamp();
        let timed = stamp.boot.is_some() || stamp.wall.is_some();
        self.kernel_lines.line(timed, || LooksCut {
            line: line.number,
            text: line.text(),
        });
    }

    /// QMP, `virsh event`, command lines.
    fn others(&mut self, line: &Line<'_>) -> bool {
        let message = line.envelope.message;
        if let Some(event) = wordings::hardware::event(message)
            && let Some((wording, statement)) = wordings::read(&event)
        {
            match statement {
                LogStatement::Other => self.known += 1,
                statement => self.add(line, wording.role, statement),
            }
            return true;
        }
        if let Some((header, named)) = command::header(line.whole).or_else(|| command::header(message)) {
            self.known += 1;
            self.host_kernel = header.kernel.clone().or(self.host_kernel.take());
            self.hostname = header.hostname.clone().or(self.hostname.take());
            self.command.begin();
            self.add(
                line,
                Role::Libvirt,
                LogStatement::VmStarted {
                    host: header.hostname,
                    domain: None,
                },
            );
            if let Some(named) = named {
                self.command.end();
                self.add(line, Role::Libvirt, named);
            }
            return true;
        }
        let listed = command::of_ps(line.whole, line.envelope.at);
        if listed.is_some() {
            self.command.end();
        }
        if let Some(statement) = listed.or_else(|| self.command.line(message)) {
            let role = match &statement {
                LogStatement::VmName { pid: Some(_), .. } => Role::Tool,
                _ => Role::Libvirt,
            };
            self.add(line, role, statement);
            return true;
        }
        if let Some(statement) = self.crash.line(message) {
            self.add(line, Role::Tool, statement);
            return true;
        }
        if let Some(statement) = kubevirt::event(message) {
            if statement == LogStatement::Other {
                self.known += 1;
                return true;
            }
            self.add(line, Role::Tool, statement);
            return true;
        }
        if qmp::is_greeting(message) {
            self.monitors += 1;
            self.known += 1;
            return true;
        }
        if self.quoted(line) {
            return true;
        }
        let of_virsh = (self.virsh.is_open() && !message.contains(&b'\''))
            .then(|| qmp::virsh_flag(line.whole))
            .flatten();
        let of_virsh = of_virsh.unwrap_or(message);
        let event = qmp::read(message).or_else(|| self.virsh.line(of_virsh, || zoned(line.stamp())));
        let Some((wall, statement)) = event else {
            return false;
        };
        self.known += 1;
        if let Some(statement) = statement {
            let mut stamp = line.stamp();
            stamp.wall = wall.or(stamp.wall);
            stamp.no_year &= wall.is_none();
            stamp.local &= wall.is_none();
            let session = (self.monitors > 1).then(|| self.monitors.to_string());
            let mut sender = line.sender();
            sender.monitor = qmp::monitor(message).or(session);
            let sender = self.known_sender(&sender);
            self.push_of(sender, line, stamp, Role::Qmp, statement);
        }
        true
    }

    /// A VMM's last words as libvirt quotes them.
    fn quoted(&mut self, line: &Line<'_>) -> bool {
        let e = &line.envelope;
        let Some(quote) = libvirt::quoted(e.message) else {
            return false;
        };
        self.known += 1;
        let words = envelope::open(quote.words);
        if !program::is_vmm_prefix(words.message) {
            return true;
        }
        let line = Line {
            envelope: envelope::Envelope {
                message: words.message,
                guest: quote.domain.or(words.guest),
                ..*e
            },
            ..*line
        };
        self.statement(&line);
        true
    }

    fn sender(&mut self, line: &Line<'_>) -> usize {
        self.known_sender(&line.sender())
    }

    fn known_sender(&mut self, sender: &Sender) -> usize {
        if let Some(known) = self.known_senders.get(sender) {
            return *known;
        }
        if self.senders.len() >= MAX_ITEMS {
            return NO_ROOM;
        }
        self.senders.push(sender.clone());
        let number = self.senders.len() - 1;
        self.known_senders.insert(sender.clone(), number);
        number
    }

    fn add(&mut self, line: &Line<'_>, role: Role, statement: LogStatement) {
        self.push(line, line.stamp(), role, statement);
    }

    fn push(&mut self, line: &Line<'_>, stamp: Stamp, role: Role, statement: LogStatement) {
        let mut sender = line.sender();
        // The log of a domain names it; a console may be logged beside it under any name.
        if matches!(role, Role::Vmm | Role::Libvirt) && sender.domain.is_none() {
            let of_log = line.origin.label.as_deref().and_then(libvirt::domain_of_log);
            sender.domain = of_log.map(str::to_owned);
        }
        let sender = self.known_sender(&sender);
        self.push_of(sender, line, stamp, role, statement);
    }

    fn push_of(&mut self, sender: usize, line: &Line<'_>, stamp: Stamp, role: Role, statement: LogStatement) {
        if role == Role::Kernel {
            self.expire(sender, line.number);
        }
        self.keep(Item {
            line: line.number,
            order: self.order,
            stamp,
            boot: line.boot.0,
            host_boot: line.boot.1,
            marks: self.boots.marks(),
            sender,
            role,
            text: line.text(),
            statement,
        });
    }

    fn keep(&mut self, item: Item) {
        self.known += 1;
        // Nobody's statement is put to somebody else.
        if item.sender == NO_ROOM {
            self.dropped += 1;
            return;
        }
        // A kernel logs its machine once; the next boot is to show its own.
        let again = |other: &Item| {
            let of_boot = (other.sender, other.boot, other.marks) == (item.sender, item.boot, item.marks);
            of_boot && other.statement == item.statement
        };
        if matches!(&item.statement, LogStatement::Machine { .. })
            && self.items.iter().rev().take(64).any(again)
        {
            return;
        }
        if let LogStatement::MemoryError { corrected: true, .. } = &item.statement {
            self.corrected += 1;
            if self.corrected > MAX_CORRECTED {
                return;
            }
        }
        if self.items.len() >= MAX_ITEMS {
            self.dropped += 1;
            return;
        }
        self.items.push(item);
    }
}

/// A wall clock whose year and zone are shown.
fn zoned(stamp: Stamp) -> Option<i64> {
    stamp.wall.filter(|_| !stamp.no_year && !stamp.local)
}
