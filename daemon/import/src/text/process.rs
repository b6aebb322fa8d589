//! How a process ended, in the words of the audit subsystem and of systemd.

use crate::trace::record::decimal;
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement},
    text::sanitise,
};

/// Reads a line; the position is that of the words.
pub fn read(line: &[u8]) -> Option<(usize, LogStatement)> {
    abnormal_end(line).or_else(|| main_process(line))
}

/// `audit: type=1701 audit(…): … pid=221 comm="fc_vcpu 0" exe="…" sig=7 res=1` (ANOM_ABEND, kernel/auditsc.c;
/// auditd's log says `type=ANOM_ABEND`).
fn abnormal_end(line: &[u8]) -> Option<(usize, LogStatement)> {
    let find = |words: &[u8]| memchr::memmem::find(line, words);
    let at = find(b"type=1701 ").or_else(|| find(b"type=ANOM_ABEND "))?;
    let number = |key: &[u8]| {
        let rest = &line[memchr::memmem::find(&line[at..], key)? + at + key.len()..];
        let end = rest
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(rest.len());
        u32::try_from(decimal(&rest[..end])?).ok()
    };
    let comm = find(b" comm=\"").and_then(|begin| {
        let rest = &line[begin + 7..];
        Some(&rest[..memchr::memchr(b'"', rest)?])
    });
    let said = LogStatement::ProcessEnded {
        who: sanitise(&String::from_utf8_lossy(comm.unwrap_or(b"?")), 64),
        pid: number(b" pid="),
        how: Ended::Signal(number(b" sig=")?),
    };
    Some((at, said))
}

/// `NAME.service: Main process exited, code=killed, status=7/BUS` (also `dumped`; `exited, status=149/n/a`).
fn main_process(line: &[u8]) -> Option<(usize, LogStatement)> {
    let at = memchr::memmem::find(line, b": Main process exited, code=")?;
    let rest = &line[at + 28..];
    let comma = memchr::memchr(b',', rest)?;
    let status = rest[comma..].strip_prefix(b", status=")?;
    let end = status
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(status.len());
    let status = u32::try_from(decimal(&status[..end])?).ok()?;
    let how = match &rest[..comma] {
        b"killed" | b"dumped" => Ended::Signal(status),
        b"exited" => Ended::Exit(status),
        _ => return None,
    };
    let unit = line[..at]
        .rsplit(|b| b.is_ascii_whitespace())
        .next()
        .unwrap_or_default();
    let said = LogStatement::ProcessEnded {
        who: sanitise(&String::from_utf8_lossy(unit), 128),
        pid: None,
        how,
    };
    Some((at - unit.len(), said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_and_systemd_tell_how_a_process_ended() {
        let told = |line: &str| read(line.as_bytes()).map(|(_, said)| said);
        let ended = |who: &str, pid, how| {
            Some(LogStatement::ProcessEnded {
                who: who.to_owned(),
                pid,
                how,
            })
        };
        assert_eq!(
            told(
                "audit: type=1701 audit(1795362334.123:456): auid=0 uid=0 gid=0 ses=1 pid=2001 comm=\"fc_vcpu 0\" exe=\"/usr/bin/firecracker\" sig=7 res=1"
            ),
            ended("fc_vcpu 0", Some(2001), Ended::Signal(7))
        );
        assert_eq!(
            told("systemd[1]: fc@a.service: Main process exited, code=dumped, status=7/BUS"),
            ended("fc@a.service", None, Ended::Signal(7))
        );
        assert_eq!(
            told("systemd[1]: fc@a.service: Main process exited, code=exited, status=149/n/a"),
            ended("fc@a.service", None, Ended::Exit(149))
        );
        for other in [
            "type=1701 ",
            "a: Main process exited, code=killed",
            "a: Main process exited, code=x, status=1/A",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
