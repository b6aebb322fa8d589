//! What a post, a table or a tool puts around a whole line: list marks, quotation marks, a column before it, the end
//! marks of `cat -A`. Words of a sentence are no dress: what they quote is somebody's prose.

use std::borrow::Cow;

use super::{
    start::{begins_record, named_date},
    wordings,
};

/// How much may stand before a line.
const MAX_BEFORE: usize = 96;
/// What may stand behind a line, after the mark that begins it.
const ENDS: [&[u8]; 20] = [
    b"\",",
    b"\"",
    b"',",
    b"'",
    b"`",
    b"|",
    b"^M$",
    b"$",
    b"[/code]",
    b"[/CODE]",
    b"[/quote]",
    b"{noformat}",
    b"{code}",
    b"\\n",
    b"\\r",
    b"{quote}",
    b"{color}",
    b"]]>",
    // Guillemets, of either order.
    "\u{ab}".as_bytes(),
    "\u{bb}".as_bytes(),
];

/// The name of a machine or a console in what stands before a line: `10.0.0.5 `, `[node1] `.
pub fn name(before: &[u8]) -> Option<&[u8]> {
    let text = before.trim_ascii();
    let text = match text {
        [b'[', inner @ .., b']'] | [b'<', inner @ .., b'>'] | [b'(', inner @ .., b')'] => inner,
        _ => text.strip_suffix(b":").unwrap_or(text),
    };
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    let marks = |wanted: fn(&u8) -> bool| text.iter().filter(|b| wanted(b)).count();
    let digits = marks(u8::is_ascii_digit);
    let letters = marks(u8::is_ascii_alphabetic);
    // An address, or letters with a digit; a number or a time alone is none.
    let address = marks(|b| *b == b'.') == 3 || marks(|b| *b == b':') > 1 && letters > 0;
    let named = letters > 0 && (digits > 0 || marks(|b| matches!(b, b'.' | b'-')) > 0);
    let is = text.iter().all(of_name) && (address || named) && !super::start::date(text);
    (is && text.first().is_some_and(u8::is_ascii_alphanumeric)).then_some(text)
}

/// The line without its dress, where it has one. `starts`: a record begins already where the line does; what stands before
/// another one in it is a column, or opens a quotation.
pub fn undress(line: &[u8], starts: bool) -> Option<(&[u8], Vec<u8>)> {
    let begin = begin(line).filter(|begin| !starts || b"\"'`|\t".contains(&line[begin - 1]))?;
    let (before, inner) = line.split_at(begin);
    Some((before, plain(before, without_end(inner)).into_owned()))
}

/// Whether the last byte may be a dress: quick.
pub fn may_end(line: &[u8]) -> bool {
    match line.last() {
        Some(b'"' | b'\'' | b'`' | b'|' | b'$' | b']' | b',' | 0xab | 0xbb) => true,
        // An object, a symbol behind a RIP.
        Some(b'}') => [&b"{code}"[..], b"{noformat}", b"{quote}", b"{color}"]
            .iter()
            .any(|end| line.ends_with(end)),
        Some(b'>') => line.ends_with(b"]]>"),
        _ => false,
    }
}

/// A line that begins as it should, without what stands behind it.
pub fn without_end(line: &[u8]) -> &[u8] {
    let mut rest = line.trim_ascii_end();
    while let Some(shorter) = ENDS.iter().find_map(|end| rest.strip_suffix(*end)) {
        // A quoted value ends a line of its own: `comm="qemu"`.
        let open = |quote: u8| rest.iter().filter(|b| **b == quote).count() % 2 == 0;
        if matches!(rest.last(), Some(quote @ (b'"' | b'\'')) if open(*quote)) {
            break;
        }
        rest = shorter.trim_ascii_end();
    }
    rest
}

/// A line without the marks of `cat -A` at its end.
pub fn without_line_end(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"$") {
        Some(rest) => rest.strip_suffix(b"^M").unwrap_or(rest),
        None => line.trim_ascii_end(),
    }
}

