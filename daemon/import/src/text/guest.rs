//! The words of a kernel that takes a machine check, and of its panic. A report of several lines is gathered
//! into one.

use crate::trace::hex;
use crate::trace::record::decimal;
use poisontrace_model::{event::log_statement::MceReport, hex::Hex};

/// A wall clock before this was not set, seconds since 1970: the year 2001.
const SET_CLOCK: u64 = 1_000_000_000;

/// What a line did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A report begins.
    Begin,
    /// More of the report under way.
    More,
}

/// Whether a report's first line follows in a text whose last line comes first: registers stand right behind it.
pub fn is_register(message: &[u8]) -> bool {
    words(message).is_some_and(|rest| rest.starts_with(b"RIP ") || rest.starts_with(b"TSC "))
}

/// Puts the lines behind a first line, which were read before it, into its report.
pub fn complete(first: MceReport, rest: MceReport) -> MceReport {
    MceReport {
        addr: rest.addr.or(first.addr),
        misc: rest.misc.or(first.misc),
        ppin: rest.ppin.or(first.ppin),
        ipid: rest.ipid.or(first.ipid),
        socket: rest.socket.or(first.socket),
        apic: rest.apic.or(first.apic),
        microcode: rest.microcode.or(first.microcode),
        cs: rest.cs.or(first.cs),
        rip: rest.rip.or(first.rip),
        symbol: rest.symbol.or(first.symbol),
        reason: rest.reason.or(first.reason),
        ..first
    }
}

/// Whether a message can be a line of a report.
pub fn is_part(message: &[u8]) -> bool {
    words(message).is_some() || message.starts_with(b"RIP: 0010:")
}

/// The words of a report's line, behind `[Hardware Error]: `.
fn words(message: &[u8]) -> Option<&[u8]> {
    message.strip_prefix(b"[Hardware Error]: ")
}

