//! What others put before each line: marks of quoting, numbers of a list, a file's name from grep.

use super::{
    start::{begins_record, date},
    wordings,
};

/// Marks of quoting before a line, and its rest: `> > `, `>> `, `| > `. A row of a table ends in a bar too.
pub fn unquote(line: &[u8]) -> (bool, &[u8]) {
    let mut rest = line;
    if let Some(after) = rest.strip_prefix(b"| ")
        && memchr::memchr(b'|', after).is_none()
    {
        return (true, unquote(after).1);
    }
    let mut quoted = false;
    loop {
        let inner = rest.trim_ascii_start();
        match inner.strip_prefix(b">") {
            Some(after) => {
                quoted = true;
                rest = after.strip_prefix(b" ").unwrap_or(after);
            }
            None => return (quoted, if quoted { rest } else { line }),
        }
    }
}

/// The margins of one source: `12. `, `12: `, `12|`, `L12 `, `console.log:12:`.
#[derive(Default)]
pub struct Margins {
    /// The number in the last one.
    number: Option<u64>,
    /// The file's name in the last one.
    file: Vec<u8>,
}

impl Margins {
    /// The name of the file in the margin, if it holds one, and the line behind it, where a margin stands: known by what
    /// follows, or as one of a list. `next`: how the next line begins.
    pub fn strip<'a>(&mut self, line: &'a [u8], next: &[u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let trimmed = line.trim_ascii_start();
        if let Some((number, rest)) = numbered(trimmed) {
            let after = |before: u64, number: u64| before.checked_add(1) == Some(number);
            let listed = self.number.is_some_and(|before| after(before, number))
                || numbered(next.trim_ascii_start()).is_some_and(|(next, _)| after(number, next));
            if listed || known(rest) {
                self.number = Some(number);
                return Some((None, rest));
            }
            return None;
        }
        let (file, rest) = of_grep(trimmed)?;
        if file == self.file || of_grep(next).is_some_and(|(next, _)| next == file) || known(rest) {
            self.file = file.to_vec();
            return Some((Some(file), rest));
        }
        None
    }
}

/// Whether a container's name stands before a record: it is part of the line, as it states who wrote it.
pub fn relayed(line: &[u8]) -> bool {
    of_a_container(line).is_some_and(begins_record)
        || named(line).is_some_and(|rest| rest.starts_with(b"[") && begins_record(rest))
}

/// `vm1: `: what stands behind a name.
fn named(line: &[u8]) -> Option<&[u8]> {
    const LONGEST: usize = 64;
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'@');
    let end = line
        .iter()
        .take(LONGEST)
        .position(|b| !of_name(b))
        .filter(|end| *end > 0)?;
    line[end..].strip_prefix(b": ")
}

/// Whether `rest` is a line that a log could have by itself.
fn known(rest: &[u8]) -> bool {
    let begins = || wordings::hits(rest).next().is_some_and(|hit| hit.at == 0);
    begins_record(rest) || rest.starts_with(b"qemu") || rest.starts_with(b"mce: ") || begins()
}

