//! journald's formats that spread an entry over fields: JSON (one line, pretty, server-sent events, sequence) and
//! export. (`journalctl -o json|json-pretty|json-sse|json-seq|export|verbose`, systemd.journal-fields(7).)

use serde::Deserialize;

use super::{
    clock::{self, Stamp},
    sender::Sender,
};
use crate::text::wordings::process::known_as;
use poisontrace_model::{
    event::log_statement::{Ended, LogStatement},
    text::sanitise,
};

/// The tag of what did not come from the kernel, but names nobody or the kernel for its sender.
const NO_KERNEL: &str = "user";

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(rename = "MESSAGE")]
    message: Option<serde_json::Value>,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    wall: Option<String>,
    #[serde(rename = "_SOURCE_MONOTONIC_TIMESTAMP")]
    boot: Option<String>,
    #[serde(rename = "_HOSTNAME")]
    host: Option<String>,
    #[serde(rename = "_BOOT_ID")]
    boot_id: Option<String>,
    #[serde(rename = "_TRANSPORT")]
    transport: Option<String>,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    tag: Option<String>,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    #[serde(rename = "SYSLOG_PID")]
    syslog_pid: Option<String>,
    #[serde(rename = "_SYSTEMD_UNIT")]
    unit: Option<String>,
    #[serde(rename = "COREDUMP_PID")]
    core_pid: Option<String>,
    #[serde(rename = "COREDUMP_SIGNAL")]
    core_signal: Option<String>,
    #[serde(rename = "COREDUMP_COMM")]
    core_comm: Option<String>,
    #[serde(rename = "COREDUMP_EXE")]
    core_exe: Option<String>,
    /// Docker's, whose one process logs all containers.
    #[serde(rename = "CONTAINER_NAME")]
    container: Option<String>,
}

impl Fields {
    /// The process that dumped its core (systemd.journal-fields(7)).
    fn core_dump(&self) -> Option<LogStatement> {
        let text = |value: &Option<String>| {
            value
                .as_deref()
                .map_or_else(String::new, |text| sanitise(text, 128))
        };
        let pid = self.core_pid.as_ref()?.parse().ok()?;
        let signal = self.core_signal.as_ref()?.parse().ok()?;
        Some(LogStatement::ProcessEnded {
            who: known_as(&text(&self.core_comm), &text(&self.core_exe)),
            pid: Some(pid),
            how: Ended::Signal(signal),
            lone: false,
        })
    }

    fn sender(&self) -> Sender {
        let text = |value: &Option<String>| value.as_deref().map(|value| sanitise(value, 128));
        // The transport is the journal's own word, the identifier the sender's.
        let kernel = self.transport.as_deref() == Some("kernel");
        let claims = self.transport.is_some() && self.tag.as_deref().is_none_or(|tag| tag == "kernel");
        let pid = self.pid.as_ref().or(self.syslog_pid.as_ref());
        Sender {
            host: text(&self.host),
            boot: text(&self.boot_id),
            relay: !kernel && self.container.is_some(),
            tag: match kernel {
                true => Some("kernel".to_owned()),
                false if self.container.is_some() => text(&self.container),
                false if claims => Some(NO_KERNEL.to_owned()),
                false => text(&self.tag),
            },
            pid: pid.and_then(|pid| pid.parse().ok()),
            unit: text(&self.unit),
            ..Sender::default()
        }
    }
}

/// One entry.
pub struct Entry {
    /// The line of its message, or of the whole entry.
    pub line: u64,
    pub stamp: Stamp,
    pub sender: Sender,
    pub message: Vec<u8>,
    /// Of systemd-coredump, whose message alone names no signal.
    pub core_dump: Option<LogStatement>,
}

impl Entry {
    /// The kernel of the host's own.
    pub fn of_kernel(&self) -> bool {
        self.sender.tag.as_deref().is_none_or(|tag| tag == "kernel")
    }
}

/// Gathers the fields of entries that stand on lines of their own.
#[derive(Default)]
pub struct Gatherer {
    fields: Fields,
    stamp: Stamp,
    line: u64,
}

/// The line as a whole entry in JSON.
pub fn json(number: u64, line: &[u8]) -> Option<Entry> {
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b"\x1e").unwrap_or(line);
    let line = line.strip_prefix(b"data: ").unwrap_or(line);
    if line.first() != Some(&b'{') || memchr::memmem::find(line, b"\"MESSAGE\"").is_none() {
        return None;
    }
    entry(number, Stamp::default(), serde_json::from_slice(line).ok()?)
}

fn entry(line: u64, stamp: Stamp, fields: Fields) -> Option<Entry> {
    // Each line that is no field ends an entry, and most end none.
    fields.message.as_ref()?;
    let sender = fields.sender();
    let core_dump = fields.core_dump();
    let us = |text: &Option<String>| text.as_ref()?.parse::<u64>().ok()?.checked_mul(1000);
    let message = match fields.message? {
        serde_json::Value::String(text) => text.into_bytes(),
        // journald gives what is no UTF-8 as numbers.
        serde_json::Value::Array(bytes) => bytes
            .iter()
            .filter_map(|b| u8::try_from(b.as_u64()?).ok())
            .collect(),
        _ => return None,
    };
    let stamp = Stamp {
        boot: us(&fields.boot),
        wall: us(&fields.wall)
            .and_then(|ns| i64::try_from(ns).ok())
            .or(stamp.wall),
        ..Stamp::default()
    };
    Some(Entry {
        line,
        stamp,
        sender,
        message,
        core_dump,
    })
}

