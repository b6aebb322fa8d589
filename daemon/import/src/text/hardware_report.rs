//! Errors of memory that stand on several lines: the records of firmware as APEI and the CPER decoder print them, and
//! the text of mcelog.

use std::collections::BTreeMap;

use crate::trace::{hex, record::decimal};
use poisontrace_model::{event::log_statement::LogStatement, hex::Hex, text::sanitise};

use super::{clock::Stamp, wordings::hardware::is_uncorrected_memory};

const PAGE_SHIFT: u32 = 12;
/// Records under way at one time: lines of several interleave.
const MAX_OPEN: usize = 16;
/// Longest label of a DIMM.
const MAX_LABEL: usize = 128;

/// What is known of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    line: u64,
    stamp: Stamp,
    /// Its first line, as it is shown.
    text: String,
    corrected: bool,
    memory: bool,
    address: Option<u64>,
    /// Of the firmware, or by DMI.
    dimm: Option<String>,
    /// mcelog's STATUS.
    status: Option<u64>,
    /// mcelog: numbers of the channel and, on it, of the DIMM.
    channel: Option<u64>,
    slot: Option<u64>,
    over: bool,
}

/// A statement, and where and when its record begins.
pub struct Finished {
    pub line: u64,
    pub stamp: Stamp,
    pub text: String,
    pub statement: LogStatement,
}

/// Whether a message can be a line of a record: quick.
pub fn is_part(message: &[u8]) -> bool {
    match message.first() {
        Some(b'{') => numbered(message).is_some(),
        Some(b'[') => of_last_boot(message).is_some(),
        Some(b'A'..=b'Z') => MCELOG.iter().any(|begin| message.starts_with(begin)),
        _ => false,
    }
}

const SEVERITY: &[u8] = b"event severity: ";

/// How lines of a record of firmware begin, `cper_print_mem()` and what it stands in (drivers/firmware/efi/cper.c).
const CPER: [&[u8]; 12] = [
    SEVERITY,
    b"fru_id: ",
    b"fru_text: ",
    b"section_type: ",
    b"section length: ",
    b"error_status: ",
    b"physical_address: ",
    b"physical_address_mask: ",
    b"node:",
    b"card:",
    b"error_type: ",
    b"DIMM location: ",
];

/// In place of a sequence number, of a record without one.
const LAST_BOOT: u64 = u64::MAX;

/// The first line of a record of mcelog, of today and up to 2010.
const HEADS: [&[u8]; 2] = [
    b"Hardware event. This is not a software error.",
    b"HARDWARE ERROR. This is *NOT* a software problem!",
];

/// How lines of mcelog begin.
const MCELOG: [&[u8]; 20] = [
    HEADS[0],
    HEADS[1],
    b"MCE ",
    b"CPU ",
    b"TIME ",
    b"RIP ",
    b"MCG ",
    b"MCi",
    b"MCA: ",
    b"MCGCAP ",
    b"PPIN ",
    b"MICROCODE ",
    b"MISC ",
    b"ADDR ",
    b"STATUS ",
    b"CPUID Vendor",
    b"Memory DIMM ID of error: ",
    b"Memory channel ID of error: ",
    LOCATOR,
    b"Bank Locator: ",
];

/// The DIMM by SMBIOS; mcelog prints it behind a record (`dump_memdev()` of dmi.c).
const LOCATOR: &[u8] = b"Device Locator: ";

/// Gathers the records of one source.
#[derive(Default)]
pub struct Reports {
    /// By the sequence number before each line of APEI.
    firmware: BTreeMap<u64, Record>,
    mcelog: Option<Record>,
}

impl Reports {
    /// Takes a message: `None` where it is no line of such a record, and what it finishes.
    pub fn line(&mut self, number: u64, stamp: Stamp, message: &[u8]) -> Option<Option<Finished>> {
        let of_last_boot = || {
            let text = of_last_boot(message)?;
            let goes_on = text.starts_with(SEVERITY) || self.firmware.contains_key(&LAST_BOOT);
            goes_on.then_some((LAST_BOOT, text))
        };
        match numbered(message).or_else(of_last_boot) {
            Some((sequence, text)) => {
                Some(self.of_firmware(&Record::begin(number, stamp, message), sequence, text))
            }
            None => self.of_mcelog(number, stamp, message),
        }
    }

