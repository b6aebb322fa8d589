//! Logs as text: each line is a statement of its sender, in whatever file it stands. Host log, VMM log and console
//! are often written into one file, and into one another's lines.

pub mod boots;
pub mod clock;
mod columns;
mod command;
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
mod section;
pub mod sender;
mod torn;
pub mod wordings;

use std::collections::{BTreeMap, HashMap};

use crate::{origin::Origin, reformat::LooksCut};
use boots::Boots;
use clock::Stamp;
use line::{Line, may_print};
use poisontrace_model::event::log_statement::{LogStatement, MceReport, Role};
pub use sender::Sender;

/// Statements kept of one file; later ones are counted.
const MAX_ITEMS: usize = 16_384;
/// The sender of a line for whose sender there is no room.
const NO_ROOM: usize = usize::MAX;
/// Corrected errors of memory kept of one file: a flood of them leaves room for the rest.
const MAX_CORRECTED: usize = 1024;
/// Lines of one machine check's report.
const MAX_REPORT_LINES: u64 = 64;
/// Lines that a kernel logs at most between a machine check's report and its end.
const LAST_LINES: u64 = 6;
/// Until this time a kernel reports what its processors' banks hold of the boot before, nanoseconds.
const FOUND_AT_BOOT_NS: u64 = 30_000_000_000;
/// Senders whose reports are under way at one time.
const MAX_REPORTS: usize = 64;

/// A sender, its boot and its host's, and the marks of a reboot before.
type OfBoot = (usize, (Option<u32>, Option<u32>), u32);

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