impl Gatherer {
    /// Takes a line: whether it is a field of an entry, and the entry before if it ends with this line.
    pub fn line(&mut self, number: u64, line: &[u8]) -> (bool, Option<Entry>) {
        let Some((key, value)) = field(line) else {
            let before = self.finish();
            // The head of `-o verbose`: "Sun 2026-11-22 15:45:34.123456 UTC [s=…]".
            if memchr::memmem::find(line, b" [s=").is_some() {
                self.stamp = clock::stamp(line, line.len());
            }
            return (false, before);
        };
        // The fields come in any order; the cursor and the wall clock begin an entry.
        let before = match key {
            "__CURSOR" => self.finish(),
            _ => None,
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match key {
            "MESSAGE" => {
                self.fields.message = Some(serde_json::Value::String(text()));
                self.line = number;
            }
            "__REALTIME_TIMESTAMP" => self.fields.wall = Some(text()),
            "_SOURCE_MONOTONIC_TIMESTAMP" => self.fields.boot = Some(text()),
            "_HOSTNAME" => self.fields.host = Some(text()),
            "_BOOT_ID" => self.fields.boot_id = Some(text()),
            "_TRANSPORT" => self.fields.transport = Some(text()),
            "SYSLOG_IDENTIFIER" => self.fields.tag = Some(text()),
            "_PID" => self.fields.pid = Some(text()),
            "COREDUMP_PID" => self.fields.core_pid = Some(text()),
            "COREDUMP_SIGNAL" => self.fields.core_signal = Some(text()),
            "COREDUMP_COMM" => self.fields.core_comm = Some(text()),
            "COREDUMP_EXE" => self.fields.core_exe = Some(text()),
            "CONTAINER_NAME" => self.fields.container = Some(text()),
            "SYSLOG_PID" => self.fields.syslog_pid = Some(text()),
            "_SYSTEMD_UNIT" => self.fields.unit = Some(text()),
            _ => {}
        }
        (true, before)
    }

    /// The entry under way.
    pub fn finish(&mut self) -> Option<Entry> {
        let fields = std::mem::take(&mut self.fields);
        let stamp = std::mem::take(&mut self.stamp);
        entry(self.line, stamp, fields)
    }
}

/// `KEY=value`, or `"KEY" : "value",`, with journald's alphabet of keys.
fn field(line: &[u8]) -> Option<(&str, &[u8])> {
    let text = line.trim_ascii();
    let quoted = text.first() == Some(&b'"');
    let text = if quoted { &text[1..] } else { text };
    let end = text
        .iter()
        .take(64)
        .position(|b| !(b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_'))?;
    let key = std::str::from_utf8(&text[..end])
        .ok()
        .filter(|key| key.len() > 1)?;
    let rest = &text[end..];
    if !quoted && !rest.starts_with(b"\"") {
        return Some((key, rest.strip_prefix(b"=")?));
    }
    let rest = rest.strip_prefix(b"\"")?.trim_ascii_start().strip_prefix(b":")?;
    let rest = rest.trim_ascii();
    let rest = rest.strip_suffix(b",").unwrap_or(rest);
    let rest = rest.strip_prefix(b"\"")?;
    Some((key, rest.strip_suffix(b"\"").unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(u64, Stamp, String)> {
        let mut gatherer = Gatherer::default();
        let mut found = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let whole = json(number, line.as_bytes());
            let gathered = match whole {
                Some(_) => None,
                None => gatherer.line(number, line.as_bytes()).1,
            };
            found.extend(whole.into_iter().chain(gathered));
        }
        found.extend(gatherer.finish());
        found
            .into_iter()
            .map(|e| (e.line, e.stamp, String::from_utf8_lossy(&e.message).into_owned()))
            .collect()
    }

    #[test]
    fn an_entry_in_each_of_journalds_formats() {
        let stamp = Stamp {
            boot: Some(34_181_197_000),
            wall: Some(1_795_362_334_000_000_000),
            ..Stamp::default()
        };
        for (text, line) in [
            (
                "__CURSOR=s=1;i=2\n__REALTIME_TIMESTAMP=1795362334000000\n__MONOTONIC_TIMESTAMP=7\n\
                 _SOURCE_MONOTONIC_TIMESTAMP=34181197\nPRIORITY=3\nMESSAGE=words\n\n",
                6,
            ),
            (
                "{\n\t\"__REALTIME_TIMESTAMP\" : \"1795362334000000\",\n\t\"MESSAGE\" : \"words\",\n\
                 \t\"_SOURCE_MONOTONIC_TIMESTAMP\" : \"34181197\"\n}\n",
                3,
            ),
            (
                "data: {\"__REALTIME_TIMESTAMP\":\"1795362334000000\",\"MESSAGE\":\"words\",\"_SOURCE_MONOTONIC_TIMESTAMP\":\"34181197\"}\n",
                1,
            ),
            (
                "\u{1e}{\"MESSAGE\":[119,111,114,100,115],\"__REALTIME_TIMESTAMP\":\"1795362334000000\",\"_SOURCE_MONOTONIC_TIMESTAMP\":\"34181197\"}",
                1,
            ),
            (
                "Sun 2026-11-22 15:45:34.000000 UTC [s=1;i=2]\n    MESSAGE=words\n    _SOURCE_MONOTONIC_TIMESTAMP=34181197\n",
                2,
            ),
        ] {
            assert_eq!(entries(text), [(line, stamp, "words".to_owned())], "{text}");
        }
        assert_eq!(entries("PATH=/bin\nMESSAG=x\n{\"MESSAGE\": 7}\n"), []);
    }
}