/// Reads `message` into the report under way.
pub fn read(message: &[u8], mce: &mut MceReport) -> Option<Line> {
    if let Some(rest) = message.strip_prefix(b"RIP: 0010:") {
        // The oops' own registers: the function alone.
        mce.symbol.get_or_insert_with(|| symbol(rest));
        return Some(Line::More);
    }
    let rest = words(message)?;
    header(rest, mce)
        .then_some(Line::Begin)
        .or_else(|| more(rest, mce).then_some(Line::More))
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
    let Some(kind) = find(rest, b": Machine Check").filter(|_| rest.starts_with(b"CPU ")) else {
        return false;
    };
    let Some(bank) = find(&rest[kind..], b" Bank ").map(|at| kind + at) else {
        return false;
    };
    let words = &rest[bank + 6..];
    let Some(colon) = memchr::memchr(b':', words) else {
        return false;
    };
    // `%016llx`: what has fewer digits is cut.
    let status = words[colon + 1..].trim_ascii();
    if status.len() != 16 || !status.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let after = &rest[kind + 2..bank];
    let mcg = memchr::memrchr(b':', after).and_then(|at| hex(after[at + 1..].trim_ascii()));
    *mce = MceReport {
        cpu: rest
            .strip_prefix(b"CPU ")
            .and_then(|cpu| decimal(&cpu[..kind.checked_sub(4)?]))
            .and_then(|cpu| u32::try_from(cpu).ok()),
        mcg_status: mcg.map(Hex),
        exception: after.starts_with(b"Machine Check Exception"),
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
    decoded(rest, mce).unwrap_or_else(|| fields(rest, mce))
}

/// The lines that AMD's decoder prints after `MC9_STATUS[…]` (drivers/edac/mce_amd.c): `PPIN: 0x…`, `IPID: 0x…,
/// Syndrome: 0x…`, `MC4_ADDR: 0x…` of older kernels, and its words on the error.
fn decoded(rest: &[u8], mce: &mut MceReport) -> Option<bool> {
    const WORDS: [&[u8]; 6] = [
        b"Unified Memory Controller Ext. Error Code: ",
        b"Northbridge Error ",
        b"cache level: ",
        b"Corrected error, ",
        b"Deferred error, ",
        b"Uncorrected, software ",
    ];
    let value = |text: &[u8]| {
        let number = text.split(|b| matches!(b, b',' | b' ')).next()?;
        hex(number.strip_prefix(b"0x")?).map(Hex)
    };
    let rest = rest.trim_ascii_start();
    if let Some(text) = rest.strip_prefix(b"PPIN: ") {
        mce.ppin = value(text);
    } else if let Some(text) = rest.strip_prefix(b"IPID: ") {
        mce.ipid = value(text);
    } else if rest.starts_with(b"MC")
        && let Some(at) = find(&rest[..rest.len().min(16)], b"_ADDR: ")
    {
        mce.addr = value(&rest[at + 7..]);
    } else if !WORDS.iter().any(|words| rest.starts_with(words)) {
        return None;
    }
    Some(true)
}

/// `TSC d310f9d44 ADDR 2beb000 MISC 8c PPIN …`, `PROCESSOR 0:50654 TIME … SOCKET 0 APIC 0 microcode 1`.
fn fields(rest: &[u8], mce: &mut MceReport) -> bool {
    let value = |key: &[u8]| {
        let at = find(rest, key)?;
        let begins = at == 0 || rest[at - 1] == b' ';
        begins.then(|| word(&rest[at + key.len()..]))
    };
    let of_registers = rest.starts_with(b"TSC ");
    let of_processor = rest.starts_with(b"PROCESSOR ");
    let address = rest.starts_with(b"ADDR ") || rest.starts_with(b"MISC ");
    if !(of_registers || of_processor || address) {
        return false;
    }
    for (key, field) in [
        (&b"ADDR "[..], &mut mce.addr),
        (b"MISC ", &mut mce.misc),
        (b"PPIN ", &mut mce.ppin),
        (b"IPID ", &mut mce.ipid),
        (b"APIC ", &mut mce.apic),
        (b"microcode ", &mut mce.microcode),
    ] {
        if let Some(read) = value(key).and_then(hex) {
            *field = Some(Hex(read));
        }
    }
    // Seconds since 1970; a clock that was never set counts from then.
    mce.time = value(b"TIME ")
        .and_then(decimal)
        .filter(|time| (SET_CLOCK..u64::from(u32::MAX)).contains(time))
        .or(mce.time);
    if let Some(socket) = value(b"SOCKET ").and_then(decimal) {
        mce.socket = u32::try_from(socket).ok();
    }
    true
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
    text.split(u8::is_ascii_whitespace).next().unwrap_or_default()
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
            read(line.split_once("mce: ").unwrap().1.as_bytes(), &mut mce);
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
    fn the_lines_of_amds_decoder() {
        let mut mce = MceReport::default();
        for line in [
            "[Hardware Error]: CPU:2 (17:31:0) MC17_STATUS[Over|UE|MiscV|AddrV|-|TCC|SyndV|UECC|-|Poison|Scrub]: 0xfc20480000000136",
            "[Hardware Error]: Error Addr: 0x000000036b5c0fc0",
            "[Hardware Error]: PPIN: 0x02b0bc62eea0c04d",
            "[Hardware Error]: IPID: 0x0000009600050f00, Syndrome: 0x000000000a800500",
            "[Hardware Error]: Unified Memory Controller Ext. Error Code: 0, DRAM ECC error.",
            "[Hardware Error]: cache level: L3/GEN, tx: GEN, mem-tx: RD",
        ] {
            assert!(read(line.as_bytes(), &mut mce).is_some(), "{line}");
        }
        assert_eq!((mce.bank, mce.addr), (Some(17), Some(Hex(0x3_6b5c_0fc0))));
        assert_eq!(mce.ppin, Some(Hex(0x02b0_bc62_eea0_c04d)));
        assert_eq!(mce.ipid, Some(Hex(0x96_0005_0f00)));
        assert!(mce.by_hardware());
        let old = b"[Hardware Error]: \tMC4_ADDR: 0x0000000f93a7eaf0";
        assert_eq!(read(old, &mut mce), Some(Line::More));
        assert_eq!(mce.addr, Some(Hex(0xf_93a7_eaf0)));
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
            let injected = read(line.as_bytes(), &mut mce);
            assert_ne!(injected, Some(Line::Begin), "{line}");
        }
    }
}
