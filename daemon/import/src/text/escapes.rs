//! Terminal escapes: `dmesg --color` colours the words of a message, serial consoles move the cursor.

use std::borrow::Cow;

/// The line without CSI sequences (ECMA-48, 5.4) and NULs.
pub fn strip(line: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(0x1b, 0, line).is_none() {
        return Cow::Borrowed(line);
    }
    let mut plain = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = memchr::memchr2(0x1b, 0, rest) {
        plain.extend_from_slice(&rest[..at]);
        rest = match rest[at..].strip_prefix(b"\x1b[") {
            Some(sequence) => {
                let end = sequence.iter().position(|b| (0x40..=0x7e).contains(b));
                &sequence[end.map_or(sequence.len(), |end| end + 1)..]
            }
            None => &rest[at + 1..],
        };
    }
    plain.extend_from_slice(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::strip;

    #[test]
    fn colours_go_and_words_stay() {
        let line = b"\x1b[32m[   34.1] \x1b[0m\x1b[33mMemory failure: \x1b[0m0xf7eb\0: x\x1b[";
        assert_eq!(&*strip(line), b"[   34.1] Memory failure: 0xf7eb: x");
        assert_eq!(&*strip(b"\x1b"), b"");
    }
}
