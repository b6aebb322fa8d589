//! Terminal escapes: `dmesg --color` colours the words of a message, serial consoles move the cursor.

/// Removes CSI sequences (ECMA-48, 5.4) and NULs.
pub fn strip_in_place(line: &mut Vec<u8>) {
    let Some(first) = memchr::memchr2(0x1b, 0, line) else {
        return;
    };
    let mut kept = first;
    let mut at = first;
    while at < line.len() {
        match line[at] {
            0x1b if line.get(at + 1) == Some(&b'[') => {
                let sequence = &line[at + 2..];
                let end = sequence.iter().position(|b| (0x40..=0x7e).contains(b));
                at += 2 + end.map_or(sequence.len(), |end| end + 1);
            }
            0x1b | 0 => at += 1,
            byte => {
                line[kept] = byte;
                kept += 1;
                at += 1;
            }
        }
    }
    line.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::strip_in_place;

    #[test]
    fn colours_go_and_words_stay() {
        let of = |line: &[u8]| {
            let mut line = line.to_vec();
            strip_in_place(&mut line);
            line
        };
        let line = b"\x1b[32m[   34.1] \x1b[0m\x1b[33mMemory failure: \x1b[0m0xf7eb\0: x\x1b[";
        assert_eq!(of(line), b"[   34.1] Memory failure: 0xf7eb: x");
        assert_eq!(of(b"\x1b"), b"");
    }
}
