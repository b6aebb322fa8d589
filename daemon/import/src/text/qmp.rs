//! QMP events as lines of JSON, and as `virsh qemu-monitor-event` prints them.

use serde::Deserialize;

use super::virsh_words;
use poisontrace_model::{event::log_statement::LogStatement, hex::Hex, text::sanitise};

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
    info: Option<Info>,
}

/// What a guest reports about its own panic (qapi/run-state.json, GuestPanicInformation).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    r#type: String,
    arg1: u64,
    arg2: u64,
    arg3: u64,
    arg4: u64,
    arg5: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Flags {
    #[serde(default)]
    action_required: bool,
    #[serde(default)]
    recursive: bool,
}

/// `action required: 1` behind a logger's date, which the name and the tag of a sender look like.
pub fn virsh_flag(whole: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::rfind(whole, b"action required: ")?;
    let flag = whole[at..].trim_ascii_end();
    matches!(flag.last(), Some(b'0' | b'1')).then_some(flag)
}

/// A field of a memory failure as `virsh event` prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    More,
    Last,
    Other,
}

impl Data {
    /// `recipient: guest`, `flags:`, `action required: 1`.
    fn virsh_field(&mut self, field: &str) -> Field {
        let field = field.trim();
        let field = field.strip_prefix("flags:").map_or(field, str::trim);
        let (key, value) = field.split_once(':').unwrap_or((field, ""));
        let value = value.trim();
        match key.trim() {
            "" => {}
            "recipient" => value.clone_into(&mut self.recipient),
            "action" => value.clone_into(&mut self.action),
            "action required" => self.flags.action_required = value == "1",
            "recursive" => {
                self.flags.recursive = value == "1";
                return Field::Last;
            }
            _ => return Field::Other,
        }
        Field::More
    }
}

/// The wall clock of an event, and its statement; events of other kinds have none.
type Event = (Option<i64>, Option<LogStatement>);

/// Whether a monitor's session begins (docs/interop/qmp-spec.rst, Server Greeting).
pub fn is_greeting(line: &[u8]) -> bool {
    let head = &line[..line.len().min(64)];
    if memchr::memchr(b'{', head).is_none() {
        return false;
    }
    [&b"{\"QMP\":"[..], b"{ \"QMP\":", b"{'QMP':"]
        .iter()
        .any(|begin| memchr::memmem::find(head, begin).is_some())
}

/// The monitor that libvirt names before an event: `QEMU_MONITOR_RECV_EVENT: mon=0x7f… event={…}`.
pub fn monitor(line: &[u8]) -> Option<String> {
    let before = &line[..memchr::memchr(b'{', line)?];
    let at = memchr::memmem::find(before, b"mon=0x")?;
    let rest = &before[at..];
    let end = rest
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(rest.len());
    Some(sanitise(&String::from_utf8_lossy(&rest[..end]), 32))
}

/// Reads a message. Events of other kinds are known for QMP.
pub fn read(line: &[u8]) -> Option<Event> {
    if let Some(at) = memchr::memmem::find(line, b" for domain ")
        && let Some(name) = memchr::memmem::find(line, b"event ").filter(|begin| *begin < at)
        && line.get(name + 6) != Some(&b'\'')
    {
        return virsh(line, name + 6, at);
    }
    let python = python(line);
    let line = python.as_deref().unwrap_or(line);
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
    Some((wall, statement(&message.event, message.data, None)))
}

/// qmp-shell prints an event as Python does: `{'event': 'RESET', 'data': {'guest': True}}`, with u'' of Python 2.
fn python(line: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(line, b"'event': ")?;
    let text = String::from_utf8_lossy(line)
        .replace("u'", "'")
        .replace('\'', "\"")
        .replace(": True", ": true")
        .replace(": False", ": false")
        .replace(": None", ": null");
    Some(text.into_bytes())
}

/// `virsh event`: a memory failure takes several lines (tools/virsh-domain-event.c).
#[derive(Default)]
pub struct Virsh {
    failure: Option<(Option<i64>, String, Data)>,
}

impl Virsh {
    /// Whether lines of a memory failure are still to come.
    pub const fn is_open(&self) -> bool {
        self.failure.is_some()
    }

