//! Errors of memory as the host's hardware drivers and daemons print them in one line: EDAC, rasdaemon. Those that
//! stand on several lines are gathered in `hardware_report`.

use super::{Fields, Wording, kernel::other};
use poisontrace_model::{
    event::log_statement::{LogStatement, Role},
    hex::Hex,
};

const PAGE_SHIFT: u32 = 12;

const fn row(
    program: &'static str,
    versions: &'static str,
    role: Role,
    shape: &'static str,
    read: fn(&Fields<'_>) -> Option<LogStatement>,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role,
        shape,
        read,
        line,
    }
}

const EDAC: &str = "Linux, drivers/edac/edac_mc.c";
const RASDAEMON: &str = "rasdaemon, ras-mc-handler.c, its journal and its standard output";

const FAILURE_EVENT: &str =
    "Linux, ras:memory_failure_event as a trace, by trace-cmd, perf, bpftrace, or printed by tp_printk";

/// All of them.
pub const WORDINGS: &[Wording] = &[
    row(
        EDAC,
        "3.5 to 7.3",
        Role::Kernel,
        "EDAC MC{mc:dec}: {count:dec} UE {msg} on {label} ({detail}",
        uncorrected,
        "EDAC MC3: 1 UE memory read error on CPU_SrcID#1_MC#1_Chan#2_DIMM#0 (channel:2 slot:0 page:0xb757589 offset:0xdc0 grain:32 -  OVERFLOW)",
    ),
    row(
        EDAC,
        "3.5 to 7.3",
        Role::Kernel,
        "EDAC MC{mc:dec}: {count:dec} CE {msg} on {label} ({detail}",
        corrected,
        "EDAC MC1: 262 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x2031c14 offset:0x940 grain:32 syndrome:0x0 -  OVERFLOW area:DRAM err_code:0001:0091 socket:0 ha:0 channel_mask:2 rank:1)",
    ),
    row(
        EDAC,
        "3.5 to 7.3, a driver without a message",
        Role::Kernel,
        "EDAC MC{mc:dec}: {count:dec} UE on {label} ({detail}",
        uncorrected,
        "EDAC MC0: 1 UE on mc#0csrow#3channel#1 (csrow:3 channel:1 page:0x1a2b3 offset:0x40 grain:64)",
    ),
    row(
        EDAC,
        "3.5 to 7.3, a driver without a message",
        Role::Kernel,
        "EDAC MC{mc:dec}: {count:dec} CE on {label} ({detail}",
        corrected,
        "EDAC MC0: 1 CE on mc#0csrow#3channel#1 (csrow:3 channel:1 page:0x1a2b3 offset:0x40 grain:64 syndrome:0x1)",
    ),
    row(
        EDAC,
        "2.6.16 to 3.4",
        Role::Kernel,
        "EDAC MC{mc:dec}: UE page {pfn:hex}, offset {offset:hex}, grain {grain:dec}, row {row:dec}, labels \"{label}\": {driver}",
        uncorrected,
        "EDAC MC0: UE page 0x1a2b3, offset 0x40, grain 128, row 3, labels \"DIMM_A1:DIMM_B1\": i5000",
    ),
    row(
        EDAC,
        "2.6.16 to 3.4",
        Role::Kernel,
        "EDAC MC{mc:dec}: CE page {pfn:hex}, offset {offset:hex}, grain {grain:dec}, syndrome {syndrome:hex}, row {row:dec}, channel {channel:dec}, label \"{label}\": {driver}",
        corrected,
        "EDAC MC0: CE page 0x1a2b3, offset 0x40, grain 8, syndrome 0xb741, row 3, channel 1, label \"DIMM_A1\": amd64_edac",
    ),
    row(
        RASDAEMON,
        "0.4 on",
        Role::Tool,
        "mc_event: {when} {count:dec} {kind:word} error: {msg} on {label} (mc: {detail}",
        of_kind,
        "mc_event: 2026-11-22 15:45:34 +0000 1 Uncorrected error: memory read error on CPU_SrcID#1_MC#1_Chan#2_DIMM#0 (mc: 3 location: 2:0 address: 0xb757589dc0 grain: 32 OVERFLOW)",
    ),
    row(
        RASDAEMON,
        "0.4 on",
        Role::Tool,
        "mc_event: {when} {count:dec} {kind:word} errors: {msg} on {label} (mc: {detail}",
        of_kind,
        "mc_event: 2026-11-22 15:45:34 +0000 7 Corrected errors: memory read error on DIMM_A1 (mc: 0 location: 0:0 grain: 32)",
    ),
    row(
        "Linux, ras:mc_event as a trace",
        "3.10 to 7.3",
        Role::Tool,
        "mc_event: {count:dec} {kind:word} error:{msg} on {label} (mc:{detail}",
        of_kind,
        "mc_event: 1 Uncorrected error:memory read error on CPU_SrcID#1_MC#1_Chan#2_DIMM#0 (mc:3 location:2:0:-1 address:0xb757589dc0 grain:5 syndrome:0x00000000)",
    ),
    row(
        "rasdaemon, ras-memory-failure-handler.c, its journal and its standard output",
        "0.6.6 on",
        Role::Tool,
        "memory_failure_event: {when} pfn={pfn:hex} page_type={type} action_result={result:word}",
        failure,
        "memory_failure_event: 2026-11-22 15:45:34 +0000 pfn=0xf7eb page_type=dirty LRU page action_result=Recovered",
    ),
    row(
        FAILURE_EVENT,
        "4.2 to 7.3",
        Role::Tool,
        "memory_failure_event: pfn {pfn:hex}: recovery action for {type}: {result:word}",
        failure,
        "memory_failure_event: pfn 0xf7eb: recovery action for dirty LRU page: Recovered",
    ),
    row(
        FAILURE_EVENT,
        "4.2 to 7.3, its fields as numbers",
        Role::Tool,
        "memory_failure_event: pfn{of:word} {rest}",
        raw_failure,
        "memory_failure_event: pfn=0xf7eb type=9 result=3",
    ),
    row(
        "ras-mc-ctl --summary, where there is none",
        "0.4 on",
        Role::Tool,
        "No {what} errors.",
        no_errors,
        "No Memory failure errors.",
    ),
    row(
        "ras-mc-ctl --summary",
        "0.4 on",
        Role::Tool,
        "Memory controller events summary:",
        other,
        "Memory controller events summary:",
    ),
    row(
        "ras-mc-ctl --summary",
        "0.4 on",
        Role::Tool,
        "MCE records summary:",
        other,
        "MCE records summary:",
    ),
    row(
        "ras-mc-ctl --summary",
        "0.6.6 on",
        Role::Tool,
        "Memory failure events summary:",
        other,
        "Memory failure events summary:",
    ),
    row(
        "ras-mc-ctl --errors",
        "0.4 on",
        Role::Tool,
        "{count:dec} {kind:word} error(s): {msg} at {label} location: {location}, addr {addr:dec}, grain {detail}",
        of_kind,
        "1 Uncorrected error(s): memory read error at CPU_SrcID#1_MC#1_Chan#2_DIMM#0 location: 3:2:0:-1, addr 787444440512, grain 5, syndrome 0x00000000",
    ),
    row(
        "ras-mc-ctl --errors",
        "0.6.6 on",
        Role::Tool,
        "error: pfn={pfn:hex}, page_type={type}, action_result={result:word}",
        failure,
        "error: pfn=0xb757589, page_type=dirty LRU page, action_result=Recovered",
    ),
    row(
        "rasdaemon, ras-mce-handler.c, its journal and its standard output",
        "0.4 on",
        Role::Tool,
        "mce_record: {when}, status= {status:hex}, {detail}",
        machine_check,
        "mce_record: 2026-11-22 15:45:34 +0000 bank=8, status= bd00000000010092, mci=Uncorrected_error, mca=MEMORY CONTROLLER RD_CHANNEL2_ERR, cpu_type= Intel Skylake server, cpu= 10, socketid= 1, misc= 200805c290402086, addr= b757589dc0, mcgstatus= 0, apicid= 20",
    ),
];