    /// The source is over.
    pub fn finish(&mut self) -> Vec<Finished> {
        let open = std::mem::take(&mut self.firmware).into_values();
        open.chain(self.mcelog.take())
            .filter_map(Record::finish)
            .collect()
    }

    fn of_firmware(&mut self, fresh: &Record, sequence: u64, text: &[u8]) -> Option<Finished> {
        let begins = text.starts_with(b"Hardware error from APEI")
            || text.starts_with(b"Hardware error detected on CPU")
            || sequence == LAST_BOOT && text.starts_with(SEVERITY);
        let mut finished = None;
        if begins {
            finished = self.firmware.remove(&sequence).and_then(Record::finish);
        }
        if !self.firmware.contains_key(&sequence)
            && self.firmware.len() >= MAX_OPEN
            && let Some((_, oldest)) = self.firmware.pop_first()
        {
            finished = finished.or(oldest.finish());
        }
        let record = self.firmware.entry(sequence).or_insert_with(|| fresh.clone());
        // A record may have several sections, each with an error of its own.
        if section(text) && record.address.is_some() {
            let before = std::mem::replace(record, fresh.clone());
            finished = finished.or(before.finish());
        }
        record.firmware(text);
        finished
    }

    /// mcelog's lines are known by the first of a record alone; those between could be anybody's.
    fn of_mcelog(&mut self, number: u64, stamp: Stamp, message: &[u8]) -> Option<Option<Finished>> {
        if HEADS.contains(&message) {
            let before = self.mcelog.replace(Record::begin(number, stamp, message));
            return Some(before.and_then(Record::finish));
        }
        let record = self.mcelog.as_mut()?;
        // Behind a record's last line only its DIMM may follow.
        if record.over && !message.starts_with(LOCATOR) || !record.mcelog(message) {
            return None;
        }
        record.over |= message.starts_with(b"CPUID Vendor");
        Some(None)
    }
}

/// `{35}[Hardware Error]: TEXT`, and without the words, of the extended log.
fn numbered(message: &[u8]) -> Option<(u64, &[u8])> {
    let rest = message.strip_prefix(b"{")?;
    let end = memchr::memchr(b'}', &rest[..rest.len().min(12)])?;
    let sequence = decimal(&rest[..end])?;
    let text = &rest[end + 1..];
    let text = text.strip_prefix(b"[Hardware Error]:").unwrap_or(text);
    Some((sequence, text.trim_ascii()))
}

/// `[Hardware Error]: TEXT` of a record that firmware kept of the boot before (drivers/acpi/apei/bert.c): the same words without
/// a number.
fn of_last_boot(message: &[u8]) -> Option<&[u8]> {
    let text = message.strip_prefix(b"[Hardware Error]:")?.trim_ascii();
    (CPER.iter().any(|begin| text.starts_with(begin)) || section(text)).then_some(text)
}

/// ` Error 0, type: corrected`.
fn section(text: &[u8]) -> bool {
    text.strip_prefix(b"Error ").is_some_and(|rest| {
        let end = rest.iter().position(|b| !b.is_ascii_digit());
        end.is_some_and(|end| end > 0 && rest[end..].starts_with(b", type: "))
    })
}

impl Record {
    fn begin(line: u64, stamp: Stamp, message: &[u8]) -> Self {
        Self {
            line,
            stamp,
            text: sanitise(&String::from_utf8_lossy(message), MAX_LABEL),
            ..Self::default()
        }
    }

    fn finish(self) -> Option<Finished> {
        let of_status = self.status.map(is_uncorrected_memory);
        if !of_status.unwrap_or(self.memory) {
            return None;
        }
        let by_number = self.slot.map(|slot| match self.channel {
            Some(channel) => format!("channel {channel} DIMM {slot}"),
            None => format!("DIMM {slot}"),
        });
        let statement = LogStatement::MemoryError {
            pfn: self.address.map(|address| Hex(address >> PAGE_SHIFT)),
            dimm: self.dimm.or(by_number),
            corrected: self.corrected && of_status.is_none(),
            count: None,
        };
        Some(Finished {
            line: self.line,
            stamp: self.stamp,
            text: self.text,
            statement,
        })
    }

