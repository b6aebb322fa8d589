//! Names of VMs by command lines: in a domain's log behind libvirt's header, and in the output of `ps`.

use super::{prefix, program};
use crate::trace::record::decimal;
use poisontrace_model::{event::log_statement::LogStatement, text::sanitise};

/// Words that `ps` puts before a command.
const MAX_COLUMNS: usize = 12;

/// What libvirt logs about the host when it starts a domain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub kernel: Option<String>,
    pub hostname: Option<String>,
}

/// `2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0, hostname: h`, and the
/// command where it stands on the same line.
pub fn header(line: &[u8]) -> Option<(Header, Option<LogStatement>)> {
    if !line.first()?.is_ascii_digit() {
        return None;
    }
    let at = memchr::memmem::find(&line[..line.len().min(80)], b": starting up libvirt version: ")?;
    let value = |key: &[u8]| {
        let begin = memchr::memmem::find(&line[at..], key)? + at + key.len();
        let end = |b: &u8| *b == b',' || b.is_ascii_whitespace();
        let word = line[begin..].split(end).next()?;
        (!word.is_empty()).then(|| sanitise(&String::from_utf8_lossy(word), 128))
    };
    let header = Header {
        kernel: value(b", kernel: "),
        hostname: value(b", hostname: "),
    };
    Some((header, names(&line[at..], None)))
}

/// The command line behind the header: as long as its lines end in a backslash, or one line of it.
#[derive(Debug, Default)]
pub struct Block {
    open: bool,
}

impl Block {
    pub fn begin(&mut self) {
        self.open = true;
    }

    /// Another log begins.
    pub fn end(&mut self) {
        self.open = false;
    }

    /// Whether a line is that of a command and its names.
    pub fn holds(&self, line: &[u8]) -> bool {
        self.open && memchr::memmem::find(line, b" -name ").is_some()
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &[u8]) -> Option<LogStatement> {
        if !self.open || line.is_empty() {
            return None;
        }
        self.open = line.trim_ascii_end().ends_with(b"\\");
        names(line, None)
    }
}

/// A line of `ps`, `pgrep -a` or the like whose command is QEMU's.
/// `at`: where the message begins in a logger's line.
pub fn of_ps(line: &[u8], at: usize) -> Option<LogStatement> {
    memchr::memmem::find(line, b" -name ").or_else(|| memchr::memmem::find(line, b" -uuid "))?;
    // A logger's date has numbers too.
    let whole = Some(line).filter(|line| !prefix::begins_with_date(line.trim_ascii_start()));
    whole
        .and_then(listed)
        .or_else(|| listed(line.get(at..).filter(|_| at > 0)?))
}

fn listed(line: &[u8]) -> Option<LogStatement> {
    let line = line.trim_ascii();
    let mut columns = line
        .split(u8::is_ascii_whitespace)
        .filter(|column| !column.is_empty());
    let first = columns.next()?;
    let second = columns.next()?;
    let pid = decimal(first).or_else(|| decimal(second))?;
    let command = line
        .split(u8::is_ascii_whitespace)
        .filter(|column| !column.is_empty())
        .take(MAX_COLUMNS)
        .position(is_qemu)?;
    if command == 0 || decimal(first).is_none() && command < 2 {
        return None;
    }
    names(line, Some(u32::try_from(pid).ok()?))
}

fn is_qemu(word: &[u8]) -> bool {
    let name = word.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    word.contains(&b'/') && program::is_vmm(&name) || name.starts_with("qemu-system-")
}

fn names(line: &[u8], pid: Option<u32>) -> Option<LogStatement> {
    let option = |option: &[u8]| {
        let at = memchr::memmem::find(line, option)?;
        (at == 0 || line.get(at - 1) == Some(&b' ')).then(|| &line[at + option.len()..])
    };
    let name = option(b"-name ").and_then(|rest| value(rest, b"guest=").or_else(|| value(rest, b"")));
    let uuid = option(b"-uuid ").and_then(|rest| value(rest, b""));
    let vmm = line
        .split(u8::is_ascii_whitespace)
        .find(|word| is_qemu(word))
        .and_then(|word| word.rsplit(|b| *b == b'/').next())
        .map(|name| sanitise(&String::from_utf8_lossy(name), 64));
    (name.is_some() || uuid.is_some()).then_some(LogStatement::VmName { name, uuid, vmm, pid })
}

/// A value of a command line, up to a comma, a blank or the end.
fn value(rest: &[u8], key: &[u8]) -> Option<String> {
    let rest = rest.strip_prefix(b"'").unwrap_or(rest).strip_prefix(key)?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b',' | b'\'' | b'\\') || b.is_ascii_whitespace())
        .unwrap_or(rest.len());
    (end > 0).then(|| sanitise(&String::from_utf8_lossy(&rest[..end]), 128))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(statement: Option<LogStatement>) -> Option<(Option<String>, Option<u32>)> {
        match statement? {
            LogStatement::VmName { name, pid, .. } => Some((name, pid)),
            _ => None,
        }
    }

    #[test]
    fn a_name_needs_the_header_or_the_pid() {
        let header_and_command = b"2026-11-20 10:00:00.388+0000: starting up libvirt version: 2.0.0, hostname: f1 LC_ALL=C /usr/libexec/qemu-kvm -name guest=db-7,debug-threads=on -S";
        let (header, named) = header(header_and_command).unwrap();
        assert_eq!(header.hostname.as_deref(), Some("f1"));
        assert_eq!(name(named), Some((Some("db-7".to_owned()), None)));
        let mut block = Block::default();
        let line = b"-name guest=db-7,debug-threads=on \\";
        assert_eq!(block.line(line), None);
        block.begin();
        assert_eq!(block.line(b"/usr/bin/qemu-system-x86_64 \\"), None);
        assert_eq!(name(block.line(line)), Some((Some("db-7".to_owned()), None)));
        assert_eq!(block.line(b"-msg timestamp=on"), None);
        assert_eq!(block.line(line), None, "the command line is over");
    }

    #[test]
    fn commands_that_ps_shows() {
        let db = Some((Some("db-7".to_owned()), Some(4711)));
        for line in [
            "libvirt+    4711       1 40 Oct01 ?        90:11:12 /usr/bin/qemu-system-x86_64 -name guest=db-7,debug-threads=on -S",
            "qemu 4711 12.0 3.1 1234 5678 ? Sl Oct01 90:11 /usr/libexec/qemu-kvm -name guest=db-7 -S",
            "4711 /usr/bin/kvm -id 100 -name db-7,debug-threads=on",
        ] {
            assert_eq!(name(of_ps(line.as_bytes(), 0)), db, "{line}");
        }
        let logged = "Nov 20 10:00:00 h1 libvirtd[9]: ";
        let command = format!("{logged}LC_ALL=C /usr/libexec/qemu-kvm -name guest=db-7 -S");
        assert_eq!(of_ps(command.as_bytes(), logged.len()), None, "the day is no pid");
        let row = format!("{logged}4711 /usr/libexec/qemu-kvm -name guest=db-7 -S");
        assert_eq!(name(of_ps(row.as_bytes(), logged.len())), db);
        for line in [
            "find / -name db-7",
            "root 4711 1 0 Oct01 ? 00:00 find / -name db-7",
            "$ qemu-system-x86_64 -name db-7",
            "docker run -name db-7 4711",
        ] {
            assert_eq!(of_ps(line.as_bytes(), 0), None, "{line}");
        }
    }
}