    /// Takes a line that is no QMP event. `wall`: its wall clock, in a known zone, asked for where it is one of `virsh`; only the
    /// first line of several shows it.
    pub fn line(&mut self, line: &[u8], wall: impl FnOnce() -> Option<i64>) -> Option<Event> {
        if let Some(at) = memchr::memmem::find(line, b"event '") {
            return self.begins(line, at, wall());
        }
        if !line.is_ascii()
            && let Some((domain, detail)) = virsh_words::lifecycle(&String::from_utf8_lossy(line))
        {
            let statement = lifecycle(sanitise(domain, 128), &detail)?;
            return Some((None, Some(statement)));
        }
        let (.., data) = self.failure.as_mut()?;
        memchr::memchr(b':', line)?;
        match data.virsh_field(&String::from_utf8_lossy(line)) {
            Field::Last => {
                let (wall, domain, data) = self.failure.take()?;
                return Some((wall, statement("MEMORY_FAILURE", data, Some(domain))));
            }
            Field::More => {}
            Field::Other => self.failure = None,
        }
        None
    }

    /// `event 'memory-failure' for domain 'NAME':`, `event 'lifecycle' for domain 'NAME': Crashed Panicked`,
    /// `event 'reboot' for domain 'NAME'`.
    fn begins(&mut self, line: &[u8], at: usize, wall: Option<i64>) -> Option<Event> {
        let text = String::from_utf8_lossy(&line[at + 7..]);
        let (event, rest) = text.split_once("' for domain ")?;
        let (domain, detail) = rest.split_once(':').unwrap_or((rest, ""));
        let domain = sanitise(domain.trim().trim_matches('\''), 128);
        let detail = detail.trim();
        let statement = match event {
            "memory-failure" => {
                let mut data = Data::default();
                // On one line, where somebody put them there.
                let fields = detail.split([',', '\t']).map(|field| data.virsh_field(field));
                if fields.last() == Some(Field::Last) {
                    return Some((wall, statement("MEMORY_FAILURE", data, Some(domain))));
                }
                self.failure = Some((wall, domain, data));
                None
            }
            "reboot" => Some(LogStatement::QmpReset {
                domain: Some(domain),
                guest: true,
            }),
            "lifecycle" => lifecycle(domain, &virsh_words::english(detail)),
            _ => None,
        };
        Some((None, statement))
    }
}

/// What became of a domain: `Crashed Panicked`, `Stopped Failed`.
fn lifecycle(domain: String, detail: &str) -> Option<LogStatement> {
    let domain = Some(domain);
    if detail.ends_with("Panicked") {
        return Some(LogStatement::QmpPanicked { domain });
    }
    if detail.starts_with("Started") {
        return Some(LogStatement::VmStarted { host: None, domain });
    }
    let reason = detail.strip_prefix("Stopped")?;
    Some(LogStatement::QmpShutdown {
        domain,
        guest: false,
        reason: Some(sanitise(&reason.trim().to_lowercase(), 32)),
    })
}

/// `event MEMORY_FAILURE for domain 'NAME': {…}`, the quotes optional.
fn virsh(line: &[u8], name: usize, at: usize) -> Option<Event> {
    // `event X at 1795362334.000001 for domain …` without `--timestamp`.
    let event = String::from_utf8_lossy(&line[name..at]);
    let (event, wall) = match event.split_once(" at ") {
        Some((event, at)) => (event, crate::trace::record::seconds(at.as_bytes())),
        None => (&*event, None),
    };
    let wall = wall.and_then(|wall| i64::try_from(wall).ok());
    let rest = &line[at + 12..];
    let colon = memchr::memmem::find(rest, b": ").unwrap_or(rest.len());
    let domain = String::from_utf8_lossy(&rest[..colon]);
    let domain = sanitise(domain.trim().trim_matches('\''), 128);
    let data = rest
        .get(colon + 2..)
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    Some((wall, statement(event.trim_matches('\''), data, Some(domain))))
}