    /// `ghes_print_estatus()`, `cper_estatus_print()`, `cper_print_mem()`.
    fn firmware(&mut self, text: &[u8]) {
        let after = |key: &[u8]| text.strip_prefix(key).map(<[u8]>::trim_ascii);
        let label = |text: &[u8]| sanitise(&String::from_utf8_lossy(text), MAX_LABEL);
        if let Some(severity) = after(b"event severity: ").or_else(|| after(b"severity: ")) {
            self.corrected = matches!(severity, b"corrected" | b"info");
        } else if section(text) {
            // Each section has its own severity.
            self.corrected = text.ends_with(b"type: corrected") || text.ends_with(b"type: info");
        } else if after(b"section_type: ") == Some(b"memory error") {
            self.memory = true;
        } else if let Some(address) = after(b"physical_address: ") {
            self.address =
                hex(address.strip_prefix(b"0x").unwrap_or(address)).filter(|address| *address != 0);
        } else if let Some(location) = after(b"DIMM location: ") {
            // `DIMM location: not present. DMI handle: 0x1100`
            if !location.starts_with(b"not present") {
                self.dimm = Some(label(location));
            }
        } else if let Some(unit) = after(b"fru_text: ").filter(|unit| !unit.is_empty()) {
            self.dimm.get_or_insert_with(|| label(unit));
        }
    }

