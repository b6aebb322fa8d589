//! Quoted-printable (RFC 2045, 6.7): `=3D` for a byte, `=` at the end of a line that goes on.

use std::borrow::Cow;

/// Longest line of quoted-printable text.
const MAX_ENCODED: usize = 76;

/// Whether `line` can be of quoted-printable text: after each `=` stands a byte in hexadecimal, or the line's end, and
/// the encoded `=` or the soft break shows that it is meant.
pub fn encoded(line: &[u8]) -> bool {
    if memchr::memchr(b'=', line).is_none() || line.len() > MAX_ENCODED || of_journal(line) {
        return false;
    }
    let mut meant = soft_break(line);
    memchr::memchr_iter(b'=', line).all(|at| match &line[at + 1..] {
        [] => true,
        [a, b, ..] if upper_hex(*a) && upper_hex(*b) => {
            // An equals sign, a tab, a blank at the end, a letter that is none of English; `pid=801` is a number.
            meant |= matches!((a, b), (b'3', b'D') | (b'0', b'9') | (b'C'.., _)) || line[at..] == *b"=20";
            true
        }
        _ => false,
    }) && meant
}

/// A field of an exported journal: `_PID=801` holds no byte.
fn of_journal(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let of_key = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let key = line.iter().take_while(|b| of_key(b)).count();
    let value = line.get(key..).and_then(|rest| rest.strip_prefix(b"="));
    key > 1 && value.is_some_and(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit))
}

/// Whether the line goes on in the next.
pub fn soft_break(line: &[u8]) -> bool {
    line.last() == Some(&b'=') && line.len() <= MAX_ENCODED
}

/// The text that `line` stands for.
pub fn decode(line: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'=', line).is_none() {
        return Cow::Borrowed(line);
    }
    let mut text = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = memchr::memchr(b'=', rest) {
        text.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [a, b, rest @ ..] if upper_hex(*a) && upper_hex(*b) => {
                text.push((nibble(*a) << 4) | nibble(*b));
                rest
            }
            [] => &[],
            other => {
                text.push(b'=');
                other
            }
        };
    }
    text.extend_from_slice(rest);
    Cow::Owned(text)
}

fn upper_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'A'..=b'F')
}

fn nibble(b: u8) -> u8 {
    match b {
        b'0'..=b'9' => b - b'0',
        _ => b.wrapping_sub(b'A').wrapping_add(10) & 0xf,
    }
}

/// Whether a mail's header states that its text is encoded.
pub fn declared(line: &[u8]) -> Option<bool> {
    let value = line
        .get(..26)
        .filter(|name| name.eq_ignore_ascii_case(b"Content-Transfer-Encoding:"))
        .and(line.get(26..))?;
    Some(value.trim_ascii().eq_ignore_ascii_case(b"quoted-printable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_journal_is_no_encoded_byte() {
        for line in [
            "_PID=801",
            "    COREDUMP_PID=9012",
            "SYSLOG_PID=8",
            "exited pid=801",
        ] {
            assert!(!encoded(line.as_bytes()), "{line}");
        }
        assert!(encoded(b"_PID=3D801"));
    }

    #[test]
    fn bytes_and_soft_breaks() {
        assert_eq!(&*decode(b"sig=3D7 res=3D1"), b"sig=7 res=1");
        assert_eq!(&*decode(b"a=C2=A0b="), b"a\xc2\xa0b");
        assert!(encoded(b"audit: type=3D1701 pid=3D4711"));
        assert!(encoded(b"Memory failure: 0x8aa9a1: Sending="));
        for plain in [
            &b"audit: type=1701 pid=4711"[..],
            b"sig=7 res=3D",
            b"order=0, a=20",
            b"",
        ] {
            assert!(!encoded(plain), "{}", String::from_utf8_lossy(plain));
        }
    }

    #[test]
    fn a_header_declares_it() {
        assert_eq!(
            declared(b"Content-transfer-encoding: Quoted-Printable"),
            Some(true)
        );
        assert_eq!(declared(b"Content-Transfer-Encoding: 8bit"), Some(false));
        assert_eq!(declared(b"Content-Type: text/plain"), None);
    }
}
