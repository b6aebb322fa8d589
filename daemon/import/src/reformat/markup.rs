//! HTML of forum posts and of trackers: line breaks, marks of text, entities.

/// Tags that end a line.
const BREAKS: [&[u8]; 11] = [
    b"br",
    b"p",
    b"div",
    b"li",
    b"tr",
    b"pre",
    b"blockquote",
    b"h1",
    b"h2",
    b"h3",
    b"ul",
];
/// Tags that mean nothing for a log's text.
const MARKS: [&[u8]; 22] = [
    b"code", b"span", b"tt", b"b", b"i", b"u", b"em", b"strong", b"a", b"td", b"th", b"table", b"tbody",
    b"ol", b"font", b"samp", b"kbd", b"html", b"body", b"small", b"mark", b"wbr",
];

/// Longest name of a tag.
const MAX_ELEMENT: usize = 40;
/// Longest tag, with its attributes.
const MAX_TAG: usize = 512;

enum Tag {
    Break,
    Mark,
}

/// Whether `line` has markup at all: quick, and true only where [`lines`] would change something.
pub fn has_markup(line: &[u8]) -> bool {
    memchr::memchr2_iter(b'<', b'&', line).any(|at| match line[at] {
        b'<' => tag(&line[at..]).is_some(),
        _ => entity(&line[at..]).is_some(),
    })
}

/// The lines of text that `line` stands for.
pub fn lines(line: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut text = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = memchr::memchr2(b'<', b'&', rest) {
        text.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if let Some((tag, length)) = tag(rest) {
            if matches!(tag, Tag::Break) && !text.trim_ascii().is_empty() {
                lines.push(std::mem::take(&mut text));
            }
            rest = &rest[length..];
        } else if let Some((byte, length)) = entity(rest) {
            text.push(byte);
            rest = &rest[length..];
        } else {
            text.push(rest[0]);
            rest = &rest[1..];
        }
    }
    text.extend_from_slice(rest);
    if !text.trim_ascii().is_empty() || lines.is_empty() {
        lines.push(text);
    }
    for line in &mut lines {
        if line.ends_with(b"]]>") {
            line.truncate(line.len() - 3);
        }
    }
    lines
}

fn tag(text: &[u8]) -> Option<(Tag, usize)> {
    const CDATA: &[u8] = b"<![CDATA[";
    if text.starts_with(CDATA) {
        return Some((Tag::Mark, CDATA.len()));
    }
    let inner = text.strip_prefix(b"<")?;
    let closes = inner.first() == Some(&b'/');
    let inner = inner.strip_prefix(b"/").unwrap_or(inner);
    let length = inner
        .iter()
        .take(MAX_ELEMENT)
        .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-'))
        .count();
    let name = inner[..length].to_ascii_lowercase();
    let after = &inner[length..];
    if !matches!(after.first(), Some(b'>' | b' ' | b'/')) {
        return None;
    }
    let close = memchr::memchr(b'>', &after[..after.len().min(MAX_TAG)])?;
    let attributes = &after[..close];
    // `<b c>` is prose or a program's; attributes have values.
    if !matches!(attributes.trim_ascii(), b"" | b"/") && memchr::memchr(b'=', attributes).is_none() {
        return None;
    }
    let whole = text.len() - after.len() + close + 1;
    if BREAKS.contains(&name.as_slice()) {
        Some((Tag::Break, whole))
    } else if MARKS.contains(&name.as_slice()) {
        Some((Tag::Mark, whole))
    } else if length > 1
        && (closes || is_of_a_namespace(&inner[..length]) || closed(&text[whole..], &inner[..length]))
    {
        // XML has names of its own.
        Some((Tag::Break, whole))
    } else {
        None
    }
}

/// `ac:plain-text-body`.
fn is_of_a_namespace(name: &[u8]) -> bool {
    let mut parts = name.split(|b| *b == b':');
    let word = |part: Option<&[u8]>| {
        part.is_some_and(|part| part.len() > 1 && part.iter().all(|b| b.is_ascii_alphabetic() || *b == b'-'))
    };
    word(parts.next()) && word(parts.next()) && parts.next().is_none()
}

/// Whether the element of this name ends in the rest of the line.
fn closed(rest: &[u8], name: &[u8]) -> bool {
    memchr::memmem::find_iter(rest, b"</").any(|at| {
        let after = rest[at + 2..].strip_prefix(name);
        after.is_some_and(|after| after.first() == Some(&b'>'))
    })
}

fn entity(text: &[u8]) -> Option<(u8, usize)> {
    const NAMED: [(&[u8], u8); 6] = [
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&amp;", b'&'),
        (b"&quot;", b'"'),
        (b"&apos;", b'\''),
        (b"&nbsp;", b' '),
    ];
    if let Some((name, byte)) = NAMED.iter().find(|(name, _)| text.starts_with(name)) {
        return Some((*byte, name.len()));
    }
    let digits = text.strip_prefix(b"&#")?;
    let end = memchr::memchr(b';', &digits[..digits.len().min(8)])?;
    let number = std::str::from_utf8(&digits[..end]).ok()?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    let byte = match code {
        0xa0 => b' ',
        _ => u8::try_from(code).ok().filter(|b| (0x20..0x7f).contains(b))?,
    };
    Some((byte, end + 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Vec<String> {
        let lines = lines(line.as_bytes()).into_iter();
        lines.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn a_posts_lines_and_entities() {
        assert_eq!(
            text(
                "<p><code>[ 1.0] a<br />[ 1.1] RIP 10:&lt;ffffffff81e8f6ff&gt; {f+0x1/0x2}<br>[&nbsp;1.2] b &amp;&#39;&#x27;</code></p>"
            ),
            [
                "[ 1.0] a",
                "[ 1.1] RIP 10:<ffffffff81e8f6ff> {f+0x1/0x2}",
                "[ 1.2] b &''"
            ]
        );
        assert_eq!(text("<span style=\"x\">a</span>"), ["a"]);
    }

    #[test]
    fn a_kernels_angle_brackets_are_no_markup() {
        for line in [
            "RIP 10:<ffffffff81e8f6ff> {memcpy_erms+0x6/0x10}",
            "<3>[ 1.0] x",
            "Code: <0f> 0b",
            "a <b c> d && e",
            "<...>-35788 [037]",
            "<idle>-0",
            "x < y > z &ltx",
        ] {
            assert!(!has_markup(line.as_bytes()), "{line}");
        }
        assert!(has_markup(b"a<br>"));
        assert!(has_markup(b"a &gt; b"));
    }
}