    /// `dump_mce()` of mcelog.c: whether `text` is one of its lines.
    fn mcelog(&mut self, text: &[u8]) -> bool {
        let number = |key: &[u8]| text.strip_prefix(key).and_then(|rest| decimal(rest.trim_ascii()));
        if let Some(locator) = text.strip_prefix(LOCATOR).filter(|locator| !locator.is_empty()) {
            self.dimm = Some(sanitise(&String::from_utf8_lossy(locator), MAX_LABEL));
            return true;
        }
        self.slot = number(b"Memory DIMM ID of error: ").or(self.slot);
        self.channel = number(b"Memory channel ID of error: ").or(self.channel);
        let words: Vec<&[u8]> = text
            .split(|b| *b == b' ')
            .filter(|word| !word.is_empty())
            .take(12)
            .collect();
        let value = |key: &[u8]| {
            let at = words.iter().position(|word| *word == key)?;
            hex(words.get(at + 1)?)
        };
        match words.first().copied() {
            Some(b"MISC" | b"ADDR") => self.address = value(b"ADDR").or(self.address),
            Some(b"STATUS") => self.status = value(b"STATUS"),
            _ => return MCELOG.iter().any(|begin| text.starts_with(begin)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(u64, Option<u64>, Option<String>, bool)> {
        let mut reports = Reports::default();
        let mut all = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_ascii().as_bytes();
            assert!(is_part(line) || reports.line(number, Stamp::default(), line).is_none());
            all.extend(reports.line(number, Stamp::default(), line).flatten());
        }
        all.extend(reports.finish());
        let statements = all
            .into_iter()
            .map(|Finished { line, statement, .. }| match statement {
                LogStatement::MemoryError {
                    pfn, dimm, corrected, ..
                } => (line, pfn.map(|pfn| pfn.0), dimm, corrected),
                other => panic!("{other:?}"),
            });
        statements.collect()
    }

    const APEI: &str = "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 0\n\
        {1}[Hardware Error]: event severity: recoverable\n\
        {1}[Hardware Error]:  Error 0, type: recoverable\n\
        {1}[Hardware Error]:  fru_text: B1\n\
        {1}[Hardware Error]:   section_type: memory error\n\
        {1}[Hardware Error]:    error_status: Storage error in DRAM memory (0x0000000000000400)\n\
        {1}[Hardware Error]:   physical_address: 0x0000006a47d1f540\n\
        {1}[Hardware Error]:   node:1 card:3 module:0 rank:0 bank:12 row:2311 column:64\n\
        {1}[Hardware Error]:   error_type: 3, multi-bit ECC\n\
        {1}[Hardware Error]:   DIMM location: P1_Node1_Channel3_Dimm0 DIMM_H1\n";

    #[test]
    fn a_record_of_firmware_names_the_page_and_the_dimm() {
        let dimm = Some("P1_Node1_Channel3_Dimm0 DIMM_H1".to_owned());
        assert_eq!(of(APEI), [(1, Some(0x6a4_7d1f), dimm, false)]);
        let without = APEI.replace(
            "P1_Node1_Channel3_Dimm0 DIMM_H1",
            "not present. DMI handle: 0x1100",
        );
        assert_eq!(of(&without)[0].2.as_deref(), Some("B1"));
        let corrected = APEI.replace("recoverable", "corrected");
        assert!(of(&corrected)[0].3);
        let other = APEI.replace("memory error", "PCIe error");
        assert_eq!(of(&other), []);
    }

    #[test]
    fn a_record_of_the_boot_before_has_no_number() {
        let kept = APEI.replace("{1}", "");
        let (_, kept) = kept.split_once('\n').unwrap();
        let dimm = Some("P1_Node1_Channel3_Dimm0 DIMM_H1".to_owned());
        assert_eq!(of(kept), [(1, Some(0x6a4_7d1f), dimm.clone(), false)]);
        let two = format!("{kept}{}", kept.replace("6a47d1f540", "1000"));
        let two: Vec<Option<u64>> = of(&two).into_iter().map(|(_, pfn, ..)| pfn).collect();
        assert_eq!(two, [Some(0x6a4_7d1f), Some(1)]);
        let headless = kept.split_once('\n').unwrap().1;
        assert_eq!(of(headless), []);
    }

    #[test]
    fn interleaved_records_and_sections_are_kept_apart() {
        let second = APEI.replace("{1}", "{2}").replace("6a47d1f540", "1000");
        let mixed: String = APEI
            .lines()
            .zip(second.lines())
            .map(|(a, b)| format!("{a}\n{b}\n"))
            .collect();
        let pages: Vec<Option<u64>> = of(&mixed).into_iter().map(|(_, pfn, ..)| pfn).collect();
        assert_eq!(pages, [Some(0x6a4_7d1f), Some(1)]);
        let two = format!(
            "{APEI}{{1}}[Hardware Error]:  Error 1, type: corrected\n{{1}}[Hardware Error]:   section_type: memory error\n\
             {{1}}[Hardware Error]:   physical_address: 0x2000\n"
        );
        let sections: Vec<(Option<u64>, bool)> = of(&two)
            .into_iter()
            .map(|(_, pfn, _, corrected)| (pfn, corrected))
            .collect();
        assert_eq!(sections, [(Some(0x6a4_7d1f), false), (Some(2), true)]);
    }

    #[test]
    fn the_text_of_mcelog() {
        let text = "Hardware event. This is not a software error.\nMCE 0\nCPU 10 BANK 8 TSC e6ee62e90fe6 \n\
                    MISC 200805c290402086 ADDR b757589dc0 \nTIME 1653015421 Fri May 20 02:57:01 2022\nMCG status:\nMCi status:\n\
                    Error overflow\nUncorrected error\nMCA: MEMORY CONTROLLER RD_CHANNEL2_ERR\nTransaction: Memory read error\n\
                    STATUS fc00010001010092 MCGSTATUS 0\nMCGCAP f000814 APICID 20 SOCKETID 1 \nPPIN 7\n\
                    CPUID Vendor Intel Family 6 Model 85 Step 7\n";
        assert_eq!(of(text), [(1, Some(0xb75_7589), None, false)]);
        let numbered = text.replace(
            "MCG status:",
            "Memory DIMM ID of error: 1\nMemory channel ID of error: 2\nMCG status:",
        );
        assert_eq!(of(&numbered)[0].2.as_deref(), Some("channel 2 DIMM 1"));
        let located = format!("{text}WARNING: SMBIOS data is often unreliable.\nDevice Locator: P1-DIMMA1\n");
        assert_eq!(of(&located)[0].2.as_deref(), Some("P1-DIMMA1"));
        let old = text.replacen(
            "Hardware event. This is not a software error.",
            "HARDWARE ERROR. This is *NOT* a software problem!\nPlease contact your hardware vendor",
            1,
        );
        assert_eq!(of(&old), [(1, Some(0xb75_7589), None, false)]);
        assert_eq!(of(&text.replace("STATUS fc", "STATUS 9c")), []);
        assert_eq!(of(&text.replacen("Hardware event", "An event", 1)), []);
    }

    #[test]
    fn a_flood_of_records_is_bounded() {
        let mut reports = Reports::default();
        for sequence in 0..1000_u64 {
            let line = format!("{{{sequence}}}[Hardware Error]: event severity: fatal");
            reports.line(sequence, Stamp::default(), line.as_bytes());
        }
        assert!(reports.firmware.len() <= MAX_OPEN);
    }
}