/// Where the line inside begins. What begins first counts: a time, not the message behind it.
fn begin(line: &[u8]) -> Option<usize> {
    let last = line.len().min(MAX_BEFORE);
    let begin = (1..last).find(|at| {
        let before = line[at - 1];
        let inside = before.is_ascii_alphanumeric() || matches!(before, b'_' | b'-' | b'.' | b'/');
        // A number in brackets is a field: `audit(1795362334.123:456)`.
        let field = line[*at].is_ascii_digit() && matches!(before, b'(' | b'[' | b'=' | b':');
        !inside && !field && begins(&line[*at..])
    })?;
    let before = &line[..begin];
    // An object is one only behind a list's mark.
    let object = line[begin] == b'{';
    let listed = matches!(before.trim_ascii(), b"-" | b"*" | b"+" | b"- '");
    (is_dress(before) && (!object || listed)).then_some(begin)
}

/// Whether a line of a log begins here; quick where none does.
fn begins(text: &[u8]) -> bool {
    match text.first() {
        Some(b'[') => boot_time(text) || named_date(&text[1..]),
        Some(b'{') => text.starts_with(b"{\""),
        Some(b'0'..=b'9') => begins_record(text),
        Some(b'e') => text.starts_with(b"error: kvm run failed "),
        Some(b'q') => text.starts_with(b"qemu-system-") || text.starts_with(b"qemu-kvm: "),
        Some(b'm') => text.starts_with(b"mce: "),
        Some(b'k') => text.starts_with(b"kern  :"),
        Some(b'A'..=b'Z') => named_date(text) || of_wording(text),
        _ => false,
    }
}

fn of_wording(text: &[u8]) -> bool {
    const CPU: usize = 12;
    let named = text.starts_with(b"CPU ");
    let hit = wordings::hits(text).next();
    hit.is_some_and(|hit| hit.at == 0 || named && hit.at < CPU)
}

/// Whether a record of a log begins inside a dress: then nothing of the line goes on with the line before.
pub fn begins_dressed(line: &[u8]) -> bool {
    begin(line).is_some_and(|begin| begins_record(&line[begin..]))
}

/// `[   34.150533] `.
fn boot_time(text: &[u8]) -> bool {
    let inner = text[1..].trim_ascii_start();
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(inner);
    let Some(rest) = inner.get(whole..).and_then(|rest| rest.strip_prefix(b".")) else {
        return false;
    };
    let fraction = digits(rest);
    whole > 0 && fraction > 0 && rest.get(fraction) == Some(&b']')
}

/// Whether no word of a sentence, and no name of who sent the line, stands in it.
fn is_dress(before: &[u8]) -> bool {
    let named = before.ends_with(b": ")
        && before
            .get(before.len().wrapping_sub(3))
            .is_some_and(u8::is_ascii_alphanumeric);
    // A field's value is part of the line.
    let value = before.ends_with(b"=\"") || before.ends_with(b"=");
    !named
        && !value
        && before
            .split(|b| b.is_ascii_whitespace())
            .all(|word| !is_prose(word))
}

fn is_prose(word: &[u8]) -> bool {
    const MONTHS: [&[u8]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
    ];
    let bare = word
        .strip_suffix(b",")
        .or_else(|| word.strip_suffix(b"."))
        .unwrap_or(word);
    let bare = bare.strip_suffix(b":").unwrap_or(bare);
    bare.len() > 1 && bare.iter().all(u8::is_ascii_alphabetic) && !MONTHS.contains(&bare)
}

/// The line with the quotation marks that its dress escaped.
fn plain<'a>(before: &[u8], line: &'a [u8]) -> Cow<'a, [u8]> {
    let quoted = before.ends_with(b"\"");
    if !quoted || memchr::memchr2(b'\\', b'"', line).is_none() {
        return Cow::Borrowed(line);
    }
    let mut text = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(b'"' | b'\\')) | (b'"', Some(b'"')) => text.extend(bytes.next()),
            _ => text.push(byte),
        }
    }
    Cow::Owned(text)
}

