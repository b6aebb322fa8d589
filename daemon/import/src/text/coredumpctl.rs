//! Crashes as `coredumpctl list` and `coredumpctl info` show them (src/coredump/coredumpctl.c).

use crate::trace::record::decimal;
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement},
    text::sanitise,
};

const SIGBUS: u32 = 7;

/// The process of the entry that `info` shows.
#[derive(Debug, Default)]
pub struct Info {
    process: Option<(u32, String)>,
}

impl Info {
    /// Takes a line: of `list` it is a whole entry; of `info` its signal is.
    pub fn line(&mut self, message: &[u8]) -> Option<LogStatement> {
        if let Some(process) = message.strip_prefix(b"PID: ") {
            self.process = named(process);
            return None;
        }
        if message.starts_with(b"Signal: ") {
            let (pid, who) = self.process.take()?;
            return (message == b"Signal: 7 (BUS)").then(|| ended(pid, who));
        }
        entry(message)
    }
}

fn ended(pid: u32, who: String) -> LogStatement {
    LogStatement::ProcessEnded {
        who,
        pid: Some(pid),
        how: Ended::Signal(SIGBUS),
        lone: false,
    }
}

/// `801 (qemu-system-x86)`.
fn named(text: &[u8]) -> Option<(u32, String)> {
    let open = memchr::memmem::find(text, b" (")?;
    let name = text[open + 2..].strip_suffix(b")")?;
    let pid = u32::try_from(decimal(&text[..open])?).ok()?;
    Some((pid, sanitise(&String::from_utf8_lossy(name), 64)))
}

/// `801  107  107 SIGBUS present  /usr/bin/qemu-system-x86_64 1.2G`; the signal's number before systemd 246.
fn entry(message: &[u8]) -> Option<LogStatement> {
    if !message.first()?.is_ascii_digit() {
        return None;
    }
    let mut words = message
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let pid = u32::try_from(decimal(words.next()?)?).ok()?;
    decimal(words.next()?)?;
    decimal(words.next()?)?;
    if !matches!(words.next()?, b"SIGBUS" | b"7") {
        return None;
    }
    let states = [
        &b"present"[..],
        b"missing",
        b"none",
        b"truncated",
        b"error",
        b"journal",
        b"inaccessible",
        b"*",
        b"-",
    ];
    states.contains(&words.next()?).then_some(())?;
    let path = words.next().filter(|path| path.starts_with(b"/"))?;
    let name = path.rsplit(|b| *b == b'/').next()?;
    Some(ended(pid, sanitise(&String::from_utf8_lossy(name), 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(lines: &[&str]) -> Option<u32> {
        let mut info = Info::default();
        lines.iter().find_map(|line| match info.line(line.as_bytes())? {
            LogStatement::ProcessEnded { pid, .. } => pid,
            _ => None,
        })
    }

    #[test]
    fn a_vmm_that_sigbus_killed() {
        assert_eq!(
            pid(&["801  107  107 SIGBUS present  /usr/bin/qemu-system-x86_64 1.2G"]),
            Some(801)
        );
        assert_eq!(pid(&["801   107   107   7 * /usr/bin/qemu-kvm"]), Some(801));
        assert_eq!(
            pid(&["PID: 801 (CPU 0/KVM)", "UID: 107 (qemu)", "Signal: 7 (BUS)"]),
            Some(801)
        );
    }

    #[test]
    fn other_signals_and_lines() {
        assert_eq!(
            pid(&["801  107  107 SIGSEGV present  /usr/bin/qemu-kvm 1.2G"]),
            None
        );
        assert_eq!(pid(&["801  107  107 SIGBUS of something"]), None);
        assert_eq!(
            pid(&["PID: 801 (qemu)", "Signal: 11 (SEGV)", "Signal: 7 (BUS)"]),
            None
        );
        assert_eq!(pid(&["Signal: 7 (BUS)", "", "PID: x"]), None);
    }
}
