//! Crashes as `coredumpctl list` and `coredumpctl info` show them (src/coredump/coredumpctl.c), and the reports of ABRT (`abrt info`)
//! and apport (`/var/crash/*.crash`).

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
    /// What ABRT's reason or apport's path names.
    program: Option<String>,
    /// Apport's process, of its `ProcStatus`.
    pid: Option<u32>,
}

impl Info {
    /// Takes a line: of `list` it is a whole entry; of `info` its signal is.
    pub fn line(&mut self, message: &[u8]) -> Option<LogStatement> {
        if let Some(process) = message.strip_prefix(b"PID: ") {
            self.process = named(process);
            return None;
        }
        if let Some(statement) = self.abrt(message).or_else(|| self.apport(message)) {
            return Some(statement);
        }
        if message.starts_with(b"Signal: ") {
            let (pid, who) = self.process.take()?;
            return (message == b"Signal: 7 (BUS)").then(|| ended(pid, who));
        }
        entry(message)
    }
}

impl Info {
    /// `reason:  qemu-kvm killed by SIGBUS`, and the process in the name of its `Directory:`.
    fn abrt(&mut self, message: &[u8]) -> Option<LogStatement> {
        if let Some(reason) = message.strip_prefix(b"reason:") {
            let who = reason.trim_ascii().strip_suffix(b" killed by SIGBUS");
            self.program = who.filter(|who| !who.contains(&b' ')).map(text);
            return None;
        }
        let path = message.strip_prefix(b"Directory:")?.trim_ascii();
        let who = self.program.take()?;
        let pid = path.rsplit(|b| *b == b'-').next().and_then(decimal)?;
        path.starts_with(b"/").then_some(())?;
        Some(ended(u32::try_from(pid).ok()?, who))
    }

    /// `ExecutablePath: `, `Pid:` of `ProcStatus:`, `Signal: 7`, in this order.
    fn apport(&mut self, message: &[u8]) -> Option<LogStatement> {
        if let Some(path) = message.strip_prefix(b"ExecutablePath: ") {
            self.program = path.rsplit(|b| *b == b'/').next().map(text);
            self.pid = None;
            return None;
        }
        if let Some(pid) = message.strip_prefix(b"Pid:") {
            self.pid = decimal(pid.trim_ascii()).and_then(|pid| u32::try_from(pid).ok());
            return None;
        }
        if message != b"Signal: 7" {
            return None;
        }
        Some(ended(self.pid.take()?, self.program.take()?))
    }
}

fn text(name: &[u8]) -> String {
    sanitise(&String::from_utf8_lossy(name), 64)
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
    fn reports_of_abrt_and_apport() {
        let abrt = "Directory:      /var/spool/abrt/ccpp-2026-11-22-15:45:36-801";
        assert_eq!(
            pid(&["reason:         qemu-kvm killed by SIGBUS", abrt]),
            Some(801)
        );
        assert_eq!(pid(&["reason:         qemu-kvm killed by SIGSEGV", abrt]), None);
        let path = "ExecutablePath: /usr/bin/qemu-system-x86_64";
        assert_eq!(pid(&[path, "Pid:\t801", "Signal: 7"]), Some(801));
        assert_eq!(pid(&[path, "Pid:\t801", "Signal: 6"]), None);
        assert_eq!(pid(&["Pid:\t801", "Signal: 7"]), None);
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
