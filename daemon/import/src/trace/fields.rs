//! Fields of trace events: `key value`, `key=value` or `key: value`, in hex with and without `0x`. Kernels
//! and tools print the same field differently; what is not understood is absent.
//!
//! An event's own format prints addresses in hex, with `0x` or without (`address 7654040`). The raw fields of
//! `trace-cmd report -R`, of perf where it cannot read a format, and of tracefs' option `fields` are `key=value`:
//! hex with `0x`, else decimal.

use super::record::decimal;

/// The value after `key`, up to a space, comma or bracket. `key` must stand at a word's beginning.
pub fn value<'a>(fields: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    find(fields, key).map(|(value, _)| value)
}

/// The same, and whether it is `key=value`.
fn find<'a>(fields: &'a [u8], key: &[u8]) -> Option<(&'a [u8], bool)> {
    for at in memchr::memmem::find_iter(fields, key) {
        let begins = at == 0 || !fields[at - 1].is_ascii_alphanumeric() && fields[at - 1] != b'_';
        let after = &fields[at + key.len()..];
        if !begins
            || after
                .first()
                .is_none_or(|b| b.is_ascii_alphanumeric() || *b == b'_')
        {
            continue;
        }
        let after = after.trim_ascii_start();
        let raw = after.first() == Some(&b'=');
        let after = after
            .strip_prefix(b"=")
            .or_else(|| after.strip_prefix(b":"))
            .unwrap_or(after)
            .trim_ascii_start();
        let end = after
            .iter()
            .position(|b| matches!(b, b' ' | b',' | b'[' | b'(' | b')' | b'\t'))
            .unwrap_or(after.len());
        if end > 0 {
            return Some((&after[..end], raw));
        }
    }
    None
}

/// Hex, with or without `0x`.
pub fn hex(digits: &[u8]) -> Option<u64> {
    let digits = digits
        .strip_prefix(b"0x")
        .or_else(|| digits.strip_prefix(b"0X"))
        .unwrap_or(digits);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, b| {
        let digit = (*b as char).to_digit(16)?;
        if sum >> 60 != 0 {
            return None;
        }
        Some(sum << 4 | u64::from(digit))
    })
}

pub fn hex_of(fields: &[u8], key: &[u8]) -> Option<u64> {
    let (value, raw) = find(fields, key)?;
    match raw {
        true if !value.starts_with(b"0x") => decimal(value).or_else(|| hex(value)),
        _ => hex(value),
    }
}

/// A decimal that may be negative, or `0x…` of 64 or 32 bits of two's complement, as kprobes print a return.
pub fn signed_of(fields: &[u8], key: &[u8]) -> Option<i64> {
    let text = value(fields, key)?;
    if text.starts_with(b"0x") {
        let bits = hex(text)?;
        return Some(match u32::try_from(bits) {
            Ok(low) if low > 0xffff_0000 => i64::from(low.cast_signed()),
            _ => bits.cast_signed(),
        });
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub fn number_of(fields: &[u8], key: &[u8]) -> Option<u32> {
    let text = value(fields, key)?;
    match text.strip_prefix(b"0x") {
        Some(digits) => u32::try_from(hex(digits)?).ok(),
        None => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_field_in_the_words_of_several_kernels() {
        assert_eq!(
            hex_of(
                b"vcpu 0 rip 0x10011 address 0x0000000000100040 error_code 0x581",
                b"address"
            ),
            Some(0x10_0040)
        );
        assert_eq!(
            hex_of(b"address 100040 error_code 581", b"error_code"),
            Some(0x581)
        );
        assert_eq!(
            hex_of(b"reason npf rip 0x40181f info 1 2beb000", b"info"),
            Some(1)
        );
        assert_eq!(number_of(b"vcpu 3, rip 0xfff0[immediate exit]", b"vcpu"), Some(3));
        assert_eq!(
            hex_of(b"vcpu 3, rip 0xfff0[immediate exit]", b"rip"),
            Some(0xfff0)
        );
        assert_eq!(
            signed_of(b"(a+0x1/0x2 <- get_user_pages_unlocked) ret=-133", b"ret"),
            Some(-133)
        );
        assert_eq!(
            signed_of(b"(a <- b) arg1=0xffffffffffffff7b", b"arg1"),
            Some(-133)
        );
        assert_eq!(signed_of(b"(a <- b) ret=0xffffff7b", b"ret"), Some(-133));
        assert_eq!(number_of(b"sig=7 errno=0 code=4", b"code"), Some(4));
        for raw in [
            "fault_address=1048640 error_code=1409",
            "fault_address=0x100040 (1048640) error_code=0x581 (1409)",
        ] {
            assert_eq!(hex_of(raw.as_bytes(), b"fault_address"), Some(0x10_0040));
            assert_eq!(hex_of(raw.as_bytes(), b"error_code"), Some(0x581));
        }
        assert_eq!(value(b"vcpu_id 1", b"vcpu"), None);
        assert_eq!(value(b"rip", b"rip"), None);
        assert_eq!(hex(b"10000000000000000"), None);
    }
}
