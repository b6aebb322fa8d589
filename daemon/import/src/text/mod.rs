//! Logs as text: each line is a statement of its sender, in whatever file it stands. Host log, VMM log and console
//! are often written into one file, and into one another's lines.

pub mod clock;
mod command;
mod coredumpctl;
pub mod envelope;
mod escapes;
mod guest;
mod hardware_report;
mod journal;
pub mod program;
mod qmp;
pub mod sender;
pub mod wordings;

use std::collections::{BTreeMap, HashMap};

use clock::Stamp;
use envelope::Envelope;
use poisontrace_model::{
    event::log_statement::{LogStatement, MceReport, Role},
    text::sanitise,
};
pub use sender::Sender;

/// Statements kept of one file; later ones are counted.
const MAX_ITEMS: usize = 16_384;
/// Corrected errors of memory kept of one file: a flood of them leaves room for the rest.
const MAX_CORRECTED: usize = 1024;
/// Lines of one machine check's report.
const MAX_REPORT_LINES: u64 = 64;
/// Senders whose reports are under way at one time.
const MAX_REPORTS: usize = 64;
/// What is kept of a line, to be shown.
const MAX_TEXT: usize = 200;

/// A statement, where it stands, who sent it and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Number of the line, from 1.
    pub line: u64,
    /// Among the statements of one line of the file: a post's markup may hold a whole log on one line.
    pub order: u64,
    /// Its time stamps.
    pub stamp: Stamp,
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
    /// Records of firmware and of mcelog under way, by sender.
    hardware: BTreeMap<usize, hardware_report::Reports>,
    corrected: usize,
    /// Messages so far.
    order: u64,
    journal: journal::Gatherer,
    virsh: qmp::Virsh,
    command: command::Block,
    crash: coredumpctl::Info,
    human: clock::Human,
}

/// A line on its way through the scanner.
struct Line<'a> {
    number: u64,
    /// As it is shown.
    whole: &'a [u8],
    /// Times and names of the journal's entry that holds it.
    entry: Option<&'a journal::Entry>,
    envelope: Envelope<'a>,
    /// Its time by `dmesg -H`, which counts on from the line before.
    human: Option<i64>,
}

impl Line<'_> {
    fn stamp(&self) -> Stamp {
        if let Some(wall) = self.human {
            return Stamp {
                wall: Some(wall),
                no_year: true,
                ..Stamp::default()
            };
        }
        let own = clock::stamp(self.whole, self.envelope.at);
        let Some(entry) = self.entry else { return own };
        Stamp {
            // A relayed kernel's own time stands in the message.
            boot: own.boot.or(entry.stamp.boot.filter(|_| entry.of_kernel())),
            ..entry.stamp
        }
    }

    fn sender(&self) -> Sender {
        let own = self.envelope.sender();
        let Some(entry) = self.entry else { return own };
        Sender {
            domain: own.domain,
            relay: own.relay || entry.sender.relay,
            tag: own.tag.filter(|_| own.relay).or_else(|| entry.sender.tag.clone()),
            ..entry.sender.clone()
        }
    }

    fn text(&self) -> String {
        let line = String::from_utf8_lossy(&self.whole[..self.whole.len().min(2 * MAX_TEXT)]);
        sanitise(line.trim(), MAX_TEXT)
    }
}

impl Scanner {
    /// Reads the line of this number.
    pub fn line(&mut self, number: u64, line: &[u8]) {
        let line = &*escapes::strip(line);
        if let Some(entry) = journal::json(number, line) {
            return self.entry(&entry);
        }
        let of_field = envelope::dated_field(line).unwrap_or(line);
        let (field, entry) = self.journal.line(number, of_field);
        if let Some(entry) = entry {
            self.entry(&entry);
        }
        if !field {
            self.message(number, line, None);
        }
    }

    /// The file is over.
    pub fn finish(&mut self) {
        if let Some(entry) = self.journal.finish() {
            self.entry(&entry);
        }
        for sender in std::mem::take(&mut self.reports) {
            self.close(sender.0, sender.1);
        }
        for (sender, mut reports) in std::mem::take(&mut self.hardware) {
            for finished in reports.finish() {
                self.keep_hardware(sender, finished);
            }
        }
    }

    fn entry(&mut self, entry: &journal::Entry) {
        self.known += 1;
        self.message(entry.line, &entry.message, Some(entry));
    }

