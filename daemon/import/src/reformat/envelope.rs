//! Lines that a container runtime or a collector of logs wrapped into a record of its own: `docker` json-file, CRI, and
//! JSON with a message. What comes out is the time, who wrote it where that is known, and the line.

use std::borrow::Cow;

use serde::Deserialize;

/// A line out of its envelope.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// May hold several lines.
    pub text: Vec<u8>,
    /// The line goes on in the next record.
    pub partial: bool,
}

#[derive(Default, Deserialize)]
struct Record<'a> {
    /// Docker's line, with its end.
    #[serde(borrow, default)]
    log: Option<Text<'a>>,
    #[serde(
        borrow,
        default,
        alias = "msg",
        alias = "short_message",
        alias = "textPayload",
        alias = "line",
        alias = "text",
        alias = "body"
    )]
    message: Option<Text<'a>>,
    #[serde(
        borrow,
        default,
        alias = "timestamp",
        alias = "ts",
        alias = "@timestamp",
        alias = "datetime",
        alias = "date"
    )]
    time: Option<Text<'a>>,
    #[serde(borrow, default, alias = "host", alias = "_HOSTNAME")]
    hostname: Option<Text<'a>>,
    #[serde(
        borrow,
        default,
        alias = "SYSLOG_IDENTIFIER",
        alias = "program",
        alias = "appname",
        alias = "tag",
        alias = "app"
    )]
    ident: Option<Text<'a>>,
    #[serde(borrow, default, alias = "_PID", alias = "procid")]
    pid: Option<Text<'a>>,
}

/// A value that is a text or a number; others are of no use here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text<'a> {
    #[serde(borrow)]
    Words(Cow<'a, str>),
    Number(serde_json::Number),
    Other(serde::de::IgnoredAny),
}

impl Text<'_> {
    fn words(&self) -> Option<Cow<'_, str>> {
        match self {
            Text::Words(words) => Some(Cow::Borrowed(words.as_ref())),
            Text::Number(number) => Some(Cow::Owned(number.to_string())),
            Text::Other(_) => None,
        }
    }
}

/// Takes a line out of its record in JSON. Journald's entries and QMP's events are not meant: their fields say more.
pub fn json(line: &[u8]) -> Option<Content> {
    let line = line.trim_ascii_start();
    if line.first() != Some(&b'{') {
        return None;
    }
    let has = |key: &[u8]| memchr::memmem::find(line, key).is_some();
    if has(b"\"MESSAGE\"") || has(b"\"event\"") {
        // A journal may have been logged by Docker: then the entry is inside.
        return has(b"\"log\"").then(|| record(line)).flatten();
    }
    record(line).or_else(|| inside(line))
}

/// Longest document that is looked through.
const MAX_DOCUMENT: usize = 1 << 20;
/// Lines that are taken out of one document.
const MAX_LINES: usize = 4096;

/// The lines of a document whose keys are unknown: all its texts that are lines of a log.
fn inside(line: &[u8]) -> Option<Content> {
    if line.len() > MAX_DOCUMENT || !super::wordings::any(line) {
        return None;
    }
    let mut texts = Vec::new();
    collect(&serde_json::from_slice(line).ok()?, &mut texts);
    let text = texts.join("\n");
    (!text.is_empty()).then(|| Content {
        text: text.into_bytes(),
        partial: false,
    })
}

fn collect(value: &serde_json::Value, texts: &mut Vec<String>) {
    if texts.len() >= MAX_LINES {
        return;
    }
    match value {
        serde_json::Value::String(text) => {
            let bytes = text.as_bytes();
            let line = super::start::begins_record(bytes)
                || super::wordings::hits(bytes).next().is_some_and(|hit| hit.at < 32);
            if line {
                texts.push(text.trim_end().to_owned());
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|one| collect(one, texts)),
        serde_json::Value::Object(all) => all.values().for_each(|one| collect(one, texts)),
        _ => {}
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

fn record(line: &[u8]) -> Option<Content> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let docker = record.log.as_ref().and_then(Text::words);
    let partial = docker.as_ref().is_some_and(|log| !log.ends_with('\n'));
    let message = record.message.as_ref().and_then(Text::words);
    let message = docker.or(message)?;
    let mut text = Vec::with_capacity(line.len());
    let words = |text: &Option<Text<'_>>| -> Option<String> {
        let words = text.as_ref()?.words()?.into_owned();
        (!words.is_empty() && words.bytes().all(|b| b.is_ascii_graphic())).then_some(words)
    };
    if let Some(time) = record
        .time
        .as_ref()
        .and_then(Text::words)
        .and_then(|time| instant(&time))
    {
        text.extend_from_slice(time.as_bytes());
        text.push(b' ');
    }
    if let (Some(host), Some(ident)) = (words(&record.hostname), words(&record.ident)) {
        text.extend_from_slice(host.as_bytes());
        text.push(b' ');
        text.extend_from_slice(ident.as_bytes());
        if let Some(pid) = words(&record.pid) {
            text.extend_from_slice(format!("[{pid}]").as_bytes());
        }
        text.extend_from_slice(b": ");
    }
    text.extend_from_slice(message.trim_end_matches(['\n', '\r']).as_bytes());
    Some(Content { text, partial })
}

/// A time as logs write it: as it is, or seconds, milliseconds, micro- or nanoseconds since 1970 as a date.
fn instant(time: &str) -> Option<String> {
    let time = time.trim();
    if super::start::date(time.as_bytes()) {
        return Some(time.replacen(' ', "T", 1));
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
                partial: false,
            });
        }
        _ => return None,
    };
    let mut text = Vec::with_capacity(line.len());
    text.extend_from_slice(&line[..=blank]);
    text.extend_from_slice(&rest[2..]);
    Some(Content { text, partial })
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