/// A machine check's report under way.
struct Report {
    line: u64,
    order: u64,
    last: u64,
    stamp: Stamp,
    boot: (Option<u32>, Option<u32>),
    marks: u32,
    text: String,
    mce: MceReport,
    /// Its first line has not been read: it was cut off, or comes last.
    headless: bool,
    /// The line read last shows registers, which stand behind the first.
    register: bool,
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
        for sender in std::mem::take(&mut self.reports) {
            self.close(sender.0, sender.1);
        }
        for (of, mut reports) in std::mem::take(&mut self.hardware) {
            for finished in reports.finish() {
                self.keep_hardware(of, finished);
            }
        }
    }

    fn entry(&mut self, entry: &journal::Entry, origin: &Origin) {
        self.known += 1;
        self.message(entry.line, &entry.message, Some(entry), origin);
    }

    fn message(&mut self, number: u64, whole: &[u8], entry: Option<&journal::Entry>, origin: &Origin) {
        self.order += 1;
        let envelope = envelope::open(whole);
        let section = match self.sections.origin.is_empty() || entry.is_some() {
            true => None,
            false => Some(origin.within(&self.sections.origin)),
        };
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
        let of_host = tag == Some(b"kernel") && e.relay.is_none();
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

    /// A kernel's boot begins with `line`: the one before may have ended with the machine check that it logged last, at the line
    /// `ended`.
    fn last_words(&mut self, line: &Line<'_>, ended: u64) {
        let Some(sender) = self.known_senders.get(&line.sender()).copied() else {
            return;
        };
        let now = line.stamp();
        let of_end = |last: u64, stamp: Stamp| {
            let near = last <= ended && ended - last <= LAST_LINES;
            // Where the latest line comes first, what stands before a boot's first message is of that boot.
            let before = match (stamp.wall, now.wall, stamp.boot) {
                (Some(then), Some(now), _) => then <= now,
                (.., Some(since)) => since > FOUND_AT_BOOT_NS,
                _ => true,
            };
            near && before
        };
        if let Some(report) = self.reports.get_mut(&sender)
            && of_end(report.last, report.stamp)
        {
            report.mce.last_words = true;
            return;
        }
        let latest = self.items.iter_mut().rev().find(|item| item.sender == sender);
        if let Some(item) = latest
            && of_end(item.line, item.stamp)
            && let LogStatement::GuestMce(mce) = &mut item.statement
        {
            mce.last_words = true;
        }
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
            Some(rest) => (without_level(rest), true),
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

    /// A line of a machine check's report.
    fn report(&mut self, line: &Line<'_>) -> bool {
        let mut mce = MceReport::default();
        if !guest::is_part(line.envelope.message) || !may_print(Role::Kernel, line, false) {
            return false;
        }
        let message = line.envelope.message;
        let sender = self.known_senders.get(&line.sender()).copied();
        if let Some(sender) = sender {
            self.expire(sender, line.number);
        }
        let mut open = sender.and_then(|sender| self.reports.get_mut(&sender));
        if let Some(report) = &open {
            mce = report.mce.clone();
        }
        match (guest::read(message, &mut mce), &mut open) {
            (Some(guest::Line::Begin), Some(report)) if report.headless && report.register => {
                report.mce = guest::complete(mce, std::mem::take(&mut report.mce));
                report.headless = false;
                (report.line, report.order) = (line.number, self.order);
                report.text = line.text();
                self.end_report(sender);
            }
            (Some(guest::Line::Begin), _) => self.begin(line, mce, false),
            (Some(guest::Line::More), Some(report)) => {
                report.mce = mce;
                report.last = line.number;
                report.register = guest::is_register(message);
                self.known += 1;
            }
            (Some(guest::Line::More), None) if message.starts_with(b"[") => self.begin(line, mce, true),
            (Some(guest::Line::More), None) => self.known += 1,
            (None, _) => return false,
        }
        self.kernel_line(line);
        true
    }

    fn end_report(&mut self, sender: Option<usize>) {
        let report = sender.and_then(|sender| Some((sender, self.reports.remove(&sender)?)));
        if let Some((sender, report)) = report {
            self.close(sender, report);
        }
    }

    /// A line of a record that firmware or mcelog made.
    fn hardware(&mut self, line: &Line<'_>) -> bool {
        let message = line.envelope.message;
        let role = match message.first() {
            Some(b'{' | b'[') => Role::Kernel,
            _ => Role::Tool,
        };
        if !hardware_report::is_part(message) || !may_print(role, line, false) {
            return false;
        }
        let sender = self.sender(line);
        let of = (sender, line.boot, self.boots.marks());
        if self.hardware.len() >= MAX_REPORTS && !self.hardware.contains_key(&of) {
            return false;
        }
        let reports = self.hardware.entry(of).or_default();
        let Some(finished) = reports.line(line.number, line.stamp(), message) else {
            return false;
        };
        self.known += 1;
        if let Some(finished) = finished {
            self.keep_hardware(of, finished);
        }
        true
    }

    fn keep_hardware(&mut self, of: OfBoot, finished: hardware_report::Finished) {
        let (sender, boot, marks) = of;
        self.keep(Item {
            line: finished.line,
            order: self.order,
            stamp: finished.stamp,
            boot: boot.0,
            host_boot: boot.1,
            marks,
            sender,
            role: Role::Kernel,
            text: finished.text,
            statement: finished.statement,
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

    /// `headless`: the report's first line was cut off, or comes last.
    fn begin(&mut self, line: &Line<'_>, mce: MceReport, headless: bool) {
        let sender = self.sender(line);
        if let Some(before) = self.reports.remove(&sender) {
            self.close(sender, before);
        }
        if self.reports.len() >= MAX_REPORTS
            && let Some((sender, report)) = self.reports.pop_first()
        {
            self.close(sender, report);
        }
        self.known += 1;
        self.reports.insert(
            sender,
            Report {
                line: line.number,
                order: self.order,
                last: line.number,
                stamp: line.stamp(),
                boot: line.boot,
                marks: self.boots.marks(),
                text: line.text(),
                mce,
                headless,
                register: guest::is_register(line.envelope.message),
            },
        );
    }

    fn touch_report(&mut self, line: &Line<'_>) {
        let sender = self.known_senders.get(&line.sender()).copied();
        if let Some(report) = sender.and_then(|sender| self.reports.get_mut(&sender)) {
            report.last = report.last.max(line.number);
        }
    }

    fn expire(&mut self, sender: usize, number: u64) {
        let over = |report: &Report| number.saturating_sub(report.line) > MAX_REPORT_LINES;
        if self.reports.get(&sender).is_some_and(over)
            && let Some(report) = self.reports.remove(&sender)
        {
            self.close(sender, report);
        }
    }

    fn close(&mut self, sender: usize, report: Report) {
        // Of a report without its first line only the kernel's reason shows anything.
        if report.headless && report.mce.reason.is_none() {
            return;
        }
        let mut stamp = report.stamp;
        // The kernel states when it took the machine check (struct mce, `time`).
        if stamp.wall.is_none()
            && let Some(time) = report.mce.time
        {
            stamp.wall = i64::try_from(time)
                .ok()
                .and_then(|time| time.checked_mul(1_000_000_000));
            // A guest's clock may show a place's time.
            (stamp.no_year, stamp.local) = (false, true);
        }
        self.keep(Item {
            line: report.line,
            order: report.order,
            stamp,
            boot: report.boot.0,
            host_boot: report.boot.1,
            marks: report.marks,
            sender,
            role: Role::Kernel,
            text: report.text,
            statement: LogStatement::GuestMce(report.mce),
        });
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
        // A kernel logs its machine once.
        let again = |other: &Item| other.sender == item.sender && other.statement == item.statement;
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

/// `warning: ` before a message of QEMU.
fn without_level(message: &[u8]) -> &[u8] {
    [&b"warning: "[..], b"error: ", b"info: "]
        .iter()
        .find_map(|level| {
            message
                .strip_prefix(*level)
                .filter(|rest| !rest.starts_with(b"kvm run failed"))
        })
        .unwrap_or(message)
}