fn statement(event: &str, data: Data, domain: Option<String>) -> Option<LogStatement> {
    Some(match event {
        "MEMORY_FAILURE" => LogStatement::QmpMemoryFailure {
            domain,
            recipient: sanitise(&data.recipient, 32),
            action: sanitise(&data.action, 32),
            action_required: data.flags.action_required,
            recursive: data.flags.recursive,
        },
        "GUEST_PANICKED" if data.info.as_ref().is_some_and(|info| info.r#type == "hyper-v") => {
            let info = data.info.unwrap_or_default();
            LogStatement::BugCheck {
                domain,
                args: [info.arg1, info.arg2, info.arg3, info.arg4, info.arg5]
                    .map(Hex)
                    .to_vec(),
            }
        }
        "GUEST_PANICKED" | "GUEST_CRASHLOADED" => LogStatement::QmpPanicked { domain },
        "RESET" => LogStatement::QmpReset {
            domain,
            guest: data.guest,
        },
        "SHUTDOWN" => LogStatement::QmpShutdown {
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
    fn a_windows_guest_says_which_bug_check_it_is() {
        let line = r#"{"timestamp": {"seconds": 10, "microseconds": 5}, "event": "GUEST_PANICKED", "data": {"action": "pause", "info": {"type": "hyper-v", "arg1": 292, "arg2": 0, "arg3": 18446708889337462784, "arg4": 0, "arg5": 0}}}"#;
        let (_, statement) = read(line.as_bytes()).unwrap();
        let args = [0x124, 0, 0xffff_e000_0000_0000, 0, 0].map(Hex).to_vec();
        assert_eq!(statement, Some(LogStatement::BugCheck { domain: None, args }));
        let other = line.replace("hyper-v", "s390");
        assert!(matches!(
            read(other.as_bytes()),
            Some((_, Some(LogStatement::QmpPanicked { .. })))
        ));
    }

    #[test]
    fn qmp_and_virsh_tell_the_same() {
        let data = r#"{"recipient": "guest", "action": "reset", "flags": {"action-required": true, "recursive": true}}"#;
        let qmp = format!(
            r#"{{"timestamp": {{"seconds": 10, "microseconds": 5}}, "event": "MEMORY_FAILURE", "data": {data}}}"#
        );
        let (wall, statement) = read(qmp.as_bytes()).unwrap();
        assert_eq!(wall, Some(10_000_005_000));
        let Some(LogStatement::QmpMemoryFailure {
            action, recursive, ..
        }) = statement
        else {
            panic!("{statement:?}")
        };
        assert_eq!((action.as_str(), recursive), ("reset", true));
        let virsh = format!("event MEMORY_FAILURE for domain 'db-7': {data}");
        let (_, statement) = read(virsh.as_bytes()).unwrap();
        assert!(
            matches!(statement, Some(LogStatement::QmpMemoryFailure { domain: Some(name), recursive: true, .. }) if name == "db-7")
        );
        let at = format!("event MEMORY_FAILURE at 1795362334.5 for domain 'db-7': {data}");
        let (wall, statement) = read(at.as_bytes()).unwrap();
        assert_eq!(wall, Some(1_795_362_334_500_000_000));
        assert!(matches!(statement, Some(LogStatement::QmpMemoryFailure { .. })));
        let shell = "{'timestamp': {'seconds': 10, 'microseconds': 5}, 'event': 'RESET', 'data': {'guest': True, 'reason': 'guest-reset'}}";
        assert_eq!(
            read(shell.as_bytes()),
            Some((
                Some(10_000_005_000),
                Some(LogStatement::QmpReset {
                    domain: None,
                    guest: true
                })
            ))
        );
        assert_eq!(read(br#"{"event": 7}"#), None);
        assert_eq!(read(br#"{"event": "STOP"}"#), Some((None, None)));
    }

    #[test]
    fn virsh_event_tells_a_failure_on_several_lines() {
        let text = "2026-11-22 15:45:35.000+0000: event 'memory-failure' for domain 'db-7':\nrecipient: guest\naction: inject\n\
                    flags:\n\taction required: 1\n\trecursive: 0\n";
        let mut virsh = Virsh::default();
        let mut clock = Some(1_795_362_335_000_000_000);
        let injected: Vec<_> = text
            .lines()
            .filter_map(|line| virsh.line(line.as_bytes(), || clock.take()))
            .collect();
        let (wall, statement) = injected.last().unwrap();
        assert_eq!(*wall, Some(1_795_362_335_000_000_000));
        assert!(
            matches!(statement, Some(LogStatement::QmpMemoryFailure { domain: Some(name), action_required: true, .. }) if name == "db-7")
        );
        let one = |line: &str| {
            Virsh::default()
                .line(line.as_bytes(), || None)
                .and_then(|(_, statement)| statement)
        };
        let domain = Some("db-7".to_owned());
        assert_eq!(
            one("event 'lifecycle' for domain 'db-7': Crashed Panicked"),
            Some(LogStatement::QmpPanicked {
                domain: domain.clone()
            })
        );
        assert_eq!(
            one("event 'lifecycle' for domain 'db-7': Started Booted"),
            Some(LogStatement::VmStarted {
                host: None,
                domain: domain.clone()
            })
        );
        let on_one_line = "event 'memory-failure' for domain 'db-7': recipient: guest, action: inject, flags: action required: 1, recursive: 0";
        assert!(matches!(
            one(on_one_line),
            Some(LogStatement::QmpMemoryFailure {
                action_required: true,
                recursive: false,
                ..
            })
        ));
        assert_eq!(
            one("event 'lifecycle' for domain db-7: Stopped Failed"),
            Some(LogStatement::QmpShutdown {
                domain,
                guest: false,
                reason: Some("failed".to_owned())
            })
        );
    }
}
