//! Reports that take several lines: a kernel's of a machine check, firmware's and mcelog's records; each sender's are gathered until
//! they end.

use super::{
    Item, Scanner,
    clock::Stamp,
    guest, hardware_report,
    line::{Line, may_print},
};
use poisontrace_model::event::log_statement::{LogStatement, MceReport, Role};

/// Lines of one machine check's report.
const MAX_REPORT_LINES: u64 = 64;
/// Lines that a kernel logs at most between a machine check's report and its end.
const LAST_LINES: u64 = 6;
/// Until this time a kernel reports what its processors' banks hold of the boot before, nanoseconds.
const FOUND_AT_BOOT_NS: u64 = 30_000_000_000;
/// Senders whose reports are under way at one time.
const MAX_REPORTS: usize = 64;

/// A sender, its boot and its host's, and the marks of a reboot before.
pub(super) type OfBoot = (usize, (Option<u32>, Option<u32>), u32);

/// A machine check's report under way.
pub(super) struct Report {
    pub(super) line: u64,
    pub(super) order: u64,
    pub(super) last: u64,
    pub(super) stamp: Stamp,
    pub(super) boot: (Option<u32>, Option<u32>),
    pub(super) marks: u32,
    pub(super) text: String,
    pub(super) mce: MceReport,
    /// Its first line has not been read: it was cut off, or comes last.
    pub(super) headless: bool,
    /// The line read last shows registers, which stand behind the first.
    pub(super) register: bool,
}

impl Scanner {
    /// A kernel's boot begins with `line`: the one before may have ended with the machine check that it logged last, at the line
    /// `ended`.
    pub(super) fn last_words(&mut self, line: &Line<'_>, ended: u64) {
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

    /// A line of a machine check's report.
    pub(super) fn report(&mut self, line: &Line<'_>) -> bool {
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
    pub(super) fn hardware(&mut self, line: &Line<'_>) -> bool {
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

    pub(super) fn keep_hardware(&mut self, of: OfBoot, finished: hardware_report::Finished) {
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

    /// `headless`: the report's first line was cut off, or comes last.
    pub(super) fn begin(&mut self, line: &Line<'_>, mce: MceReport, headless: bool) {
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

    pub(super) fn touch_report(&mut self, line: &Line<'_>) {
        let sender = self.known_senders.get(&line.sender()).copied();
        if let Some(report) = sender.and_then(|sender| self.reports.get_mut(&sender)) {
            report.last = report.last.max(line.number);
        }
    }

    pub(super) fn expire(&mut self, sender: usize, number: u64) {
        let over = |report: &Report| number.saturating_sub(report.line) > MAX_REPORT_LINES;
        if self.reports.get(&sender).is_some_and(over)
            && let Some(report) = self.reports.remove(&sender)
        {
            self.close(sender, report);
        }
    }

    pub(super) fn close(&mut self, sender: usize, report: Report) {
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
}
