//! Lines that a container runtime or a collector of logs wrapped into a record of its own: `docker` json-file, CRI, and
//! JSON with a message. What comes out is the time, who wrote it where that is known, and the line.

use serde_json::{Map, Value};

use super::{kubevirt, names, tracker};
use crate::origin::Origin;

/// A line, and what its record names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// May hold several lines.
    pub text: Vec<u8>,
    pub origin: Origin,
}

/// A line out of its envelope.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// May hold several lines.
    pub text: Vec<u8>,
    pub origin: Origin,
    /// The line goes on in the next record.
    pub partial: bool,
    /// Further lines of the same document.
    pub more: Vec<Line>,
}

/// Keys of the line itself, of its time, of the program and of its process; the first that is there counts.
const MESSAGE: [&str; 14] = [
    "log",
    "message",
    "@message",
    "SyslogMessage",
    "msg",
    "short_message",
    "full_message",
    "textPayload",
    "line",
    "text",
    "body",
    "_raw",
    "event",
    "raw",
];
const TIME: [&str; 9] = [
    "time",
    "TimeGenerated",
    "timestamp",
    "ts",
    "@timestamp",
    "datetime",
    "date",
    "_time",
    "receiveTimestamp",
];
const PROGRAM: [&str; 7] = [
    "ProcessName",
    "ident",
    "SYSLOG_IDENTIFIER",
    "program",
    "appname",
    "tag",
    "app",
];
const PID: [&str; 3] = ["pid", "_PID", "procid"];

/// Takes a line out of its record in JSON. Journald's entries and QMP's events are not meant: their fields say more.
pub fn json(line: &[u8]) -> Option<Content> {
    let line = line.trim_ascii_start();
    if line.len() > MAX_DOCUMENT {
        return None;
    }
    match line {
        [b'{', ..] => {}
        [b'[', b'{', ..] => return array(line),
        _ => return None,
    }
    let has = |key: &[u8]| memchr::memmem::find(line, key).is_some();
    // A journal may have been logged by Docker, or be kept by a search engine: then the entry is inside.
    let around = [&b"\"log\""[..], b"\"_source\"", b"\"jsonPayload\""];
    if has(b"\"MESSAGE\"") && !around.into_iter().any(has) {
        return None;
    }
    let Value::Object(map) = serde_json::from_slice(line).ok()? else {
        return None;
    };
    if map.contains_key("MESSAGE") || is_qmp(&map) {
        return None;
    }
    let outer = Context::default().within(&map);
    if let Some(message) = outer.message(&map) {
        return Some(message);
    }
    if !super::wordings::any(line) && !kubevirt::is_in(line) {
        return None;
    }
    let mut lines = Vec::new();
    outer.collect_of(&map, &mut lines, 0);
    content(lines)
}

/// `[{"textPayload": …}, …]`: records in one list.
fn array(line: &[u8]) -> Option<Content> {
    if !super::wordings::any(line) && !kubevirt::is_in(line) {
        return None;
    }
    let all: Vec<Value> = serde_json::from_slice(line).ok()?;
    let mut lines = Vec::new();
    Context::default().collect(all.iter(), &mut lines, 0);
    content(lines)
}

fn content(lines: Vec<Line>) -> Option<Content> {
    let mut lines = lines.into_iter();
    let first = lines.next()?;
    Some(Content {
        text: first.text,
        origin: first.origin,
        partial: false,
        more: lines.collect(),
    })
}

/// The line of an object's own fields.
pub fn of_map(map: &Map<String, Value>) -> Option<Content> {
    Context::default().within(map).message(map)
}

/// Whether a field is a time.
pub fn is_time(key: &str) -> bool {
    TIME.contains(&key)
}

/// Longest document that is looked through.
const MAX_DOCUMENT: usize = 1 << 20;
/// Lines that are taken out of one document.
const MAX_LINES: usize = 4096;
/// How deep lines may lie in one.
const MAX_DEPTH: usize = 16;

fn is_qmp(map: &Map<String, Value>) -> bool {
    let name = |event: &str| {
        event
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
    };
    map.get("event").and_then(Value::as_str).is_some_and(name)
}

/// What the objects around a line name.
#[derive(Clone, Default)]
struct Context {
    origin: Origin,
    time: Option<String>,
    program: Option<String>,
    pid: Option<String>,
}

impl Context {
    fn within(&self, map: &Map<String, Value>) -> Self {
        let first = |keys: &[&str]| keys.iter().find_map(|key| words(map.get(*key)?));
        let name = |keys: &[&str]| {
            first(keys).filter(|words| !words.is_empty() && words.bytes().all(|b| b.is_ascii_graphic()))
        };
        let of_process = |key: &str| words(map.get("process")?.get(key)?);
        Self {
            origin: names::origin(map).within(&self.origin),
            time: first(&TIME)
                .and_then(|time| instant(&time))
                .or_else(|| self.time.clone()),
            program: name(&PROGRAM)
                .or_else(|| of_process("name"))
                .or_else(|| self.program.clone()),
            pid: name(&PID)
                .or_else(|| of_process("pid"))
                .or_else(|| self.pid.clone()),
        }
    }