/// No-break spaces become blanks; marks of no width go. Browsers copy both.
pub fn plain_blanks(line: &mut Vec<u8>) {
    const NO_BREAK: [u8; 2] = [0xc2, 0xa0];
    /// U+200B to U+200F, and U+FEFF.
    const fn no_width(text: &[u8]) -> bool {
        matches!(text, [0xe2, 0x80, 0x8b..=0x8f, ..] | [0xef, 0xbb, 0xbf, ..])
    }
    if line.is_ascii() {
        return;
    }
    let mut kept = Vec::with_capacity(line.len());
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        let rest = &line[at..];
        if rest.starts_with(&NO_BREAK) {
            kept.push(b' ');
            at += NO_BREAK.len();
        } else if no_width(rest) {
            at += 3;
        } else {
            kept.push(*byte);
            at += 1;
        }
    }
    *line = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[   34.150533] Memory failure: 0x1: x";

    fn of(line: &str) -> Option<String> {
        undress(line.as_bytes(), false).map(|(_, line)| String::from_utf8_lossy(&line).into_owned())
    }

    #[test]
    fn marks_of_posts_tables_and_tools() {
        for (before, after) in [
            ("- ", ""),
            ("* ", ""),
            ("`", "`"),
            ("  \"", "\","),
            ("- '", "'"),
            ("| 3 | ", " |"),
            ("[code]", "[/code]"),
            ("{noformat:title=dmesg}", "{noformat}"),
            ("2026-11-22 18:02:12,\"", "\""),
            ("Nov 22, 2026 @ 18:02:12.000\t", ""),
            ("\u{bb}", ""),
        ] {
            assert_eq!(
                of(&format!("{before}{LINE}{after}")).as_deref(),
                Some(LINE),
                "{before}"
            );
        }
        let qemu = "2026-11-22T18:02:12.000000Z qemu-kvm: x";
        assert_eq!(of(&format!("+{qemu}")).as_deref(), Some(qemu));
        assert_eq!(of(&format!("> * {qemu}")).as_deref(), Some(qemu));
        assert_eq!(of(r#""[ 1.5] a \"b\" c""#).as_deref(), Some(r#"[ 1.5] a "b" c"#));
    }

    #[test]
    fn a_machines_name_before_a_line_stays_known() {
        for (before, wanted) in [
            ("10.0.0.5 ", Some("10.0.0.5")),
            ("[node1] ", Some("node1")),
            ("<10.0.0.5> ", Some("10.0.0.5")),
            ("fe80::1 ", Some("fe80::1")),
            ("web-a ", Some("web-a")),
            ("- ", None),
            ("| 3 | ", None),
            ("[code]", None),
            ("2026-11-22 18:02:12,\"", None),
            ("12: ", None),
        ] {
            let found = name(before.as_bytes()).map(|name| String::from_utf8_lossy(name).into_owned());
            assert_eq!(found.as_deref(), wanted, "{before}");
        }
    }

    #[test]
    fn a_sentence_and_a_sender_are_no_dress() {
        for before in ["We saw ", "see: ", "node17: ", "web  | x: ", "vmconsole=\""] {
            assert_eq!(of(&format!("{before}{LINE}")), None, "{before}");
        }
        assert_eq!(of("audit(1795362334.123:456): auid=0 pid=1"), None);
        assert_eq!(of("what does \"Memory failure: 0x1: x\" mean?"), None);
        assert_eq!(without_end(b"comm=\"qemu-kvm\""), b"comm=\"qemu-kvm\"");
        assert_eq!(without_end(b"x: Recovered^M$"), b"x: Recovered");
        let rip = b"[   34.1] mce: [Hardware Error]: RIP 10:<1> {memcpy+0x1}";
        assert_eq!(undress(rip, true), None);
    }

    #[test]
    fn blanks_that_browsers_copy() {
        let mut line = "\u{feff}[\u{a0}34.1] Memory\u{200b} failure \u{e9}"
            .as_bytes()
            .to_vec();
        plain_blanks(&mut line);
        assert_eq!(line, "[ 34.1] Memory failure \u{e9}".as_bytes());
    }
}