    fn message(&mut self, number: u64, whole: &[u8], entry: Option<&journal::Entry>) {
        self.order += 1;
        let envelope = envelope::open(whole);
        let line = Line {
            number,
            whole,
            entry,
            envelope,
            human: self.human.line(whole),
        };
        if let Some(dump) = entry.and_then(|entry| entry.core_dump.clone()) {
            return self.add(&line, Role::Tool, dump);
        }
        if self.statement(&line) || self.report(&line) || self.hardware(&line) || self.others(&line) {
            return;
        }
        // A console's output may run into another's line.
        if let Some(at) = envelope::interleaved(whole)
            && at > 0
        {
            let mut inner = envelope::open(&whole[at..]);
            inner.at += at;
            (inner.host, inner.tag, inner.pid) = (envelope.host, envelope.tag, envelope.pid);
            let line = Line {
                envelope: inner,
                ..line
            };
            if self.statement(&line) || self.report(&line) {
                return;
            }
        }
        let logged = envelope.host.is_some() && envelope.tag.is_some();
        let dated =
            envelope.at > 0 && (envelope.printk || envelope.of_kernel() || logged || envelope.libvirt);
        self.known += u64::from(dated);
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
            Some(b'{') => Role::Kernel,
            _ => Role::Tool,
        };
        if !hardware_report::is_part(message) || !may_print(role, line, false) {
            return false;
        }
        let sender = self.sender(line);
        if self.hardware.len() >= MAX_REPORTS && !self.hardware.contains_key(&sender) {
            return false;
        }
        let reports = self.hardware.entry(sender).or_default();
        let Some(finished) = reports.line(line.number, line.stamp(), message) else {
            return false;
        };
        self.known += 1;
        if let Some(finished) = finished {
            self.keep_hardware(sender, finished);
        }
        true
    }

    fn keep_hardware(&mut self, sender: usize, finished: hardware_report::Finished) {
        self.keep(Item {
            line: finished.line,
            order: self.order,
            stamp: finished.stamp,
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
        if let Some(header) = command::header(line.whole) {
            self.known += 1;
            self.host_kernel = header.kernel.clone().or(self.host_kernel.take());
            self.hostname = header.hostname.clone().or(self.hostname.take());
            self.command.begin();
            self.add(
                line,
                Role::Libvirt,
                LogStatement::VmStarted {
                    host: header.hostname,
                },
            );
            return true;
        }
        if let Some(statement) = command::of_ps(line.whole).or_else(|| self.command.line(message)) {
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
        let Some((wall, statement)) = qmp::read(message).or_else(|| self.virsh.line(message)) else {
            return false;
        };
        self.known += 1;
        if let Some(statement) = statement {
            let mut stamp = line.stamp();
            stamp.wall = wall.or(stamp.wall);
            stamp.no_year &= wall.is_none();
            self.push(line, stamp, Role::Qmp, statement);
        }
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
        self.keep(Item {
            line: report.line,
            order: report.order,
            stamp: report.stamp,
            sender,
            role: Role::Kernel,
            text: report.text,
            statement: LogStatement::GuestMce(report.mce),
        });
    }

    fn sender(&mut self, line: &Line<'_>) -> usize {
        let sender = line.sender();
        if let Some(known) = self.known_senders.get(&sender) {
            return *known;
        }
        if self.senders.len() >= MAX_ITEMS {
            return 0;
        }
        self.senders.push(sender.clone());
        let number = self.senders.len() - 1;
        self.known_senders.insert(sender, number);
        number
    }

    fn add(&mut self, line: &Line<'_>, role: Role, statement: LogStatement) {
        self.push(line, line.stamp(), role, statement);
    }

    fn push(&mut self, line: &Line<'_>, stamp: Stamp, role: Role, statement: LogStatement) {
        let sender = self.sender(line);
        if role == Role::Kernel {
            self.expire(sender, line.number);
        }
        self.keep(Item {
            line: line.number,
            order: self.order,
            stamp,
            sender,
            role,
            text: line.text(),
            statement,
        });
    }

    fn keep(&mut self, item: Item) {
        self.known += 1;
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

/// Whether a line of this sender can be one that such a program prints.
fn may_print(role: Role, line: &Line<'_>, of_vmm: bool) -> bool {
    let e = &line.envelope;
    let tag = line
        .entry
        .and_then(|entry| entry.sender.tag.as_deref().map(str::as_bytes))
        .or(e.tag);
    match role {
        // A kernel's own line, or a console that somebody relays: with a time since boot, or through a known relay.
        Role::Kernel => {
            !of_vmm
                && (tag.is_none() || tag == Some(b"kernel") || e.relay.is_some() || e.printk || relays(tag))
        }
        Role::Vmm => tag != Some(b"kernel"),
        Role::Libvirt => {
            tag.is_none() && e.libvirt
                || tag.is_some_and(|tag| tag.starts_with(b"libvirt") || tag == b"virtqemud")
        }
        _ => !of_vmm,
    }
}

/// Programs whose messages are the lines of a guest's console.
fn relays(tag: Option<&[u8]>) -> bool {
    let tag = tag.map(String::from_utf8_lossy).unwrap_or_default();
    program::is_vmm(&tag)
        || ["microvm", "qemu", "console", "conserver", "ttyS", "hvc"]
            .iter()
            .any(|part| tag.contains(part))
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