fn numbered(line: &[u8]) -> Option<(u64, &[u8])> {
    let text = line
        .strip_prefix(b"L")
        .or_else(|| line.strip_prefix(b"#"))
        .unwrap_or(line);
    let digits = text.iter().take(8).take_while(|b| b.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let rest = &text[digits..];
    let rest = match rest {
        // A time has a digit after the point.
        [b'.' | b')', b' ' | b'\t', ..] | [b':' | b'|' | b'-', ..] => &rest[1..],
        // A process number before its command (`pgrep -a`).
        [b' ', ..] if rest.trim_ascii_start().starts_with(b"/") => return None,
        [b' ' | b'\t', ..] => rest,
        _ => return None,
    };
    let rest = rest.trim_ascii_start();
    Some((number, rest.strip_prefix(b"|").unwrap_or(rest).trim_ascii_start()))
}

/// `console.log:12:`, `host/console.log-12-`, `console.log:`: the name, and the line.
fn of_grep(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line
        .iter()
        .take(128)
        .position(|b| matches!(b, b':' | b' ' | b'['))?;
    let name = &line[..end];
    if line[end] != b':' || !name.iter().any(|b| matches!(b, b'.' | b'/')) {
        return None;
    }
    let rest = &line[end + 1..];
    let digits = rest.iter().take(8).take_while(|b| b.is_ascii_digit()).count();
    let numbered = digits > 0 && matches!(rest.get(digits), Some(b':' | b'-')) && !date(rest);
    Some((name, if numbered { &rest[digits + 1..] } else { rest }))
}

/// `qemu-1  | ` of docker compose, `[pod/virt-launcher-x/guest-console-log] ` of kubectl.
fn of_a_container(line: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = line.strip_prefix(b"[pod/") {
        let end = memchr::memchr(b']', &rest[..rest.len().min(256)])?;
        return Some(rest[end + 1..].trim_ascii_start());
    }
    let head = &line[..line.len().min(96)];
    let bar = memchr::memmem::find(head, b" | ")?;
    let name = head[..bar].trim_ascii();
    let a_name = !name.is_empty()
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    a_name.then(|| &line[bar + 3..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_of_any_depth() {
        assert_eq!(unquote(b"> > [ 1.0] x"), (true, &b"[ 1.0] x"[..]));
        assert_eq!(unquote(b">>[ 1.0] x"), (true, &b"[ 1.0] x"[..]));
        assert_eq!(unquote(b">    [ 1.0] x"), (true, &b"   [ 1.0] x"[..]));
        assert_eq!(unquote(b"| > [ 1.0] x"), (true, &b"[ 1.0] x"[..]));
        assert!(!unquote(b"| 1 | [ 1.0] x |").0);
        assert_eq!(unquote(b"  [ 1.0] x > y"), (false, &b"  [ 1.0] x > y"[..]));
    }

    #[test]
    fn margins_of_pastebins_grep_and_containers() {
        const LINE: &str = "[   34.1] Memory failure: 0x1: x";
        for margin in [
            "12. ",
            "  12: ",
            "12:",
            "12|",
            "  12 | ",
            "12\t",
            "#12 ",
            "L12: ",
            "console.log:12:",
            "/var/log/console.log:",
        ] {
            let line = format!("{margin}{LINE}");
            assert_eq!(
                Margins::default()
                    .strip(line.as_bytes(), b"")
                    .map(|(_, line)| line),
                Some(LINE.as_bytes()),
                "{line}"
            );
        }
        for line in [
            LINE,
            "12. of November",
            "2026-11-22T15:45:34Z x",
            "host: [ 1.0] x",
            "",
        ] {
            assert_eq!(Margins::default().strip(line.as_bytes(), b""), None, "{line}");
        }
    }

    #[test]
    fn the_next_of_a_list_has_a_margin_whatever_follows() {
        let mut margins = Margins::default();
        assert_eq!(margins.strip(b"1: recipient", b"failure"), None);
        assert_eq!(
            margins.strip(b"  6. recipient: guest", b"  7. x"),
            Some((None, &b"recipient: guest"[..]))
        );
        let line = &b"[   34.1] x"[..];
        assert_eq!(margins.strip(b"7. [   34.1] x", b""), Some((None, line)));
        assert_eq!(
            margins.strip(b"8. recipient: guest", b""),
            Some((None, &b"recipient: guest"[..]))
        );
        assert_eq!(margins.strip(b"10. of November", b""), None);
        assert_eq!(
            margins.strip(b"a/b.log:7:[   34.1] x", b""),
            Some((Some(&b"a/b.log"[..]), line))
        );
        assert_eq!(margins.strip(b"a/b.log-8-recipient: guest", b""), None);
        assert_eq!(
            margins.strip(b"a/b.log:8:recipient: guest", b""),
            Some((Some(&b"a/b.log"[..]), &b"recipient: guest"[..]))
        );
    }
}