fn uncorrected(f: &Fields<'_>) -> Option<LogStatement> {
    error(f, false)
}

fn corrected(f: &Fields<'_>) -> Option<LogStatement> {
    error(f, true)
}

fn of_kind(f: &Fields<'_>) -> Option<LogStatement> {
    match f.bytes("kind")? {
        b"Uncorrected" | b"Fatal" | b"Deferred" => error(f, false),
        b"Corrected" => error(f, true),
        _ => Some(LogStatement::Other),
    }
}

fn error(f: &Fields<'_>, corrected: bool) -> Option<LogStatement> {
    let detail = f.bytes("detail").unwrap_or_default();
    let of_page = value(detail, b"page:");
    let of_address = value(detail, b"address: ").or_else(|| value(detail, b"address:"));
    let page = f.hex("pfn").map(|pfn| pfn.0).or(of_page);
    let of_address = of_address.or_else(|| f.dec("addr"));
    let page = page.or(of_address.map(|address| address >> PAGE_SHIFT));
    Some(LogStatement::MemoryError {
        // Drivers that know no address give 0.
        pfn: page.filter(|pfn| *pfn != 0).map(Hex),
        dimm: f.text("label", 128).filter(|label| named(label)),
        corrected,
        count: f.dec("count"),
    })
}