    /// The line that an object holds by itself.
    fn message(&self, map: &Map<String, Value>) -> Option<Content> {
        if let Some((time, event)) = kubevirt::event(map) {
            let of_event = Self {
                time: time.and_then(instant),
                ..self.clone()
            };
            return Some(Content {
                text: of_event.text(&event),
                origin: self.origin.clone(),
                ..Content::default()
            });
        }
        let key = MESSAGE
            .iter()
            .find(|key| map.get(**key).is_some_and(Value::is_string))?;
        let message = map.get(*key)?.as_str()?;
        Some(Content {
            // Docker's line has its end.
            partial: *key == "log" && !message.ends_with('\n'),
            text: self.text(message),
            origin: self.origin.clone(),
            more: Vec::new(),
        })
    }

    fn text(&self, message: &str) -> Vec<u8> {
        let mut text = String::with_capacity(message.len() + 64);
        if let Some(time) = &self.time {
            text.push_str(time);
            text.push(' ');
        }
        if let (Some(host), Some(program)) = (&self.origin.host, &self.program) {
            text.push_str(host);
            text.push(' ');
            text.push_str(program);
            if let Some(pid) = &self.pid {
                text.push_str(&format!("[{pid}]"));
            }
            text.push_str(": ");
        }
        text.push_str(message.trim_end_matches(['\n', '\r']));
        text.into_bytes()
    }

    /// The lines of an object's values.
    fn collect_of(&self, map: &Map<String, Value>, lines: &mut Vec<Line>, depth: usize) {
        for (key, value) in map {
            // What a command printed, by the machine on which it ran: Ansible's and Salt's results.
            let ran = |value: &Value| value.get("stdout_lines").or(value.get("stdout")).is_some();
            let text = |value: &Value| value.as_str().is_some_and(|text| text.contains('\n'));
            let of_machine = ran(value) || text(value) && key.bytes().any(|b| b.is_ascii_digit());
            let values = std::iter::once(value);
            if of_machine && !MESSAGE.contains(&key.as_str()) {
                let mut of_key = self.clone();
                of_key.origin.host = Some(key.as_str().into());
                of_key.collect(values, lines, depth);
            } else {
                self.collect(values, lines, depth);
            }
        }
    }

