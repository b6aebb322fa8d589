//! Marks of text that trackers and chats put into a line: bold, monospaced, colours, escapes of Markdown and Jira; and lines that
//! somebody joined by a written `\\n`.

use std::borrow::Cow;

use super::{start::begins_record, wordings};

/// Takes the marks out of a line; quick where there is none.
pub fn strip(line: &mut Vec<u8>) {
    if memchr::memchr(b'\\', line).is_some() {
        unescape_marks(line);
    }
    if memchr::memmem::find(line, b"**").is_some() {
        bold(line);
    }
    if memchr::memmem::find(line, b"{color").is_some() {
        colours(line);
    }
    if line.trim_ascii().starts_with(b"{{") {
        monospaced(line);
    }
    if matches!(line.trim_ascii_start().first(), Some(b'_' | b'*' | b'~')) {
        slanted(line);
    }
}

/// `_…_`, `*…*` or `~…~` around a whole record.
fn slanted(line: &mut Vec<u8>) {
    let text = line.trim_ascii();
    let inner = [&b"~~"[..], b"_", b"*", b"~"]
        .iter()
        .find_map(|mark| text.strip_prefix(*mark)?.strip_suffix(*mark));
    if let Some(inner) = inner.filter(|inner| begins_record(inner)) {
        *line = inner.to_vec();
    }
}

/// `**bold**`: pairs alone, and no banner of stars.
fn bold(line: &mut Vec<u8>) {
    let pairs = memchr::memmem::find_iter(line, b"**").count();
    if pairs % 2 == 1 || memchr::memmem::find(line, b"***").is_some() {
        return;
    }
    *line = without(line, b"**");
}

/// `{color:red}…{color}` of Jira.
fn colours(line: &mut Vec<u8>) {
    const LONGEST: usize = 32;
    let mut kept = Vec::with_capacity(line.len());
    let mut rest = &line[..];
    while let Some(at) = memchr::memmem::find(rest, b"{color") {
        kept.extend_from_slice(&rest[..at]);
        let after = &rest[at + 6..];
        let end = memchr::memchr(b'}', &after[..after.len().min(LONGEST)]);
        rest = match (after.first(), end) {
            (Some(b'}' | b':'), Some(end)) => &after[end + 1..],
            _ => {
                kept.extend_from_slice(b"{color");
                after
            }
        };
    }
    kept.extend_from_slice(rest);
    *line = kept;
}

/// `{{…}}` of Jira around a whole line.
fn monospaced(line: &mut Vec<u8>) {
    let text = line.trim_ascii();
    let inner = text.strip_prefix(b"{{").and_then(|text| text.strip_suffix(b"}}"));
    if let Some(inner) = inner.filter(|inner| !inner.starts_with(b"\"")) {
        *line = inner.to_vec();
    }
}

fn without(line: &[u8], mark: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(line.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(line, mark) {
        kept.extend_from_slice(&line[from..at]);
        from = at + mark.len();
    }
    kept.extend_from_slice(&line[from..]);
    kept
}

/// Markdown's backslashes before marks: `\\[  34.1\\] CPU \\_x\\_`.
fn unescape_marks(line: &mut Vec<u8>) {
    const MARKS: &[u8] = b"[]_*#<>|~`(){}-+.!";
    // Those that a log's line holds; a path of Windows or a name of systemd has others.
    let escaped = [&b"\\["[..], b"\\_", b"\\*", b"\\#"];
    let has = escaped
        .iter()
        .any(|mark| memchr::memmem::find(line, mark).is_some());
    let other = |at: usize| line.get(at + 1).is_none_or(|next| !MARKS.contains(next));
    if !has || memchr::memchr_iter(b'\\', line).any(other) {
        return;
    }
    line.retain(|byte| *byte != b'\\');
}

/// The lines that a written `\\n` joins, where records of a log begin behind it.
pub fn joined(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    memchr::memmem::find(line, b"\\n")?;
    // An object's own texts are unescaped with it.
    let text = line.trim_ascii();
    if text.starts_with(b"[{") || text.starts_with(b"{") && text.contains(&b'"') {
        return None;
    }
    let text = without(line, b"\\r");
    let mut parts = Vec::new();
    let mut from = 0;
    for at in memchr::memmem::find_iter(&text, b"\\n") {
        parts.push(&text[from..at]);
        from = at + 2;
    }
    parts.push(&text[from..]);
    parts.retain(|part| !part.trim_ascii().is_empty());
    let (first, more) = parts.split_first()?;
    let records = more.iter().filter(|part| is_record(part)).count();
    if more.is_empty() || records < more.len().div_ceil(2) {
        return None;
    }
    // `log: "`: what is quoted begins behind it.
    let quoted = memchr::memchr(b'"', first).map(|at| &first[at + 1..]);
    let first = quoted.filter(|inner| is_record(inner)).unwrap_or(first);
    let lines = std::iter::once(&first).chain(more).map(|part| part.to_vec());
    Some(lines.collect())
}

fn is_record(part: &[u8]) -> bool {
    begins_record(part) || wordings::hits(part).next().is_some_and(|hit| hit.at == 0)
}

/// The text of a tracker's field with its lines apart, where one of them is a log's.
pub fn field(text: &str) -> Option<Cow<'_, str>> {
    let any = |text: &str| text.contains('\n') && text.lines().any(|line| is_record(line.as_bytes()));
    if any(text) {
        return Some(Cow::Borrowed(text));
    }
    let lines = joined(text.as_bytes())?;
    let text = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect::<Vec<_>>()
        .join("\n");
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        let mut line = line.as_bytes().to_vec();
        strip(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn marks_of_trackers() {
        for line in [
            "**[ 1.0] a b_c**",
            "[ 1.0] **a** b_c",
            "{color:red}[ 1.0] a b_c{color}",
            "[ 1.0] {color:#ff0000}a{color} b_c",
            "{{[ 1.0] a b_c}}",
            "\\[ 1.0\\] a b\\_c",
            "[ 1.0] a b\\_c",
            "_[ 1.0] a b_c_",
            "*[ 1.0] a b_c*",
        ] {
            assert_eq!(of(line), "[ 1.0] a b_c", "{line}");
        }
    }

    #[test]
    fn a_logs_own_marks_stay() {
        for line in [
            "[ 1.0] ****************************************",
            "[ 1.0] ** a banner",
            "unit machine-qemu\\x2d1\\x2ddb_7.scope",
            "C:\\Windows\\_x",
            "{{\"a\": 1}}",
            "[ 1.0] {colorful}",
        ] {
            assert_eq!(of(line), line);
        }
    }

    #[test]
    fn lines_that_a_written_mark_joins() {
        let lines = |text: &str| {
            let lines = joined(text.as_bytes())?.into_iter();
            Some(
                lines
                    .map(|line| String::from_utf8(line).unwrap())
                    .collect::<Vec<_>>(),
            )
        };
        let two = Some(vec!["[    1.0] a".to_owned(), "[    1.1] b".to_owned()]);
        assert_eq!(lines("[    1.0] a\\n[    1.1] b"), two);
        assert_eq!(lines("log: \"[    1.0] a\\r\\n[    1.1] b\\n"), two);
        for other in [
            "printf(\"a\\nb\")",
            "C:\\new\\node",
            "a",
            "{\"a\": \"[    1.0] a\\n[    1.1] b\"}",
        ] {
            assert_eq!(lines(other), None, "{other}");
        }
    }
}