/// EDAC's words for a DIMM that it does not know.
pub fn named(label: &str) -> bool {
    !matches!(label, "any memory" | "unknown memory" | ":" | "")
}

fn value(text: &[u8], key: &[u8]) -> Option<u64> {
    let rest = &text[memchr::memmem::find(text, key)? + key.len()..];
    let word = rest.split(|b| matches!(b, b' ' | b',' | b')')).next()?;
    crate::trace::hex(word)
}

/// Tables of rasdaemon that are empty (util/ras-mc-ctl.in).
fn no_errors(f: &Fields<'_>) -> Option<LogStatement> {
    const KINDS: [&[u8]; 12] = [
        b"Memory",
        b"PCIe AER",
        b"ARM processor",
        b"Extlog",
        b"devlink",
        b"disk",
        b"Memory failure",
        b"MCE",
        b"CXL AER uncorrectable",
        b"CXL AER correctable",
        b"CXL poison",
        b"signal",
    ];
    KINDS.contains(&f.bytes("what")?).then_some(LogStatement::Other)
}

fn failure(f: &Fields<'_>) -> Option<LogStatement> {
    Some(LogStatement::HostAction {
        pfn: f.hex("pfn")?,
        page_type: f.text("type", 64)?,
        result: f.text("result", 64)?,
    })
}

/// `pfn=0x… type=9 result=3`, with colons, commas or blanks between; or names of type and result.
fn raw_failure(f: &Fields<'_>) -> Option<LogStatement> {
    let text = [&b"pfn"[..], f.bytes("of")?, b" ", f.bytes("rest")?].concat();
    let mut words = text
        .split(|b| b" =:,;".contains(b))
        .filter(|word| !word.is_empty());
    let mut value = |key: &[u8]| {
        words.by_ref().find(|word| *word == key)?;
        words.next()
    };
    let (pfn, page_type, result) = match (value(b"pfn"), value(b"type"), value(b"result")) {
        (Some(pfn), Some(kind), Some(result)) => {
            let fields = [b"pfn=", pfn, b" type=", kind, b" result=", result].concat();
            crate::trace::action(&fields)
        }
        _ => crate::trace::action(&text),
    }?;
    Some(LogStatement::HostAction {
        pfn: Hex(pfn),
        page_type,
        result,
    })
}