    /// The lines of a document whose keys are unknown: all its texts that are lines of a log.
    fn collect<'a>(&self, values: impl Iterator<Item = &'a Value>, lines: &mut Vec<Line>, depth: usize) {
        for value in values {
            if lines.len() >= MAX_LINES || depth > MAX_DEPTH {
                return;
            }
            match value {
                Value::String(text) if is_line(text) => lines.push(Line {
                    text: self.text(text.trim_end()),
                    origin: self.origin.clone(),
                }),
                // A ticket's field.
                Value::String(text) if let Some(text) = tracker::field(text) => lines.push(Line {
                    text: self.text(text.trim_end()),
                    origin: self.origin.clone(),
                }),
                // Loki's pair of a time and a line.
                Value::Array(pair)
                    if let [Value::String(time), Value::String(line), ..] = pair.as_slice()
                        && let Some(time) = instant(time) =>
                {
                    let of_line = Self {
                        time: Some(time),
                        ..self.clone()
                    };
                    lines.push(Line {
                        text: of_line.text(line.trim_end()),
                        origin: self.origin.clone(),
                    });
                }
                Value::Array(all) => self.collect(all.iter(), lines, depth + 1),
                Value::Object(map) if map.contains_key("MESSAGE") => lines.push(Line {
                    text: value.to_string().into_bytes(),
                    origin: self.origin.clone(),
                }),
                Value::Object(map) => {
                    let inner = self.within(map);
                    match inner.message(map).filter(|content| is_line_text(&content.text)) {
                        Some(content) => lines.push(Line {
                            text: content.text,
                            origin: content.origin,
                        }),
                        None => inner.collect_of(map, lines, depth + 1),
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_line(text: &str) -> bool {
    is_line_text(text.as_bytes())
}

fn is_line_text(text: &[u8]) -> bool {
    const HEAD: usize = 32;
    super::start::begins_record(text)
        || super::wordings::hits(text)
            .next()
            .is_some_and(|hit| hit.at < HEAD)
}

/// A value that is a text or a number; others are of no use here.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(words) => Some(words.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `2026-11-22 18:02:12 +0000 TAG: {"log":"LINE"}`: a collector's record behind its own date.
pub fn dated_json(line: &[u8]) -> Option<Content> {
    const WITHIN: usize = 128;
    let begin = memchr::memmem::find(&line[..line.len().min(WITHIN)], b": {\"")? + 2;
    let content = super::start::date(line).then(|| json(&line[begin..])).flatten()?;
    Some(Content {
        partial: false,
        ..content
    })
}

/// A time as logs write it: as it is, or seconds, milliseconds, micro- or nanoseconds since 1970 as a date.
fn instant(time: &str) -> Option<String> {
    let time = time.trim();
    if super::start::date(time.as_bytes()) {
        return Some(time.replacen(' ', "T", 1));
    }
    let mut line = [time.as_bytes(), b" "].concat();
    if super::dates::plain(&mut line) && super::start::date(&line) {
        return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
    }
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let number: i128 = whole.parse().ok()?;
    let nanoseconds = match whole.len() {
        10 => {
            let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
            number * 1_000_000_000 + digits.parse::<i128>().ok()?
        }
        13 => number * 1_000_000,
        16 => number * 1000,
        19 => number,
        _ => return None,
    };
    jiff::Timestamp::from_nanosecond(nanoseconds)
        .ok()
        .map(|at| at.to_string())
}

/// `2026-11-22T15:45:34.123456789Z stdout F LINE` (Kubernetes' CRI; P: the line goes on in the next record).
pub fn cri(line: &[u8]) -> Option<Content> {
    let head = &line[..line.len().min(48)];
    let blank = memchr::memchr(b' ', head).filter(|at| *at >= 20)?;
    let rest = &line[blank + 1..];
    let rest = rest
        .strip_prefix(b"stdout ")
        .or_else(|| rest.strip_prefix(b"stderr "))?;
    let partial = match rest {
        [b'F', b' ', ..] => false,
        [b'P', b' ', ..] => true,
        [b'F'] => {
            return Some(Content {
                text: line[..blank].to_vec(),
                ..Content::default()
            });
        }
        _ => return None,
    };
    let mut text = Vec::with_capacity(line.len());
    text.extend_from_slice(&line[..=blank]);
    text.extend_from_slice(&rest[2..]);
    Some(Content {
        text,
        partial,
        ..Content::default()
    })
}

/// The message of a record that goes on what an earlier one began: without its time.
pub fn without_time(text: &[u8]) -> &[u8] {
    match memchr::memchr(b' ', &text[..text.len().min(48)]) {
        Some(blank) if super::start::date(text) => &text[blank + 1..],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: Option<Content>) -> String {
        String::from_utf8(content.unwrap().text).unwrap()
    }

    #[test]
    fn docker_and_cri_give_the_line_and_its_time() {
        const LINE: &str =
            "2026-11-19T03:11:02.000000000Z [  157.392912] mce: [Hardware Error]: RIP 10:<ffffffff81e8f6ff>";
        let docker = r#"{"log":"[  157.392912] mce: [Hardware Error]: RIP 10:\u003cffffffff81e8f6ff\u003e\r\n","stream":"stdout","time":"2026-11-19T03:11:02.000000000Z"}"#;
        let content = json(docker.as_bytes()).unwrap();
        assert!(!content.partial);
        assert_eq!(text(Some(content)), LINE);
        let line = LINE.replacen("Z ", "Z stderr F ", 1);
        assert_eq!(text(cri(line.as_bytes())), LINE);
        let part = cri(b"2026-11-19T03:11:02.000000000Z stdout P [  157.39").unwrap();
        assert!(part.partial);
        assert_eq!(without_time(&part.text), b"[  157.39");
    }

    #[test]
    fn collectors_messages() {
        for (record, line) in [
            (
                r#"{"@timestamp":"2026-11-22T15:45:34.000Z","host":"host1","ident":"kernel","message":"Memory failure: 0x1: x"}"#,
                "2026-11-22T15:45:34.000Z host1 kernel: Memory failure: 0x1: x",
            ),
            (
                r#"{"host":{"name":"host1"},"ts":1795362334,"line":"Memory failure: 0x1: x"}"#,
                "2026-11-22T15:45:34Z Memory failure: 0x1: x",
            ),
            (
                r#"{"component":"virt-launcher","level":"info","msg":"panic hyper-v: arg1='0x3e'","timestamp":"2026-11-22T15:45:34.5Z"}"#,
                "2026-11-22T15:45:34.5Z panic hyper-v: arg1='0x3e'",
            ),
            (
                r#"{"ts":1795362334000,"_HOSTNAME":"h","tag":"qemu","pid":7,"text":"x"}"#,
                "2026-11-22T15:45:34Z h qemu[7]: x",
            ),
        ] {
            assert_eq!(text(json(record.as_bytes())), line);
        }
    }

    #[test]
    fn journals_and_qmp_stay_as_they_are() {
        for line in [
            r#"{"MESSAGE":"x","__REALTIME_TIMESTAMP":"1"}"#,
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {}}"#,
            r#"{"return": {}}"#,
            r#"{"log"#,
            "{35}[Hardware Error]: x",
        ] {
            assert_eq!(json(line.as_bytes()), None, "{line}");
        }
    }
}
