//! QMP events as lines of JSON, and as `virsh qemu-monitor-event` prints them.

use serde::Deserialize;

use crate::{event::said::Said, text::sanitise};

#[derive(Deserialize)]
struct Message {
    event: String,
    #[serde(default)]
    data: Data,
    timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    #[serde(default)]
    microseconds: i64,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(default)]
    recipient: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    flags: Flags,
    #[serde(default)]
    guest: bool,
    reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Flags {
    #[serde(default)]
    action_required: bool,
    #[serde(default)]
    recursive: bool,
}

/// Reads a line: position of the event, its own wall clock, and what it says. Events of other kinds are
/// known for QMP (`Some` without a statement).
pub fn read(line: &[u8]) -> Option<(usize, Option<i64>, Option<Said>)> {
    if let Some(at) = memchr::memmem::find(line, b" for domain ")
        && let Some(name) = memchr::memmem::find(line, b"event ").filter(|begin| *begin < at)
    {
        return virsh(line, name + 6, at);
    }
    memchr::memmem::find(line, b"\"event\"")?;
    let begin = memchr::memchr(b'{', line)?;
    let message: Message = serde_json::Deserializer::from_slice(&line[begin..])
        .into_iter()
        .next()?
        .ok()?;
    let wall = message.timestamp.and_then(|t| {
        t.seconds
            .checked_mul(1_000_000_000)?
            .checked_add(t.microseconds.checked_mul(1000)?)
    });
    Some((begin, wall, said(&message.event, message.data, None)))
}

/// `event MEMORY_FAILURE for domain 'NAME': {…}`, the quotes optional.
fn virsh(line: &[u8], name: usize, at: usize) -> Option<(usize, Option<i64>, Option<Said>)> {
    let event = String::from_utf8_lossy(&line[name..at]);
    let rest = &line[at + 12..];
    let colon = memchr::memmem::find(rest, b": ").unwrap_or(rest.len());
    let domain = String::from_utf8_lossy(&rest[..colon]);
    let domain = sanitise(domain.trim().trim_matches('\''), 128);
    let data = rest
        .get(colon + 2..)
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    Some((name, None, said(event.trim_matches('\''), data, Some(domain))))
}

fn said(event: &str, data: Data, domain: Option<String>) -> Option<Said> {
    Some(match event {
        "MEMORY_FAILURE" => Said::QmpMemoryFailure {
            domain,
            recipient: sanitise(&data.recipient, 32),
            action: sanitise(&data.action, 32),
            action_required: data.flags.action_required,
            recursive: data.flags.recursive,
        },
        "GUEST_PANICKED" | "GUEST_CRASHLOADED" => Said::QmpPanicked { domain },
        "RESET" => Said::QmpReset {
            domain,
            guest: data.guest,
        },
        "SHUTDOWN" => Said::QmpShutdown {
            domain,
            guest: data.guest,
            reason: data.reason.map(|reason| sanitise(&reason, 32)),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qmp_and_virsh_tell_the_same() {
        let data = r#"{"recipient": "guest", "action": "reset", "flags": {"action-required": true, "recursive": true}}"#;
        let qmp = format!(
            r#"{{"timestamp": {{"seconds": 10, "microseconds": 5}}, "event": "MEMORY_FAILURE", "data": {data}}}"#
        );
        let (_, wall, said) = read(qmp.as_bytes()).unwrap();
        assert_eq!(wall, Some(10_000_005_000));
        let Some(Said::QmpMemoryFailure {
            action, recursive, ..
        }) = said
        else {
            panic!("{said:?}")
        };
        assert_eq!((action.as_str(), recursive), ("reset", true));
        let virsh = format!("event MEMORY_FAILURE for domain 'db-7': {data}");
        let (_, _, said) = read(virsh.as_bytes()).unwrap();
        assert!(
            matches!(said, Some(Said::QmpMemoryFailure { domain: Some(name), recursive: true, .. }) if name == "db-7")
        );
        assert_eq!(read(br#"{"event": 7}"#), None);
        assert_eq!(read(br#"{"event": "STOP"}"#), Some((0, None, None)));
    }
}
