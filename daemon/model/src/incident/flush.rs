//! "Just CLFLUSH, or more?": what touched the page.
//!
//! A CLFLUSH is checked like a one-byte load, so the exit itself cannot distinguish them (Intel SDM volume 2,
//! CLFLUSH; the EPT violation states "read"). What can, best first:
//! - the instruction's bytes (`instruction_bytes`, certain);
//! - a walk of the page's lines from line 0 upwards by one RIP, reads only (`line_walk`, possible: a loop of CLWB,
//!   or of loads with a stride of 64, looks the same);
//! - nothing (`single_exit`, `none`): undetermined. A write or a fetch is no flush in any case.
//!
//! The walk of the guest's page tables is none of these: the instruction at the RIP addressed another page, and may have
//! flushed that one.

use alloc::{string::String, vec::Vec};
use iced_x86::{Decoder, DecoderOptions, Formatter as _, Mnemonic, NasmFormatter};

use super::{
    exits::{Exits, Total},
    model::{Confidence, Flush, FlushBasis, FlushVerdict},
    walk::Walk,
};
use crate::event::totals::RipTotals;

/// The verdict on these exits.
pub fn flush(exits: &Exits, total: &Total) -> Flush {
    let page = &total.page;
    if page.exits == 0 {
        return undetermined(FlushBasis::None);
    }
    if let Some(flush) = by_bytes(exits, total) {
        return flush;
    }
    if page.reads == 0 && page.writes.checked_add(page.fetches) == Some(page.exits) {
        return Flush {
            verdict: FlushVerdict::NoFlush,
            basis: FlushBasis::None,
            instruction: None,
            confidence: Some(Confidence::Certain),
        };
    }
    let walked = total.walk.as_ref().filter(|walk| is_flush_like(walk));
    if let Some(walk) = walked.filter(|_| page_walks(total) == 0) {
        let verdict = if other_access(total, |rip| rip.rip.0 == walk.rip) {
            FlushVerdict::FlushThenAccess
        } else {
            FlushVerdict::FlushOnly
        };
        return Flush {
            verdict,
            basis: FlushBasis::LineWalk,
            instruction: None,
            confidence: Some(Confidence::Possible),
        };
    }
    undetermined(if page.exits == 1 {
        FlushBasis::SingleExit
    } else {
        FlushBasis::None
    })
}

const fn undetermined(basis: FlushBasis) -> Flush {
    Flush {
        verdict: FlushVerdict::Undetermined,
        basis,
        instruction: None,
        confidence: None,
    }
}

/// From line 0 on, reads only: as a loop over the page with the cache line's stride does.
const fn is_flush_like(walk: &Walk) -> bool {
    walk.expected & 1 != 0 && walk.writes == 0 && walk.fetches == 0
}

/// Accesses that may have been the processor's, on its way through the guest's page tables.
const fn page_walks(total: &Total) -> u64 {
    total.page.page_walks + total.page.writes_or_walks
}

/// Whether anything but the flushing RIPs touched the page, or one of them wrote.
fn other_access(total: &Total, flushes: impl Fn(&RipTotals) -> bool) -> bool {
    let page = &total.page;
    page.other_rips > 0 || page.writes > 0 || page.fetches > 0 || page.rips.iter().any(|rip| !flushes(rip))
}

/// What the bytes say; `None` where there are none for an exit that matters.
fn by_bytes(exits: &Exits, total: &Total) -> Option<Flush> {
    // Of such an access the instruction shows nothing.
    if exits.instructions.is_empty() || page_walks(total) >= total.page.exits {
        return None;
    }
    let decoded: Vec<(&RipTotals, Option<Decoded>)> = total
        .page
        .rips
        .iter()
        .map(|rip| {
            (
                rip,
                exits
                    .instructions
                    .get(&rip.rip.0)
                    .and_then(|bytes| decode(bytes, rip.rip.0)),
            )
        })
        .collect();
    let flushing = decoded.iter().find_map(|(_, d)| d.as_ref().filter(|d| d.flush));
    let is_flush = |rip: &RipTotals| {
        decoded
            .iter()
            .any(|(known, d)| known.rip == rip.rip && d.as_ref().is_some_and(|d| d.flush))
    };
    let (verdict, instruction) = match flushing {
        Some(flush) if other_access(total, is_flush) => (FlushVerdict::FlushThenAccess, &flush.text),
        Some(flush) => (FlushVerdict::FlushOnly, &flush.text),
        // No flush among those whose bytes are known: a verdict only if all are.
        None if total.page.other_rips == 0 && decoded.iter().all(|(_, d)| d.is_some()) => {
            (FlushVerdict::NoFlush, &decoded.first()?.1.as_ref()?.text)
        }
        None => return None,
    };
    Some(Flush {
        verdict,
        basis: FlushBasis::InstructionBytes,
        instruction: Some(instruction.clone()),
        // Which of the RIPs a walk was for is not counted.
        confidence: Some(match page_walks(total) {
            0 => Confidence::Certain,
            _ => Confidence::Possible,
        }),
    })
}

/// A decoded instruction.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    text: String,
    /// It writes a cache line back and takes no data from it: CLFLUSH, CLFLUSHOPT, CLWB.
    flush: bool,
}

/// Decodes 64-bit code; hex digits that are no instruction give nothing.
fn decode(hex: &str, rip: u64) -> Option<Decoded> {
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            core::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<_>>()?;
    let instruction = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    let flush = matches!(
        instruction.mnemonic(),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb
    );
    Some(Decoded { text, flush })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_told_from_loads_by_their_bytes() {
        let flush = |hex| decode(hex, 0x1000).map(|d| (d.text, d.flush));
        // The bytes go on past the instruction, as the VMCB's do.
        assert_eq!(
            flush("0fae3f904883c740ffc975f3e681f4"),
            Some(("clflush [rdi]".into(), true))
        );
        assert_eq!(
            flush("660fae3f4883c740ffc975f3e681f4"),
            Some(("clflushopt [rdi]".into(), true))
        );
        assert_eq!(flush("660fae37"), Some(("clwb [rdi]".into(), true)));
        assert_eq!(flush("488b0790"), Some(("mov rax,[rdi]".into(), false)));
        assert_eq!(flush("06"), None);
        assert_eq!(flush("zz"), None);
        assert_eq!(flush(""), None);
    }
}