/// What rasdaemon and tracefs print before an event: the task, its processor, a time of no clock. The event begins with
/// its name, whether a colon follows or columns.
pub fn event(message: &[u8]) -> Option<Vec<u8>> {
    const NAMES: [&[u8]; 3] = [b"mc_event", b"mce_record", b"memory_failure_event"];
    /// Where the processor and the name stand at the latest.
    const WITHIN: usize = 64;
    let head = &message[..message.len().min(WITHIN)];
    let Some(open) = memchr::memmem::find(head, b" [") else {
        return without_processor(message);
    };
    let digits = head[open + 2..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0
        || head.get(open + 2 + digits) != Some(&b']')
        || memchr::memchr(b'-', &head[..open]).is_none()
    {
        return None;
    }
    let rest = &message[open + 3 + digits..];
    let near = &rest[..rest.len().min(WITHIN)];
    let (name, at) = NAMES.iter().find_map(|name| {
        let at = memchr::memmem::find(near, name)?;
        rest[..at].ends_with(b" ").then_some((*name, at))
    })?;
    let fields = &rest[at + name.len()..];
    let fields = fields.strip_prefix(b":").unwrap_or(fields).trim_ascii();
    Some([name, b": ", fields].concat())
}

/// `34.190884: ras:memory_failure_event: …` (perf script without its task), `0.000 kworker/0:1/71 ras:memory_failure_event(…)`
/// (perf trace), `tracepoint:ras:memory_failure_event …` (bpftrace): before the name stand numbers and its group.
fn without_processor(message: &[u8]) -> Option<Vec<u8>> {
    const NAME: &[u8] = b"memory_failure_event";
    const WITHIN: usize = 96;
    let head = &message[..message.len().min(WITHIN)];
    let at = memchr::memmem::find(head, NAME)?;
    let before = &head[..at];
    let group = before
        .strip_suffix(b"ras:")
        .or_else(|| before.strip_suffix(b"memory_failure:"));
    let before = match group {
        Some(before) => before.strip_suffix(b"tracepoint:").unwrap_or(before),
        None => before,
    };
    if group.is_none() && before.is_empty() || before.last().is_some_and(|b| *b != b' ') {
        return None;
    }
    let mut words = before.split(|b| *b == b' ').filter(|word| !word.is_empty());
    if !words.all(|word| word.iter().any(u8::is_ascii_digit)) {
        return None;
    }
    let rest = &message[at + NAME.len()..];
    let fields = match rest.first()? {
        b':' => &rest[1..],
        b'(' => rest[1..].strip_suffix(b")")?,
        b' ' => rest,
        _ => return None,
    };
    Some([NAME, b": ", fields.trim_ascii()].concat())
}

/// Uncorrected errors of memory alone: others show nothing of a page.
fn machine_check(f: &Fields<'_>) -> Option<LogStatement> {
    let status = f.hex("status")?.0;
    let detail = f.bytes("detail")?;
    let address = value(detail, b"addr= ");
    // As QEMU injects one: rasdaemon runs in the guest.
    let of_guest = f.bytes("when")?.ends_with(b"bank=9") && value(detail, b"misc= ") == Some(0x8c);
    let frame = address.filter(|_| is_uncorrected_memory(status));
    Some(match frame.filter(|_| !of_guest) {
        Some(address) => LogStatement::MemoryError {
            pfn: Some(Hex(address >> PAGE_SHIFT)),
            dimm: None,
            corrected: false,
            count: None,
        },
        None => LogStatement::Other,
    })
}

/// Whether a bank's status is of memory that could not be corrected (Intel SDM volume 3B, 17.9: memory controller,
/// data load, instruction fetch; AMD: poison).
pub fn is_uncorrected_memory(status: u64) -> bool {
    const UNCORRECTED: u64 = 1 << 61;
    const ADDRESS: u64 = 1 << 58;
    const POISON: u64 = 1 << 43;
    const DATA_LOAD: u64 = 0x134;
    const INSTRUCTION_FETCH: u64 = 0x150;
    let code = status & 0xffff;
    let of_memory = code & 0xef80 == 0x80 || matches!(code & 0xefff, DATA_LOAD | INSTRUCTION_FETCH);
    status & UNCORRECTED != 0 && status & ADDRESS != 0 && (of_memory || status & POISON != 0)
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn error_of(line: &str) -> (Option<u64>, Option<String>, bool, Option<u64>) {
        match read(line.as_bytes()) {
            Some((
                _,
                LogStatement::MemoryError {
                    pfn,
                    dimm,
                    corrected,
                    count,
                },
            )) => (pfn.map(|pfn| pfn.0), dimm, corrected, count),
            other => panic!("{line}: {:?}", other.map(|(_, statement)| statement)),
        }
    }

    #[test]
    fn the_page_and_the_dimm_of_each_wording() {
        let dimm = |label: &str| Some(label.to_owned());
        let lines = WORDINGS.iter().map(|wording| wording.line);
        let lines: Vec<_> = lines
            .filter(|line| {
                let failures = ["memory_failure", "Memory failure events", "error:"];
                let empty = ["No ", "Memory controller events summary", "MCE records summary"];
                let others = failures.iter().chain(&empty);
                !others.into_iter().any(|begin| line.starts_with(begin))
            })
            .map(error_of)
            .collect();
        assert_eq!(
            lines[0],
            (
                Some(0xb75_7589),
                dimm("CPU_SrcID#1_MC#1_Chan#2_DIMM#0"),
                false,
                Some(1)
            )
        );
        assert_eq!(
            lines[1],
            (
                Some(0x203_1c14),
                dimm("CPU_SrcID#0_Ha#0_Chan#1_DIMM#0"),
                true,
                Some(262)
            )
        );
        assert_eq!(lines[4], (Some(0x1a2b3), dimm("DIMM_A1:DIMM_B1"), false, None));
        assert_eq!(
            lines[6],
            (
                Some(0xb75_7589),
                dimm("CPU_SrcID#1_MC#1_Chan#2_DIMM#0"),
                false,
                Some(1)
            )
        );
        assert_eq!(lines[7], (None, dimm("DIMM_A1"), true, Some(7)));
        assert_eq!(lines[8].0, Some(0xb75_7589));
        assert_eq!(
            lines[9],
            (
                Some(0xb75_7589),
                dimm("CPU_SrcID#1_MC#1_Chan#2_DIMM#0"),
                false,
                Some(1)
            )
        );
        assert_eq!(lines[10], (Some(0xb75_7589), None, false, None));
    }

    #[test]
    fn an_event_stands_behind_its_task() {
        for line in [
            "<...>-71 [000] 0.003300: mc_event: 2026-11-22 x",
            "           <...>-71    [000]     0.003300: mc_event:             2026-11-22 x",
            "     kworker/0:1-71    [1638893312] .... 0.000105 mc_event 2026-11-22 x",
        ] {
            assert_eq!(
                event(line.as_bytes()).as_deref(),
                Some(&b"mc_event: 2026-11-22 x"[..]),
                "{line}"
            );
        }
        for line in [
            "34.190884: ras:memory_failure_event: pfn 0x1: x",
            "0.000 kworker/0:1/71 ras:memory_failure_event(pfn 0x1: x)",
            "tracepoint:ras:memory_failure_event pfn 0x1: x",
            "memory_failure:memory_failure_event: pfn 0x1: x",
        ] {
            let whole = event(line.as_bytes());
            assert_eq!(
                whole.as_deref(),
                Some(&b"memory_failure_event: pfn 0x1: x"[..]),
                "{line}"
            );
        }
        for line in [
            "see [1] of mc_event: x",
            "a-1 [000] x: other_mc_event",
            "see ras:memory_failure_event: pfn 0x1",
            "mc_event: x",
            "",
        ] {
            assert_eq!(event(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn an_error_without_an_address_names_no_page() {
        let line = "EDAC MC0: 1 UE ie31200 UE on any memory ( page:0x0 offset:0x0 grain:1)";
        assert_eq!(error_of(line), (None, None, false, Some(1)));
    }

    #[test]
    fn machine_checks_of_other_units_and_of_a_guest_are_no_evidence() {
        let line = WORDINGS.last().unwrap().line;
        for other in [
            line.replace("bd00000000010092", "bd00000000010e0b"),
            line.replace("bd00000000010092", "9c00000000010092"),
            line.replace("bank=8", "bank=9").replace("200805c290402086", "8c"),
        ] {
            assert!(
                matches!(read(other.as_bytes()), Some((_, LogStatement::Other))),
                "{other}"
            );
        }
    }
}
