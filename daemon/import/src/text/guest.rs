//! The words of a kernel that takes a machine check, and of its panic. A report of several lines is gathered
//! into one.

use crate::trace::{hex, record::decimal};
use poisontrace_model::{event::log_statement::MceReport, hex::Hex};

/// What a line did.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A report begins.
    Begin(usize),
    /// More of the report under way.
    More(usize),
    Panic(usize, String),
}

/// Reads `line` into the report under way.
pub fn read(line: &[u8], mce: &mut MceReport) -> Option<Line> {
    if let Some(at) = find(line, b"Kernel panic - not syncing: ") {
        let text = String::from_utf8_lossy(&line[at + 28..]);
        return Some(Line::Panic(
            at,
            poisontrace_model::text::sanitise(text.trim(), 120),
        ));
    }
    if let Some(at) = find(line, b"RIP: 0010:") {
        // The oops' own registers: the function alone.
        mce.symbol.get_or_insert_with(|| symbol(&line[at + 10..]));
        return Some(Line::More(at));
    }
    if let Some(at) = find(line, b"mce: Uncorrected hardware memory error in user-access at ") {
        let addr = hex(word(&line[at + 57..]))?;
        *mce = MceReport {
            addr: Some(Hex(addr)),
            ..MceReport::default()
        };
        return Some(Line::Begin(at));
    }
    let at = find(line, b"[Hardware Error]: ")?;
    let rest = &line[at + 18..];
    header(rest, mce)
        .then_some(Line::Begin(at))
        .or_else(|| more(rest, mce).then_some(Line::More(at)))
}

/// `CPU 0: Machine Check Exception: 7 Bank 9: fc00080000000000`, and its kin for polled banks.
fn header(rest: &[u8], mce: &mut MceReport) -> bool {
    if let Some((bank, status)) = amd_decoded(rest) {
        *mce = MceReport {
            bank: Some(bank),
            status: Some(Hex(status)),
            ..MceReport::default()
        };
        return true;
    }
    let Some(kind) = find(rest, b": Machine Check") else {
        return false;
    };
    let Some(bank) = find(&rest[kind..], b" Bank ").map(|at| kind + at) else {
        return false;
    };
    let words = &rest[bank + 6..];
    let Some(colon) = memchr::memchr(b':', words) else {
        return false;
    };
    let after = &rest[kind + 2..bank];
    let mcg = memchr::memrchr(b':', after).and_then(|at| hex(after[at + 1..].trim_ascii()));
    *mce = MceReport {
        cpu: rest
            .strip_prefix(b"CPU ")
            .and_then(|cpu| decimal(&cpu[..kind.checked_sub(4)?]))
            .and_then(|cpu| u32::try_from(cpu).ok()),
        mcg_status: mcg.map(Hex),
        bank: decimal(&words[..colon]).and_then(|bank| u32::try_from(bank).ok()),
        status: hex(word(words[colon + 1..].trim_ascii_start())).map(Hex),
        ..MceReport::default()
    };
    mce.bank.is_some() && mce.status.is_some()
}

/// `CPU:1 (17:1:2) MC9_STATUS[Over|UE|…]: 0xfc00…`.
fn amd_decoded(rest: &[u8]) -> Option<(u32, u64)> {
    let at = find(rest, b"_STATUS[")?;
    let name = memchr::memmem::rfind(&rest[..at], b"MC")?;
    let bank = u32::try_from(decimal(&rest[name + 2..at])?).ok()?;
    let value = find(&rest[at..], b"]: 0x")?;
    Some((bank, hex(word(&rest[at + value + 5..]))?))
}

fn more(rest: &[u8], mce: &mut MceReport) -> bool {
    if let Some(after) = rest.strip_prefix(b"RIP ") {
        rip(after, mce);
        return true;
    }
    if let Some(after) = rest.strip_prefix(b"Machine check: ") {
        let text = String::from_utf8_lossy(after);
        mce.reason = Some(poisontrace_model::text::sanitise(text.trim(), 160));
        return true;
    }
    if let Some(addr) = rest.strip_prefix(b"Error Addr: 0x") {
        mce.addr = hex(word(addr)).map(Hex);
        return true;
    }
    let mut any = false;
    for (key, field) in [(&b"ADDR "[..], &mut mce.addr), (b"MISC ", &mut mce.misc)] {
        if let Some(at) = find(rest, key)
            && (at == 0 || rest[at - 1] == b' ')
            && let Some(value) = hex(word(&rest[at + 5..]))
        {
            *field = Some(Hex(value));
            any = true;
        }
    }
    any
}

/// `33:<000000000040181f> {symbol+0x1/0x2}`, with `!INEXACT!` before it.
fn rip(after: &[u8], mce: &mut MceReport) {
    let after = after.strip_prefix(b"!INEXACT! ").unwrap_or(after);
    let Some(colon) = memchr::memchr(b':', after) else {
        return;
    };
    mce.cs = hex(after[..colon].trim_ascii()).and_then(|cs| u32::try_from(cs).ok());
    let Some(open) = memchr::memchr(b'<', after) else {
        return;
    };
    let end = memchr::memchr(b'>', after).unwrap_or(after.len());
    mce.rip = hex(&after[(open + 1).min(end)..end]).map(Hex);
    if let Some(open) = memchr::memchr(b'{', after) {
        mce.symbol = Some(symbol(&after[open + 1..]));
    }
}

fn symbol(text: &[u8]) -> String {
    let end = text
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.')))
        .unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end.min(80)]).into_owned()
}

fn find(line: &[u8], words: &[u8]) -> Option<usize> {
    memchr::memmem::find(line, words)
}

fn word(text: &[u8]) -> &[u8] {
    text.split(|b| b.is_ascii_whitespace()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_gathered_from_its_lines() {
        let mut mce = MceReport::default();
        for line in [
            "[   15.1] mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: fc00080000000000",
            "[   15.1] mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffff81068000> {clflush_cache_range+0x1c/0x30}",
            "[   15.2] mce: [Hardware Error]: TSC d310f9d44 ADDR 2beb000 MISC 8c ",
            "[   15.2] mce: [Hardware Error]: PROCESSOR 2:800f12 TIME 1795346099 SOCKET 0",
            "[   15.3] mce: [Hardware Error]: Machine check: Overflowed uncorrected error without MCA Overflow Recovery",
        ] {
            read(line.as_bytes(), &mut mce);
        }
        assert_eq!(
            (mce.cpu, mce.bank, mce.mcg_status),
            (Some(0), Some(9), Some(Hex(7)))
        );
        assert_eq!(mce.status, Some(Hex(0xfc00_0800_0000_0000)));
        assert_eq!((mce.addr, mce.misc), (Some(Hex(0x2be_b000)), Some(Hex(0x8c))));
        assert_eq!(mce.cs, Some(0x10));
        assert_eq!(mce.symbol.as_deref(), Some("clflush_cache_range"));
        assert!(mce.reason.unwrap().starts_with("Overflowed"));
    }

    #[test]
    fn other_lines_tell_nothing() {
        let mut mce = MceReport::default();
        for line in [
            "",
            "[Hardware Error]: ",
            "mce: [Hardware Error]: Machine check events logged",
            "mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank x: y",
            "mce: [Hardware Error]: : Machine Check Bank ",
            "mce: [Hardware Error]: CPU 0 Bank 9: 1 and : Machine Check Exception: 7",
            "mce: [Hardware Error]: RIP >:<",
        ] {
            let told = read(line.as_bytes(), &mut mce);
            assert!(!matches!(told, Some(Line::Begin(_) | Line::Panic(..))), "{line}");
        }
    }
}
